//! Replays recordings of real agents (`vpnhub run --record`) on a simulated host. The final tables equal those of an
//! agent without history, no packet finds less in between, and listeners receive the same notices.
//!
//! `recordings/NAME.jsonl` is a recording, `NAME.expected` the notices: `UPDATE_EXPECTED=1` writes them.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    evaluate::Packet,
    random::{must_be_as_from_scratch, must_be_continuous},
    sim::Agent,
};
use crate::{
    agent::{
        event::Event,
        record::read::{Recorded, read},
        world::World,
    },
    api_types::event::ConnectionEvent,
};

/// Maximum number of test packets: each write evaluates all of them.
const MOST_PACKETS: usize = 400;

/// When the agent performs deferrable work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// As recorded.
    Recorded,
    /// After each event, so that each can be checked.
    AtOnce,
}

#[test]
fn replayed_recordings_match_fresh_tables_and_notices() {
    let folder = Path::new("src/agent/tests/recordings");
    let files = fs::read_dir(folder).expect("there are recordings").map(|entry| entry.expect("a file").path());
    let mut recordings: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    recordings.sort();
    assert!(!recordings.is_empty(), "there is no recording in {}", folder.display());
    for path in recordings {
        println!("{}", path.display());
        let recorded = || read(&fs::read_to_string(&path).expect("a text")).unwrap_or_else(|error| panic!("{error}"));
        let (notices, checks) = play(recorded(), Pace::Recorded);
        assert!(checks > 0, "the recording has no quiet moment");
        let (others, checks) = play(recorded(), Pace::AtOnce);
        assert!(checks > 0, "the recording has no quiet moment");
        assert!(
            notices == others,
            "notices depend on when the kernel's routes are planned:\n{notices:#?}\n{others:#?}"
        );
        must_be_as_expected(&path.with_extension("expected"), &notices);
    }
}

fn must_be_as_expected(path: &Path, notices: &[String]) {
    let mut text = notices.join("\n");
    text.push('\n');
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(path, &text).expect("it can be written");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(text == expected, "{} does not say this (UPDATE_EXPECTED=1 makes it):\n{text}", path.display());
}

/// Returns the notices, and how often the tables were compared.
fn play(recorded: Recorded, pace: Pace) -> (Vec<String>, usize) {
    let Recorded { header, config, host, events } = recorded;
    let start = Instant::now();
    let mut agent = Agent::inheriting(config, &host, header.inherited, header.attach, header.since_boot, start);
    let (mut notices, mut checks) = (Vec::new(), 0);
    for (at, event) in events {
        agent.now = start + at;
        let packets = packets(&agent.world);
        let before = {
            let mut state = agent.state.borrow_mut();
            (state.packets, state.answers) = (packets, Vec::new());
            state.answers()
        };
        match &event {
            Event::Host { host, .. } => agent.state.borrow_mut().host = host.clone(),
            Event::Settled(Ok(failures)) if failures.is_empty() => agent.state.borrow_mut().settles = false,
            _ => {}
        }
        let text = format!("{event:?}");
        agent.take(event).unwrap_or_else(|error| panic!("{at:?} {text}: {error:#}"));
        if pace == Pace::AtOnce && !agent.world.is_starting() {
            agent.plan();
        }
        while let Some(event) = agent.reported() {
            notices.push(notice(at, &event));
        }
        must_be_continuous(&agent, &before);
        if is_quiet(&agent) {
            checks += 1;
            must_be_as_from_scratch(&agent);
        }
    }
    agent.settle();
    must_be_as_from_scratch(&agent);
    (notices, checks)
}

/// Whether the agent has handled all events so far.
fn is_quiet(agent: &Agent) -> bool {
    let world = &agent.world;
    let is_due = world.due() <= agent.now;
    !world.is_starting() && !is_due && !world.has_work() && !agent.state.borrow().settles && world.refused.is_empty()
}

fn notice(at: Duration, event: &ConnectionEvent) -> String {
    let ConnectionEvent { time: _, connection, state, health: _, was, reason, selectors } = event;
    let was = was.map_or("new".to_owned(), |was| format!("{was:?}"));
    let reason = reason.as_deref().unwrap_or("-");
    let selectors = selectors.as_ref().map_or("as configured".to_owned(), |selectors| format!("{selectors:?}"));
    format!("{:9.3} {connection}: {was} -> {state:?}; {reason}; selectors {selectors}", at.as_secs_f64())
}

/// Packets from each interface: from and to each site, the VPC and the hub.
fn packets(world: &World) -> Vec<Packet> {
    let config = world.config();
    let sites = config.connections.values().flat_map(|connection| &connection.remote_cidrs);
    let routes = config.routes.iter().map(|route| &route.destination);
    let vpc = config.vpc.iter().flat_map(|vpc| &vpc.cidrs);
    let networks: BTreeSet<Ipv4Addr> = sites.chain(routes).chain(vpc).filter_map(host_of).collect();
    let own = world.host.addresses.values().flatten().filter_map(|address| match address.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let destinations: BTreeSet<Ipv4Addr> = networks.iter().copied().chain(own).collect();
    let names = world.interfaces();
    let links = world.host.links.values().filter(|link| names.contains_key(&link.name));
    let packet = |ifindex| {
        let to = destinations.iter();
        networks.iter().flat_map(move |source| {
            to.clone().map(move |destination| Packet { ifindex, source: *source, destination: *destination })
        })
    };
    links.flat_map(|link| packet(link.index)).take(MOST_PACKETS).collect()
}

/// An address of a network.
fn host_of(network: &IpNet) -> Option<Ipv4Addr> {
    match network {
        IpNet::V4(network) => network.hosts().next(),
        IpNet::V6(_) => None,
    }
}

//! Events survive a write and a read unchanged and have the same effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{canonical::canonical, draw, random::change, sim::Agent};
use crate::{
    agent::{
        Transition,
        event::Event,
        record::{
            format::{Encoder, RecordingHeader},
            read::read,
        },
    },
    api_types::event::ConnectionEvent,
    config::{Config, difference::Difference, show},
    connection::{
        memory::{Clock, ConnectionMemory},
        state::State,
    },
    datapath::{AttachMode, Inherited},
    fib::old_group::OldGroup,
    health::{HealthReport, Verdict},
    ipsec::{
        vici::{fault::Fault, table::Tunnel, tunnels::Tunnels},
        xfrm::{
            follow,
            table::XfrmLists,
            wire::tests::{example_policy, example_sa},
        },
    },
    kernel::netlink::{HostState, ReconcileFailure},
};

const SEQUENCES: u64 = 20;
const EVENTS: u64 = 40;

#[test]
fn random_events_round_trip_through_recording() {
    for seed in 0..SEQUENCES {
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let (config, host) = (draw::config(&mut random), draw::host(&mut random));
        let events = events(&mut random, config.clone(), host.clone());
        let text = write(&config, &host, &Inherited::default(), &events);
        let read = read(&text).expect("it can be read");
        assert_eq!((&read.config, &read.host), (&config, &host));
        assert_eq!(read.events.len(), events.len());
        let now = Instant::now();
        let mut agents = [Agent::new(config, &host, now), Agent::new(read.config, &host, now)];
        for agent in &mut agents {
            agent.start().expect("it does not fail");
        }
        for ((at, event), (read_at, read_event)) in events.into_iter().zip(read.events) {
            assert_eq!(at, read_at);
            assert_eq!(comparable(&event), comparable(&read_event));
            let mut results = Vec::new();
            for (agent, event) in agents.iter_mut().zip([event, read_event]) {
                agent.now = now + at;
                if let Event::Host { host, .. } = &event {
                    agent.state.borrow_mut().host = host.clone();
                }
                let result = agent.take(event).map_err(|error| error.to_string());
                agent.settle();
                let reported: Vec<_> = std::iter::from_fn(|| agent.reported()).collect();
                results.push((result, agent.log(), reported.into_iter().map(untimed).collect::<Vec<_>>()));
            }
            assert_eq!(results[0], results[1]);
            let [one, other] = &agents;
            assert_eq!(canonical(&one.state.borrow()), canonical(&other.state.borrow()));
        }
    }
}

#[test]
fn inherited_state_round_trips_through_recording() {
    let memory = |state| ConnectionMemory {
        state,
        since: Duration::from_nanos(12_345_678_901),
        healthy_since: Some(Duration::from_secs(7)),
        failed: true,
        changes: u64::MAX,
    };
    let states = [State::Up, State::HoldDown, State::Down, State::AdminDown];
    let connections = states.map(|state| (format!("{state:?}"), (9, Some(memory(state)))));
    let record = hub_common::maps::GroupRecord { members: u64::MAX, names: 3 };
    let inherited = Inherited {
        is_running: true,
        connections: connections.into_iter().chain([("never".to_owned(), (8, None))]).collect(),
        groups: vec![OldGroup { record, owners: vec![Some(9), None] }],
        tc_only: BTreeSet::from([7]),
        xdp: BTreeSet::from([8]),
    };
    let random = &mut SmallRng::seed_from_u64(1);
    let text = write(&draw::config(random), &draw::host(random), &inherited, &[]);
    let header = read(&text).expect("it can be read").header;
    assert_eq!(format!("{:?}", header.inherited), format!("{inherited:?}"));
    assert_eq!((header.attach, header.since_boot), (AttachMode::Tc, Duration::from_secs(5)));
}

#[test]
fn unreadable_recording_reports_line_and_cause() {
    let random = &mut SmallRng::seed_from_u64(1);
    let text =
        write(&draw::config(random), &draw::host(random), &Inherited::default(), &[(Duration::ZERO, Event::Due)]);
    for (what, text, says) in [
        ("nothing", String::new(), "the recording is empty"),
        ("no header", "{}\n".to_owned(), "line 1 of the recording is not a header"),
        ("version", text.replacen("\"format\":1", "\"format\":99", 1), "the recording has format 99"),
        ("unknown event", text.replace("\"due\"", "\"dew\""), "line 2 of the recording is invalid: unknown variant"),
        ("end of a line", text[..text.len() - 4].to_owned(), "line 2 of the recording is invalid: EOF"),
        ("unknown key", text.replace("\"attach\"", "\"at_tach\""), "line 1 of the recording is invalid: unknown field"),
        ("configuration", text.replace("[gateway]", "[getaway]"), "line 1 of the recording has a configuration"),
    ] {
        let error = read(&text).expect_err(what);
        assert!(error.contains(says), "{what}: {error}");
    }
}

fn write(config: &Config, host: &HostState, inherited: &Inherited, events: &[(Duration, Event)]) -> String {
    let (now, mut encoder) = (Instant::now(), Encoder::default());
    let clock = Clock::at(now, Duration::from_secs(5));
    let header = RecordingHeader::new(config, host, inherited, AttachMode::Tc, clock, now);
    let mut text = encoder.header(&header).expect("it can be written");
    for (at, event) in events {
        text += &encoder.line(event, *at).expect("it can be written").expect("it is recorded");
    }
    text
}

/// Every kind of event in turn, with random contents where possible.
fn events(random: &mut SmallRng, mut config: Config, mut host: HostState) -> Vec<(Duration, Event)> {
    let event = |index| {
        let event = match index % 15 {
            0 => {
                let new = draw::config(random);
                change(&std::mem::replace(&mut config, new.clone()), new)
            }
            1 => {
                let old = config.clone();
                config.routes.iter_mut().take(1).for_each(|route| route.publish = !route.publish);
                // It follows from the difference.
                Event::Change(Arc::new(Transition { difference: Difference::between(&old, &config), config: None }))
            }
            2 => Event::Tunnels(tunnels(random)),
            3 => Event::Health(health(random)),
            4 => Event::GraceOver,
            5 => Event::Policies(policies(random)),
            6 => Event::Interfaces(Arc::new(BTreeMap::from([("tun0".to_owned(), "no \"xfrm\"\n".to_owned())]))),
            7 => Event::Settled(match random.random_range(0..3) {
                0 => Ok(Vec::new()),
                1 => Ok(vec![ReconcileFailure {
                    object: "10.0.0.0/8".to_owned(),
                    reason: "is full".to_owned(),
                    destination: "10.0.0.0/8".parse().ok(),
                }]),
                _ => Err("no answer".to_owned()),
            }),
            10 => Event::Learned(draw::learned(random)),
            8 => Event::NeighbourMiss(7, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
            9 => {
                let events = [
                    Event::Due,
                    Event::Idle,
                    Event::Secrets,
                    Event::GuardDisturbed,
                    Event::RoutesDisturbed,
                    Event::SysctlsDisturbed,
                ];
                events[random.random_range(0..events.len())].clone()
            }
            _ => {
                let mut changes = draw::change_host(random, &mut host);
                changes.stale.insert((11, IpAddr::V4(Ipv4Addr::new(169, 254, 1, 10))));
                Event::Host { host: host.clone(), changes }
            }
        };
        (Duration::from_micros(index * 1_234_567), event)
    };
    (0..EVENTS).map(event).collect()
}

fn tunnels(random: &mut SmallRng) -> Arc<Tunnels> {
    let mut view = Tunnels::clone(&draw::tunnels(random));
    view.problems.insert("c9".to_owned(), "charon: no".to_owned());
    let changed = |(name, tunnel): (String, Arc<Tunnel>)| {
        let ike = random.random_bool(0.5).then(|| "ESTABLISHED".to_owned());
        let fault = random.random_bool(0.5).then_some(Fault::Silent);
        (name, Arc::new(Tunnel { ike, fault, ..Tunnel::clone(&tunnel) }))
    };
    view.tunnels = view.tunnels.into_iter().map(changed).collect();
    Arc::new(view)
}

fn health(random: &mut SmallRng) -> BTreeMap<String, HealthReport> {
    let mut reports = draw::health(random);
    for report in reports.values_mut() {
        let last_reply_age = Some(Duration::from_nanos(1_500_000_001));
        report.verdict = report.verdict.map(|_| Verdict::Unhealthy { misses: 3, last_reply_age });
        (report.sent, report.round_trip) = (7, Some(Duration::from_micros(250)));
        report.problem = random.random_bool(0.3).then(|| "no link address".to_owned());
    }
    reports
}

fn policies(random: &mut SmallRng) -> Arc<follow::Policies> {
    let lists = XfrmLists { policies: vec![example_policy(); random.random_range(0..3)], sas: vec![example_sa()] };
    let problem = random.random_bool(0.5).then(|| "no answer".to_owned());
    Arc::new(follow::Policies { table: random.random_bool(0.8).then(|| Arc::new(lists.into())), problem })
}

/// Text for comparisons: ignores the origin of a configuration's objects.
fn comparable(event: &Event) -> String {
    match event {
        Event::Change(transition) => {
            let Transition { difference, config } = &**transition;
            format!("{difference:?} {:?}", config.as_deref().map(|config| without_comments(&show(config))))
        }
        event => format!("{event:?}"),
    }
}

fn without_comments(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn untimed(event: ConnectionEvent) -> ConnectionEvent {
    ConnectionEvent { time: 0.0, ..event }
}

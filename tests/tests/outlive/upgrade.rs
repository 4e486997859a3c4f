//! From version 0.1, whose programs and routes end with its agent, and back, as in docs/upgrade.md.
//!
//! `VPNHUB_FROM=FILE` names an agent of that version.

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use hub_tests::lab::{
    AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Options, SHANGHAI, Scratch, Site, VPC,
    World, agent_binary, output, reach,
};
use nix::sys::signal::Signal;

use crate::{PORT, SITES, Wire, ports_of, probe, start_again};

/// Makes the kernel forward nothing; packets redirected by programs bypass this rule.
const HOLD: &str = "table inet hold { chain forward { type filter hook forward priority -1; policy drop; }; }";
const SPOOFED: u16 = 100;

fn old() -> AgentCommand {
    AgentCommand::new(env::var_os("VPNHUB_FROM").expect("VPNHUB_FROM names an agent of version 0.1")).without_instance()
}

/// The hub's kernel forwards every packet that no program stops.
fn world() -> World {
    World::three_offices(&Options::default().slow_path(true)).unwrap()
}

/// The number of Shanghai's packets with foreign sources that arrive at the VPC, and at Hangzhou.
fn spoofed_arrive(world: &World) -> [usize; 2] {
    let sender = Wire::open(world, &SHANGHAI, 0);
    let vpc = FrameSocket::open(&world[VPC.place], VPC.device).unwrap();
    let hangzhou = FrameSocket::open(&world["hangzhou"], &Site::device(0)).unwrap();
    for port in 1..=SPOOFED {
        sender.send(probe(HANGZHOU.host4().into(), VPC.host4.into(), (port, PORT)));
        sender.send(probe(NINGBO.host4().into(), HANGZHOU.host4().into(), (port, PORT)));
    }
    [vpc, hangzhou].map(|socket| {
        let frames = socket.collect(Duration::from_millis(300)).unwrap();
        frames.iter().filter(|frame| ports_of(&frame.bytes).is_some()).count()
    })
}

fn all_reach_each_other(world: &World) {
    for to in HANGZHOU.hosts().into_iter().chain([VPC.host4.into(), VPC.host6.into()]) {
        reach(&world["shanghai"], to).unwrap();
    }
}

/// Rules of any agent, and routes in version 0.1's own table.
fn left_of_old(hub: &Namespace) -> Vec<String> {
    ["-4 rule show", "-6 rule show", "-4 route show table 1180", "-6 route show table 1180"]
        .into_iter()
        .flat_map(|show| {
            let shown = hub.ip(show).unwrap();
            let ours = shown.lines().filter(|line| line.contains("proto 118")).map(str::to_owned);
            ours.collect::<Vec<_>>()
        })
        .collect()
}

/// The output of a command, which must succeed.
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = output(command).unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The `vpnhub` of this version.
fn vpnhub(world: &World, arguments: &[&str]) -> String {
    run(world[HUB].command(agent_binary()).args(arguments))
}

fn protect(world: &World, config: &Path) {
    let said = vpnhub(world, &["protect", "--config", &config.display().to_string()]);
    assert!(said.contains("blocked until the agent runs"), "{said}");
}

fn starts_and_removes_what_is_left(world: &World, files: Scratch) -> Scratch {
    let agent = start_again(world, files);
    all_reach_each_other(world);
    assert_eq!(left_of_old(&world[HUB]), Vec::<String>::new());
    assert_eq!(spoofed_arrive(world), [0, 0]);
    let status = agent.status().unwrap();
    for site in &SITES {
        assert_eq!(status.connection(&site.place)["attach"], "xdp-native");
    }
    agent.stop_with(Signal::SIGTERM).unwrap()
}

#[test]
#[ignore = "needs an agent of version 0.1: VPNHUB_FROM=FILE"]
fn upgrade_from_0_1_and_back_opens_and_leaves_nothing() {
    let world = world();
    let hub = &world[HUB];
    hub.ip(&format!(
        "neigh replace {} lladdr {} dev {}",
        VPC.host4,
        world[VPC.place].mac(VPC.device).unwrap(),
        VPC.hub_device
    ))
    .unwrap();
    assert_eq!(spoofed_arrive(&world)[0], usize::from(SPOOFED), "the test does not test: the kernel forwards nothing");

    let agent = old().start_with(hub, &HubConfig::offices(&SITES).to_string()).unwrap();
    all_reach_each_other(&world);
    protect(&world, &agent.config());
    all_reach_each_other(&world);
    let files = agent.stop_with(Signal::SIGTERM).unwrap();
    assert_eq!(spoofed_arrive(&world), [0, 0], "after 0.1 has stopped");
    let files = starts_and_removes_what_is_left(&world, files);

    run(hub.command("nft").arg(HOLD));
    let said = vpnhub(&world, &["unload", "--instance", &hub.instance()]);
    assert!(said.contains("8 programs on interfaces"), "{said}");
    assert_eq!(spoofed_arrive(&world), [0, 0], "after unload");
    let agent = old().start_in(hub, files).unwrap();
    all_reach_each_other(&world);
    run(hub.command("nft").args(["delete", "table", "inet", "hold"]));
    assert_eq!(spoofed_arrive(&world), [0, 0], "with 0.1");
    assert_eq!(run(hub.command("nft").args(["list", "tables"])), "");
    assert!(!hub.pins().exists());
    assert!(!hub.ip("-d link show").unwrap().contains("group 118"));
    assert_eq!(hub.ip("route show table all proto 119").unwrap(), "");
    agent.stop().unwrap();
}

/// Version 0.1 then leaves rules, its table and the published routes, but no program.
#[test]
#[ignore = "needs an agent of version 0.1: VPNHUB_FROM=FILE"]
fn leftovers_of_killed_0_1_agent_are_removed() {
    let world = world();
    let agent = old().start_with(&world[HUB], &HubConfig::offices(&SITES).to_string()).unwrap();
    all_reach_each_other(&world);
    protect(&world, &agent.config());
    let files = agent.kill().unwrap();
    assert!(left_of_old(&world[HUB]).len() > 20);
    assert_eq!(spoofed_arrive(&world), [0, 0]);
    starts_and_removes_what_is_left(&world, files);
}

/// It holds a lock name that this version ignores, because any user could take it.
#[test]
fn running_0_1_agent_causes_warning() {
    let world = world();
    let start = || AgentCommand::new(agent_binary()).start_with(&world[HUB], &HubConfig::offices(&SITES).to_string());
    let warning = "an agent of version 0.1 runs in this network namespace";
    let agent = start().unwrap();
    assert!(!agent.log().contains(warning));
    agent.stop().unwrap();
    let name = SocketAddr::from_abstract_name(b"vpnhub/agent").unwrap();
    let held = world[HUB].enter(|| UnixDatagram::bind_addr(&name)).unwrap().unwrap();
    let agent = start().unwrap();
    assert!(agent.log().contains(warning), "{}", agent.log());
    agent.stop().unwrap();
    drop(held);
}

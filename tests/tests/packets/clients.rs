//! Clients that come and go, and agents that do.

use std::io::Read as _;
use std::process::Stdio;

use hub_tests::lab::{AgentCommand, HUB, HubConfig, Options, Rig, SHANGHAI, VPC, World, agent_binary, reach, retry};

use crate::{Listener, SITES, Wire, spoofed};

fn failure(rig: &Rig, arguments: &[&str]) -> String {
    let output = rig.agent.cli(arguments).unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn filters_are_limited_shared_and_freed() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let ports: Vec<String> = (1..=17).map(|port: u16| port.to_string()).collect();
    let filter = |number: usize| ["--dport", &ports[number]];
    let mut listeners: Vec<_> = (0..16).map(|number| Listener::start(&rig.agent, &filter(number))).collect();
    let full = [&["monitor", "--packets"], &filter(16)[..]].concat();
    let message = failure(&rig, &full);
    assert!(message.contains("16 listeners with different filters are connected"), "{message}");
    // A filter that is there already needs no place.
    let shared = Listener::start(&rig.agent, &filter(3));
    let wire = Wire::of_site(&rig.world, &SHANGHAI);
    wire.send(&spoofed((900, 4)));
    for listener in [&shared, &listeners[3]] {
        assert_eq!(listener.next()["source_port"], 900);
    }
    // The place of a client that disconnects is free again.
    listeners.remove(7);
    let next = retry("no place becomes free", || {
        let mut child = std::process::Command::new(agent_binary());
        child.arg("--socket").arg(rig.agent.socket()).args(&full).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn()?;
        let mut byte = [0];
        child.stderr.as_mut().expect("it is piped").read_exact(&mut byte)?;
        let listens = byte == *b"l";
        if listens {
            return Ok(Some(child));
        }
        child.wait()?;
        Ok(None)
    });
    let mut next = next.unwrap();
    next.kill().unwrap();
    next.wait().unwrap();
    rig.stop().unwrap();
}

#[test]
fn mistakes_are_answered_with_one_sentence() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let monitor = |filter: &[&str]| failure(&rig, &[&["monitor", "--packets"], filter].concat());
    let message = monitor(&["--reason", "nonsense"]);
    assert!(message.starts_with("vpnhub: reason \"nonsense\" does not exist: use not_attached, "), "{message}");
    let message = monitor(&["--connection", "nowhere"]);
    assert!(message.starts_with("vpnhub: connection \"nowhere\" does not exist: "), "{message}");
    let message = failure(&rig, &["capture", "-w", "/nonexistent/file"]);
    assert!(message.starts_with("vpnhub: cannot write /nonexistent/file: choose another place with -w: "), "{message}");
    for usage in [
        &["monitor", "--dport", "5"][..],
        &["monitor", "--packets", "--src", "10.0.0.0/33"],
        &["monitor", "--packets", "--forwarded", "1/0"],
        &["monitor", "--packets", "--protocol", "ip"],
        &["capture"],
        &["capture", "-w", "x", "--snaplen", "5000"],
        &["capture", "-w", "x", "--count", "0"],
    ] {
        assert_eq!(rig.agent.cli(usage).unwrap().status.code(), Some(2), "{usage:?}");
    }
    rig.stop().unwrap();
}

#[test]
fn killed_agent_leaves_forwarding_and_the_next_one_records_again() {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    let listener = Listener::start(&rig.agent, &["--forwarded", "1/1"]);
    let Rig { agent, world } = rig;
    let scratch = agent.kill().unwrap();
    // Nobody drains the ring: more than it holds.
    let wire = Wire::of_site(&world, &SHANGHAI);
    for port in 0..20_000 {
        wire.send(&spoofed((port, 1)));
    }
    reach(&world["shanghai"], VPC.host4.into()).unwrap();
    // The client of the dead agent ends.
    while listener.lines.recv_timeout(crate::WAIT).is_ok() {}
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    let again = Listener::start(&agent, &["--reason", "spoofed_source"]);
    wire.send(&spoofed((50_000, 1)));
    assert_eq!(again.next()["source_port"], 50_000);
    agent.stop().unwrap();
}

/// Listeners leave records behind, and the ring is mapped only while there is a listener.
#[test]
fn listener_after_one_that_left_in_a_flood_gets_its_packets() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let wire = Wire::of_site(&rig.world, &SHANGHAI);
    for round in 0..10 {
        let listener = Listener::start(&rig.agent, &["--reason", "spoofed_source", "--sport", &round.to_string()]);
        (0..300).for_each(|_| drop(wire.send(&spoofed((round, 1)))));
        assert_eq!(listener.next()["source_port"], round);
        drop(listener);
        (0..300).for_each(|_| drop(wire.send(&spoofed((round, 1)))));
    }
    rig.stop().unwrap();
}

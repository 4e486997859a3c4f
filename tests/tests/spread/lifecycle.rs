//! The program comes, is replaced and goes; others' programs and the forwarder share the interfaces.

use std::{
    fs,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use hub_tests::lab::{HUB, Namespace, SHANGHAI, VPC, agent_binary, reach, retry};

use crate::underlay::{Wire, add_wan, agent, config, in_udp, pins, underlay, with_xdp, world, xdp};

fn vpnhub(place: &Namespace, args: &[&str]) -> String {
    let Output { stdout, stderr, status } = place.command(agent_binary()).args(args).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn program_follows_configuration_agents_and_unload() {
    let world = world();
    let hub = &world[HUB];
    let rps = config() + "[underlay.wan0]\nspread = \"rps\"\n";
    let mask = || {
        // `ip netns exec` mounts the /sys of the namespace.
        let read = ["netns", "exec", hub.name(), "cat", "/sys/class/net/wan0/queues/rx-0/rps_cpus"];
        let read = Command::new("ip").args(read).output().unwrap();
        String::from_utf8(read.stdout).unwrap().trim().trim_start_matches(['0', ',']).to_owned()
    };
    let first = agent().start_with(hub, &rps).unwrap();
    assert_eq!(xdp(hub, "wan0"), None);
    let masked = mask();
    assert_ne!(masked, "");

    fs::write(first.config(), with_xdp("wan0")).unwrap();
    assert_eq!(first.cli(&["reload"]).unwrap().stdout, b"reloaded: underlay wan0 (spread) changed\n");
    let (mode, program) = xdp(hub, "wan0").unwrap();
    assert_eq!((mode, pins(hub)), (1, vec!["native".to_owned()]));
    assert_eq!(mask(), "", "put back");
    let status = underlay(&first.status().unwrap(), "wan0");
    assert_eq!(
        (&status["spread"], &status["spread_in_force"], &status["spread_reason"], &status["spread_hint"]),
        (&"xdp".into(), &"xdp-native".into(), &serde_json::Value::Null, &serde_json::Value::Null)
    );
    let table = String::from_utf8(first.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(table.contains("xdp-native"), "{table}");

    // Crash: the program stays, and the next agent replaces it behind the same link.
    let files = first.kill().unwrap();
    assert_eq!(xdp(hub, "wan0"), Some((1, program)));
    let second = agent().start_in(hub, files).unwrap();
    retry("the program of the next agent", || Ok(xdp(hub, "wan0").filter(|found| found.1 != program))).unwrap();
    assert_eq!((xdp(hub, "wan0").unwrap().0, pins(hub)), (1, vec!["native".to_owned()]));

    // The interface goes and comes.
    hub.ip("link del wan0").unwrap();
    add_wan(hub);
    retry("the program on the new interface", || Ok(xdp(hub, "wan0"))).unwrap();
    retry("one pin", || Ok((pins(hub) == ["native"]).then_some(()))).unwrap();

    // Without an agent the setting goes; the next one takes the program away.
    let files = second.kill().unwrap();
    fs::write(files.file("vpnhub.toml"), config()).unwrap();
    let third = agent().start_in(hub, files).unwrap();
    retry("no program", || Ok(xdp(hub, "wan0").is_none().then_some(()))).unwrap();
    assert_eq!(pins(hub), [""; 0]);

    fs::write(third.config(), with_xdp("wan0")).unwrap();
    third.cli(&["reload"]).unwrap();
    assert!(xdp(hub, "wan0").is_some());
    fs::write(third.config(), &rps).unwrap();
    third.cli(&["reload"]).unwrap();
    assert_eq!((xdp(hub, "wan0"), mask()), (None, masked));
    fs::write(third.config(), with_xdp("wan0")).unwrap();
    third.cli(&["reload"]).unwrap();

    third.stop().unwrap();
    assert!(xdp(hub, "wan0").is_some(), "on_stop = \"keep\"");
    let unloaded = vpnhub(hub, &["unload", "--instance", &hub.instance()]);
    assert!(unloaded.contains("programs on interfaces"), "{unloaded}");
    assert_eq!((xdp(hub, "wan0"), pins(hub)), (None, Vec::new()));
    assert!(!hub.pins().exists());
}

#[test]
fn detaching_agent_takes_program_away() {
    let world = world();
    let (head, rest) = with_xdp("wan0").split_once("\n[vpc]\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let dataplane = if head.contains("[dataplane]") { "" } else { "\n[dataplane]" };
    let text = format!("{head}{dataplane}\non_stop = \"detach\"\n\n[vpc]\n{rest}");
    let agent = agent().start_with(&world[HUB], &text).unwrap();
    assert!(xdp(&world[HUB], "wan0").is_some());
    agent.stop().unwrap();
    assert_eq!(xdp(&world[HUB], "wan0"), None);
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Crashes and starts while packets are in flight: none is lost, twice or changed.
#[test]
fn no_packet_is_lost_while_agents_come_and_go() {
    let world = world();
    let hub = &world[HUB];
    let first = agent().start_with(hub, &with_xdp("wan0")).unwrap();
    let wire = Wire::open(hub);
    let ends = AtomicBool::new(false);
    let running = thread::scope(|scope| {
        let flow = scope.spawn(|| {
            let mut rounds = 0_u32;
            while !ends.load(Ordering::Relaxed) {
                // `exchange` fails if one is missing.
                wire.exchange((0..512).map(|number| in_udp(0xc000_0001 + number % 8, rounds * 512 + number)));
                rounds += 1;
            }
            rounds
        });
        // Also if something fails.
        let end = End(&ends);
        let mut running = first;
        for _ in 0..3 {
            running = agent().start_in(hub, running.kill().unwrap()).unwrap();
        }
        for text in [config(), with_xdp("wan0")] {
            fs::write(running.config(), text).unwrap();
            running.cli(&["reload"]).unwrap();
        }
        drop(end);
        assert!(flow.join().unwrap() > 0);
        running
    });
    running.stop().unwrap();
}

#[test]
fn program_of_another_is_left_alone() {
    let world = world();
    let hub = &world[HUB];
    let foreign = hub.foreign_xdp("wan0").unwrap();
    let before = xdp(hub, "wan0").unwrap();
    let agent = agent().start_with(hub, &with_xdp("wan0")).unwrap();
    let status = underlay(&agent.status().unwrap(), "wan0");
    assert_eq!(status["spread_in_force"], serde_json::Value::Null);
    let reason = status["spread_reason"].as_str().unwrap();
    assert!(reason.starts_with("another XDP program is attached to wan0, which is left alone: detach it"), "{reason}");
    assert_eq!((xdp(hub, "wan0"), pins(hub)), (Some(before), Vec::new()));
    let table = String::from_utf8(agent.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(table.contains(&format!("wan0: {reason}")), "{table}");
    drop(foreign);
    agent.stop().unwrap();
}

/// A gateway with one NIC: the attachment does without XDP, and forwards as before.
#[test]
fn attachment_with_spread_forwards_by_tc() {
    let world = world();
    let hub = &world[HUB];
    let running = agent().start_with(hub, &config()).unwrap();
    let attach = |status: &serde_json::Value| status["vpc"]["attach"].as_str().unwrap().to_owned();
    let before = attach(&running.status().unwrap());
    assert_eq!(before, "xdp-native");
    let works = || {
        reach(&world[VPC.place], SHANGHAI.host4().into()).unwrap();
        reach(&world["shanghai"], VPC.host6.into()).unwrap();
    };
    works();
    fs::write(running.config(), with_xdp("vpc0")).unwrap();
    running.cli(&["reload"]).unwrap();
    let with_spread = |status: &serde_json::Value| {
        assert_eq!(attach(status), "tc");
        let reason = status["vpc"]["attach_reason"].as_str().unwrap();
        assert!(reason.contains("spread = \"xdp\""), "{reason}");
        assert_eq!(underlay(status, "vpc0")["spread_in_force"], "xdp-native");
        assert_eq!(pins(hub), ["native"]);
    };
    with_spread(&running.status().unwrap());
    works();
    // The same after a crash, and back.
    let running = agent().start_in(hub, running.kill().unwrap()).unwrap();
    with_spread(&running.status().unwrap());
    works();
    fs::write(running.config(), config()).unwrap();
    running.cli(&["reload"]).unwrap();
    assert_eq!((attach(&running.status().unwrap()), pins(hub)), (before, Vec::new()));
    works();
    running.stop().unwrap();
}

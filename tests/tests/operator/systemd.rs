//! `Type=notify`: systemd is notified when everything is attached, and when the shutdown begins.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::Duration;

use hub_tests::checkout;
use hub_tests::lab::{AgentCommand, HUB, HubConfig, Options, Scratch, World, agent_binary};

use crate::SITES;

/// The next message, except the one with the nftables table's socket (tests/tests/outlive).
fn next(socket: &UnixDatagram) -> String {
    loop {
        let mut buffer = [0; 1024];
        let length = match socket.recv(&mut buffer) {
            // With a time-out, the kernel does not restart it after a signal that stops the process.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.expect("the agent tells systemd"),
        };
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if !message.starts_with("FDSTORE=1\n") {
            return message;
        }
    }
}

#[test]
fn systemd_is_notified_when_ready_and_stopping() {
    let world = World::three_offices(&Options::default()).unwrap();
    let scratch = Scratch::new().unwrap();
    let path = scratch.file("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let command = AgentCommand::new(agent_binary()).environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let agent = thread::scope(|scope| {
        let agent = scope.spawn(|| command.start_with(&world[HUB], &HubConfig::offices(&SITES).to_string()));
        let message = next(&systemd);
        // At the moment of the notification.
        let links = world[HUB].ip("-o link show").unwrap();
        let routes = world[HUB].ip("route show proto 118").unwrap();
        assert!(message.lines().any(|line| line == "READY=1"), "{message}");
        for device in ["vpc0", "tun-sh", "tun-hz", "tun-nb"] {
            let link = links.lines().find(|line| line.contains(&format!(" {device}@"))).unwrap();
            assert!(link.contains("xdp"), "{link}");
        }
        assert!(routes.contains("10.10.30.0/24"), "{routes}");
        agent.join().unwrap()
    });
    agent.unwrap().stop().unwrap();
    let message = next(&systemd);
    assert!(message.lines().any(|line| line == "STOPPING=1"), "{message}");
    assert!(!message.contains("READY=1"), "{message}");
}

#[test]
fn watchdog_is_pinged_while_agent_loop_runs() {
    let world = World::three_offices(&Options::default()).unwrap();
    let scratch = Scratch::new().unwrap();
    let path = scratch.file("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let command = AgentCommand::new(agent_binary())
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "200000");
    let agent = command.start_with(&world[HUB], &HubConfig::offices(&SITES).to_string()).unwrap();
    assert!(next(&systemd).contains("READY=1"));
    for _ in 0..5 {
        assert_eq!(next(&systemd).trim_end(), "WATCHDOG=1");
    }
    agent.stop().unwrap();
}

#[test]
fn missing_notify_socket_does_not_stop_agent() {
    let world = World::three_offices(&Options::default()).unwrap();
    let command = AgentCommand::new(agent_binary()).environment("NOTIFY_SOCKET", "/nonexistent/notify.sock");
    let agent = command.start_with(&world[HUB], &HubConfig::offices(&SITES).to_string()).unwrap();
    assert!(agent.log().contains("systemd not notified"), "{}", agent.log());
    agent.stop().unwrap();
}

#[test]
#[ignore = "needs systemd-analyze of systemd 250 or later"]
fn units_score_below_exposure_threshold() {
    for unit in ["vpnhub.service", "vpnhub-guard.service"] {
        let path = checkout::find().unwrap().join("contrib/systemd").join(unit);
        // In tenths: exit code 1 above it.
        let args = ["security", "--offline=true", "--threshold=22"];
        let output = Command::new("systemd-analyze").args(args).arg(&path).output().unwrap();
        assert!(output.status.success(), "{unit}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

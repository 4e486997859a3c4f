//! What an operator's file or a flapping link can cause is bounded.

use std::{fs, os::unix::fs::symlink, time::Duration};

use hub_tests::lab::{HUB, HubConfig, Options, Rig, retry};

use crate::{SITES, stderr};

const WAIT: Duration = Duration::from_secs(20);

#[test]
fn reload_of_a_file_that_cannot_be_read_fails_and_other_changes_go_on() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let file = rig.agent.config();
    let good = fs::read(&file).unwrap();
    let folder = file.parent().unwrap();
    let fifo = folder.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let large = folder.join("large");
    fs::write(&large, "#".repeat((64 << 20) + 1)).unwrap();
    let cases = [
        (fifo.as_path(), "this is not a regular file"),
        ("/dev/zero".as_ref(), "this is not a regular file"),
        ("/".as_ref(), "this is a directory"),
        (large.as_path(), "larger than 64 MiB"),
    ];
    for (target, reason) in cases {
        fs::remove_file(&file).unwrap();
        symlink(target, &file).unwrap();
        let output = rig.agent.cli(&["reload"]).unwrap();
        let refused = stderr(&output);
        assert!(!output.status.success() && refused.contains(reason), "{}: {refused}", target.display());
        for change in ["down", "up"] {
            let output = rig.agent.cli(&["connection", change, "shanghai"]).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    fs::remove_file(&file).unwrap();
    fs::write(&file, good).unwrap();
    assert!(rig.agent.cli(&["reload"]).unwrap().status.success());
    rig.stop().unwrap();
}

#[test]
fn agent_that_validates_a_large_file_ends_at_sigterm() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let file = rig.agent.config();
    let route = "[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"nowhere\"\n";
    fs::write(&file, fs::read_to_string(&file).unwrap() + &route.repeat(900_000)).unwrap();
    let Rig { agent, world } = rig;
    let process = std::process::Command::new(hub_tests::lab::agent_binary())
        .arg("--socket")
        .arg(agent.socket())
        .arg("reload")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut process = process.unwrap();
    let ticks = || -> anyhow::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
        // utime(14), counted from the state(3) after the name.
        Ok(stat.rsplit(')').next().unwrap_or_default().split_whitespace().nth(11).unwrap_or("0").parse()?)
    };
    let before = ticks().unwrap();
    retry("the agent does not read the file", || Ok((ticks()? > before + 20).then_some(()))).unwrap();
    agent.stop().unwrap();
    process.wait().unwrap();
    drop(world);
}

#[test]
fn log_of_a_flapping_link_is_limited() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let state = |up: bool| {
        rig.world[HUB].set_link("tun-sh", up).unwrap();
        let reason = if up { "up_delay" } else { "is down" };
        let is_seen = |status: &hub_tests::lab::Status| {
            let connection = status.connection("shanghai");
            connection["state_reason"].as_str().map_or(up, |shown| shown.contains(reason))
        };
        rig.agent.wait_for_status(WAIT, is_seen).unwrap();
    };
    for _ in 0..60 {
        state(false);
        state(true);
    }
    let log = rig.agent.log();
    let lines = log.lines().filter(|line| line.contains("down: ") && line.contains("shanghai")).count();
    assert!((10..60).contains(&lines), "{lines} lines:\n{log}");
    rig.stop().unwrap();
}

//! `vpnhub top`: one table for scripts, and the screen in a terminal.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hub_tests::lab::{
    AgentCommand, HANGZHOU, HUB, HubConfig, Namespace, Options, Ping, Rig, SHANGHAI, Terminal, agent_binary, retry,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{SITES, failure, stdout};

fn start() -> Rig {
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").health_check = true;
    let rig = Rig::start(&Options::default(), &config).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

/// Has Hangzhou ping Shanghai until the flag is set.
fn traffic(hangzhou: &Namespace, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        Ping::new(SHANGHAI.host4().into()).timeout(Duration::from_millis(500)).run(hangzhou).unwrap();
    }
}

#[test]
fn once_prints_rates_of_one_interval() {
    let rig = start();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| traffic(&rig.world["hangzhou"], &ends));
        let lines = retry("no traffic is shown", || {
            let lines = rig.agent.json(&["top", "--once", "--interval", "300ms"])?;
            Ok((lines[0]["rx_packets"].as_f64() > Some(0.0)).then_some(lines))
        });
        let table = rig.agent.cli(&["top", "--once", "--interval", "300ms", "--sort", "in"]);
        ends.store(true, Ordering::Relaxed);
        let lines = lines.unwrap();
        let names: Vec<_> = lines.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["hangzhou", "ningbo", "shanghai"]);
        let [hangzhou, ningbo, shanghai] = [0, 1, 2].map(|index| &lines[index]);
        // An echo request has 20 bytes or more of IPv4 header alone.
        let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
        assert!(number(hangzhou, "rx_bits") >= number(hangzhou, "rx_packets") * 160.0, "{hangzhou}");
        assert!(number(shanghai, "tx_packets") > 0.0, "{shanghai}");
        assert!(number(ningbo, "rx_packets") < 1e-9, "{ningbo}");
        assert_eq!(shanghai["health"], "up", "{shanghai}");
        assert!(number(shanghai, "round_trip") > 0.0 && number(shanghai, "loss") < 1.0, "{shanghai}");
        assert_eq!(ningbo["health"], Value::Null);
        assert_eq!(ningbo["share"], serde_json::json!([1.0, 1.0]));
        let table = stdout(&table.unwrap());
        let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(header[..4], ["CONNECTION", "STATE", "IN", "PKT/S"], "{table}");
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(!table.contains('\x1b'), "{table:?}");
    });
    // Without a terminal the screen is refused, with the way out.
    let refused = failure(&rig.agent.cli(&["top"]).unwrap());
    assert!(refused.contains("add --once"), "{refused}");
    let filtered = rig.agent.json(&["top", "--once", "--interval", "200ms", "--filter", "NING"]).unwrap();
    assert_eq!(filtered.as_array().unwrap().len(), 1);
    rig.stop().unwrap();
}

fn top(rig: &Rig, size: [u16; 2]) -> Terminal {
    let mut command = Command::new(agent_binary());
    command.arg("--socket").arg(rig.agent.socket()).args(["top", "--interval", "200ms"]);
    let mut terminal = Terminal::start(command, size).unwrap();
    terminal.wait("the table", |screen| screen.contains("3 connections: 3 up") && screen.contains("ningbo")).unwrap();
    assert!(!terminal.is_cooked().unwrap(), "keys are read one by one");
    terminal
}

/// The alternate screen was left, the cursor is shown, and lines are edited again.
fn must_be_restored(terminal: &Terminal) {
    let raw = &terminal.raw;
    assert!(raw.rfind("\x1b[?1049l") > raw.rfind("\x1b[?1049h"), "the alternate screen stays: {raw:?}");
    assert!(raw.rfind("\x1b[?25h") > raw.rfind("\x1b[?25l"), "the cursor stays hidden: {raw:?}");
    assert!(terminal.is_cooked().unwrap());
}

#[test]
fn screen_sorts_filters_and_shows_a_connection() {
    let rig = start();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| traffic(&rig.world["hangzhou"], &ends));
        let shown = || {
            let mut terminal = top(&rig, [100, 45]);
            terminal.press("i")?;
            terminal.wait("the busiest first", |screen| {
                let at = |name: &str| screen.find(&format!("\n{name}"));
                at("hangzhou") < at("ningbo") && screen.contains("hangzhou in, bit/s")
            })?;
            terminal.press("/shang\r")?;
            terminal.wait("the filter", |screen| screen.contains("\nshanghai") && !screen.contains("ningbo"))?;
            terminal.press("\r")?;
            let screen = terminal.wait("the connection", |screen| screen.contains("Events, the last first"))?;
            for part in ["up for", "Health", "Routes", "10.10.10.0/24", "probes lost"] {
                assert!(screen.contains(part), "{part} in\n{screen}");
            }
            terminal.press("\x1b[B\x1b")?;
            terminal.wait("the table again", |screen| screen.contains("CONNECTION"))?;
            terminal.press("q")?;
            assert!(terminal.end()?.success());
            must_be_restored(&terminal);
            Ok::<_, anyhow::Error>(())
        };
        let result = shown();
        ends.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    rig.stop().unwrap();
}

#[test]
fn terminal_is_restored_after_ctrl_c_and_signals() {
    let rig = start();
    for end in [None, Some(Signal::SIGTERM), Some(Signal::SIGHUP), Some(Signal::SIGINT)] {
        let mut terminal = top(&rig, [100, 30]);
        match end {
            None => terminal.press("\x03").unwrap(),
            Some(signal) => kill(Pid::from_raw(terminal.pid().cast_signed()), signal).unwrap(),
        }
        assert!(terminal.end().unwrap().success(), "{end:?}");
        must_be_restored(&terminal);
    }
    rig.stop().unwrap();
}

#[test]
fn screen_survives_restart_of_agent_and_says_so() {
    let rig = start();
    let mut terminal = top(&rig, [100, 45]);
    let Rig { agent, world } = rig;
    let scratch = agent.kill().unwrap();
    let gone = terminal.wait("that the agent is gone", |screen| screen.contains("no answer, trying again")).unwrap();
    assert!(gone.contains("ningbo"), "the last values stay:\n{gone}");
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    let back = |screen: &str| screen.contains("from the sites:") && screen.contains("3 up");
    terminal.wait("the new agent", back).unwrap();
    terminal.press("/hang\r\r").unwrap();
    terminal.wait("its events", |screen| screen.contains("hangzhou in") && screen.contains("Events")).unwrap();
    let network = HANGZHOU.network4().to_string();
    terminal.wait("its routes", |screen| screen.contains(&network)).unwrap();
    terminal.press("q").unwrap();
    assert!(terminal.end().unwrap().success());
    must_be_restored(&terminal);
    agent.stop().unwrap();
}

#[test]
fn json_log_has_an_event_name_connection_and_reason_and_no_secret() {
    let world = hub_tests::lab::World::three_offices(&Options::default()).unwrap();
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").health_check = true;
    let command = AgentCommand::new(agent_binary()).argument("--log-format").argument("json");
    let agent = command.start_with(&world[HUB], &config.to_string()).unwrap();
    let down = |status: &hub_tests::lab::Status| status.connection("ningbo")["state"] == "down";
    world[HUB].ip("link set tun-nb down").unwrap();
    agent.wait_for_status(Duration::from_secs(20), down).unwrap();
    let log = agent.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        for (key, is_right) in [("time", line["time"].is_f64()), ("level", line["level"].is_string())] {
            assert!(is_right, "{key} of {line}");
        }
        let event = line["event"].as_str().unwrap();
        assert!(!event.is_empty() && !event.contains(' ') && line["message"].is_string(), "{line}");
    }
    let found = lines.iter().find(|line| line["event"] == "connection_down" && line["connection"] == "ningbo");
    let found = found.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(found["level"], "warn");
    let reason = found["reason"].as_str().unwrap();
    assert!(reason.starts_with("interface tun-nb is down"), "{found}");
    assert_eq!(found["message"], format!("down: {reason}"));
    assert!(lines.iter().any(|line| line["event"] == "attached" && line["interface"] == "tun-nb"), "{log}");
    agent.stop().unwrap();
}

//! `[underlay.X]`: received ESP of few receive queues is distributed over all CPUs, and nothing stays of it.

use std::fs;
use std::process::Command;

use hub_tests::lab::{AgentCommand, HUB, HubConfig, Namespace, Options, Rig, World, agent_binary, retry};
use serde_json::{Value, json};

use crate::{SITES, stdout, vpnhub};

/// `wan1` has a mask of another program.
const UNDERLAYS: &str = "[underlay.vpc0]\n[underlay.wan0]\nspread = \"auto\"\n[underlay.wan1]\n\
                         [underlay.wan2]\nspread = \"off\"\n[underlay.later0]\nspread = \"rps\"\n";
const WAN: &str = "link add wan0 type veth peer name wan1\nlink add wan2 type veth peer name wan3";

/// Runs a shell command where /sys is the place's.
fn sh(place: &Namespace, command: &str) -> String {
    let output = Command::new("ip").args(["netns", "exec", place.name(), "sh", "-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    stdout(&output).trim().to_owned()
}

/// The mask of the only receive queue, as one number.
fn mask(place: &Namespace, interface: &str) -> u128 {
    let text = sh(place, &format!("cat /sys/class/net/{interface}/queues/rx-0/rps_cpus"));
    u128::from_str_radix(&text.replace(',', ""), 16).unwrap()
}

fn cpus() -> u32 {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let number = |text: &str| text.parse::<u32>().unwrap();
    let ranges = text.trim().split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    ranges.map(|(first, last)| number(last) - number(first) + 1).sum()
}

/// The masks of all online CPUs, and of an interface with `auto`.
fn expected() -> (u128, u128) {
    let all = u128::MAX >> (128 - cpus());
    (all, if cpus() > 1 { all } else { 0 })
}

/// The first CPUs, as the kernel lists them.
fn list(count: u32) -> String {
    if count > 1 { format!("0-{}", count - 1) } else { "0".to_owned() }
}

fn world() -> World {
    let world = World::three_offices(&Options::default()).unwrap();
    world[HUB].batch(WAN).unwrap();
    sh(&world[HUB], "echo 1 > /sys/class/net/wan1/queues/rx-0/rps_cpus");
    world
}

fn await_mask(place: &Namespace, interface: &str, expected: u128) {
    retry(&format!("rps_cpus of {interface}"), || Ok((mask(place, interface) == expected).then_some(()))).unwrap();
}

fn underlay(status: &Value, name: &str) -> Value {
    let all = status["underlays"].as_array().unwrap();
    all.iter().find(|underlay| underlay["interface"] == name).unwrap().clone()
}

#[test]
fn underlays_are_spread_and_put_back_by_reload_and_unload() {
    let (all, auto) = expected();
    let world = world();
    let hub = &world[HUB];
    let masks = |interfaces: [&str; 4]| interfaces.map(|interface| mask(hub, interface));
    let config = HubConfig::offices(&SITES).to_string();
    let agent = AgentCommand::new(agent_binary()).start_with(hub, &(config.clone() + UNDERLAYS)).unwrap();
    // vpc0 is an attachment, too.
    assert_eq!(masks(["vpc0", "wan0", "wan1", "wan2"]), [auto, auto, 1, 0]);
    let status = agent.status().unwrap();
    let in_force = if auto > 0 { json!("rps") } else { Value::Null };
    let vpc = json!({
        "interface": "vpc0", "spread": "auto", "spread_in_force": in_force, "rx_queues": 1, "cpus": cpus(),
        "spread_reason": underlay(&status, "vpc0")["spread_reason"], "spread_hint": underlay(&status, "vpc0")["spread_hint"],
        // A virtual interface has no interrupts.
        "receive": {
            "queues": [{ "queue": 0, "rps_cpus": if auto > 0 { list(cpus()) } else { String::new() } }],
            "interrupts": [], "interrupt_count": 0,
        },
    });
    assert_eq!(underlay(&status, "vpc0"), vpc);
    assert_eq!(underlay(&status, "vpc0")["spread_reason"].is_null(), auto > 0);
    let reason = |name: &str| underlay(&status, name)["spread_reason"].as_str().unwrap().to_owned();
    assert!(reason("wan1").starts_with("another program has set rps_cpus"), "{}", reason("wan1"));
    assert_eq!(reason("later0"), "interface later0 does not exist");
    assert_eq!(reason("wan2"), "off in the configuration");
    let table = stdout(&agent.cli(&["status"]).unwrap());
    assert!(table.contains("UNDERLAY") && table.contains("later0: interface later0 does not exist"), "{table}");

    // Created later, and again.
    hub.ip("link add later0 type veth peer name later1").unwrap();
    await_mask(hub, "later0", all);
    hub.ip("link del later0").unwrap();
    hub.ip("link add later0 type veth peer name later1").unwrap();
    await_mask(hub, "later0", all);

    // The next agent knows what is its own.
    let agent = AgentCommand::new(agent_binary()).start_in(hub, agent.kill().unwrap()).unwrap();
    assert_eq!(masks(["vpc0", "wan0", "wan1", "later0"]), [auto, auto, 1, all]);
    assert_eq!(underlay(&agent.status().unwrap(), "later0")["spread_reason"], Value::Null);

    fs::write(agent.config(), &config).unwrap();
    let reloaded = stdout(&agent.cli(&["reload"]).unwrap());
    assert_eq!(reloaded, "reloaded: 5 underlays removed\n");
    assert_eq!(masks(["vpc0", "wan0", "wan1", "later0"]), [0, 0, 1, 0]);
    assert_eq!(agent.status().unwrap()["underlays"], json!([]));
    fs::write(agent.config(), config + UNDERLAYS).unwrap();
    assert_eq!(stdout(&agent.cli(&["reload"]).unwrap()), "reloaded: 5 underlays added\n");
    assert_eq!(masks(["vpc0", "wan0", "wan1", "later0"]), [auto, auto, 1, all]);

    agent.stop().unwrap();
    assert_eq!(masks(["vpc0", "wan0", "wan1", "later0"]), [auto, auto, 1, all], "on_stop = \"keep\"");
    let unloaded = vpnhub(hub, &["unload", "--instance", &hub.instance()]);
    let queues = if auto > 0 { 3 } else { 1 };
    assert!(stdout(&unloaded).contains(&format!("rps_cpus of {queues} receive queues")), "{unloaded:?}");
    assert_eq!(masks(["vpc0", "wan0", "wan1", "later0"]), [0, 0, 1, 0]);
}

#[test]
fn table_removed_without_agent_is_put_back_by_next_agent() {
    let (all, _) = expected();
    let world = world();
    let hub = &world[HUB];
    let config = HubConfig::offices(&SITES).to_string();
    let text = config.clone() + "[underlay.wan1]\nspread = \"rps\"\n";
    let agent = AgentCommand::new(agent_binary()).start_with(hub, &text).unwrap();
    assert_eq!(mask(hub, "wan1"), all);
    let files = agent.kill().unwrap();
    fs::write(files.file("vpnhub.toml"), config).unwrap();
    // The index stays.
    hub.batch("link set wan1 down\nlink set wan1 name wan9").unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(hub, files).unwrap();
    assert_eq!(mask(hub, "wan9"), 1, "as another program has set it");
    agent.stop().unwrap();
}

#[test]
fn detaching_agent_puts_masks_back() {
    let (all, _) = expected();
    let world = world();
    let config = HubConfig::offices(&SITES).to_string();
    let (head, rest) = config.split_once("\n[vpc]\n").unwrap();
    let dataplane = if head.contains("[dataplane]") { "" } else { "\n[dataplane]" };
    let config = format!("{head}{dataplane}\non_stop = \"detach\"\n\n[vpc]\n{rest}[underlay.wan0]\nspread = \"rps\"\n");
    let agent = AgentCommand::new(agent_binary()).start_with(&world[HUB], &config).unwrap();
    assert_eq!(mask(&world[HUB], "wan0"), all);
    agent.stop().unwrap();
    assert_eq!(mask(&world[HUB], "wan0"), 0);
}

/// The sum of a field of all entries.
fn sum(entries: &Value, field: &str) -> u64 {
    entries.as_array().unwrap().iter().map(|entry| entry[field].as_u64().unwrap()).sum()
}

fn values(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn every_admitted_or_dropped_packet_counts_on_one_cpu() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let status = rig.agent.status().unwrap();
    let sources = || status["connections"].as_array().unwrap().iter().chain([&status["vpc"]]);
    let admitted: u64 = sources().map(|source| source["rx_packets"].as_u64().unwrap()).sum();
    assert!(admitted > 0);
    assert_eq!(sum(&status["cpus"], "packets"), admitted + values(&status["drops"]));
    for source in sources() {
        let processed = source["rx_packets"].as_u64().unwrap() + values(&source["drops"]);
        let listed = sum(&source["cpu_packets"], "packets");
        // The eight busiest CPUs are listed.
        assert!(listed == processed || cpus() > 8 && listed < processed, "{source}");
    }
    let online = status["cpus"].as_array().unwrap().len() as u64 + status["cpus_omitted"].as_u64().unwrap();
    assert!(online >= cpus().into(), "{status:?}");
    let table = stdout(&rig.agent.cli(&["status"]).unwrap());
    assert!(table.contains("MOST PACKETS FROM"), "{table}");
}

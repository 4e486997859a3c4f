//! `vpnhub diagnose`: a healthy hub has no faults, and a broken one exactly the expected ones.

mod machine;
mod network;

use std::fs;
use std::process::Output;
use std::time::Duration;

use hub_tests::lab::{
    AgentCommand, End, HUB, HubConfig, Link, Namespace, Options, Ping, PlaceSpec, Rig, SHANGHAI, Status, World,
    agent_binary, retry,
};
use serde_json::Value;

use crate::output::assert_schema;
use crate::{SITES, failure, stderr, stdout, vpnhub};

/// A world whose hub forwards by itself, too, as a gateway must.
fn rig(config: &HubConfig) -> Rig {
    let rig = Rig::start(&Options::default().slow_path(true), config).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

/// In the hub's network namespace, as an operator runs it.
fn run(rig: &Rig, args: &[&str]) -> Output {
    let socket = rig.agent.socket();
    let socket = socket.to_str().unwrap();
    vpnhub(&rig.world[HUB], &[&["--socket", socket], args].concat())
}

fn diagnosis(output: &Output) -> Value {
    let diagnosis =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(output)));
    assert_schema("diagnose", &diagnosis);
    diagnosis
}

/// The kernel shows what a veth takes from XDP. Before, that is a warning for each of the lab's, whose other ends are in
/// other namespaces.
fn shows_xdp_features() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

/// Errors and warnings that do not depend on the machine of the test: severity, code and subject.
fn faults(diagnosis: &Value) -> Vec<String> {
    let mut machine = vec!["clock", "memory", "bpf_jit", "btf", "neighbour_table"];
    if !shows_xdp_features() {
        machine.push("redirect_target");
    }
    let findings = diagnosis["findings"].as_array().unwrap().iter();
    let faults = findings.filter(|finding| finding["severity"] != "ok");
    let faults = faults.filter(|finding| !machine.iter().any(|code| finding["code"] == *code));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let mut faults: Vec<_> =
        faults.map(|finding| ["severity", "code", "subject"].map(|key| text(finding, key)).join(" ")).collect();
    faults.sort();
    faults
}

/// The lab's links are veth interfaces with native XDP, which has this warning.
const OF_LAB: [&str; 3] =
    ["warning sender_checksum hangzhou", "warning sender_checksum ningbo", "warning sender_checksum shanghai"];

#[test]
fn healthy_hub_has_no_error_and_exits_with_0() {
    let rig = rig(&HubConfig::offices(&SITES));
    let output = run(&rig, &["--output", "json", "diagnose"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let found = diagnosis(&output);
    assert_eq!(faults(&found), OF_LAB);
    assert_eq!((&found["agent"], &found["errors"]), (&true.into(), &0.into()));
    let ok = |code: &str, subject: &str| {
        let mut findings = found["findings"].as_array().unwrap().iter();
        let is_it = |finding: &&Value| finding["code"] == code && finding["subject"] == subject;
        assert_eq!(findings.find(is_it).unwrap_or_else(|| panic!("no {code} {subject}: {found:#}"))["severity"], "ok");
    };
    ok("agent", "agent");
    ok("kernel", "kernel");
    ok("bpf_features", "BPF");
    if shows_xdp_features() {
        ok("redirect_target", "vpc0");
    }
    ok("offload", "vpc0");
    ok("forwarding", "net.ipv4.ip_forward");
    ok("ip_rules", "ip rule");
    ok("nftables_table", "nftables");
    ok("attachment", "vpc0");
    ok("quota", "gateway.max_connections");
    let table = run(&rig, &["diagnose"]);
    assert_eq!(table.status.code(), Some(0));
    let text = stdout(&table);
    assert!(text.contains("\nok       nftables: the table inet vpnhub is in force\n"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("0 errors, "), "{text}");
    rig.stop().unwrap();
}

#[test]
fn broken_hub_has_exactly_the_faults_that_were_made() {
    let mut config = HubConfig::offices(&SITES);
    config.connection("ningbo").health_check = true;
    let rig = rig(&config);
    let hub = &rig.world[HUB];
    let added = rig.agent.cli(&["route", "add", "10.10.30.128/25", "--next-hop", "ningbo"]).unwrap();
    assert!(added.status.success(), "{}", stderr(&added));
    // The file takes the route over, and has as many connections as it allows.
    let file = rig.agent.config();
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replacen("[gateway]\n", "[gateway]\nmax_connections = 3\n", 1);
    let route = "[[route]]\ndestination = \"10.10.30.128/25\"\nnext_hop = \"ningbo\"\n";
    fs::write(&file, text + route).unwrap();
    let reloaded = rig.agent.cli(&["reload"]).unwrap();
    assert!(reloaded.status.success(), "{}", stderr(&reloaded));
    hub.ip("rule add from all lookup 220 priority 220").unwrap();
    hub.ip("-6 rule add from all lookup 99 priority 1000").unwrap();
    hub.sysctl(&[("ipv4/ip_forward", "0"), (&format!("ipv4/conf/{}/rp_filter", SHANGHAI.hub_device(0)), "1")]).unwrap();
    hub.set_link(&SHANGHAI.hub_device(0), false).unwrap();
    assert!(rig.agent.cli(&["connection", "down", "hangzhou"]).unwrap().status.success());
    let down = |status: &Status| status.connection("shanghai")["state"] == "down";
    rig.agent.wait_for_status(Duration::from_secs(20), down).unwrap();

    let output = run(&rig, &["--output", "json", "diagnose"]);
    assert_eq!(output.status.code(), Some(1));
    let found = diagnosis(&output);
    let mut expected = vec![
        "error interface_down shanghai",
        "error routes_unreachable shanghai",
        "warning admin_down hangzhou",
        "warning forwarding net.ipv4.ip_forward",
        "warning interface_setting tun-sh",
        "warning ip_rules ip rule",
        "warning ip_rules ip rule 220",
        "warning quota gateway.max_connections",
        "warning routes_unreachable hangzhou",
        "warning sender_checksum ningbo",
        "warning sender_checksum shanghai",
        "warning set_aside route 10.10.30.128/25 ningbo",
    ];
    expected.sort_unstable();
    assert_eq!(faults(&found), expected, "{found:#}");
    let reason = found["findings"][0]["message"].as_str().unwrap();
    assert!(reason.ends_with("interface tun-sh is down"), "{reason}");
    assert_eq!(found["findings"][0]["action"], "`ip link set tun-sh up`");

    // One connection: its own faults, and exit code 0 without an error.
    let output = run(&rig, &["--output", "json", "diagnose", "ningbo"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(faults(&diagnosis(&output)), ["warning sender_checksum ningbo"]);
    let output = run(&rig, &["--output", "json", "diagnose", "shanghai"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = [
        "error interface_down shanghai",
        "error routes_unreachable shanghai",
        "warning interface_setting tun-sh",
        "warning sender_checksum shanghai",
    ];
    assert_eq!(faults(&diagnosis(&output)), expected);

    // The remedies help.
    hub.set_link(&SHANGHAI.hub_device(0), true).unwrap();
    assert!(rig.agent.cli(&["connection", "up", "hangzhou"]).unwrap().status.success());
    hub.sysctl(&[("ipv4/ip_forward", "1"), (&format!("ipv4/conf/{}/rp_filter", SHANGHAI.hub_device(0)), "0")]).unwrap();
    retry("errors remain", || {
        let found = run(&rig, &["--output", "json", "diagnose"]);
        Ok((found.status.code() == Some(0)).then_some(()))
    })
    .unwrap();
    rig.stop().unwrap();
}

#[test]
fn failed_health_check_and_lost_probes_are_found() {
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").health_check = true;
    let rig = rig(&config);
    // Drops echo requests at the site.
    rig.world["shanghai"].sysctl(&[("ipv4/icmp_echo_ignore_all", "1")]).unwrap();
    let failed = retry("the health check passes", || {
        let output = run(&rig, &["--output", "json", "diagnose", "shanghai"]);
        Ok((output.status.code() == Some(1)).then(|| diagnosis(&output)))
    })
    .unwrap();
    let found = faults(&failed);
    assert!(found.contains(&"error health_check_failed shanghai".to_owned()), "{found:?}");
    assert!(found.contains(&"error routes_unreachable shanghai".to_owned()), "{found:?}");
    let action = failed["findings"][0]["action"].as_str().unwrap();
    assert!(action.contains("answers pings"), "{action}");
    rig.world["shanghai"].sysctl(&[("ipv4/icmp_echo_ignore_all", "0")]).unwrap();
    // Until 32 probes are answered, some of the last ones were lost.
    retry("no probes are lost", || {
        let output = run(&rig, &["--output", "json", "diagnose", "shanghai"]);
        let expected = ["warning probes_lost shanghai", "warning sender_checksum shanghai"];
        Ok((output.status.code() == Some(0) && faults(&diagnosis(&output)) == expected).then_some(()))
    })
    .unwrap();
    rig.stop().unwrap();
}

#[test]
fn interface_that_is_no_attachment_and_sends_to_sites_is_named() {
    let mut rig = rig(&HubConfig::offices(&SITES));
    rig.world.add_place(&PlaceSpec::new("stranger")).unwrap();
    let ends = [End::new(HUB, "str0").address("172.31.0.1/30"), End::new("stranger", "up0").address("172.31.0.2/30")];
    let [hub, stranger] = ends;
    rig.world.add_link(Link::new(hub, stranger)).unwrap();
    rig.world["stranger"].ip("route add default via 172.31.0.1").unwrap();
    let report =
        Ping::new(SITES[0].host4().into()).timeout(Duration::from_millis(200)).run(&rig.world["stranger"]).unwrap();
    assert_eq!((report.sent, report.received), (1, 0));
    let output = run(&rig, &["--output", "json", "diagnose"]);
    let found = diagnosis(&output);
    let mut expected = OF_LAB.to_vec();
    expected.push("warning stranger str0");
    expected.sort_unstable();
    assert_eq!((output.status.code(), faults(&found)), (Some(0), expected.into_iter().map(str::to_owned).collect()));
    rig.stop().unwrap();
}

/// What is said about an interface or connection, by code.
fn finding(diagnosis: &Value, code: &str, subject: &str) -> Value {
    let mut findings = diagnosis["findings"].as_array().unwrap().iter();
    let found = findings.find(|finding| finding["code"] == code && finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("no {code} {subject}: {diagnosis:#}")).clone()
}

fn diagnose(rig: &Rig, args: &[&str]) -> Value {
    diagnosis(&run(rig, &[&["--output", "json", "diagnose"], args].concat()))
}

#[test]
fn without_agent_host_and_datapath_are_diagnosed() {
    let rig = rig(&HubConfig::offices(&SITES));
    let Rig { agent, world } = rig;
    let socket = agent.socket();
    let files = agent.kill().unwrap();
    let run = |args: &[&str]| {
        let instance = world[HUB].instance();
        let socket = socket.to_str().unwrap();
        vpnhub(
            &world[HUB],
            &[&["--socket", socket, "--output", "json", "diagnose", "--instance", &instance], args].concat(),
        )
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(1));
    let found = diagnosis(&output);
    assert_eq!(found["agent"], false);
    assert_eq!(faults(&found), ["error agent agent", "warning datapath datapath"]);
    let message = found["findings"][1]["message"].as_str().unwrap();
    assert!(message.starts_with("the datapath of 3 connections on 4 interfaces forwards"), "{message}");
    assert!(failure(&run(&["shanghai"])).contains("no agent answers"));
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], files).unwrap();
    let output = run(&[]);
    assert_eq!((output.status.code(), faults(&diagnosis(&output))), (Some(0), OF_LAB.map(str::to_owned).into()));
    agent.stop().unwrap();
}

#[test]
fn host_without_vpnhub_is_diagnosed() {
    let world = World::three_offices(&Options::default()).unwrap();
    let nowhere = ["--socket", "/nowhere/vpnhub.sock", "--output", "json", "diagnose", "--instance", "none"];
    let output = vpnhub(&world[HUB], &nowhere);
    assert_eq!(output.status.code(), Some(1));
    let found = faults(&diagnosis(&output));
    let expected = [
        "error agent agent",
        "error datapath datapath",
        "warning forwarding net.ipv4.ip_forward",
        "warning forwarding net.ipv6.conf.all.forwarding",
    ];
    assert_eq!(found, expected);
}

#[test]
fn unknown_connection_and_another_namespace_are_named() {
    let rig = rig(&HubConfig::offices(&SITES));
    let message = failure(&run(&rig, &["diagnose", "shangahi"]));
    let expected = "vpnhub: there is no connection \"shangahi\"; help: the connections are hangzhou, ningbo, shanghai";
    assert_eq!(message, expected);
    let elsewhere: &Namespace = &rig.world["shanghai"];
    let socket = rig.agent.socket();
    let output = vpnhub(elsewhere, &["--socket", socket.to_str().unwrap(), "--output", "json", "diagnose"]);
    let found = faults(&diagnosis(&output));
    let mut expected = OF_LAB.to_vec();
    expected.push("warning not_checked diagnosis");
    expected.sort_unstable();
    assert_eq!((output.status.code(), found), (Some(0), expected.into_iter().map(str::to_owned).collect()));
    rig.stop().unwrap();
}

//! Health checks with loss and several destinations: states, shares, published routes, and how each output shows them.

use std::time::Duration;

use hub_tests::lab::{HUB, HubConfig, Options, Rig, SHANGHAI, Status, retry};
use serde_json::Value;

use crate::{SITES, stdout};

const LINKS: [&str; 2] = ["shanghai", "shanghai-2"];
const WAIT: Duration = Duration::from_secs(20);

fn start(config: &HubConfig) -> Rig {
    let rig = Rig::start(&Options::default().second_link("shanghai"), config).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

/// Has the site answer every second probe, or all: its kernel limits the rate of its echo replies.
fn lose_probes(rig: &Rig, is_lossy: bool) {
    let (mask, rate) = if is_lossy { ("1", "200") } else { ("6168", "1000") };
    rig.world["shanghai"].sysctl(&[("ipv4/icmp_ratemask", mask), ("ipv4/icmp_ratelimit", rate)]).unwrap();
}

fn shares_are(status: &Status, expected: [f64; 2]) -> bool {
    let destination = SHANGHAI.network4().to_string();
    LINKS.iter().zip(expected).all(|(name, share)| (status.share(&destination, name) - share).abs() < 1e-9)
}

#[test]
fn connection_with_loss_is_degraded_and_loses_its_share_until_it_recovers() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    let lossy = config.connection("shanghai");
    lossy.health_check = true;
    lossy.health_keys = ", degraded = { loss = 0.2, window = 20 }".to_owned();
    let rig = start(&config);
    let events = rig.agent.monitor().unwrap();
    let before = rig.agent.wait_for_status(WAIT, |status| shares_are(status, [1.0, 0.0])).unwrap();
    let changes = before.connection("shanghai")["state_changes"].clone();

    lose_probes(&rig, true);
    let status = rig.agent.wait_for_status(WAIT, |status| shares_are(status, [0.0, 1.0])).unwrap();
    let connection = status.connection("shanghai");
    assert_eq!(connection["state"], "up", "{connection}");
    assert_eq!(connection["health"]["state"], "degraded", "{connection}");
    assert_eq!(connection["health"]["healthy"], true, "{connection}");
    let reason = connection["state_reason"].as_str().unwrap();
    assert!(reason.starts_with("degraded: health check: 169.254.10.2 loses "), "{reason}");
    assert_eq!(connection["state_changes"], changes, "it never went down: {connection}");
    let table = stdout(&rig.agent.cli(&["connection", "list"]).unwrap());
    assert!(
        table.lines().any(|line| line.trim_start().starts_with("shanghai ") && line.contains("degraded")),
        "{table}"
    );
    let metric = rig.agent.metrics().unwrap().value("vpnhub_health_up", &[("connection", "shanghai")]);
    assert!((metric - 0.5).abs() < 1e-9, "{metric}");
    let arguments = ["--in", "hangzhou", "--src", "10.10.20.10", "--dst", "10.10.10.10"];
    let trace = stdout(&rig.agent.cli(&[&["trace"], &arguments[..]].concat()).unwrap());
    assert!(trace.contains("shanghai (weight 100, degraded, not used now)"), "{trace}");
    let diagnosis: Value =
        serde_json::from_str(&stdout(&rig.agent.cli(&["--output", "json", "diagnose", "shanghai"]).unwrap())).unwrap();
    let codes: Vec<_> = diagnosis["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
    assert!(codes.iter().any(|code| **code == "degraded"), "{diagnosis}");

    lose_probes(&rig, false);
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [1.0, 0.0])).unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|last| *last != ("up".to_owned(), false)) || told.len() < 3 {
        let event = events.next(WAIT).unwrap();
        if event["connection"] == "shanghai" {
            assert_eq!(event["state"], "up", "{event}");
            let health = event["health"].as_str().unwrap_or("none").to_owned();
            told.push((health, !event["reason"].is_null()));
        }
    }
    let health: Vec<_> = told.iter().map(|(health, _)| health.as_str()).collect();
    assert_eq!(health[health.len() - 3..], ["up", "degraded", "up"], "{told:?}");
    rig.stop().unwrap();
}

#[test]
fn all_next_hops_degraded_keep_their_shares() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [75, 25]);
    for name in LINKS {
        let lossy = config.connection(name);
        lossy.health_check = true;
        lossy.health_keys = ", degraded = { loss = 0.2, window = 20 }".to_owned();
    }
    let rig = start(&config);
    lose_probes(&rig, true);
    let status = rig
        .agent
        .wait_for_status(WAIT, |status| {
            LINKS.iter().all(|name| status.connection(name)["health"]["state"] == "degraded")
        })
        .unwrap();
    assert!(shares_are(&status, [0.75, 0.25]), "{status:?}");
    rig.stop().unwrap();
}

/// The destinations of published routes in the hub's kernel.
fn published(rig: &Rig) -> Vec<String> {
    let routes = rig.world[HUB].ip("-j -4 route show table main proto 118").unwrap();
    let routes: Vec<Value> = serde_json::from_str(&routes).unwrap_or_default();
    routes.iter().filter_map(|route| route["dst"].as_str().map(str::to_owned)).collect()
}

#[test]
fn published_route_is_withdrawn_while_down_only_with_revoke() {
    let mut config = HubConfig::offices(&SITES);
    for (name, keys) in [("shanghai", ", when_down = \"revoke\""), ("hangzhou", ", when_down = \"keep\"")] {
        let connection = config.connection(name);
        connection.health_check = true;
        connection.health_keys = keys.to_owned();
    }
    let rig = start(&config);
    let all: Vec<String> = SITES.iter().map(|site| site.network4().to_string()).collect();
    let must_be = |what: &str, expected: &[&String]| {
        retry(what, || {
            let mut found = published(&rig);
            found.sort_unstable();
            Ok(found.iter().eq(expected.iter().copied()).then_some(()))
        })
        .unwrap();
    };
    must_be("all are published", &[&all[0], &all[1], &all[2]]);
    for site in ["shanghai", "hangzhou"] {
        rig.world[site].sysctl(&[("ipv4/icmp_echo_ignore_all", "1")]).unwrap();
    }
    let is_down = |status: &Status| LINKS[..1].iter().all(|name| status.connection(name)["state"] == "down");
    rig.agent
        .wait_for_status(WAIT, |status| is_down(status) && status.connection("hangzhou")["state"] == "down")
        .unwrap();
    must_be("Shanghai's route is withdrawn", &[&all[1], &all[2]]);
    // The kernel still sends what the program leaves to it into the tunnel, as negotiation needs it.
    let internal = rig.world[HUB].ip("-4 route show table main proto 119 type unicast").unwrap();
    assert!(internal.contains(&format!("{} ", all[0])), "{internal}");
    rig.world["shanghai"].sysctl(&[("ipv4/icmp_echo_ignore_all", "0")]).unwrap();
    must_be("Shanghai's route is back", &[&all[0], &all[1], &all[2]]);
    rig.stop().unwrap();
}

#[test]
fn several_destinations_are_needed_in_part_or_all() {
    let destinations = format!(", destination = [\"{}\", \"10.10.10.77\"]", SHANGHAI.peer4(0));
    let mut config = HubConfig::offices(&SITES);
    let connection = config.connection("shanghai");
    connection.health_check = true;
    connection.health_keys = destinations.clone();
    let rig = start(&config);
    // The site answers for its whole network.
    rig.world["shanghai"].ip("route add blackhole 10.10.10.77/32 table local").unwrap();
    let silent = |status: &Status| status.connection("shanghai")["health"]["targets"][0]["state"] == "down";
    let status = rig.agent.wait_for_status(WAIT, silent).unwrap();
    let connection = status.connection("shanghai");
    assert_eq!(connection["state"], "up", "one of two answers: {connection}");
    let targets = connection["health"]["targets"].as_array().unwrap();
    let of: Vec<_> = targets.iter().map(|target| [&target["destination"], &target["state"]]).collect();
    assert_eq!(of, [["10.10.10.77", "down"], ["169.254.10.2", "up"]]);

    config.connection("shanghai").health_keys = format!("{destinations}, require = \"all\"");
    std::fs::write(rig.agent.config(), config.to_string()).unwrap();
    assert!(rig.agent.cli(&["reload"]).unwrap().status.success());
    let down = |status: &Status| status.connection("shanghai")["state"] == "down";
    let status = rig.agent.wait_for_status(WAIT, down).unwrap();
    let reason = status.connection("shanghai")["state_reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("health check: 10.10.10.77 n") && !reason.contains("169.254"), "{reason}");
    rig.world["shanghai"].ip("route del blackhole 10.10.10.77/32 table local").unwrap();
    rig.agent.wait_for_status(WAIT, |status| status.connection("shanghai")["state"] == "up").unwrap();
    rig.stop().unwrap();
}

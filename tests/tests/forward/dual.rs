//! One connection to Shanghai with two tunnels.

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, NINGBO, Rig, RouteConfig, SHANGHAI, Site, Status};
use serde_json::{Value, json};

use crate::{
    SITES, WAIT, Wire, probe,
    weights::{FLOWS, ends, on_link, spread_on_second, spread_over, start},
};

const TUNNELS: [&str; 2] = ["shanghai/a", "shanghai/b"];

/// The hub with two tunnels to Shanghai. Its routes have Ningbo as a standby, which must never carry them.
fn two_tunnels(weights: [u8; 2], health_check: bool) -> HubConfig {
    let mut config = HubConfig::offices(&SITES).two_tunnels(&SHANGHAI, weights, health_check);
    for destination in [SHANGHAI.network4().to_string(), SHANGHAI.network6().to_string()] {
        let next_hop = NINGBO.place.to_string();
        config.routes.push(RouteConfig { destination, next_hop, weight: 0, publish: false });
    }
    config
}

fn states(status: &Status) -> [&str; 3] {
    ["shanghai", "shanghai/a", "shanghai/b"].map(|name| status.connection(name)["state"].as_str().unwrap_or_default())
}

fn wait_for(rig: &Rig, expected: [&str; 3]) -> Status {
    rig.agent.wait_for_status(WAIT, |status| states(status) == expected).unwrap()
}

fn flows_on_second(rig: &Rig) -> [usize; 2] {
    ends().map(|ends| on_link(&spread_over(rig, TUNNELS, ends), 1))
}

const ALL: usize = FLOWS as usize;

#[test]
fn standby_tunnel_carries_nothing_until_active_fails_and_hands_back() {
    let rig = start(&two_tunnels([100, 0], false));
    let before = wait_for(&rig, ["up", "up", "up"]);
    assert_eq!(flows_on_second(&rig), [0, 0]);
    let connection = before.connection("shanghai");
    assert_eq!(connection["tunnels"].as_array().unwrap().len(), 2, "{connection}");
    assert_eq!(connection["interface"], "tun-sh, tun-sh2", "{connection}");
    assert_eq!(connection["tunnels"][1]["tunnel_weight"], 0, "{connection}");

    // The far end goes down: no carrier.
    rig.world["shanghai"].set_link("wan0", false).unwrap();
    rig.world[HUB].notice_carrier("tun-sh").unwrap();
    let status = wait_for(&rig, ["up", "down", "up"]);
    let destination = SHANGHAI.network4().to_string();
    assert!((status.share(&destination, "shanghai") - 1.0).abs() < 1e-9, "{:#}", *status);
    assert!(status.share(&destination, "ningbo").abs() < 1e-9, "{:#}", *status);
    assert_eq!(spread_on_second(&rig), ALL);
    // An arrival on either tunnel is the connection's: its source's route has both as members.
    let of_standby = rig.agent.status().unwrap();
    let [standby, hangzhou] = [Wire::of_link(&rig.world, &SHANGHAI, 1), Wire::of_site(&rig.world, &HANGZHOU)];
    standby.send(probe(NINGBO.host4().into(), HANGZHOU.host4().into(), (5, 7)));
    standby.send(probe(SHANGHAI.host4().into(), HANGZHOU.host4().into(), (5, 6)));
    assert!(!hangzhou.ports_until((5, 6)).contains(&(5, 7)), "spoofed");
    let spoofed = |status: &Status| status.since(&of_standby, "shanghai/b", "drops/spoofed_source") == 1;
    rig.agent.wait_for_status(WAIT, spoofed).unwrap();
    let metrics = rig.agent.metrics().unwrap();
    let up = |connection| metrics.value("vpnhub_connection_up", &[("connection", connection)]).to_string();
    assert_eq!(["shanghai", "shanghai/a", "shanghai/b"].map(up), ["1", "0", "1"]);

    rig.world["shanghai"].set_link("wan0", true).unwrap();
    rig.world[HUB].notice_carrier("tun-sh").unwrap();
    wait_for(&rig, ["up", "up", "up"]);
    rig.warm_up(&SITES).unwrap();
    assert_eq!(flows_on_second(&rig), [0, 0], "the standby has handed back");
    rig.stop().unwrap();
}

#[test]
fn equal_tunnels_share_flows_and_keep_those_of_the_live_one() {
    let rig = start(&two_tunnels([50, 50], false));
    let spread = || spread_over(&rig, TUNNELS, ends()[0]);
    let before = spread();
    let second = on_link(&before, 1);
    assert!((400..=600).contains(&second), "{second} of {FLOWS} on the second tunnel");
    assert!(spread() == before, "a flow stays on its tunnel");
    rig.world[HUB].set_link(&SHANGHAI.hub_device(1), false).unwrap();
    wait_for(&rig, ["up", "up", "down"]);
    let after = spread();
    assert_eq!(on_link(&after, 0), ALL);
    rig.world[HUB].set_link(&SHANGHAI.hub_device(1), true).unwrap();
    wait_for(&rig, ["up", "up", "up"]);
    rig.stop().unwrap();
}

#[test]
fn tunnel_whose_health_check_fails_is_replaced_and_returns() {
    let rig = start(&two_tunnels([100, 0], true));
    wait_for(&rig, ["up", "up", "up"]);
    let far_end = format!("{}/30 dev {}", SHANGHAI.peer4(0), Site::device(0));
    rig.world["shanghai"].ip(&format!("addr del {far_end}")).unwrap();
    let status = wait_for(&rig, ["up", "down", "up"]);
    let reason = status.connection("shanghai/a")["state_reason"].as_str().unwrap();
    assert!(reason.starts_with("health check: 169.254.10.2 no reply to 3 probes"), "{reason}");
    assert_eq!(flows_on_second(&rig), [ALL, ALL]);
    rig.world["shanghai"].ip(&format!("addr add {far_end}")).unwrap();
    wait_for(&rig, ["up", "up", "up"]);
    assert_eq!(flows_on_second(&rig), [0, 0]);
    rig.stop().unwrap();
}

#[test]
fn commands_take_the_connection_or_one_tunnel() {
    let rig = start(&two_tunnels([100, 0], false));
    let run = |arguments: &[&str]| {
        let said = rig.agent.cli(arguments).unwrap();
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        (said.status.success(), text)
    };
    let done = |arguments: &[&str]| {
        let (success, text) = run(arguments);
        assert!(success, "{arguments:?}: {text}");
        text
    };
    let refused = |arguments: &[&str], expected: &str| {
        let (success, text) = run(arguments);
        assert!(!success && text.contains(expected), "{arguments:?}: {text}");
    };
    done(&["connection", "down", "shanghai/a"]);
    wait_for(&rig, ["up", "admin_down", "up"]);
    assert_eq!(flows_on_second(&rig), [ALL, ALL]);
    done(&["connection", "down", "shanghai"]);
    wait_for(&rig, ["admin_down", "admin_down", "admin_down"]);
    // The tunnel that was taken down by itself stays down.
    done(&["connection", "up", "shanghai"]);
    wait_for(&rig, ["up", "admin_down", "up"]);
    done(&["connection", "up", "shanghai/a"]);
    wait_for(&rig, ["up", "up", "up"]);
    assert_eq!(flows_on_second(&rig), [0, 0]);
    refused(&["connection", "down", "shanghai/c"], "did you mean \"shanghai/a\"?");
    refused(&["route", "add", "10.10.77.0/24", "--next-hop", "shanghai/a"], "there is no connection");

    let packet = ["--src", "10.10.10.10", "--dst", "10.10.20.10"];
    refused(&[&["trace", "--in", "shanghai"], &packet[..]].concat(), "write one of shanghai/a, shanghai/b");
    let text = done(&[&["trace", "--in", "shanghai/b"], &packet[..]].concat());
    assert!(text.contains("forward to hangzhou on tun-hz") && text.contains("counted  for shanghai/b"), "{text}");
    let text = done(&["trace", "--in", "hangzhou", "--src", "10.10.20.10", "--dst", "10.10.10.10"]);
    assert!(text.contains("shanghai/b (weight 100, of its tunnels 0, up, not used now)"), "{text}");

    // One object: shown, exported and stored with its tunnels.
    let shown: Value = serde_json::from_str(&done(&["--output", "json", "connection", "show", "shanghai"])).unwrap();
    assert_eq!(shown["keys"]["tunnels"][1]["name"], "b", "{shown}");
    let export = done(&["config", "show"]);
    assert!(export.contains("[connection.shanghai]") && !export.contains("shanghai/a"), "{export}");
    let table = done(&["status"]);
    assert!(table.lines().any(|line| line.trim_start().starts_with("shanghai/a (100)")), "{table}");
    rig.stop().unwrap();
}

#[test]
fn stored_connection_with_tunnels_is_added_changed_and_removed() {
    let mut config = HubConfig::offices(&SITES);
    config.connections.retain(|connection| connection.name != SHANGHAI.place);
    config.routes.retain(|route| route.next_hop != SHANGHAI.place);
    let text = config.to_string() + "\n[customer_gateway.shanghai-office]\naddress = \"198.51.100.77\"\n";
    let rig = start(&HubConfig::offices(&SITES).two_tunnels(&SHANGHAI, [100, 0], false));
    std::fs::write(rig.agent.config(), text).unwrap();
    let done = |arguments: &[&str]| {
        let said = rig.agent.cli(arguments).unwrap();
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    };
    done(&["reload"]);
    let tunnel = |name: &str, link: u8, weight: u8| {
        let (device, peer) = (SHANGHAI.hub_device(link), SHANGHAI.peer4(link));
        format!("{{ name = \"{name}\", interface = \"{device}\", peer = \"{peer}\", weight = {weight} }}")
    };
    let keys =
        ["--customer-gateway", "shanghai-office", "--local-cidrs", "0.0.0.0/0", "--remote-cidrs", "10.10.10.0/24"];
    let put = |weights: [u8; 2]| {
        let [a, b] = [tunnel("a", 0, weights[0]), tunnel("b", 1, weights[1])];
        let tunnels = ["--tunnel", a.as_str(), "--tunnel", b.as_str()];
        done(&[&["connection", "set", "shanghai"], &keys[..], &tunnels].concat());
    };
    put([0, 100]);
    let network = SHANGHAI.network4().to_string();
    done(&["route", "add", &network, "--next-hop", "shanghai"]);
    wait_for(&rig, ["up", "up", "up"]);
    let on_second = || on_link(&spread_over(&rig, TUNNELS, ends()[0]), 1);
    assert_eq!(on_second(), ALL);
    put([100, 0]);
    assert_eq!(on_second(), 0);
    done(&["connection", "down", "shanghai/a"]);
    assert_eq!(on_second(), ALL);
    let shown = rig.agent.json(&["connection", "show", "shanghai"]).unwrap();
    let weights: Vec<&Value> =
        shown["keys"]["tunnels"].as_array().unwrap().iter().map(|tunnel| &tunnel["weight"]).collect();
    assert_eq!((&shown["origin"], weights), (&json!("store"), vec![&json!(100), &json!(0)]), "{shown}");
    done(&["route", "delete", &network]);
    done(&["connection", "delete", "shanghai"]);
    let status = rig.agent.status().unwrap();
    assert!(!status.to_string().contains("shanghai/a"), "{:#}", *status);
    rig.stop().unwrap();
}

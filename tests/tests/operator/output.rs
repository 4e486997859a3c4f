//! The command line's contract: keys and types of the JSON, tables, exit codes.

use std::fs;

use hub_tests::lab::{HubConfig, Options, PlaceSpec, Rig, SHANGHAI, Scratch, World};
use hub_tests::{checkout, schema};
use serde_json::Value;

use crate::{SITES, stdout, vpnhub};

/// Validates an answer against the committed schema.
pub fn assert_schema(form: &str, answer: &Value) {
    let file = checkout::find().unwrap().join(format!("hub-userspace/tests/status/{form}.schema.json"));
    let schema = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(schema::violations(&schema, answer), [""; 0]);
}

fn assert_counts(counts: &Value) {
    let counts = counts.as_object().unwrap_or_else(|| panic!("{counts} is no object"));
    assert!(!counts.is_empty() && counts.values().all(Value::is_u64), "{counts:?}");
}

#[test]
fn status_json_has_every_key_of_contract() {
    let config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    let rig = Rig::start(&Options::default().second_link("shanghai"), &config).unwrap();
    let status = rig.agent.status().unwrap();
    assert_schema("status", &status);
    assert_eq!(status["gateway"]["name"], "test-hub");
    let connections = status["connections"].as_array().unwrap();
    let names: Vec<_> = connections.iter().map(|connection| connection["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["hangzhou", "ningbo", "shanghai", "shanghai-2"]);
    for connection in connections {
        assert!(connection["interface"].is_string(), "{connection}");
        assert_eq!(connection["state"], "up");
        assert_eq!(connection["attach"], "xdp-native");
        for counter in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
            assert!(connection[counter].is_u64(), "{counter} of {connection}");
        }
        assert_counts(&connection["drops"]);
    }
    assert_counts(&status["drops"]);
    assert_counts(&status["passes"]);
    for reason in ["malformed", "spoofed_source", "selector_mismatch", "isolated"] {
        assert!(status["drops"][reason].is_u64(), "{reason}");
    }
    for reason in ["to_hub", "no_route", "ttl_expired", "too_big", "ip_options", "no_neighbour"] {
        assert!(status["passes"][reason].is_u64(), "{reason}");
    }
    assert_routes(&status["routes"], &config);
    assert_routes(&rig.agent.json(&["route", "list"]).unwrap(), &config);
    rig.stop().unwrap();
}

/// The shown routes are the configuration's, in its order.
fn assert_routes(shown: &Value, config: &HubConfig) {
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), config.routes.len());
    for (shown, route) in shown.iter().zip(&config.routes) {
        assert_eq!(shown["destination"], *route.destination);
        assert_eq!(shown["next_hop"], *route.next_hop);
        assert_eq!(shown["weight"], route.weight);
        assert_eq!(shown["publish"], route.publish);
        let share = shown["share"].as_f64().unwrap();
        let expected = if route.weight == 0 { 0.0 } else { 1.0 };
        assert!((share - expected).abs() < 1e-9, "{shown}");
    }
}

/// The words of a table's line that begins with `start`.
fn row<'a>(table: &'a str, start: &[&str]) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut matching = rows.filter(|words| words.starts_with(start));
    let row = matching.next().unwrap_or_else(|| panic!("no line {start:?} in\n{table}"));
    assert!(matching.next().is_none(), "two lines {start:?} in\n{table}");
    row
}

#[test]
fn tables_show_same_values_as_json() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [25, 75]);
    config.routes[2].publish = false;
    let rig = Rig::start(&Options::default().second_link("shanghai"), &config).unwrap();
    let output = rig.agent.cli(&["route", "list"]).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let table = stdout(&output);
    assert_eq!(row(&table, &["DESTINATION"]), ["DESTINATION", "NEXT", "HOP", "WEIGHT", "PUBLISHED", "SHARE", "ORIGIN"]);
    assert_eq!(row(&table, &["10.10.10.0/24", "shanghai"])[2..6], ["25", "yes", "25", "%"]);
    assert_eq!(row(&table, &["10.10.10.0/24", "shanghai-2"])[2..6], ["75", "yes", "75", "%"]);
    assert_eq!(row(&table, &["10.10.20.0/24", "hangzhou"])[2..6], ["100", "no", "100", "%"]);
    assert_eq!(table.lines().count(), 1 + config.routes.len());

    let output = rig.agent.cli(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let table = stdout(&output);
    assert_eq!(row(&table, &["gateway"]), ["gateway", "test-hub"]);
    assert_eq!(row(&table, &["hangzhou"])[..4], ["hangzhou", "tun-hz", "up", "xdp-native"]);
    assert_eq!(row(&table, &["(vpc)"])[..3], ["(vpc)", "vpc0", "xdp-native"]);
    row(&table, &["dropped"]);
    row(&table, &["left", "to", "the", "kernel"]);
    row(&table, &["kernel", "drops"]);
    rig.stop().unwrap();
}

#[test]
fn check_exits_with_0_for_valid_file_and_1_otherwise() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("vpnhub.toml");
    let check = |output: &str| {
        let result = vpnhub(&world["host"], &["--output", output, "check", "--config", file.to_str().unwrap()]);
        (result.status.code(), stdout(&result))
    };
    let (code, text) = check("table");
    assert_eq!((code, text.contains("there is no such file")), (Some(1), true), "{text}");
    fs::write(&file, HubConfig::offices(&SITES).to_string()).unwrap();
    let (code, text) = check("table");
    assert_eq!((code, text.contains("ok: 3 connections, 6 routes")), (Some(0), true), "{text}");
    let (code, text) = check("json");
    assert_eq!((code, &serde_json::from_str::<Value>(&text).unwrap()["ok"]), (Some(0), &true.into()));
    fs::write(&file, "[gateway]\nname = 7\n[unknown]\n").unwrap();
    let (code, text) = check("json");
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &text["ok"]), (Some(1), &false.into()));
    let lines: Vec<_> = text["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64()).collect();
    assert!(lines.contains(&Some(2)) && lines.contains(&Some(3)), "{text:#}");
}

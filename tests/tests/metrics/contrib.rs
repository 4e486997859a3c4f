//! The alerts and the dashboard of contrib/.

use std::{collections::BTreeMap, fs, path::PathBuf};

use hub_tests::checkout;
use hub_userspace::observe::metrics::FAMILIES;
use serde_json::Value;

pub fn folder() -> PathBuf {
    checkout::find().unwrap().join("contrib")
}

/// Words of an expression that are names of our metrics.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("vpnhub_") || word.starts_with("process_"))
}

/// The expressions of all panels and variables.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(keys) => {
            for (key, value) in keys {
                match value.as_str().filter(|_| ["expr", "query", "definition"].contains(&key.as_str())) {
                    Some(text) => found.push(text.to_owned()),
                    None => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

pub fn names() {
    let families: BTreeMap<String, &[&str]> =
        FAMILIES.iter().map(|family| (family.full_name(), family.labels)).collect();
    let dashboard = fs::read_to_string(folder().join("grafana/vpnhub.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut used = Vec::new();
    expressions(&dashboard, &mut used);
    assert!(used.len() >= 10, "{used:?}");
    let alerts = fs::read_to_string(folder().join("prometheus/alerts.yml")).unwrap();
    let alerts: Vec<String> =
        alerts.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned).collect();
    for text in used.iter().chain(&alerts) {
        for name in metrics(text) {
            let labels = families.get(name).unwrap_or_else(|| panic!("there is no metric {name}: {text}"));
            // Selectors directly after the name.
            let after = text.split(name).nth(1).unwrap_or_default();
            let selectors = after.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            for selector in selectors.split(',').filter(|selector| !selector.is_empty()) {
                let label = selector.split(['=', '!', '~']).next().unwrap_or_default().trim();
                assert!(
                    labels.contains(&label) || ["job", "instance"].contains(&label),
                    "{name} has no {label}: {text}"
                );
            }
        }
    }
    let ids: Vec<&Value> = dashboard["panels"].as_array().unwrap().iter().map(|panel| &panel["id"]).collect();
    assert!(ids.iter().enumerate().all(|(index, id)| !ids[..index].contains(id)), "two panels have one id");
}

//! docs/operations.md against the code.

use std::{collections::BTreeMap, fs};

use hub_tests::checkout;
use hub_userspace::observe::metrics::{FAMILIES, Kind};

/// The names and labels that users rely on; families and labels are added, never changed or removed.
const CONTRACT: [&str; 31] = [
    "vpnhub_build_info{version}",
    "vpnhub_connection_up{connection}",
    "vpnhub_connection_admin_up{connection}",
    "vpnhub_connection_state_changes_total{connection}",
    "vpnhub_receive_packets_total{connection}",
    "vpnhub_receive_bytes_total{connection}",
    "vpnhub_transmit_packets_total{connection}",
    "vpnhub_transmit_bytes_total{connection}",
    "vpnhub_drops_total{connection,reason}",
    "vpnhub_passes_total{connection,reason}",
    "vpnhub_route_share{destination,next_hop}",
    "vpnhub_routes{origin}",
    "vpnhub_ike_up{connection}",
    "vpnhub_child_sas{connection}",
    "vpnhub_rekeys_total{connection}",
    "vpnhub_health_up{connection}",
    "vpnhub_health_round_trip_seconds{connection}",
    "vpnhub_health_probes_sent_total{connection}",
    "vpnhub_health_probes_lost_total{connection}",
    "vpnhub_quota_used{quota}",
    "vpnhub_quota_limit{quota}",
    "vpnhub_objects_set_aside",
    "vpnhub_config_last_reload_success",
    "vpnhub_role{role}",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
    "vpnhub_vpc_drops_total{reason}",
    "vpnhub_unattributed_drops_total{reason}",
];

/// Names with labels, as in the documentation, and their types.
fn of_code() -> BTreeMap<String, &'static str> {
    let described = FAMILIES.iter().map(|family| {
        let labels = if family.labels.is_empty() { String::new() } else { format!("{{{}}}", family.labels.join(",")) };
        (family.full_name() + &labels, if family.kind == Kind::Counter { "counter" } else { "gauge" })
    });
    described.collect()
}

pub fn contract() {
    let names = of_code();
    for name in CONTRACT {
        assert!(names.contains_key(name), "{name} is gone");
    }
    assert_eq!(names.len(), FAMILIES.len(), "a name appears twice");
}

pub fn table() {
    let manual = fs::read_to_string(checkout::find().unwrap().join("docs/operations.md")).unwrap();
    let rows = manual.lines().filter(|line| line.starts_with("| `vpnhub_") || line.starts_with("| `process_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, meaning] = cells[..] else { panic!("not three cells: {line}") };
        assert!(!meaning.is_empty(), "{line}");
        (name.trim_matches('`').to_owned(), kind.to_owned())
    };
    let documented: BTreeMap<String, String> = rows.map(row).collect();
    let expected: BTreeMap<String, String> =
        of_code().into_iter().map(|(name, kind)| (name, kind.to_owned())).collect();
    assert_eq!(documented, expected);
}

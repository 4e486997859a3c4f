//! Configurations, and the messages that follow from them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::config::Role;

const SECRET: &str = "not-for-logs-0123456789";

fn config(folder: &Path, ipsec: &str) -> Config {
    let psk = folder.join("psk");
    fs::write(&psk, SECRET).expect("written");
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).expect("set");
    let text = format!(
        r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[customer_gateway.a]
address = "198.51.100.1"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24", "fd00:1::/64"]
remote_cidrs = ["10.10.10.0/24", "10.10.11.0/24"]
[connection.a.ipsec]
psk_file = "{}"
{ipsec}
[connection.b]
customer_gateway = "a"
interface = "tun-b"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.20.0.0/16"]
"#,
        psk.display()
    );
    crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
}

fn unloaded(unloads: &[Unload]) -> Vec<String> {
    let command = |unload: &Unload| match unload {
        Unload::Connection(name) => format!("unload-conn {name}"),
        Unload::Secret(name) => format!("unload-shared {name}"),
    };
    unloads.iter().map(command).collect()
}

/// The commands from one state to the next.
fn commands(after: &DesiredState, before: &DesiredState) -> Vec<String> {
    let loads = after.loads_from(before).into_iter().map(|load| load.command.to_owned());
    loads.chain(unloaded(&after.unloads_from(before))).collect()
}

/// The keys of the only child that depend on `per_cpu_sas`.
fn actions(desired: &DesiredState) -> [Option<&str>; 4] {
    let child = desired.connections["vpnhub-a"].section("children").and_then(|all| all.section("vpnhub-a"));
    ["per_cpu_sas", "start_action", "dpd_action", "close_action"].map(|key| child.and_then(|child| child.value(key)))
}

#[test]
fn standby_hub_desires_nothing_and_unloads_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path(), "");
    let active = DesiredState::of(&config);
    config.role = Role::Withdrawn;
    assert_eq!(DesiredState::of(&config), active);
    config.role = Role::Standby;
    let standby = DesiredState::of(&config);
    assert!(standby.is_empty());
    assert_eq!(commands(&standby, &active), ["unload-conn vpnhub-a", "unload-shared vpnhub-a"]);
    // Even without its secret: nothing is read.
    fs::remove_file(folder.path().join("psk")).expect("there");
    assert!(DesiredState::of(&config).problems.is_empty());
}

#[test]
fn sas_for_each_cpu_are_requested_by_a_trap_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let without = "esp.per_cpu_sas = false\n";
    for (start, expected) in [
        ("start", [Some("yes"), Some("trap|start"), Some("start"), Some("trap")]),
        ("trap", [Some("yes"), Some("trap"), Some("trap"), Some("trap")]),
    ] {
        let start = format!("start = \"{start}\"\nif_id = 7\n");
        let per_cpu = config(folder.path(), &(start.clone() + "esp.per_cpu_sas = true\n"));
        let desired = DesiredState::of(&per_cpu);
        assert_eq!((actions(&desired), desired.has_per_cpu_sas()), (expected, true));
        // An older charon gets what it would without the setting.
        let plain = DesiredState::of(&config(folder.path(), &(start + without)));
        assert!(!plain.has_per_cpu_sas());
        assert_eq!(desired.without_per_cpu_sas(&per_cpu), plain);
    }
}

#[test]
fn connection_message_matches_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let desired = DesiredState::of(&config(folder.path(), "if_id = 7\nencap = true\nesp.lifetime = \"1h\""));
    assert_eq!(desired.connections.keys().collect::<Vec<_>>(), ["vpnhub-a"]);
    let message = &desired.connections["vpnhub-a"];
    assert_eq!(message.list("remote_addrs"), ["198.51.100.1"]);
    assert_eq!((message.value("version"), message.value("encap")), (Some("2"), Some("yes")));
    assert_eq!((message.value("rekey_time"), message.value("over_time")), (Some("77760s"), Some("8640s")));
    assert_eq!(message.list("proposals"), crate::config::ipsec::DEFAULT_IKE_PROPOSALS);
    let id = |end| message.section(end).and_then(|end| end.value("id"));
    assert_eq!((id("local-1"), id("remote-1")), (Some("203.0.113.1"), Some("198.51.100.1")));
    let child = message.section("children").and_then(|all| all.section("vpnhub-a")).expect("a child");
    assert_eq!(child.list("local_ts"), ["192.168.0.0/24", "fd00:1::/64"]);
    assert_eq!(child.list("remote_ts"), ["10.10.10.0/24", "10.10.11.0/24"]);
    assert_eq!((child.value("if_id_in"), child.value("if_id_out")), (Some("7"), Some("7")));
    assert_eq!((child.value("life_time"), child.value("rekey_time")), (Some("3600s"), Some("3240s")));
    assert_eq!((child.value("start_action"), child.value("close_action")), (Some("start"), Some("start")));
    assert_eq!(desired.secrets["vpnhub-a"].owners, ["203.0.113.1", "198.51.100.1"]);
    assert!(!format!("{desired:?} {:?}", desired.loads_from(&DesiredState::default())).contains(SECRET));
}

#[test]
fn ikev1_connection_has_one_child_per_pair_of_one_family() {
    let folder = tempfile::tempdir().expect("a folder");
    let desired =
        DesiredState::of(&config(folder.path(), "allow_weak = true\nike = { version = 1, mode = \"aggressive\" }"));
    let message = &desired.connections["vpnhub-a"];
    assert_eq!((message.value("version"), message.value("aggressive")), (Some("1"), Some("yes")));
    let children = message.section("children").expect("some");
    let names: Vec<&str> = children.sections().map(|(name, _)| name).collect();
    assert_eq!(names, ["vpnhub-a-1", "vpnhub-a-2"]);
    let child = message.section("children").and_then(|all| all.section("vpnhub-a-2")).expect("a child");
    assert_eq!(
        (child.list("local_ts").join(" "), child.list("remote_ts").join(" ")),
        ("192.168.0.0/24".to_owned(), "10.10.11.0/24".to_owned())
    );
}

#[test]
fn changed_connections_and_secrets_are_reloaded_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let nothing = DesiredState::default();
    let first = DesiredState::of(&config(folder.path(), ""));
    assert_eq!(commands(&first, &nothing), ["load-shared", "load-conn"]);
    assert!(commands(&first, &first).is_empty());
    let other = DesiredState::of(&config(folder.path(), "encap = true"));
    assert_eq!(commands(&other, &first), ["load-conn"]);
    let renamed = DesiredState::of(&config(folder.path(), "remote_id = \"site.example.com\""));
    assert_eq!(commands(&renamed, &first), ["load-shared", "load-conn"]);
    assert_eq!(commands(&nothing, &first), ["unload-conn vpnhub-a", "unload-shared vpnhub-a"]);
}

#[test]
fn leftovers_are_unloaded_and_foreign_objects_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let desired = DesiredState::of(&config(folder.path(), ""));
    let names = ["vpnhub-a", "vpnhub-old", "roadwarrior"].map(str::to_owned);
    assert_eq!(unloaded(&desired.leftovers(&names, &names)), ["unload-conn vpnhub-old", "unload-shared vpnhub-old"]);
}

#[test]
fn unusable_secret_is_problem_of_its_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), "");
    fs::set_permissions(folder.path().join("psk"), fs::Permissions::from_mode(0o644)).expect("set");
    let desired = DesiredState::of(&config);
    assert!(desired.is_empty());
    let problem = &desired.problems["a"];
    assert!(problem.contains("chmod 600") && !problem.contains(SECRET), "{problem}");
}

#[test]
fn charon_resolves_names_and_accepts_any_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let desired = |address: &str, ipsec: &str| {
        let mut config = config(folder.path(), ipsec);
        config.customer_gateways.get_mut("a").expect("it is there").address = address.parse().expect("an address");
        DesiredState::of(&config)
    };
    for (address, ipsec, remote, id) in [
        ("198.51.100.1", "", "198.51.100.1", "198.51.100.1"),
        ("site.example.net", "", "site.example.net", "site.example.net"),
        ("site.example.net", "remote_id = \"branch\"", "site.example.net", "branch"),
        ("any", "remote_id = \"branch\"\nstart = \"none\"", "%any", "branch"),
    ] {
        let desired = desired(address, ipsec);
        let message = &desired.connections["vpnhub-a"];
        assert_eq!(message.list("remote_addrs"), [remote]);
        assert_eq!(message.section("remote-1").and_then(|remote| remote.value("id")), Some(id));
        assert_eq!(desired.secrets["vpnhub-a"].owners, ["203.0.113.1", id]);
    }
}

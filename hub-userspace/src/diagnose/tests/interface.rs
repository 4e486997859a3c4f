use serde_json::json;

use super::{diagnose, faults, healthy, interface, only, with_status};
use crate::diagnose::{diagnose_connection, facts::InterfaceFacts};

fn with_interface(name: &str, change: impl FnOnce(&mut InterfaceFacts)) -> Vec<String> {
    let mut facts = healthy();
    change(facts.host.network.as_mut().and_then(|network| network.interfaces.get_mut(name)).expect("it is there"));
    faults(&diagnose(&facts))
}

#[test]
fn attachment_is_judged_by_mode() {
    let with = |attach: Option<&str>, reason: Option<&str>| {
        diagnose(&with_status(|status| {
            status["vpc"]["attach"] = json!(attach);
            status["vpc"]["attach_reason"] = json!(reason);
        }))
    };
    assert_eq!(faults(&with(Some("tc"), Some("no other attachment that XDP could send to"))), [""; 0]);
    assert_eq!(faults(&with(Some("xdp-generic"), None)), ["warning attachment vpc0"]);
    let missing =
        with(None, Some("interface vpc0 does not exist: create it, the agent attaches as soon as it is there"));
    assert_eq!(faults(&missing), ["error attachment vpc0"]);
    assert!(only(&missing, "attachment").action.as_ref().is_some_and(|action| action.starts_with("create it")));
}

#[test]
fn missing_interface_of_a_connection_is_reported_once() {
    let reason = "interface tun-c does not exist: create it, the agent attaches as soon as it is there";
    let diagnosis = diagnose(&with_status(|status| {
        let connection = &mut status["connections"][2];
        connection["state"] = "down".into();
        connection["state_reason"] = reason.into();
        connection["attach"] = json!(null);
        connection["attach_reason"] = reason.into();
    }));
    assert_eq!(faults(&diagnosis), ["error interface_down c", "error routes_unreachable c"]);
}

#[test]
fn settings_of_sites_interfaces_are_judged() {
    let on = vec![("net/ipv6/conf/x/accept_ra".to_owned(), "2".to_owned())];
    for (name, rp_filter, enabled, expected) in [
        ("tun-b", 1, vec![], Some("warning interface_setting tun-b")),
        ("vpc0", 1, vec![], Some("warning interface_setting vpc0")),
        ("tun-b", 2, vec![], None),
        ("tun-b", 0, on.clone(), Some("warning interface_setting tun-b")),
        ("vpc0", 0, on, None),
    ] {
        let found = with_interface(name, |facts| {
            facts.rp_filter = rp_filter;
            facts.enabled_settings = enabled;
        });
        assert_eq!(found, Vec::from_iter(expected), "{name} {rp_filter}");
    }
}

#[test]
fn hardware_with_native_xdp_needs_queues_for_all_cpus() {
    for (queues, is_hardware, expected) in [
        (Some([4, 4]), true, None),
        (Some([4, 3]), true, Some("warning receive_queues vpc0")),
        (Some([1, 8]), true, Some("warning receive_queues vpc0")),
        (Some([1, 1]), false, None),
        (None, true, None),
    ] {
        let found = with_interface("vpc0", |facts| {
            facts.is_hardware = is_hardware;
            facts.queues = queues;
        });
        assert_eq!(found, Vec::from_iter(expected), "{queues:?}");
    }
    // By TC the kernel shares the queues.
    assert_eq!(with_interface("tun-b", |facts| facts.is_hardware = true), [""; 0]);
}

/// AES-256 in CBC with SHA-384 is the larger one of the default proposals: 1500 - 20 - 8 - 16 - 24 = 1432, of which
/// 1424 are whole blocks of 16 bytes, less a trailer of 2.
#[test]
fn mtu_of_xfrm_interface_must_leave_room_for_esp() {
    for (kind, mtu, expected) in
        [("xfrm", 1422, None), ("xfrm", 1423, Some("warning interface_mtu xfrm-a")), ("tun", 1500, None)]
    {
        let mut facts = healthy();
        let network = facts.host.network.as_mut().expect("it has one");
        network.interfaces.extend([interface("xfrm-a", kind, mtu)]);
        assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected), "{kind} {mtu}");
    }
}

#[test]
fn mtu_of_the_underlay_counts() {
    let mut facts = healthy();
    facts.config = Some(super::config_facts(&(super::CONFIG.to_owned() + "[underlay.eth0]\n")));
    let network = facts.host.network.as_mut().expect("it has one");
    network.interfaces.extend([interface("eth0", "none", 9000), interface("xfrm-a", "xfrm", 8900)]);
    assert_eq!(faults(&diagnose(&facts)), [""; 0]);
    facts.host.network.as_mut().expect("it has one").interfaces.extend([interface("eth0", "none", 1400)]);
    assert_eq!(faults(&diagnose(&facts)), ["warning interface_mtu xfrm-a"]);
}

#[test]
fn underlays_are_judged_by_queues_and_hints() {
    for (in_force, hint, queues, cpus, expected) in [
        (json!("rps"), json!(null), json!(1), json!(4), &[][..]),
        (json!(null), json!(null), json!(4), json!(4), &[]),
        (json!(null), json!(null), json!(null), json!(null), &[]),
        (json!(null), json!(null), json!(1), json!(4), &["warning receive_queues eth0"]),
        (json!("rps"), json!("esp4_offload is loaded"), json!(1), json!(4), &["warning spread eth0"]),
        (
            json!(null),
            json!("esp4_offload is loaded"),
            json!(1),
            json!(4),
            &["warning spread eth0", "warning receive_queues eth0"],
        ),
    ] {
        let facts = with_status(|status| {
            status["underlays"] = json!([{
                "interface": "eth0", "spread": "auto", "spread_in_force": in_force, "spread_reason": null,
                "spread_hint": hint, "rx_queues": queues, "cpus": cpus,
            }]);
        });
        assert_eq!(faults(&diagnose(&facts)), expected, "{in_force} {hint} {queues}");
    }
}

#[test]
fn strangers_are_named_with_their_packets() {
    let facts = with_status(|status| status["strangers"] = json!({ "wlan0": 7 }));
    let diagnosis = diagnose(&facts);
    assert_eq!(faults(&diagnosis), ["warning stranger wlan0"]);
    assert!(only(&diagnosis, "stranger").message.starts_with("7 packets from it to sites were dropped"));
    let of_connection = diagnose_connection(&facts, "a").expect("it exists");
    assert_eq!(faults(&of_connection), [""; 0]);
}

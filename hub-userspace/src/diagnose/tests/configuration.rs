use std::path::PathBuf;

use serde_json::json;

use super::{CONFIG, config_facts, diagnose, faults, healthy, only, with_status};
use crate::{
    config::ipsec::Invalid,
    diagnose::{
        diagnose_connection,
        facts::{CertificateFacts, Facts},
    },
};

fn with_config(text: &str) -> Facts {
    Facts { config: Some(config_facts(text)), ..healthy() }
}

#[test]
fn quota_is_a_warning_above_80_percent() {
    for (limit, expected) in [(10, None), (4, None), (3, Some("warning quota gateway.max_connections"))] {
        let text = CONFIG.replacen("[gateway]\n", &format!("[gateway]\nmax_connections = {limit}\n"), 1);
        let diagnosis = diagnose(&with_config(&text));
        assert_eq!(faults(&diagnosis), Vec::from_iter(expected), "{limit}");
    }
}

#[test]
fn quota_of_exactly_80_percent_is_in_order() {
    let more = |count: usize| {
        let one = |number: usize| {
            format!(
                "[connection.n{number}]\ncustomer_gateway = \"y\"\ninterface = \"tun-n{number}\"\n\
                 local_cidrs = [\"192.168.0.0/24\"]\nremote_cidrs = [\"10.3.0.0/16\"]\n\
                 [[route]]\ndestination = \"10.3.0.0/16\"\nnext_hop = \"n{number}\"\nweight = 50\n"
            )
        };
        let text: String = (0..count).map(one).collect();
        let config =
            config_facts(&(CONFIG.replacen("\nnext_hop = \"c\"\n", "\nnext_hop = \"c\"\nweight = 50\n", 1) + &text));
        assert_eq!(config.config.connections.len(), count + 3);
        let diagnosis = diagnose(&Facts { config: Some(config), ..healthy() });
        faults(&diagnosis)
    };
    assert_eq!(more(5), [""; 0]);
    assert_eq!(more(6), ["warning quota gateway.max_connections"]);
}

#[test]
fn containing_route_is_a_conflict_and_other_warnings_are_kept() {
    let containing = "[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"c\"\n";
    let text = CONFIG.to_owned() + containing;
    let text = text.replacen("remote_cidrs = [\"10.3.0.0/16\"]", "remote_cidrs = [\"10.0.0.0/8\"]", 1);
    let diagnosis = diagnose(&with_config(&text));
    let found = faults(&diagnosis);
    assert!(found.iter().all(|fault| fault.starts_with("warning route_conflict")) && !found.is_empty(), "{found:?}");
    let unused = CONFIG.to_owned() + "[customer_gateway.unused]\naddress = \"198.51.100.9\"\n";
    let diagnosis = diagnose(&with_config(&unused));
    assert_eq!(faults(&diagnosis), ["warning configuration_warning customer_gateway.unused"]);
}

#[test]
fn objects_of_the_agent_are_judged() {
    for (key, value, expected) in [
        (
            "set_aside",
            json!([{ "kind": "customer_gateway", "name": "z", "reason": "the file has one: delete it by command" }]),
            "warning set_aside customer gateway z",
        ),
        ("store", json!({ "path": "/x", "problem": "cannot be written" }), "error changes_rejected store"),
        ("store", json!({ "path": "/x", "problem": null }), ""),
        ("metrics", json!({ "listen": "[::1]:9", "problem": "in use" }), "warning metrics_not_served metrics.listen"),
        ("metrics", json!({ "listen": "[::1]:9", "problem": null }), ""),
        ("confirmation", json!({ "state": "pending", "until": 1.0 }), "warning reload_not_confirmed reload"),
        ("confirmation", json!({ "state": "reverted" }), "warning reload_not_confirmed reload"),
        ("problems", json!(["neighbour 10.0.0.1: refused"]), "error kernel_object_missing kernel"),
    ] {
        let facts = with_status(|status| status[key] = value.clone());
        let expected = Some(expected).filter(|expected| !expected.is_empty());
        assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected), "{key} {value}");
    }
}

#[test]
fn unpublished_routes_are_one_error_for_each_reason() {
    let diagnosis = diagnose(&with_status(|status| {
        for (index, reason) in ["in its place", "in its place", "other"].into_iter().enumerate() {
            status["routes"][index]["problem"] = reason.into();
        }
    }));
    assert_eq!(
        faults(&diagnosis),
        ["error route_not_published route 10.1.0.0/16", "error route_not_published route 10.3.0.0/16"]
    );
    let first = &diagnosis.findings[0];
    assert_eq!(first.message, "in its place (2 routes)");
}

#[test]
fn certificates_are_judged_by_their_validity() {
    let end = || "Wed, 01 Jan 2031 00:00:00 +0000".to_owned();
    for (certificate, expected) in [
        (CertificateFacts::Valid, None),
        (CertificateFacts::Denied, None),
        (CertificateFacts::Invalid(Invalid::Expires(end())), Some("warning certificate_expires_soon a")),
        (CertificateFacts::Invalid(Invalid::Expired(end())), Some("error certificate_expired a")),
        (CertificateFacts::Invalid(Invalid::Early(end())), Some("error certificate a")),
        (CertificateFacts::Invalid(Invalid::Unreadable), Some("error certificate a")),
        (CertificateFacts::Missing("not there".to_owned()), Some("error certificate a")),
    ] {
        let mut facts = healthy();
        let config = facts.config.as_mut().expect("it has one");
        config.certificates.insert(("a".to_owned(), PathBuf::from("/etc/hub.crt")), certificate.clone());
        assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected), "{certificate:?}");
        let of_a = diagnose_connection(&facts, "a").expect("it exists");
        assert_eq!(faults(&of_a), Vec::from_iter(expected), "{certificate:?}");
        let of_b = diagnose_connection(&facts, "b").expect("it exists");
        assert_eq!(faults(&of_b), [""; 0], "{certificate:?}");
        if expected.is_some() {
            let found = diagnose(&facts);
            let code = expected.and_then(|text| text.split(' ').nth(1)).expect("a code");
            assert!(only(&found, code).message.contains("/etc/hub.crt"));
        }
    }
}

use serde_json::{Value, json};

use super::{diagnose, faults, healthy, only, with_status};
use crate::{api_types::diagnose::Diagnosis, diagnose::diagnose_connection};

/// One connection of the healthy hub changed.
fn with(index: usize, change: impl FnOnce(&mut Value)) -> Diagnosis {
    diagnose(&with_status(|status| change(&mut status["connections"][index])))
}

fn down(reason: &str) -> impl FnOnce(&mut Value) {
    let reason = reason.to_owned();
    move |connection| {
        connection["state"] = "down".into();
        connection["state_reason"] = reason.into();
    }
}

#[test]
fn state_is_judged_by_its_cause() {
    let unreachable = "error routes_unreachable c";
    for (reason, expected) in [
        ("interface tun-c is down: `ip link set tun-c up`", "error interface_down c"),
        (
            "peer 10.0.0.1 does not answer ARP on interface tun-c; check the peer's address and the link",
            "error connection_down c",
        ),
        ("something else", "error connection_down c"),
    ] {
        assert_eq!(faults(&with(2, down(reason))), [expected, unreachable], "{reason}");
    }
    for reason in [
        "healthy again, hold-down: up after 1s without another failure (up_delay)",
        "health check: 10.3.0.1 has not replied yet",
    ] {
        assert_eq!(faults(&with(2, down(reason))), [unreachable, "warning hold_down c"], "{reason}");
    }
}

#[test]
fn failed_tunnel_has_its_reason_remedy_and_cloud_code() {
    let diagnosis = with(0, |connection| {
        down("no ESP proposal in common: compare esp.proposals with the site's")(connection);
        connection["ipsec"] = json!({
            "ike": null, "children": [], "fault": "x", "fault_code": "esp_proposal", "cloud_code": "AlgorithmMismatch",
            "missing": [{ "selectors": "10.1.0.0/16 === 192.168.0.0/24", "reason": "x" }],
        });
    });
    assert_eq!(faults(&diagnosis), ["error tunnel_down a", "warning routes_carried_by_others a"]);
    let found = only(&diagnosis, "tunnel_down");
    assert_eq!(found.message, "down for 2 h: no ESP proposal in common");
    assert_eq!(found.action.as_deref(), Some("compare esp.proposals with the site's"));
    assert_eq!(found.cloud_code.as_deref(), Some("AlgorithmMismatch"));
}

#[test]
fn cloud_code_is_that_of_the_present_cause_only() {
    let diagnosis = with(0, |connection| {
        down("interface xfrm-a has no carrier")(connection);
        connection["ipsec"]["cloud_code"] = "AlgorithmMismatch".into();
    });
    assert_eq!(only(&diagnosis, "interface_down").cloud_code, None);
}

#[test]
fn health_is_judged_by_loss() {
    let health = |lost: u32, healthy: bool| {
        move |connection: &mut Value| {
            connection["health"] = json!({
                "healthy": healthy, "sent": 100, "received": 1, "round_trip": null, "recent_probes": 32,
                "recent_lost": lost,
            });
        }
    };
    assert_eq!(faults(&with(0, health(0, true))), [""; 0]);
    let partial = with(0, health(3, true));
    assert_eq!(faults(&partial), ["warning probes_lost a"]);
    assert_eq!(only(&partial, "probes_lost").message, "3 of the last 32 probes were lost");
    let all = with(0, |connection| {
        health(32, false)(connection);
        down("health check: 10.1.0.1 no reply to 3 probes")(connection);
    });
    assert_eq!(faults(&all), ["error health_check_failed a", "warning routes_carried_by_others a"]);
    let degraded = with(0, |connection| {
        health(4, true)(connection);
        connection["health"]["state"] = "degraded".into();
    });
    assert_eq!(faults(&degraded), ["warning degraded a"]);
    assert_eq!(only(&degraded, "degraded").message, "degraded: 4 of the last 32 probes were lost");
    let one_of_two = with(0, |connection| {
        health(30, true)(connection);
        let target = |destination: &str, state: &str| json!({ "destination": destination, "state": state, "sent": 9, "received": 1, "lost": 8 });
        connection["health"]["targets"] = json!([target("10.1.0.1", "up"), target("10.1.0.2", "down")]);
    });
    assert_eq!(faults(&one_of_two), ["warning targets_silent a"]);
    let message = &only(&one_of_two, "targets_silent").message;
    assert_eq!(message, "1 of 2 destinations of the health check do not reply, such as 10.1.0.2");
}

#[test]
fn administratively_down_is_a_warning_and_hides_other_conditions() {
    let admin_down = |connection: &mut Value| {
        connection["state"] = "admin_down".into();
        connection["warnings"] = json!(["some warning"]);
        connection["ipsec"] = json!({ "ike": null, "children": [], "fault": null, "problems": ["x"] });
    };
    assert_eq!(faults(&with(0, admin_down)), ["warning admin_down a", "warning routes_carried_by_others a"]);
    // Its standby has no further one.
    let both = diagnose(&with_status(|status| {
        admin_down(&mut status["connections"][0]);
        admin_down(&mut status["connections"][1]);
    }));
    let expected = [
        "warning admin_down a",
        "warning routes_unreachable a",
        "warning admin_down b",
        "warning routes_unreachable b",
    ];
    assert_eq!(faults(&both), expected);
}

#[test]
fn narrowed_selectors_are_warnings_with_reason_and_remedy() {
    let missing = |count: usize| {
        move |connection: &mut Value| {
            let one = json!({
                "selectors": "10.1.0.0/16 === 192.168.0.0/24",
                "reason": "the site admits less: compare local_cidrs and remote_cidrs with the site's remote and local ones",
            });
            connection["ipsec"]["missing"] = vec![one; count].into();
        }
    };
    let diagnosis = with(0, missing(1));
    assert_eq!(faults(&diagnosis), ["warning selectors_missing a"]);
    let found = only(&diagnosis, "selectors_missing");
    assert_eq!(found.message, "no SA for 10.1.0.0/16 === 192.168.0.0/24: the site admits less");
    assert!(found.action.as_ref().is_some_and(|action| action.starts_with("compare local_cidrs")), "{found:?}");
    assert_eq!(faults(&with(0, missing(100))).len(), 5);
    let problems = with(0, |connection| connection["ipsec"]["problems"] = json!(["the SA has a selector too many"]));
    assert_eq!(faults(&problems), ["warning selectors_not_admitted a"]);
}

#[test]
fn warnings_of_the_status_have_codes() {
    let diagnosis = with(1, |connection| {
        connection["warnings"] =
            json!(["one", "two; give each its own", "three", "four", "five", "six", "seven", "eight"]);
        connection["warning_codes"] = json!([
            "no_hub_address",
            "shared_flows",
            "bridge_port",
            "sender_checksum",
            "learned_refused",
            "per_cpu_sas",
            "later"
        ]);
    });
    let expected = [
        "warning no_hub_address b",
        "warning shared_flows b",
        "warning bridge_port b",
        "warning sender_checksum b",
        "warning learned_refused b",
        "warning per_cpu_sas b",
        "warning connection_warning b",
        "warning connection_warning b",
    ];
    assert_eq!(faults(&diagnosis), expected);
    assert_eq!(only(&diagnosis, "shared_flows").action.as_deref(), Some("give each its own"));
}

#[test]
fn quota_of_learned_routes_is_nearly_full() {
    let learned = |routes: usize| {
        with(0, |connection| connection["learned"] = json!({ "routes": routes, "limit": 50, "refused": {} }))
    };
    assert_eq!(faults(&learned(40)), <[&str; 0]>::default());
    assert_eq!(faults(&learned(41)), ["warning quota a"]);
    assert_eq!(only(&learned(50), "quota").message, "50 of 50 learned routes are in use");
}

#[test]
fn routes_of_a_failed_connection_are_unreachable_or_carried() {
    let diagnosis = with(0, down("x"));
    let found = only(&diagnosis, "routes_carried_by_others");
    assert_eq!(found.message, "destination 10.1.0.0/16 is carried by b");
    let diagnosis = diagnose(&with_status(|status| {
        down("x")(&mut status["connections"][2]);
        let more = super::route("10.4.0.0/16", "c");
        status["routes"].as_array_mut().expect("routes").push(more);
    }));
    let found = only(&diagnosis, "routes_unreachable");
    assert_eq!(found.message, "2 destinations, such as 10.3.0.0/16, are unreachable: no next hop is up");
    assert!(found.action.as_ref().is_some_and(|action| action.contains("route add 10.3.0.0/16")), "{found:?}");
}

#[test]
fn one_connection_has_only_its_own_findings() {
    let facts = with_status(|status| {
        down("x")(&mut status["connections"][0]);
        down("y")(&mut status["connections"][2]);
        status["set_aside"] = json!([{ "kind": "route", "name": "r", "reason": "x" }]);
    });
    let diagnosis = diagnose_connection(&facts, "c").expect("it exists");
    assert_eq!(faults(&diagnosis), ["error connection_down c", "error routes_unreachable c"]);
    let subjects: Vec<_> = diagnosis.findings.iter().map(|finding| finding.subject.as_str()).collect();
    assert_eq!(subjects, ["c", "c", "tun-c", "tun-c"]);
    let diagnosis = diagnose_connection(&facts, "b").expect("it exists");
    assert_eq!((faults(&diagnosis), diagnosis.errors), (Vec::new(), 0));
}

#[test]
fn unknown_connection_is_one_sentence_with_the_known_ones() {
    let error = diagnose_connection(&healthy(), "x").expect_err("there is none");
    assert_eq!(error.to_string(), "there is no connection \"x\"; help: the connections are a, b, c");
    let none = with_status(|status| status["connections"] = json!([]));
    let error = diagnose_connection(&none, "x").expect_err("there is none");
    assert_eq!(error.to_string(), "there is no connection \"x\"; help: no connection is configured");
}

#[test]
fn connection_in_order_shows_time_sas_and_probes() {
    let diagnosis = diagnose(&healthy());
    let message = |name: &str| {
        let found = diagnosis.findings.iter().find(|finding| finding.subject == name);
        found.map(|finding| finding.message.clone()).unwrap_or_default()
    };
    assert_eq!(message("a"), "up for 2 h; 1 child SA; 0 of 32 probes lost, round trip 12.5 ms");
    assert_eq!(message("b"), "up for 2 h");
}

use super::{diagnose, faults, healthy, only};
use crate::{
    api_types::diagnose::Diagnosis,
    diagnose::{
        diagnose_connection,
        facts::{Facts, StrayReply},
    },
};

fn facts(interface: &str, source: [u8; 4], dropped: Option<&str>) -> Facts {
    let reply = StrayReply {
        connection: "a".to_owned(),
        source: source.into(),
        destination: [192, 168, 0, 1].into(),
        interface: interface.to_owned(),
        dropped: dropped.map(str::to_owned),
    };
    Facts { stray_replies: [reply].into(), ..healthy() }
}

fn texts(diagnosis: &Diagnosis) -> (String, String) {
    let found = only(diagnosis, "asymmetric_replies");
    (found.message.clone(), found.action.clone().expect("it has one"))
}

#[test]
fn reply_on_another_interface_is_named_with_its_connection() {
    for (interface, dropped, expected) in [
        ("tun-b", None, "arrive on tun-b (connection b) instead of xfrm-a, where they do not count"),
        (
            "tun-c",
            Some("spoofed_source"),
            "arrive on tun-c (connection c) instead of xfrm-a, and are dropped there: \
                                           spoofed_source",
        ),
        ("eth0", None, "arrive on eth0 instead of xfrm-a, where they do not count"),
    ] {
        let facts = facts(interface, [10, 1, 0, 1], dropped);
        let diagnosis = diagnose(&facts);
        assert_eq!(faults(&diagnosis), ["warning asymmetric_replies a"]);
        let (message, action) = texts(&diagnosis);
        assert_eq!(message, format!("replies of 10.1.0.1 to its probes {expected}"));
        assert!(action.starts_with("let the site route 192.168.0.1 into this tunnel"), "{action}");
        assert_eq!(faults(&diagnose_connection(&facts, "a").expect("it exists")), ["warning asymmetric_replies a"]);
        assert_eq!(faults(&diagnose_connection(&facts, "b").expect("it exists")), [""; 0]);
    }
}

#[test]
fn reply_that_is_dropped_or_from_another_address_has_its_own_remedy() {
    let (message, action) = texts(&diagnose(&facts("xfrm-a", [10, 1, 0, 1], Some("spoofed_source"))));
    assert_eq!(message, "replies of 10.1.0.1 to its probes are dropped: spoofed_source");
    assert!(action.starts_with("compare remote_cidrs with 10.1.0.1"), "{action}");
    let (message, action) = texts(&diagnose(&facts("xfrm-a", [10, 1, 0, 9], None)));
    assert_eq!(message, "its probes are answered by 10.1.0.9, which is no destination of the health check");
    assert!(action.starts_with("name 10.1.0.9 in health_check.destination"), "{action}");
}

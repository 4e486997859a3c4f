//! Texts that other parts of the agent write, and the findings for people.

use super::{diagnose, healthy, with_status};
use crate::{api_types::diagnose::split, config::SiteAddress, diagnose::text, ipsec::vici::fault::Fault};

const FAULTS: [Fault; 13] = [
    Fault::Refused,
    Fault::WrongSecret,
    Fault::NoSecret,
    Fault::Identity,
    Fault::Certificate,
    Fault::Validity,
    Fault::NoKey,
    Fault::Undecrypted,
    Fault::IkeProposal,
    Fault::EspProposal,
    Fault::Selectors,
    Fault::Silent,
    Fault::Unresolved,
];

#[test]
fn causes_of_failed_tunnels_are_split_from_their_remedies() {
    for fault in FAULTS {
        let sentence = fault.sentence(&SiteAddress::Any);
        let (message, action) = split(&sentence);
        assert!(!message.contains("compare") && !message.contains("check"), "{sentence}");
        // It has the remedy in its cause.
        assert_eq!(action.is_none(), fault == Fault::WrongSecret, "{sentence}");
    }
}

#[test]
fn names_of_causes_are_unique() {
    let names: std::collections::BTreeSet<_> = FAULTS.iter().map(|fault| fault.name()).collect();
    assert_eq!(names.len(), FAULTS.len());
}

#[test]
fn text_has_findings_with_remedies_and_a_summary() {
    let shown = text(&diagnose(&healthy()));
    assert!(shown.starts_with("ok       connection a: up for 2 h; 1 child SA;"), "{shown}");
    assert!(shown.ends_with("\n\n0 errors, 0 warnings\n"), "{shown}");
    let failed = with_status(|status| {
        status["connections"][0]["state"] = "down".into();
        status["connections"][0]["state_reason"] = "the site has another identity: compare remote_id".into();
        status["connections"][0]["ipsec"]["children"] = serde_json::json!([]);
        status["connections"][0]["ipsec"]["cloud_code"] = "PeerMismatch".into();
    });
    let shown = text(&diagnose(&failed));
    let start = "error    connection a: down for 2 h: the site has another identity (PeerMismatch)\n         \
                 -> compare remote_id\nwarning  connection a: destination 10.1.0.0/16 is carried by b\n";
    assert!(shown.starts_with(start), "{shown}");
    assert!(shown.ends_with("\n\n1 error, 1 warning\n"), "{shown}");
}

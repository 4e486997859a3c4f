//! Texts that other parts of the agent write, and the findings for people.

use super::{diagnose, healthy, with_status};
use crate::{
    config::SiteAddress,
    diagnose::{remedy::split, text},
    ipsec::vici::fault::Fault,
};

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

#[test]
fn manual_explains_every_code() {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (contract, manual) = (read("tests/status/diagnose.contract.txt"), read("../docs/operations.md"));
    let values = contract.lines().filter_map(|line| line.strip_prefix("findings[].code may be \"")?.strip_suffix('"'));
    let codes: Vec<_> = values.collect();
    assert!(codes.len() > 40, "{contract}");
    let unknown: Vec<_> = codes.iter().filter(|code| !manual.contains(&format!("`{code}`"))).collect();
    assert!(unknown.is_empty(), "docs/operations.md does not explain {unknown:?}");
}

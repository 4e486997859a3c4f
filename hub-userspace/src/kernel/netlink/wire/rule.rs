//! Rules: `net/core/fib_rules.c`. The agent creates none: each rule costs time for every packet of the host that needs
//! a route. Rules of earlier versions are deleted.

use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};

/// The message that deletes a dumped rule.
pub fn rule_deletion(shown: &RuleMessage) -> RuleMessage {
    let mut message = shown.clone();
    // The other flags report whether the interface exists; they are not part of the rule.
    message.header.flags &= RuleFlags::Invert;
    message.attributes.retain(|attribute| !is_unset(attribute));
    message
}

/// The kernel always dumps `FRA_SUPPRESS_PREFIXLEN`; -1 means none.
fn is_unset(attribute: &RuleAttribute) -> bool {
    matches!(attribute, RuleAttribute::SuppressPrefixLen(u32::MAX))
}

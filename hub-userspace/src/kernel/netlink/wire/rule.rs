//! Rules: `net/core/fib_rules.c`. The agent makes none: each costs every packet of the host that needs a route. Those of
//! earlier versions are removed.

use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};

/// The message that deletes a rule which the kernel shows like this.
pub fn rule_deletion(shown: &RuleMessage) -> RuleMessage {
    let mut message = shown.clone();
    // Says whether the interface exists; not part of the rule.
    message.header.flags &= RuleFlags::Invert;
    message.attributes.retain(|attribute| !is_unset(attribute));
    message
}

/// `FRA_SUPPRESS_PREFIXLEN` is always shown; -1 is none.
fn is_unset(attribute: &RuleAttribute) -> bool {
    matches!(attribute, RuleAttribute::SuppressPrefixLen(u32::MAX))
}

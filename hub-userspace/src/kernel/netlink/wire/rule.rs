//! Rules: `net/core/fib_rules.c`.

use rtnetlink::packet_route::{
    AddressFamily,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use crate::kernel::netlink::{
    PROTOCOL,
    plan::{Family, KernelRule, RuleKind},
};

/// The interface of the hub's own packets.
const LOOPBACK: &str = "lo";

/// The message that adds a rule.
pub fn rule(rule: &KernelRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = rule.family.into();
    let (action, more) = match rule.kind {
        RuleKind::Own => {
            (RuleAction::Goto, vec![RuleAttribute::Iifname(LOOPBACK.to_owned()), RuleAttribute::Goto(KernelRule::END)])
        }
        RuleKind::Marked { mark, mask, table } => (
            RuleAction::ToTable,
            vec![RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask), RuleAttribute::Table(table)],
        ),
        RuleKind::End => (RuleAction::Nop, Vec::new()),
    };
    message.header.action = action;
    message.attributes =
        vec![RuleAttribute::Priority(rule.priority()), RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL))];
    message.attributes.extend(more);
    message
}

/// A dumped rule; `None` if it cannot come from a plan.
pub fn read_rule(shown: &RuleMessage) -> Option<KernelRule> {
    let family = match shown.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let (mut mark, mut bits, mut table) = (0, 0, 0);
    for attribute in &shown.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => bits = *value,
            RuleAttribute::Table(value) => table = *value,
            _ => {}
        }
    }
    let kind = match shown.header.action {
        RuleAction::Goto => RuleKind::Own,
        RuleAction::ToTable => RuleKind::Marked { mark, mask: bits, table },
        RuleAction::Nop => RuleKind::End,
        _ => return None,
    };
    let found = KernelRule { family, kind };
    // All that it says must come from the plan, apart from what the kernel adds to each.
    let is_added = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::FwMark(0) | RuleAttribute::FwMask(0) | RuleAttribute::Table(0) | RuleAttribute::Other(_) => true,
        RuleAttribute::SuppressPrefixLen(length) => *length == u32::MAX,
        _ => false,
    };
    let planned = rule(&found);
    let (wanted, shown_part) = (&planned.attributes, &shown.attributes);
    let is_planned = wanted.iter().all(|attribute| shown_part.contains(attribute))
        && shown_part.iter().all(|attribute| wanted.contains(attribute) || is_added(attribute))
        && !shown.header.flags.contains(RuleFlags::Invert)
        && shown.header.src_len == 0
        && shown.header.dst_len == 0
        && shown.header.tos == 0;
    is_planned.then_some(found)
}

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

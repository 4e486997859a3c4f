//! Rules: `net/core/fib_rules.c`.

use rtnetlink::packet_route::{
    AddressFamily, IpProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use crate::netlink::{
    PROTOCOL, RULE_PREFERENCE, TABLE,
    plan::{Family, KernelRule, RuleMatch},
};

/// Packets of the host itself come "in" on this one.
const LOOPBACK: &str = "lo";

/// The message that adds a rule.
pub fn rule(rule: &KernelRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = rule.family.into();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(TABLE),
        RuleAttribute::Priority(RULE_PREFERENCE),
        RuleAttribute::Protocol(PROTOCOL.into()),
    ];
    match &rule.what {
        RuleMatch::Interface(name) => message.attributes.push(RuleAttribute::Iifname(name.clone())),
        RuleMatch::LocalIcmp => message
            .attributes
            .extend([RuleAttribute::Iifname(LOOPBACK.to_owned()), RuleAttribute::IpProtocol(icmp(rule.family))]),
    }
    message
}

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

/// The protocol that IPv4 or IPv6 errors travel in: 1 and 58 (RFC 4443).
fn icmp(family: Family) -> IpProtocol {
    match family {
        Family::V4 => IpProtocol::Icmp,
        Family::V6 => IpProtocol::Other(58),
    }
}

/// A rule of ours, if a plan could have asked for it.
pub fn read_rule(message: &RuleMessage) -> Option<KernelRule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let (mut interface, mut protocol) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            RuleAttribute::IpProtocol(number) => protocol = Some(*number),
            _ => {}
        }
    }
    let what = match protocol {
        None => RuleMatch::Interface(interface?),
        Some(_) => RuleMatch::LocalIcmp,
    };
    let candidate = KernelRule { family, what };
    // Whatever we did not look at must be as we would have made it.
    let mut shown = rule_deletion(message);
    let mut made = rule(&candidate);
    for message in [&mut shown, &mut made] {
        message.header.table = 0;
        message.attributes.sort_by_key(|attribute| format!("{attribute:?}"));
    }
    (shown == made).then_some(candidate)
}

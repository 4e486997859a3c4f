//! Rules: `net/core/fib_rules.c`.

use std::net::{IpAddr, Ipv4Addr};

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

/// 169.254.0.0/16 (RFC 3927).
const LINK_LOCAL: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16);

/// The message that adds a rule.
pub fn rule(rule: &KernelRule) -> RuleMessage {
    use RuleAttribute::{Destination, Iifname, IpProtocol, Priority, Protocol, Source, SuppressPrefixLen, Table};
    let mut message = RuleMessage::default();
    message.header.family = rule.family.into();
    let (action, table, preference) = match rule.what {
        RuleMatch::Interface(_) | RuleMatch::LocalIcmp => (RuleAction::ToTable, TABLE, RULE_PREFERENCE),
        RuleMatch::LinkLocalSource(_) | RuleMatch::LinkLocalDestination(_) => {
            (RuleAction::Blackhole, 0, RULE_PREFERENCE - 1)
        }
    };
    message.header.action = action;
    message.attributes = vec![Table(table), Priority(preference), Protocol(PROTOCOL.into())];
    let (address, length) = LINK_LOCAL;
    match &rule.what {
        RuleMatch::Interface(name) => message.attributes.push(Iifname(name.clone())),
        RuleMatch::LocalIcmp => message.attributes.extend([
            Iifname(LOOPBACK.to_owned()),
            IpProtocol(icmp(rule.family)),
            // Not by a default route: what the host itself sends to the world must not go to a site.
            SuppressPrefixLen(0),
        ]),
        RuleMatch::LinkLocalSource(name) => {
            message.header.src_len = length;
            message.attributes.extend([Iifname(name.clone()), Source(address)]);
        }
        RuleMatch::LinkLocalDestination(name) => {
            message.header.dst_len = length;
            message.attributes.extend([Iifname(name.clone()), Destination(address)]);
        }
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
    let (mut interface, mut protocol, mut source, mut destination) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            RuleAttribute::IpProtocol(number) => protocol = Some(*number),
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Destination(address) => destination = Some(*address),
            _ => {}
        }
    }
    let what = match (protocol, source, destination) {
        (Some(_), _, _) => RuleMatch::LocalIcmp,
        (None, Some(_), _) => RuleMatch::LinkLocalSource(interface?),
        (None, None, Some(_)) => RuleMatch::LinkLocalDestination(interface?),
        (None, None, None) => RuleMatch::Interface(interface?),
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

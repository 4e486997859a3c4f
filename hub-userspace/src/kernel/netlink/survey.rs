//! A single look at the host's interfaces, and at the rules of other processes. Needs no privileges.

use std::collections::{BTreeMap, BTreeSet};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage, LinkXdp, XdpAttached},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{
    Family, Links, NetlinkError,
    socket::Requests,
    state::read_link,
    wire::{self, is_our_rule},
};

/// `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` (rtnetlink.h).
const KERNEL_TABLES: [u32; 3] = [253, 254, 255];
/// Priorities of the kernel's own rules, in the order of these tables (`fib_default_rules_init`,
/// `net/ipv4/fib_rules.c`).
const KERNEL_PRIORITIES: [u32; 3] = [32767, 32766, 0];

/// Interfaces and rules of the calling thread's network namespace.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    pub links: Links,
    /// The other ends of veth interfaces, by index.
    pub other_ends: BTreeMap<u32, OtherEnd>,
    /// Rules of others, in the kernel's order, IPv4 first.
    pub rules: Vec<ForeignRule>,
    /// Whether the agent, or an earlier version, has made one.
    pub has_own_rules: bool,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherEnd {
    /// In this network namespace: its index, and whether it has native XDP.
    Here {
        ifindex: u32,
        has_xdp: bool,
    },
    Elsewhere,
}

/// A rule that neither the kernel nor an earlier version of the agent has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignRule {
    pub family: Family,
    pub priority: u32,
    /// The routing table; 0 for other actions.
    pub table: u32,
}

impl Survey {
    /// # Errors
    /// When the kernel does not answer.
    pub async fn take() -> Result<Self, NetlinkError> {
        let mut requests = Requests::open()?;
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let objects = requests.list("reading the interfaces", RouteNetlinkMessage::GetLink(message)).await?;
        let messages: Vec<&LinkMessage> = objects
            .iter()
            .filter_map(|object| match object {
                RouteNetlinkMessage::NewLink(message) => Some(message),
                _ => None,
            })
            .collect();
        let links: Links = messages.iter().filter_map(|message| read_link(message)).collect();
        let other_ends = other_ends(&links, &messages);
        let (mut rules, mut has_own_rules) = (Vec::new(), false);
        for (family, number) in [(Family::V4, AddressFamily::Inet), (Family::V6, AddressFamily::Inet6)] {
            let request = RouteNetlinkMessage::GetRule(wire::all::rules(number));
            for object in requests.list("reading the rules", request).await? {
                if let RouteNetlinkMessage::NewRule(message) = object {
                    has_own_rules |= is_our_rule(&message);
                    rules.extend(foreign_rule(family, &message));
                }
            }
        }
        Ok(Self { links, other_ends, rules, has_own_rules })
    }
}

fn other_ends(links: &Links, messages: &[&LinkMessage]) -> BTreeMap<u32, OtherEnd> {
    let with_xdp = messages.iter().filter(|message| has_native_xdp(message));
    let with_xdp: BTreeSet<u32> = with_xdp.map(|message| message.header.index).collect();
    let is_veth = |index: u32| links.get(&index).is_some_and(|link| link.kind.as_deref() == Some("veth"));
    let found = messages.iter().filter(|message| is_veth(message.header.index)).filter_map(|message| {
        let (mut other, mut is_here) = (None, true);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Link(index) => other = Some(*index),
                LinkAttribute::LinkNetNsId(_) => is_here = false,
                _ => {}
            }
        }
        let ifindex = other?;
        let has_xdp = with_xdp.contains(&ifindex);
        Some((message.header.index, if is_here { OtherEnd::Here { ifindex, has_xdp } } else { OtherEnd::Elsewhere }))
    });
    found.collect()
}

fn has_native_xdp(message: &LinkMessage) -> bool {
    let native = [XdpAttached::Driver, XdpAttached::Multiple];
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::Xdp(facts) => {
            facts.iter().any(|fact| matches!(fact, LinkXdp::Attached(attached) if native.contains(attached)))
        }
        _ => false,
    })
}

fn foreign_rule(family: Family, message: &RuleMessage) -> Option<ForeignRule> {
    if is_our_rule(message) {
        return None;
    }
    let (mut priority, mut table) = (0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            _ => {}
        }
    }
    let is_lookup = message.header.action == RuleAction::ToTable;
    let is_kernels =
        is_lookup && KERNEL_TABLES.iter().zip(KERNEL_PRIORITIES).any(|(known, at)| (*known, at) == (table, priority));
    (!is_kernels).then_some(ForeignRule { family, priority, table: if is_lookup { table } else { 0 } })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{
        link::{InfoKind, LinkInfo},
        route::RouteProtocol,
    };

    use super::*;
    use crate::kernel::netlink::PROTOCOL;

    fn rule(priority: u32, table: u32, more: Option<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(table).unwrap_or(0);
        message.attributes = vec![RuleAttribute::Priority(priority), RuleAttribute::Table(table)];
        message.attributes.extend(more);
        message
    }

    #[test]
    fn only_rules_of_others_are_foreign() {
        let ours = Some(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
        for (priority, table, more, expected) in [
            (0, 255, None, None),
            (32766, 254, None, None),
            (32767, 253, None, None),
            (1180, 1180, ours, None),
            (220, 220, None, Some(220)),
            (0, 254, None, Some(254)),
            (100, 254, None, Some(254)),
            (100, 100_000, None, Some(100_000)),
        ] {
            let found = foreign_rule(Family::V4, &rule(priority, table, more));
            let expected = expected.map(|table| ForeignRule { family: Family::V4, priority, table });
            assert_eq!(found, expected, "{priority} {table}");
        }
    }

    fn veth(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        message.attributes = vec![LinkAttribute::IfName(format!("veth{index}")), LinkAttribute::Mtu(1500), kind];
        message.attributes.extend(attributes);
        message
    }

    #[test]
    fn other_end_of_a_veth_is_here_or_elsewhere() {
        let xdp = |attached| LinkAttribute::Xdp(vec![LinkXdp::Attached(attached)]);
        let messages = [
            veth(1, vec![LinkAttribute::Link(2), xdp(XdpAttached::Driver)]),
            veth(2, vec![LinkAttribute::Link(1), xdp(XdpAttached::SocketBuffer)]),
            // An index of that namespace, which may exist here, too.
            veth(3, vec![LinkAttribute::Link(1), LinkAttribute::LinkNetNsId(0)]),
        ];
        let messages: Vec<_> = messages.iter().collect();
        let links = messages.iter().filter_map(|message| read_link(message)).collect();
        let expected = [
            (1, OtherEnd::Here { ifindex: 2, has_xdp: false }),
            (2, OtherEnd::Here { ifindex: 1, has_xdp: true }),
            (3, OtherEnd::Elsewhere),
        ];
        assert_eq!(other_ends(&links, &messages), expected.into());
    }

    #[test]
    fn rule_without_table_is_foreign() {
        let mut message = rule(32766, 254, None);
        message.header.action = RuleAction::Unreachable;
        let expected = ForeignRule { family: Family::V6, priority: 32766, table: 0 };
        assert_eq!(foreign_rule(Family::V6, &message), Some(expected));
    }
}

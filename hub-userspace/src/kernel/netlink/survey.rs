//! A single look at the host's interfaces, and at the rules of other processes. Needs no privileges.

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
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
    /// Rules of others, in the kernel's order, IPv4 first.
    pub rules: Vec<ForeignRule>,
    /// Whether the agent, or an earlier version, has made one.
    pub has_own_rules: bool,
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
        let links = objects.iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewLink(message) => read_link(message),
            _ => None,
        });
        let links = links.collect();
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
        Ok(Self { links, rules, has_own_rules })
    }
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
    use rtnetlink::packet_route::route::RouteProtocol;

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

    #[test]
    fn rule_without_table_is_foreign() {
        let mut message = rule(32766, 254, None);
        message.header.action = RuleAction::Unreachable;
        let expected = ForeignRule { family: Family::V6, priority: 32766, table: 0 };
        assert_eq!(foreign_rule(Family::V6, &message), Some(expected));
    }
}

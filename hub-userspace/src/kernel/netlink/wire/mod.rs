//! Plan to netlink messages, and messages to plan. Pure.

mod neighbour;
mod route;
mod rule;

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteMessage, RouteProtocol},
    rule::{RuleAttribute, RuleMessage},
};

use self::{
    neighbour::read_neighbour,
    route::{action, table},
};
pub(super) use self::{
    neighbour::{bare_neighbour, is_managed, neighbour, neighbour_mac, neighbour_use, read_neighbour_key},
    route::{destination, metric, route, route_deletion, single_gateway},
    rule::{read_rule, rule, rule_deletion},
};
use super::{
    PROTOCOL, is_ours,
    plan::{Existing, Family, RouteAction, RouteKey},
};

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

pub(super) fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Selects all routes, rules or neighbours in a strict dump.
pub(super) mod all {
    use super::{AddressFamily, NeighbourMessage, RouteMessage, RuleMessage};

    /// Routes of a protocol, in any table.
    pub fn routes_of(family: AddressFamily, protocol: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = protocol.into();
        message
    }

    /// Rules; the kernel cannot filter by protocol.
    pub fn rules(family: AddressFamily) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family;
        message
    }

    /// Neighbours of both families; the kernel cannot filter by protocol.
    pub fn neighbours() -> NeighbourMessage {
        NeighbourMessage::default()
    }
}

/// A dumped route, if it is ours; without an action if it cannot come from a plan.
pub(super) fn our_route(message: &RouteMessage) -> Option<(RouteKey, Option<RouteAction>)> {
    if !is_our_route(message) {
        return None;
    }
    Some((route_key(message)?, action(message)))
}

/// Whether a route has a protocol of ours.
pub(super) fn is_our_route(message: &RouteMessage) -> bool {
    is_ours(message.header.protocol.into())
}

/// The kernel's key of a route; `None` for other families.
pub(super) fn route_key(message: &RouteMessage) -> Option<RouteKey> {
    Some(RouteKey { table: table(message), destination: destination(message)?, metric: metric(message) })
}

/// Whether a dumped rule has our protocol.
pub(super) fn is_our_rule(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)))
}

impl Existing {
    /// Records a dumped rule, if it is ours.
    pub(super) fn note_rule(&mut self, message: &RuleMessage) {
        if is_our_rule(message) {
            self.rules.push(message.clone());
        }
    }

    /// Records a dumped neighbour, if it is ours or conflicts with ours.
    pub(super) fn note_neighbour(&mut self, message: &NeighbourMessage) {
        let Some(key) = read_neighbour_key(message) else {
            return;
        };
        let ours = NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL));
        if message.attributes.contains(&ours) {
            self.neighbours.insert(key, read_neighbour(message));
        } else if message.header.state == NeighbourState::Permanent {
            self.foreign.insert(key, neighbour_mac(message));
        }
    }
}

#[cfg(test)]
mod tests;

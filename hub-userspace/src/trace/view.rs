//! Look-ups in the tables as the agent has written them: what the program finds in its maps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use hub_common::maps::{ANY_LOCAL, Local, NO_PORT_RULES, Remote, Rule, SCOPE_BITS, Scoped, UNATTRIBUTED, VPC};
use ipnet::IpNet;

use super::packet::Transport;
use crate::{
    api_types::trace::THE_VPC,
    fib::{
        Inputs,
        id_maps::IdMaps,
        tables::{Prefix, Tables},
    },
    routing::rib::{Rib, Target},
};

/// The agent's state, of which the tables are compiled, and the tables.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub inputs: Inputs<'a>,
    pub rib: &'a Rib,
    pub ids: &'a IdMaps,
    pub tables: &'a Tables,
}

/// Direction of a packet, which determines which of its ports is the site's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    FromSite,
    ToSite,
}

/// The result of the second half of a selector look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paired {
    /// Every local address is admitted.
    Any(u32),
    /// By this local prefix.
    Prefix(IpNet, u32),
    /// By the limit on protocol and ports of this local prefix.
    Rule(IpNet, u32, Rule),
    /// No pair with this remote admits the local address.
    NoPrefix,
    /// None of the limits admits protocol and ports.
    NoRule(IpNet),
}

impl Paired {
    /// The pair's owner, see [`hub_common::maps::owner`].
    pub fn owner(self) -> Option<u32> {
        match self {
            Self::Any(owner) | Self::Prefix(_, owner) | Self::Rule(_, owner, _) => Some(owner),
            Self::NoPrefix | Self::NoRule(_) => None,
        }
    }
}

impl View<'_> {
    /// The longest remote prefix of a scope.
    pub fn remote(&self, address: IpAddr, scope: u32) -> Option<(IpNet, Remote)> {
        let tables = &self.tables.policy;
        match address {
            IpAddr::V4(_) => longest(address, 32, |net| tables.v4.remotes.get(&v4(net, scope)?).copied()),
            IpAddr::V6(_) => longest(address, 128, |net| tables.v6.remotes.get(&v6(net, scope)?).copied()),
        }
    }

    /// The longest local prefix of a policy.
    fn local(&self, address: IpAddr, policy: u32) -> Option<(IpNet, Local)> {
        let tables = &self.tables.policy;
        match address {
            IpAddr::V4(_) => longest(address, 32, |net| tables.v4.locals.get(&v4(net, policy)?).copied()),
            IpAddr::V6(_) => longest(address, 128, |net| tables.v6.locals.get(&v6(net, policy)?).copied()),
        }
    }

    /// The route of an address.
    pub fn route(&self, address: IpAddr) -> Option<(IpNet, Target)> {
        longest(address, if address.is_ipv4() { 32 } else { 128 }, |net| self.rib.target(net))
    }

    /// The bits of `LINKS`.
    pub fn on_link(&self, address: IpAddr, ifindex: u32) -> u32 {
        let mapped: Ipv6Addr = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let found = longest(mapped.into(), 128, |net| self.tables.policy.links.get(&v6(net, ifindex)?).copied());
        found.map_or(0, |(_, bits)| bits)
    }

    /// The connection whose pair with this remote admits the packet. `local`: the address on the hub's side.
    pub fn paired(&self, remote: Remote, local: IpAddr, transport: Transport, direction: Direction) -> Paired {
        if remote.policy == ANY_LOCAL {
            return Paired::Any(remote.connection);
        }
        let Some((prefix, local)) = self.local(local, remote.policy) else { return Paired::NoPrefix };
        if local.rules == NO_PORT_RULES {
            return Paired::Prefix(prefix, local.connection);
        }
        let rules = self.tables.policy.limits.get(&local.rules);
        let used = rules.into_iter().flatten().take_while(|rule| rule.connection != UNATTRIBUTED);
        match used.copied().find(|rule| admits(rule, transport, direction)) {
            Some(rule) => Paired::Rule(prefix, rule.connection, rule),
            None => Paired::NoRule(prefix),
        }
    }

    /// Whether a route leads to the connection of this slot, whatever its weight and state.
    pub fn leads_to(&self, route: Option<&Target>, slot: u32) -> bool {
        match route {
            Some(Target::Connections(members)) => members.contains_key(&self.name(slot)),
            _ => false,
        }
    }

    /// Name of the connection of a `COUNTERS` slot.
    pub fn name(&self, slot: u32) -> String {
        let found = self.tables.policy.connections.get(&slot).cloned();
        found.unwrap_or_else(|| if slot == VPC { THE_VPC.to_owned() } else { format!("slot {slot}") })
    }

    /// Name of an interface.
    pub fn interface(&self, ifindex: u32) -> String {
        let link = self.inputs.host.links.get(&ifindex);
        link.map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    }
}

/// The first result for a prefix that contains the address, the longest prefix first.
fn longest<V>(address: IpAddr, bits: u8, find: impl Fn(IpNet) -> Option<V>) -> Option<(IpNet, V)> {
    (0..=bits).rev().find_map(|length| {
        let net = IpNet::new(address, length).ok()?.trunc();
        Some((net, find(net)?))
    })
}

fn v4(net: IpNet, scope: u32) -> Option<Prefix<Scoped<[u8; 4]>>> {
    let IpNet::V4(net) = net else { return None };
    Some(Prefix { data: Scoped::new(scope, net.network().octets()), length: SCOPE_BITS as u8 + net.prefix_len() })
}

fn v6(net: IpNet, scope: u32) -> Option<Prefix<Scoped<[u8; 16]>>> {
    let IpNet::V6(net) = net else { return None };
    Some(Prefix { data: Scoped::new(scope, net.network().octets()), length: SCOPE_BITS as u8 + net.prefix_len() })
}

fn admits(rule: &Rule, Transport { protocol, ports }: Transport, direction: Direction) -> bool {
    let is_in = |[first, last]: [u16; 2], port: u16| (first..=last).contains(&port);
    let ports_match = || {
        let Some((source, destination)) = ports else { return false };
        let (remote, local) = match direction {
            Direction::FromSite => (source, destination),
            Direction::ToSite => (destination, source),
        };
        is_in(rule.remote, remote) && is_in(rule.local, local)
    };
    (rule.protocol == 0 || rule.protocol == protocol) && (rule.flags & Rule::PORTS == 0 || ports_match())
}

/// Names of connections by slot, as far as an explanation needs them.
pub type Names = BTreeMap<u32, String>;

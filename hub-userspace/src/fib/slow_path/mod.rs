//! Kernel routes from the RIB: packets that the program passes to the kernel must take the same path there.
//!
//! All routes are in the main table, because a rule for another table would slow down every route look-up of the host.
//! Policy routes need rules ([`policy_rules`]).
//! Published routes have a protocol of their own, and are also in the operator's table if that is another. The nftables
//! table ensures that the kernel forwards by them only admitted packets ([`crate::kernel::guard`]). Pure.

mod own_prefixes;
mod rules;
mod source;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, LazyLock},
};

use ipnet::IpNet;

use crate::{
    config::{
        Config,
        model::{Connection, DEFAULT_PUBLISH_TABLE, WhenDown},
    },
    fib::Inputs,
    kernel::netlink::{
        BACKSTOP_METRIC, Family, INTERNAL_METRIC, KernelNeighbour, KernelNextHop, Link, MAIN_TABLE, METRIC,
        RouteAction, RouteKey,
    },
    routing::{
        members::kernel_weights,
        rib::{self, Members, Rib, Target},
    },
};

pub use self::{
    own_prefixes::{OwnPrefixes, own_prefix_key, own_prefixes},
    rules::{PolicyRules, policy_rules},
    source::{Preferred, Sources},
};

/// The link-local address that represents an IPv4 `peer` for IPv6: the kernel has no IPv6 route via an IPv4 neighbour,
/// so the IPv6 neighbour table maps this address to the peer's link address. The same on every link; the last bytes
/// spell "vpnhub".
const PEER_STAND_IN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x7670, 0x6e68, 0x7562);

/// Maximum of kernel routes per destination: the internal one, the backstop, and the published one.
pub const ENTRIES: usize = 3;

/// A kernel route and its desired action; `None` deletes it.
pub type KernelRoute = (RouteKey, Option<Arc<RouteAction>>);

/// An additional route for every destination with connections.
pub static BACKSTOP: LazyLock<Arc<RouteAction>> = LazyLock::new(|| Arc::new(RouteAction::Unreachable));

/// The address families of the configured prefixes: a host may have IPv6 disabled.
fn families(inputs: Inputs<'_>, rib: &Rib) -> BTreeSet<Family> {
    let vpc = inputs.config.vpc.iter().flat_map(|vpc| &vpc.cidrs);
    vpc.map(|cidr| family(*cidr)).chain(rib.families()).collect()
}

pub fn family(prefix: IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// What the kernel does with packets to destinations of one family with the same members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupAction {
    /// See [`action`].
    pub action: Option<Arc<RouteAction>>,
    /// See [`is_revoked`].
    pub is_revoked: bool,
}

/// The kernel routes of a destination; `action` returns that of its members. `table` holds the published route if it
/// is the configured table. Prefixes of the VPC have no routes: the kernel already has them.
pub fn entries_of(
    destination: IpNet,
    rib: &Rib,
    config: &Config,
    table: u32,
    action: impl Fn(&Arc<Members>) -> GroupAction,
) -> [KernelRoute; ENTRIES] {
    let none = || entries(destination, table, [None; ENTRIES]);
    let members = match rib.target(destination) {
        Some(Target::Connections(members)) => members,
        Some(_) => return none(),
        // Only a policy route leads there, and is published.
        None => match rib.policies().published().get(&destination) {
            Some(members) => Arc::clone(members),
            None => return none(),
        },
    };
    if has_route_of_daemon(destination, rib, config) {
        return none();
    }
    let GroupAction { action, is_revoked } = action(&members);
    let is_published = config.role.publishes() && rib.is_published(destination) && !is_revoked;
    let published_to = is_published.then(|| publish_table(config));
    // The backstop always exists: when an interface is removed, the kernel drops its routes before we get the event.
    // Traffic to a site must not leave unprotected by a less specific route or the default route.
    entries(
        destination,
        table,
        [
            action.as_ref().filter(|_| published_to != Some(MAIN_TABLE)),
            Some(&BACKSTOP),
            action.as_ref().filter(|_| published_to == Some(table)),
        ],
    )
}

/// Whether the published routes to these members are withdrawn: none of them is up, and all of them say so
/// (`when_down`). In hold-down a member is not up yet.
pub fn is_revoked(inputs: Inputs<'_>, members: &Members) -> bool {
    members.keys().all(|name| {
        let is_up = inputs.states.get(name).is_some_and(|state| state.is_up());
        let check = inputs.config.connections[name].health_check.as_ref();
        !is_up && check.is_some_and(|check| check.when_down == WhenDown::Revoke)
    })
}

/// Whether the kernel uses the routing daemon's own route. Another one beside it, of whatever metric, would make FRR
/// withdraw its own, because zebra prefers any route that it finds in its table.
fn has_route_of_daemon(destination: IpNet, rib: &Rib, config: &Config) -> bool {
    learns_from_main(config) && rib.is_learned(destination)
}

/// Whether the followed table is the one that the kernel looks up first.
pub fn learns_from_main(config: &Config) -> bool {
    config.learn.as_ref().is_some_and(|learn| learn.table == MAIN_TABLE)
}

/// The table for published routes.
pub fn publish_table(config: &Config) -> u32 {
    config.vpc.as_ref().map_or(DEFAULT_PUBLISH_TABLE, |vpc| vpc.publish_table)
}

fn entries(
    destination: IpNet,
    publish_table: u32,
    actions: [Option<&Arc<RouteAction>>; ENTRIES],
) -> [KernelRoute; ENTRIES] {
    let [internal, backstop, published] = actions.map(Option::<&_>::cloned);
    let key = |table, metric| RouteKey { table, destination, metric };
    [
        (key(MAIN_TABLE, INTERNAL_METRIC), internal),
        (key(MAIN_TABLE, BACKSTOP_METRIC), backstop),
        (key(publish_table, METRIC), published),
    ]
}

/// The kernel's action for destinations of a family with these members: next hops are the members that carry their
/// traffic and have an interface that is up. `None` without any. In the kernel's canonical form.
pub fn action(inputs: Inputs<'_>, sources: &Sources, members: &Members, family: Family) -> Option<RouteAction> {
    let active = rib::active(members, inputs.states);
    let hop = |((name, _), weight): ((&str, u32), u8)| {
        let connection = &inputs.config.connections[name];
        let link = inputs.host.link(&connection.interface).filter(|link| link.is_up())?;
        let via = via(connection, link, family);
        Some(KernelNextHop { ifindex: link.index, via, onlink: via.is_some(), weight })
    };
    let source = sources.of_members(inputs, active.iter().map(|(name, _)| *name), family);
    let weights = kernel_weights(&active);
    let next_hops: Vec<KernelNextHop> = active.into_iter().zip(weights).filter_map(hop).collect();
    (!next_hops.is_empty()).then(|| RouteAction::Unicast { next_hops, source }.normalised())
}

/// The neighbour that the kernel resolves; raw-IP links have none.
fn via(connection: &Connection, link: &Link, family: Family) -> Option<IpAddr> {
    let peer = connection.peer.filter(|_| link.ethernet)?;
    match (peer, family) {
        (IpAddr::V4(_), Family::V6) => Some(IpAddr::V6(PEER_STAND_IN)),
        _ => Some(peer),
    }
}

/// Link neighbours, which the program needs before any traffic triggers their resolution.
pub fn neighbours(inputs: Inputs<'_>, rib: &Rib) -> BTreeSet<KernelNeighbour> {
    let Inputs { config, host, .. } = inputs;
    let mut neighbours = BTreeSet::new();
    let has_v6 = families(inputs, rib).contains(&Family::V6);
    for connection in config.connections.values() {
        let Some(link) = host.link(&connection.interface).filter(|link| link.ethernet && link.is_up()) else {
            continue;
        };
        let Some(peer) = connection.peer else {
            continue;
        };
        neighbours.insert(KernelNeighbour::Managed { ifindex: link.index, address: peer });
        if peer.is_ipv4()
            && has_v6
            && let Some(mac) = host.neighbours.get(&(link.index, peer))
        {
            let address = IpAddr::V6(PEER_STAND_IN);
            neighbours.insert(KernelNeighbour::Permanent { ifindex: link.index, address, mac: *mac });
        }
    }
    let vpc =
        config.vpc.as_ref().and_then(|vpc| host.link(&vpc.interface)).filter(|link| link.ethernet && link.is_up());
    if let Some(link) = vpc {
        let managed = |address| KernelNeighbour::Managed { ifindex: link.index, address };
        neighbours.extend(rib.gateways().into_iter().flatten().map(managed));
    }
    neighbours
}

#[cfg(test)]
mod tests;

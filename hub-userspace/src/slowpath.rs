//! RIB to kernel routes: what the program passes to the kernel must take the same way there.
//!
//! All routes stand in a table of our own, reached by a rule for what comes in on attachments; the published ones stand
//! in the operator's table besides. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{
    compile::Inputs,
    config::model::{Connection, DEFAULT_PUBLISH_TABLE},
    netlink::{
        Family, HostPlan, KernelNeighbour, KernelNextHop, KernelRoute, KernelRule, Link, RouteAction, RuleMatch, TABLE,
    },
    rib::{self, Rib, Target},
};

/// The link-local address that stands for an IPv4 `peer` when IPv6 goes to it: the kernel has no IPv6 route through an
/// IPv4 neighbour, so the peer's link address gets this name in the IPv6 neighbour table. The same on every link; the
/// last bytes spell "vpnhub".
const PEER_STAND_IN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x7670, 0x6e68, 0x7562);

/// All that the agent wants the kernel to hold; `attached` are the names of the interfaces that have the program.
pub fn plan(inputs: Inputs<'_>, rib: &Rib, attached: &BTreeSet<String>) -> HostPlan {
    HostPlan { routes: routes(inputs, rib), rules: rules(inputs, attached), neighbours: neighbours(inputs, rib) }
}

/// Only for interfaces that have the program: where it could not be attached nobody has checked the selectors, and a way
/// of our own would lead around them.
fn rules(inputs: Inputs<'_>, attached: &BTreeSet<String>) -> BTreeSet<KernelRule> {
    let mut rules = BTreeSet::new();
    for name in attached {
        let link_local = [RuleMatch::LinkLocalSource(name.clone()), RuleMatch::LinkLocalDestination(name.clone())];
        rules.extend(link_local.map(|what| KernelRule { family: Family::V4, what }));
    }
    for family in families(inputs) {
        let interfaces = attached.iter().map(|name| RuleMatch::Interface(name.clone()));
        rules.extend(interfaces.chain([RuleMatch::LocalIcmp]).map(|what| KernelRule { family, what }));
    }
    rules
}

/// The families of the configured prefixes: a host may have IPv6 switched off.
fn families(inputs: Inputs<'_>) -> BTreeSet<Family> {
    let config = inputs.config;
    let prefixes = config.routes.iter().map(|route| &route.destination);
    let prefixes = prefixes.chain(config.vpc.iter().flat_map(|vpc| &vpc.cidrs));
    prefixes.map(|prefix| if prefix.addr().is_ipv4() { Family::V4 } else { Family::V6 }).collect()
}

fn routes(inputs: Inputs<'_>, rib: &Rib) -> BTreeSet<KernelRoute> {
    let config = inputs.config;
    let published: BTreeSet<IpNet> =
        config.routes.iter().filter(|route| route.publish).map(|route| route.destination).collect();
    let publish_table = config.vpc.as_ref().map_or(DEFAULT_PUBLISH_TABLE, |vpc| vpc.publish_table);
    let mut routes = BTreeSet::new();
    for (destination, target) in rib.iter() {
        let Target::Connections(members) = target else {
            continue;
        };
        // Always: when an interface goes, the kernel drops its routes before we hear of it, and what comes from a site
        // or the VPC must not leave unprotected by a wider route or the default one.
        routes.insert(KernelRoute { table: TABLE, destination, action: RouteAction::Unreachable });
        let next_hops = next_hops(inputs, destination, members);
        if next_hops.is_empty() {
            continue;
        }
        let action = RouteAction::Unicast { next_hops };
        if published.contains(&destination) {
            routes.insert(KernelRoute { table: publish_table, destination, action: action.clone() });
        }
        routes.insert(KernelRoute { table: TABLE, destination, action });
    }
    // The kernel's own tables know the way into the VPC; a site's wider route must not hide it.
    for cidr in config.vpc.iter().flat_map(|vpc| &vpc.cidrs) {
        routes.insert(KernelRoute { table: TABLE, destination: *cidr, action: RouteAction::Throw });
    }
    routes
}

/// The members that carry the destination's traffic and have an interface to carry it.
fn next_hops(inputs: Inputs<'_>, destination: IpNet, members: &BTreeMap<String, u8>) -> Vec<KernelNextHop> {
    let hop = |(name, part): (&str, u32)| {
        let connection = &inputs.config.connections[name];
        let link = inputs.host.link(&connection.interface).filter(|link| link.is_up())?;
        let via = via(connection, link, destination);
        let weight = u8::try_from(part).unwrap_or(u8::MAX);
        Some(KernelNextHop { ifindex: link.index, via, onlink: via.is_some(), weight })
    };
    rib::active(members, inputs.states).into_iter().filter_map(hop).collect()
}

/// Whom the kernel asks for a link address; raw-IP links have none.
fn via(connection: &Connection, link: &Link, destination: IpNet) -> Option<IpAddr> {
    let peer = connection.peer.filter(|_| link.ethernet)?;
    match (peer, destination) {
        (IpAddr::V4(_), IpNet::V6(_)) => Some(IpAddr::V6(PEER_STAND_IN)),
        _ => Some(peer),
    }
}

/// Link neighbours, whom the program needs to know before any traffic asks for them.
fn neighbours(inputs: Inputs<'_>, rib: &Rib) -> BTreeSet<KernelNeighbour> {
    let Inputs { config, host, .. } = inputs;
    let mut neighbours = BTreeSet::new();
    for connection in config.connections.values() {
        let Some(link) = host.link(&connection.interface).filter(|link| link.ethernet && link.is_up()) else {
            continue;
        };
        let Some(peer) = connection.peer else {
            continue;
        };
        neighbours.insert(KernelNeighbour::Managed { ifindex: link.index, address: peer });
        if peer.is_ipv4()
            && families(inputs).contains(&Family::V6)
            && let Some(mac) = host.neighbours.get(&(link.index, peer))
        {
            let address = IpAddr::V6(PEER_STAND_IN);
            neighbours.insert(KernelNeighbour::Permanent { ifindex: link.index, address, mac: *mac });
        }
    }
    let vpc =
        config.vpc.as_ref().and_then(|vpc| host.link(&vpc.interface)).filter(|link| link.ethernet && link.is_up());
    if let Some(link) = vpc {
        let gateways = rib.iter().filter_map(|(_, target)| match target {
            Target::Vpc { gateway } => *gateway,
            _ => None,
        });
        neighbours.extend(gateways.map(|address| KernelNeighbour::Managed { ifindex: link.index, address }));
    }
    neighbours
}

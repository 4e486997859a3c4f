//! RIB to kernel routes: what the program passes to the kernel must take the same way there.
//!
//! All routes stand in a table of our own, reached by a rule for what comes in on attachments; the published ones stand
//! in the operator's table besides. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, LazyLock},
};

use ipnet::IpNet;

use crate::{
    compile::Inputs,
    config::{
        Config,
        model::{Connection, DEFAULT_PUBLISH_TABLE},
    },
    netlink::{
        BACKSTOP_METRIC, Family, HostPlan, KernelNeighbour, KernelNextHop, KernelRoute, KernelRule, Link, METRIC,
        RouteAction, RouteKey, RuleMatch, TABLE,
    },
    rib::{self, Rib, Target},
};

/// The link-local address that stands for an IPv4 `peer` when IPv6 goes to it: the kernel has no IPv6 route through an
/// IPv4 neighbour, so the peer's link address gets this name in the IPv6 neighbour table. The same on every link; the
/// last bytes spell "vpnhub".
const PEER_STAND_IN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x7670, 0x6e68, 0x7562);

/// Kernel routes that one destination can have: in our table, behind that, and published.
pub const ENTRIES: usize = 3;

/// A kernel route, and what it is to do; nothing: it is not to be there.
pub type Entry = (RouteKey, Option<Arc<RouteAction>>);

/// What every destination that leads to connections has besides.
pub static BACKSTOP: LazyLock<Arc<RouteAction>> = LazyLock::new(|| Arc::new(RouteAction::Unreachable));

/// What the VPC's prefixes have.
pub static THROW: LazyLock<Arc<RouteAction>> = LazyLock::new(|| Arc::new(RouteAction::Throw));

/// All that the agent wants the kernel to hold; `attached` are the names of the interfaces that have the program.
pub fn plan(inputs: Inputs<'_>, rib: &Rib, attached: &BTreeSet<String>) -> HostPlan {
    let rules = rules(inputs, attached);
    HostPlan { routes: routes(inputs, rib), rules, neighbours: neighbours(inputs, &vpc_gateways(rib)) }
}

/// Only for interfaces that have the program: where it could not be attached nobody has checked the selectors, and a way
/// of our own would lead around them.
pub fn rules(inputs: Inputs<'_>, attached: &BTreeSet<String>) -> BTreeSet<KernelRule> {
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
    prefixes.copied().map(family).collect()
}

fn family(prefix: IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

fn routes(inputs: Inputs<'_>, rib: &Rib) -> BTreeSet<KernelRoute> {
    let config = inputs.config;
    let published: BTreeSet<IpNet> =
        config.routes.iter().filter(|route| route.publish).map(|route| route.destination).collect();
    let table = publish_table(config);
    let connected = rib.iter().flat_map(|(destination, target)| match target {
        Target::Connections(members) => {
            let action = action(inputs, members, family(destination)).map(Arc::new);
            connection_entries(destination, action.as_ref(), published.contains(&destination), table)
        }
        _ => no_entries(destination, table),
    });
    let vpc = config.vpc.iter().flat_map(|vpc| &vpc.cidrs).flat_map(|cidr| vpc_entries(*cidr, table));
    let wanted = connected.chain(vpc).filter_map(|(key, action)| Some((key, action?)));
    wanted
        .map(|(RouteKey { table, destination, .. }, action)| {
            let action = RouteAction::clone(&action);
            KernelRoute { table, destination, action }
        })
        .collect()
}

/// The table that published routes go to.
pub fn publish_table(config: &Config) -> u32 {
    config.vpc.as_ref().map_or(DEFAULT_PUBLISH_TABLE, |vpc| vpc.publish_table)
}

/// The kernel routes of a destination that leads to connections; `action` is what [`action`] says of its members.
pub fn connection_entries(
    destination: IpNet,
    action: Option<&Arc<RouteAction>>,
    published: bool,
    publish_table: u32,
) -> [Entry; ENTRIES] {
    // The backstop is always there: when an interface goes, the kernel drops its routes before we hear of it, and what
    // comes from a site or the VPC must not leave unprotected by a wider route or the default one.
    entries(destination, publish_table, [action, Some(&BACKSTOP), action.filter(|_| published)])
}

/// The kernel routes of a prefix of the VPC: the kernel's own tables know the way there, and a site's wider route must
/// not hide it.
pub fn vpc_entries(cidr: IpNet, publish_table: u32) -> [Entry; ENTRIES] {
    entries(cidr, publish_table, [Some(&THROW), None, None])
}

/// Those of a destination that is to have none, whatever it had.
pub fn no_entries(destination: IpNet, publish_table: u32) -> [Entry; ENTRIES] {
    entries(destination, publish_table, [None; ENTRIES])
}

fn entries(destination: IpNet, publish_table: u32, actions: [Option<&Arc<RouteAction>>; ENTRIES]) -> [Entry; ENTRIES] {
    let [own, backstop, published] = actions.map(Option::<&_>::cloned);
    let key = |table, metric| RouteKey { table, destination, metric };
    [
        (key(TABLE, METRIC), own),
        (key(TABLE, BACKSTOP_METRIC), backstop),
        // Never our own table: the configuration may not say so.
        (key(publish_table, METRIC), published),
    ]
}

/// What the kernel does with packets for destinations of a family that have these members: to those that carry their
/// traffic and have an interface to carry it. Nothing if there is none. In the form in which the kernel shows it.
pub fn action(inputs: Inputs<'_>, members: &BTreeMap<String, u8>, family: Family) -> Option<RouteAction> {
    let hop = |(name, part): (&str, u32)| {
        let connection = &inputs.config.connections[name];
        let link = inputs.host.link(&connection.interface).filter(|link| link.is_up())?;
        let via = via(connection, link, family);
        let weight = u8::try_from(part).unwrap_or(u8::MAX);
        Some(KernelNextHop { ifindex: link.index, via, onlink: via.is_some(), weight })
    };
    let next_hops: Vec<KernelNextHop> = rib::active(members, inputs.states).into_iter().filter_map(hop).collect();
    (!next_hops.is_empty()).then(|| RouteAction::Unicast { next_hops }.normalised())
}

/// Whom the kernel asks for a link address; raw-IP links have none.
fn via(connection: &Connection, link: &Link, family: Family) -> Option<IpAddr> {
    let peer = connection.peer.filter(|_| link.ethernet)?;
    match (peer, family) {
        (IpAddr::V4(_), Family::V6) => Some(IpAddr::V6(PEER_STAND_IN)),
        _ => Some(peer),
    }
}

/// The routers that lead into the VPC.
pub fn vpc_gateways(rib: &Rib) -> BTreeSet<IpAddr> {
    let gateway = |(_, target): (IpNet, &Target)| match target {
        Target::Vpc { gateway } => *gateway,
        _ => None,
    };
    rib.iter().filter_map(gateway).collect()
}

/// Link neighbours, whom the program needs to know before any traffic asks for them; `gateways` lead into the VPC.
pub fn neighbours(inputs: Inputs<'_>, gateways: &BTreeSet<IpAddr>) -> BTreeSet<KernelNeighbour> {
    let Inputs { config, host, .. } = inputs;
    let mut neighbours = BTreeSet::new();
    let has_v6 = families(inputs).contains(&Family::V6);
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
        let managed = |address: &IpAddr| KernelNeighbour::Managed { ifindex: link.index, address: *address };
        neighbours.extend(gateways.iter().map(managed));
    }
    neighbours
}

#[cfg(test)]
#[path = "slowpath_tests.rs"]
mod tests;

//! RIB to kernel routes: what the program passes to the kernel must take the same way there.
//!
//! All routes stand in a table of our own, reached by a rule for what comes in on attachments; the published ones stand
//! in the operator's table besides. Pure.

use std::{
    collections::BTreeSet,
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
        BACKSTOP_METRIC, Family, KernelNeighbour, KernelNextHop, KernelRule, Link, METRIC, RouteAction, RouteKey,
        RuleMatch, TABLE,
    },
    rib::{self, Members, Rib, Target},
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

/// Only for interfaces that have the program: where it could not be attached nobody has checked the selectors, and a way
/// of our own would lead around them.
pub fn rules(inputs: Inputs<'_>, rib: &Rib, attached: &BTreeSet<String>) -> BTreeSet<KernelRule> {
    let mut rules = BTreeSet::new();
    for name in attached {
        let link_local = [RuleMatch::LinkLocalSource(name.clone()), RuleMatch::LinkLocalDestination(name.clone())];
        rules.extend(link_local.map(|what| KernelRule { family: Family::V4, what }));
    }
    for family in families(inputs, rib) {
        let interfaces = attached.iter().map(|name| RuleMatch::Interface(name.clone()));
        rules.extend(interfaces.chain([RuleMatch::LocalIcmp]).map(|what| KernelRule { family, what }));
    }
    rules
}

/// The families of the configured prefixes: a host may have IPv6 switched off.
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

/// The kernel routes of a destination, whatever leads to it; `action` is what [`action`] says of its members. Published
/// are those that are to be, if `publish_table` is the table that the configuration says.
pub fn entries_of(
    destination: IpNet,
    rib: &Rib,
    config: &Config,
    table: u32,
    action: impl Fn(&Arc<Members>) -> Option<Arc<RouteAction>>,
) -> [Entry; ENTRIES] {
    match rib.target(destination) {
        Some(Target::Connections(members)) => {
            let published = table == publish_table(config) && rib.is_published(destination);
            connection_entries(destination, action(&members).as_ref(), published, table)
        }
        _ if config.vpc.as_ref().is_some_and(|vpc| vpc.cidrs.contains(&destination)) => vpc_entries(destination, table),
        _ => no_entries(destination, table),
    }
}

/// The table that published routes go to.
pub fn publish_table(config: &Config) -> u32 {
    config.vpc.as_ref().map_or(DEFAULT_PUBLISH_TABLE, |vpc| vpc.publish_table)
}

/// The kernel routes of a destination that leads to connections; `action` is what [`action`] says of its members.
fn connection_entries(
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
fn vpc_entries(cidr: IpNet, publish_table: u32) -> [Entry; ENTRIES] {
    entries(cidr, publish_table, [Some(&THROW), None, None])
}

/// Those of a destination that is to have none, whatever it had.
fn no_entries(destination: IpNet, publish_table: u32) -> [Entry; ENTRIES] {
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
pub fn action(inputs: Inputs<'_>, members: &Members, family: Family) -> Option<RouteAction> {
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

/// Link neighbours, whom the program needs to know before any traffic asks for them.
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
#[path = "slowpath_tests.rs"]
mod tests;

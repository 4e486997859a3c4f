//! Compiles the nftables ruleset for a configuration. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hub_common::maps::VPC;
use ipnet::IpNet;

use super::id_allocator::IdAllocator;
use crate::{
    config::{
        Config,
        model::{Connection, Service},
    },
    kernel::netlink::{self, HostState, Ruleset, SITES_GROUP},
    policy::selectors::Negotiated,
};

/// Interfaces of all connections.
pub fn sites(config: &Config) -> impl Iterator<Item = &str> {
    config.connections.values().map(|connection| connection.interface.as_str())
}

/// What the hub itself may send to each connection: the hub's side and the site's.
pub type Allowed = BTreeMap<String, BTreeSet<(IpNet, IpNet)>>;

pub fn ruleset(config: &Config, allowed: &Allowed, slots: &IdAllocator<String>) -> Ruleset {
    let mark = config.dataplane.mark;
    let of_connections = config
        .connections
        .iter()
        .filter_map(|(name, connection)| Some((mark.numbered(slots.get(name)?), connection.interface.clone())));
    let of_vpc = config.vpc.iter().map(|vpc| (mark.numbered(VPC), vpc.interface.clone()));
    Ruleset {
        sites: sites(config).map(str::to_owned).collect(),
        // The hub also replies to itself.
        vpc: config.vpc.iter().map(|vpc| vpc.interface.clone()).chain(["lo".to_owned()]).collect(),
        group: SITES_GROUP,
        mark,
        next_hops: of_connections.chain(of_vpc).collect(),
        output: output(config.connections.iter(), allowed).into(),
        services: config.gateway.services.iter().map(|service| service_of(*service)).collect(),
    }
}

/// Updates what the hub itself may send to these interfaces. Returns whether it differs.
pub fn update_output(
    ruleset: &mut Arc<Ruleset>,
    interfaces: &BTreeSet<&str>,
    config: &Config,
    allowed: &Allowed,
) -> bool {
    let on_them = config.connections.iter().filter(|(_, connection)| interfaces.contains(&*connection.interface));
    let mut changed = output(on_them, allowed);
    changed.retain(|interface, pairs| ruleset.output.get(interface) != Some(pairs));
    if changed.is_empty() {
        return false;
    }
    Arc::make_mut(ruleset).output.extend(changed);
    true
}

/// What the hub itself may send to these connections, by interface.
fn output<'a>(
    connections: impl Iterator<Item = (&'a String, &'a Connection)>,
    allowed: &Allowed,
) -> BTreeMap<String, BTreeSet<(IpNet, IpNet)>> {
    let mut output = BTreeMap::<_, BTreeSet<_>>::new();
    for (name, connection) in connections {
        output.entry(connection.interface.clone()).or_default().extend(allowed.get(name).into_iter().flatten());
    }
    output
}

/// What the hub itself may send to a connection, by the hub's addresses.
pub fn allowed(
    name: &str,
    connection: &Connection,
    host: &HostState,
    negotiated: &Negotiated,
) -> BTreeSet<(IpNet, IpNet)> {
    let agreed = negotiated.get(name).filter(|agreed| !agreed.on_demand && !agreed.pairs.is_empty());
    let mut pairs: BTreeSet<(IpNet, IpNet)> = match agreed {
        Some(agreed) => {
            let at_hub = |remote| connection.translate.prefixes_at_hub(remote);
            agreed
                .pairs
                .iter()
                .flat_map(|pair| at_hub(pair.remote).into_iter().map(|at_hub| (pair.local, at_hub)))
                .collect()
        }
        None => of_file(connection).collect(),
    };
    pairs.extend(of_link(connection, host));
    pairs.retain(|(hub, site)| is_v4(*hub) == is_v4(*site));
    pairs
}

/// Pairs of the hub's side and the site's.
fn of_file(connection: &Connection) -> impl Iterator<Item = (IpNet, IpNet)> {
    let locals = &connection.local_cidrs;
    connection.remotes_at_hub().into_iter().flat_map(move |remote| locals.iter().map(move |local| (*local, remote)))
}

/// Pairs of the hub's addresses on the link with the link's subnets and peers.
fn of_link(connection: &Connection, host: &HostState) -> Vec<(IpNet, IpNet)> {
    let Some(link) = host.link(&connection.interface) else { return Vec::new() };
    let addresses: Vec<IpNet> = host.addresses_of(link.index).collect();
    let links = addresses.iter().map(|own| (IpNet::from(own.addr()), own.trunc()));
    let peers = connection
        .peer
        .into_iter()
        .flat_map(|peer| addresses.iter().map(move |own| (IpNet::from(own.addr()), IpNet::from(peer))));
    links.chain(peers).filter(|(_, site)| !is_link_local(*site)).collect()
}

/// The table accepts packets to link-local addresses in any case. An interface gets and loses such an address whenever it
/// goes up and down.
fn is_link_local(site: IpNet) -> bool {
    match site {
        IpNet::V4(net) => net.prefix_len() >= 16 && net.addr().is_link_local(),
        IpNet::V6(net) => net.prefix_len() >= 10 && net.addr().is_unicast_link_local(),
    }
}

fn is_v4(prefix: IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

fn service_of(service: Service) -> netlink::GuardService {
    match service {
        Service::Icmp => netlink::GuardService::Icmp,
        Service::Tcp(port) => netlink::GuardService::Tcp(port),
        Service::Udp(port) => netlink::GuardService::Udp(port),
    }
}

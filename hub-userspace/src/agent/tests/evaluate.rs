//! The tables' decision about a packet: a reference implementation, as simple as possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use hub_common::maps::{
    ANY_LOCAL, Attachment, BUCKET_INDEX, Local, NO_PORT_RULES, NextHop, PolicyPair, Remote, Route, Rule, Scoped,
    UNATTRIBUTED, VPC, policy_sources, segment_of, slot_of,
};
use ipnet::{IpNet, Ipv4Net};

use crate::fib::tables::{EgressTables, PolicyRouteTables, Prefix, Tables};

#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub ifindex: u32,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Connection whose selectors admit the source.
    pub admitted: Option<Admitted>,
    /// Destination of the packet.
    pub way: Option<Way>,
    /// Sender and receivers whose segments reach each other, and those whose segments do not, by name.
    pub reached: BTreeSet<(String, String)>,
    pub isolated: BTreeSet<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    By(String),
    /// Restricted to protocols and ports: the rules, with names for slots.
    Limited(Vec<(String, Rule)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Hub,
    Vpc,
    /// One of these connections, by name.
    Connections(BTreeSet<String>),
}

pub fn evaluate(tables: &Tables, routes: &BTreeMap<IpNet, Route>, packet: &Packet) -> Answer {
    let (owners, route) = (owners(tables, packet), routed(tables, routes, packet));
    let hops: Vec<_> = route
        .filter(|route| route.flags & Route::HUB == 0)
        .map_or_else(Vec::new, |route| buckets(tables, route).collect());
    let pairs = owners.iter().flat_map(|owner| hops.iter().map(move |hop| (*owner, *hop)));
    let (reached, isolated) = pairs.partition::<Vec<_>, _>(|(owner, hop)| hop.segments >> segment_of(*owner) & 1 != 0);
    let names = |pairs: Vec<(u32, &NextHop)>| {
        pairs.into_iter().map(|(owner, hop)| (name(tables, owner), name(tables, hop.connection))).collect()
    };
    Answer {
        admitted: admitted(tables, packet),
        way: way(tables, route),
        reached: names(reached),
        isolated: names(isolated),
    }
}

/// The owners in the selectors that may admit a packet.
fn owners(tables: &Tables, packet: &Packet) -> BTreeSet<u32> {
    let Some(attachment) = tables.policy.attachments.get(&packet.ifindex) else { return BTreeSet::new() };
    let remote: Option<&Remote> = longest(&tables.policy.v4.remotes, attachment.scope, packet.source);
    let Some(remote) = remote else { return BTreeSet::new() };
    if remote.policy == ANY_LOCAL {
        return BTreeSet::from([remote.connection]);
    }
    let local: Option<&Local> = longest(&tables.policy.v4.locals, remote.policy, packet.destination);
    match local {
        None => BTreeSet::new(),
        Some(local) if local.rules == NO_PORT_RULES => BTreeSet::from([local.connection]),
        Some(local) => {
            let rules = tables.policy.limits.get(&local.rules).into_iter().flatten();
            rules.map(|rule| rule.connection).take_while(|owner| *owner != UNATTRIBUTED).collect()
        }
    }
}

fn admitted(tables: &Tables, packet: &Packet) -> Option<Admitted> {
    let attachment = tables.policy.attachments.get(&packet.ifindex)?;
    let remote: &Remote = longest(&tables.policy.v4.remotes, attachment.scope, packet.source)?;
    if remote.policy == ANY_LOCAL {
        return Some(Admitted::By(name(tables, remote.connection)));
    }
    let local: &Local = longest(&tables.policy.v4.locals, remote.policy, packet.destination)?;
    if local.rules == NO_PORT_RULES {
        return Some(Admitted::By(name(tables, local.connection)));
    }
    let rules = tables.policy.limits.get(&local.rules).expect("a local prefix leads to rules");
    let rules = rules.iter().take_while(|rule| rule.connection != UNATTRIBUTED);
    let named = |rule: &Rule| (name(tables, rule.connection), Rule { connection: 0, ..*rule });
    Some(Admitted::Limited(rules.map(named).collect()))
}

fn way(tables: &Tables, route: Option<Route>) -> Option<Way> {
    let route = route?;
    if route.flags & Route::HUB != 0 {
        return Some(Way::Hub);
    }
    let owners: BTreeSet<u32> = buckets(tables, route).map(|next_hop| next_hop.connection).collect();
    if route.flags & Route::VPC != 0 {
        assert_eq!(owners, BTreeSet::from([VPC]), "{route:?}");
        return Some(Way::Vpc);
    }
    Some(Way::Connections(owners.into_iter().map(|owner| name(tables, owner)).collect()))
}

/// The route of a packet: that of a policy route, unless it is for the hub itself.
fn routed(tables: &Tables, routes: &BTreeMap<IpNet, Route>, packet: &Packet) -> Option<Route> {
    let route = route(routes, packet.destination);
    let attachment = tables.policy.attachments.get(&packet.ifindex);
    let is_asked = attachment.is_some_and(|found| found.flags & Attachment::POLICY_ROUTES_V4 != 0);
    match route {
        Some(Route { flags, .. }) if flags & Route::HUB != 0 => route,
        _ if is_asked => {
            let generation = attachment.map_or(0, |found| Attachment::policy_generation(found.flags));
            policy_route(tables, generation, packet.source, packet.destination).or(route)
        }
        _ => route,
    }
}

fn policy_route(tables: &Tables, generation: u32, source: Ipv4Addr, destination: Ipv4Addr) -> Option<Route> {
    let PolicyRouteTables { v4, pairs, .. } = &tables.policy_routes;
    let source: &Remote = longest(v4, policy_sources(generation), source)?;
    let destination: &Remote = longest(v4, policy_sources(generation) + 1, destination)?;
    let own = pairs.get(&PolicyPair { source: source.policy, destination: destination.policy });
    let other = || pairs.get(&PolicyPair::other(source.policy)).filter(|_| source.connection != 0);
    assert!(
        source.connection == 0 || pairs.contains_key(&PolicyPair::other(source.policy)),
        "a source has its fallback"
    );
    own.or_else(other).copied().filter(|route| *route != Route::NONE)
}

fn route(routes: &BTreeMap<IpNet, Route>, destination: Ipv4Addr) -> Option<Route> {
    let covers = |(net, _): &(&IpNet, &Route)| net.contains(&IpAddr::V4(destination));
    routes.iter().filter(covers).max_by_key(|(net, _)| net.prefix_len()).map(|(_, route)| *route)
}

/// Next hops of a route's buckets.
pub fn buckets(tables: &Tables, route: Route) -> impl Iterator<Item = &NextHop> {
    let egress: &EgressTables = &tables.egress;
    (route.first_bucket..=route.first_bucket + u32::from(route.bucket_mask)).map(move |bucket| {
        let value = egress.buckets.get(bucket as usize).copied().unwrap_or(EgressTables::NOWHERE);
        assert_ne!(value, EgressTables::NOWHERE, "bucket {bucket} of a route leads nowhere");
        let next_hop = egress.next_hops.get(&(value & BUCKET_INDEX)).expect("a bucket leads to a next hop");
        if next_hop.ifindex != 0 {
            let port = tables.policy.ports.get(&next_hop.port);
            assert_eq!(port, Some(&next_hop.ifindex), "a next hop has its port");
        }
        next_hop
    })
}

pub fn name(tables: &Tables, slot: u32) -> String {
    match slot_of(slot) {
        UNATTRIBUTED => "-".to_owned(),
        VPC => "vpc".to_owned(),
        slot => tables.policy.connections.get(&slot).expect("a slot that is in use has an owner").clone(),
    }
}

fn longest<V>(map: &BTreeMap<Prefix<Scoped<[u8; 4]>>, V>, scope: u32, address: Ipv4Addr) -> Option<&V> {
    let of_scope = map.iter().filter(|(key, _)| key.data.scope == scope.to_be_bytes());
    let net = |key: &Prefix<Scoped<[u8; 4]>>| {
        Ipv4Net::new(key.data.address.into(), key.length - 32).expect("a prefix of up to 32 bits")
    };
    let around = of_scope.filter(|(key, _)| net(key).contains(&address));
    around.max_by_key(|(key, _)| key.length).map(|(_, value)| value)
}

//! The translations of a random world's connections.

use hub_tests::model::{Connection, Route, World, connection_of};
use ipnet::IpNet;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::draw::{percent, prefix, prefix_within};

/// Ranges that are never forwarded: a configuration may not translate them.
const SPECIAL: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8"];

/// Gives some connections that have an interface to themselves translations, and routes to the prefixes at the hub.
/// Others may share a prefix here, which a configuration may not.
pub fn draw(rng: &mut SmallRng, world: &mut World) {
    let World { connections, routes, .. } = world;
    let alone: Vec<bool> = connections
        .iter()
        .map(|one| connections.iter().filter(|other| other.interface == one.interface).count() == 1)
        .collect();
    for (connection, _) in connections.iter_mut().zip(alone).filter(|(_, alone)| *alone) {
        if percent(rng, 40) {
            for _ in 0..rng.random_range(1..=4) {
                add(rng, connection, routes);
            }
        }
    }
}

fn add(rng: &mut SmallRng, connection: &mut Connection, routes: &mut Vec<Route>) {
    let around = *connection.remotes.choose(rng).expect("every site has a prefix");
    let site = if percent(rng, 60) { around } else { prefix_within(rng, around) };
    let v6 = site.addr().is_ipv6();
    // Near the other prefixes of the world, or elsewhere.
    let elsewhere = if v6 { "fd77::/16" } else { "10.201.0.0/16" }.parse().expect("a prefix");
    let inside = if percent(rng, 50) { prefix(rng, v6, 8) } else { prefix_within(rng, elsewhere) };
    let hub = IpNet::new_assert(inside.addr(), site.prefix_len()).trunc();
    let overlaps = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    let is_special = |side: &IpNet| SPECIAL.iter().any(|range| overlaps(side, &range.parse().expect("a prefix")));
    let is_free = connection.translations.iter().all(|(own, at_hub)| !overlaps(own, &site) && !overlaps(at_hub, &hub));
    if !is_free || is_special(&site) || is_special(&hub) {
        return;
    }
    connection.translations.push((site, hub));
    let next_hop = connection_of(connection);
    let is_new = |route: &Route| route.destination != hub || route.next_hop != next_hop;
    if percent(rng, 85) && routes.iter().all(is_new) {
        routes.push(Route { destination: hub, next_hop: next_hop.to_owned(), weight: 100 });
    }
}

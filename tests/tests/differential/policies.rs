//! Random policy routes.

use std::collections::BTreeSet;

use hub_tests::model::{PolicyRoute, World};
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::draw::{one_of, percent, prefix, prefix_within};

/// In half of the worlds, up to 1,000 policy routes. `spread`: number of subnets of their prefixes.
pub fn draw(rng: &mut SmallRng, world: &mut World, spread: u8) {
    if percent(rng, 50) {
        return;
    }
    let count = match rng.random_range(0..10) {
        0..4 => rng.random_range(1..4),
        4..8 => rng.random_range(4..20),
        8 => rng.random_range(20..100),
        _ => one_of(rng, &[300, 1000]),
    };
    let any = [false, true].map(|v6| if v6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a prefix"));
    let mut taken = BTreeSet::new();
    for _ in 0..count {
        let v6 = percent(rng, 50);
        let next_hop = world.connections.choose(rng).expect("there is a connection").clone();
        // Prefixes of sites, so that their selectors admit many of the packets.
        let source = match rng.random_range(0..10) {
            0 => any[usize::from(v6)],
            1 => if v6 { "fd00:0:c::/48" } else { "192.168.0.0/16" }.parse().expect("a prefix"),
            2..6 => {
                let site = world.connections.choose(rng).expect("there is a connection");
                let remote = site.remotes.choose(rng).copied().expect("every site has a prefix");
                if percent(rng, 50) { remote } else { prefix_within(rng, remote) }
            }
            _ => prefix(rng, v6, spread),
        };
        let v6 = source.addr().is_ipv6();
        let of_family = next_hop.remotes.iter().filter(|remote| remote.addr().is_ipv6() == v6);
        let destination = match (rng.random_range(0..10), of_family.collect::<Vec<_>>().choose(rng)) {
            (0, _) => any[usize::from(v6)],
            (1..7, Some(remote)) => {
                if percent(rng, 50) {
                    **remote
                } else {
                    prefix_within(rng, **remote)
                }
            }
            _ => prefix(rng, v6, spread),
        };
        let priority = rng.random_range(1..=5);
        // One priority for each pair of prefixes and next hop, as in a configuration.
        if taken.insert((source, destination, next_hop.name.clone())) {
            let weight = one_of(rng, &[0, 1, 50, 100, 100]);
            world.policy_routes.push(PolicyRoute { source, destination, next_hop: next_hop.name, priority, weight });
        }
    }
}

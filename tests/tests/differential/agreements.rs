//! The negotiated selectors of a random world's connections.

use std::{collections::BTreeMap, ops::RangeInclusive};

use hub_tests::model::{Agreement, Connection, Pair, World};
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::draw::{one_of, percent, prefix_within};

/// Maximum number of limited pairs per interface: the kernel program has room for one more.
const MOST_LIMITED: usize = 7;
/// Limits of port ranges.
pub const PORTS: [u16; 6] = [0, 22, 1023, 1024, 40_000, 65_535];
/// Types and codes of ICMP messages: echo, unreachable, echo of IPv6.
pub const MESSAGES: [u16; 5] = [0x0000, 0x0800, 0x0301, 0x8000, 0x8100];
const PROTOCOLS: [u8; 7] = [6, 6, 17, 17, 1, 58, 132];

/// Gives some connections known SAs.
pub fn draw(rng: &mut SmallRng, world: &mut World) {
    let mut limited: BTreeMap<String, usize> = BTreeMap::new();
    for connection in &mut world.connections {
        if percent(rng, 60) {
            continue;
        }
        let left = MOST_LIMITED - limited.get(&connection.interface).copied().unwrap_or(0);
        let agreement = agreement(rng, connection, left);
        let count = agreement.pairs.iter().filter(|pair| is_limited(pair)).count();
        *limited.entry(connection.interface.clone()).or_default() += count;
        connection.agreement = Some(agreement);
    }
}

/// Pairs within the connection's prefixes, with at most this many limited ones.
fn agreement(rng: &mut SmallRng, connection: &Connection, most_limited: usize) -> Agreement {
    let mut pairs = Vec::new();
    let count = one_of(rng, &[0, 2, 3, 4, 6, 6]);
    let mut left = most_limited;
    // Percentage of pairs with a limit.
    let share = one_of(rng, &[0, 50, 100]);
    for _ in 0..count {
        let within = |rng: &mut SmallRng, prefixes: &[ipnet::IpNet]| {
            let prefix = prefixes.choose(rng).copied().expect("there is a prefix");
            if percent(rng, 85) { prefix } else { prefix_within(rng, prefix) }
        };
        let (remote, local) = (within(rng, &connection.remotes), within(rng, &connection.locals));
        let mut pair = Pair { remote, local, protocol: None, remote_ports: 0..=65535, local_ports: 0..=65535 };
        if left > 0 && percent(rng, share) {
            limit(rng, &mut pair);
        }
        left -= usize::from(is_limited(&pair));
        pairs.push(pair);
    }
    Agreement { pairs, on_demand: percent(rng, 20) }
}

fn limit(rng: &mut SmallRng, pair: &mut Pair) {
    let protocol = percent(rng, 80).then(|| one_of(rng, &PROTOCOLS));
    let numbers: &[u16] = if matches!(protocol, Some(1 | 58)) { &MESSAGES } else { &PORTS };
    let range = |rng: &mut SmallRng| -> RangeInclusive<u16> {
        let (one, other) = (one_of(rng, numbers), one_of(rng, numbers));
        if percent(rng, 65) { 0..=65535 } else { one.min(other)..=one.max(other) }
    };
    pair.protocol = protocol;
    pair.remote_ports = range(rng);
    pair.local_ports = range(rng);
}

/// Whether the pair is limited to a protocol or ports.
pub fn is_limited(pair: &Pair) -> bool {
    pair.protocol.is_some() || pair.remote_ports != (0..=65535) || pair.local_ports != (0..=65535)
}

/// A port at the limit of a range, or any port.
pub fn port(rng: &mut SmallRng) -> u16 {
    if percent(rng, 60) { one_of(rng, &PORTS) } else { rng.random() }
}

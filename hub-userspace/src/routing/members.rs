//! Members of a route, and which of them carry its traffic.
//!
//! A route leads to connections. Its members are these connections, or the tunnels of those that have some.

use std::collections::BTreeMap;

use crate::{
    config::{
        Config,
        model::DEFAULT_WEIGHT,
        tunnels::{connection_of, is_meant, tunnel_of},
    },
    connection::state::{State, States},
};

/// The next hops of a destination: connections by name, with the weights of their routes.
pub type NextHops = BTreeMap<String, u8>;

/// The members of a destination: connections without tunnels, and tunnels, by name.
pub type Members = BTreeMap<String, Weight>;

/// The weights of a member, each 0..=100, where 0 is standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight {
    /// Of the route to its connection.
    pub route: u8,
    /// Among the tunnels of its connection. Without effect if it is no tunnel.
    pub tunnel: u8,
}

/// That of a connection without tunnels.
impl From<u8> for Weight {
    fn from(route: u8) -> Self {
        Self { route, tunnel: DEFAULT_WEIGHT }
    }
}

/// The tunnels of connections that have some: the names of their members, with their weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels(BTreeMap<String, Vec<(String, u8)>>);

impl Tunnels {
    pub fn of(config: &Config) -> Self {
        let mut tunnels = BTreeMap::<String, Vec<(String, u8)>>::new();
        for (name, connection) in &config.connections {
            if let Some(weight) = connection.tunnel_weight {
                tunnels.entry(connection_of(name).to_owned()).or_default().push((name.clone(), weight));
            }
        }
        Self(tunnels)
    }

    /// The connections whose tunnels differ.
    pub fn differing<'t>(&'t self, other: &'t Self) -> impl Iterator<Item = &'t String> {
        let is_other = |name: &&String| self.0.get(*name) != other.0.get(*name);
        self.0.keys().chain(other.0.keys().filter(|name| !self.0.contains_key(*name))).filter(is_other)
    }

    /// The names of the members that routes to a connection have.
    pub fn members<'t>(&'t self, connection: &'t String) -> impl Iterator<Item = &'t String> {
        let tunnels = self.0.get(connection);
        tunnels.is_none().then_some(connection).into_iter().chain(tunnels.into_iter().flatten().map(|(name, _)| name))
    }

    /// Adds the members of a route to a connection, in place of those that it has.
    pub fn insert(&self, members: &mut Members, connection: &str, route: u8) {
        remove(members, connection);
        let Some(tunnels) = self.0.get(connection) else {
            members.insert(connection.to_owned(), route.into());
            return;
        };
        members.extend(tunnels.iter().map(|(name, tunnel)| (name.clone(), Weight { route, tunnel: *tunnel })));
    }

    pub fn expand(&self, next_hops: &NextHops) -> Members {
        let mut members = Members::new();
        for (name, route) in next_hops {
            self.insert(&mut members, name, *route);
        }
        members
    }
}

/// The connections that members belong to.
pub fn next_hops(members: &Members) -> NextHops {
    members.iter().map(|(name, weight)| (connection_of(name).to_owned(), weight.route)).collect()
}

/// Removes the members of a route to a connection.
pub fn remove(members: &mut Members, connection: &str) {
    if members.remove(connection).is_none() {
        members.retain(|name, _| connection_of(name) != connection);
    }
}

/// Which states to choose from, in order of preference. If none has one of the first three, all are chosen from, because
/// traffic must reach the tunnel to trigger negotiation.
const LEVELS: [&[State]; 4] = [
    &[State::Up],
    &[State::Degraded],
    &[State::HoldDown],
    &[State::Up, State::Degraded, State::HoldDown, State::Down, State::AdminDown],
];

/// The members that carry a destination's traffic now, with their shares of it, in order of their names.
///
/// The traffic is distributed over connections first. A connection is in the best state of its tunnels. Connections
/// with a weight above 0 that are up share the traffic in proportion to their weights. If none is up, those of weight 0
/// that are up share it evenly. If none at all is up, the same applies to [`State::Degraded`], and then to
/// [`State::HoldDown`]: those probably work. Otherwise all connections with a weight above 0 share it, because traffic
/// must reach the tunnel to trigger negotiation. Never falls through to a shorter prefix.
///
/// By the same rules, a connection distributes its share over its tunnels by their own weights.
pub fn active<'a>(members: &'a Members, states: &States) -> Vec<(&'a str, u32)> {
    let state = |name: &str| states.get(name).copied().unwrap_or(State::Down);
    for usable in LEVELS {
        let usable: Vec<(&str, Weight)> = members
            .iter()
            .filter(|(name, _)| usable.contains(&state(name)))
            .map(|(name, weight)| (name.as_str(), *weight))
            .collect();
        if !usable.is_empty() {
            return shares(&usable);
        }
    }
    Vec::new()
}

/// Maximum of a share. With 256 of them, [`super::buckets`] computes without overflow.
const MOST: u64 = 1 << 24;

/// The shares of members in usable states.
fn shares<'a>(usable: &[(&'a str, Weight)]) -> Vec<(&'a str, u32)> {
    let connections = usable.chunk_by(|(one, _), (other, _)| connection_of(one) == connection_of(other));
    let is_weighted = usable.iter().any(|(_, weight)| weight.route > 0);
    let connections: Vec<(u64, Vec<(&str, u64)>)> = connections
        .filter(|tunnels| (tunnels[0].1.route > 0) == is_weighted)
        .map(|tunnels| (u64::from(tunnels[0].1.route.max(1)), of_connection(tunnels)))
        .collect();
    let total = |tunnels: &[(&str, u64)]| tunnels.iter().map(|(_, weight)| weight).sum::<u64>();
    // In a unit in which all shares are whole numbers, if it is not too small.
    let unit = connections.iter().try_fold(1, |unit, (_, tunnels)| {
        let unit = least_common_multiple(unit, total(tunnels));
        (unit * 100 <= MOST).then_some(unit)
    });
    let unit = unit.unwrap_or(MOST / 100);
    let share =
        |route: u64, weight: u64, total: u64| u32::try_from((route * weight * unit / total).max(1)).unwrap_or(1);
    let all = connections.iter().flat_map(|(route, tunnels)| {
        let total = total(tunnels);
        tunnels.iter().map(move |(name, weight)| (*name, share(*route, *weight, total)))
    });
    all.collect()
}

/// The weights of a connection's tunnels in the smallest whole numbers, without those that stand by.
fn of_connection<'a>(tunnels: &[(&'a str, Weight)]) -> Vec<(&'a str, u64)> {
    let is_weighted = tunnels.iter().any(|(_, weight)| weight.tunnel > 0);
    let active = tunnels.iter().filter(|(_, weight)| (weight.tunnel > 0) == is_weighted);
    let weights = active.map(|(name, weight)| (*name, u64::from(weight.tunnel.max(1))));
    let weights: Vec<(&str, u64)> = weights.collect();
    let divisor = weights.iter().fold(0, |divisor, (_, weight)| greatest_common_divisor(divisor, *weight)).max(1);
    weights.into_iter().map(|(name, weight)| (name, weight / divisor)).collect()
}

const fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

const fn least_common_multiple(one: u64, other: u64) -> u64 {
    one / greatest_common_divisor(one, other) * other
}

/// A member's weights in a message.
pub fn weight_text(member: &str, weight: Weight) -> String {
    match tunnel_of(member) {
        None => weight.route.to_string(),
        Some(_) => format!("{}, of its tunnels {}", weight.route, weight.tunnel),
    }
}

/// The fraction of the flows of these members that `next_hop`, a connection or one of its tunnels, carries now, 0..=1.
pub fn share_of(members: &Members, next_hop: &str, states: &States) -> f64 {
    let active = active(members, states);
    let total: u32 = active.iter().map(|(_, part)| part).sum();
    let own: u32 = active.iter().filter(|(name, _)| is_meant(next_hop, name)).map(|(_, part)| part).sum();
    f64::from(own) / f64::from(total.max(1))
}

/// The weights of a kernel route's next hops, 1..=255, for these shares.
pub fn kernel_weights(shares: &[(&str, u32)]) -> Vec<u8> {
    let most = shares.iter().map(|(_, share)| *share).max().unwrap_or(1).max(1);
    let scaled = |share: u32| match u8::try_from(most) {
        Ok(_) => share,
        Err(_) => u32::try_from(u64::from(share) * 255 / u64::from(most)).unwrap_or(255),
    };
    shares.iter().map(|(_, share)| u8::try_from(scaled(*share).max(1)).unwrap_or(255)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members and states from `x/a 100:50 up`: name, weights of route and tunnel, state.
    fn parsed(text: &str) -> (Members, States) {
        let (mut members, mut states) = (Members::new(), States::new());
        for entry in text.split(", ") {
            let words: Vec<&str> = entry.split(' ').collect();
            let (route, tunnel) = words[1].split_once(':').unwrap_or((words[1], "100"));
            let weight = Weight { route: route.parse().expect(entry), tunnel: tunnel.parse().expect(entry) };
            members.insert(words[0].to_owned(), weight);
            let state = match words[2] {
                "up" => State::Up,
                "degraded" => State::Degraded,
                "hold" => State::HoldDown,
                "admin" => State::AdminDown,
                _ => State::Down,
            };
            states.insert(words[0].to_owned(), state);
        }
        (members, states)
    }

    #[test]
    fn connection_distributes_its_own_share_over_its_tunnels() {
        let table: [(&str, &[(&str, u32)]); 17] = [
            // Active and standby tunnel.
            ("x/a 100:100 up, x/b 100:0 up", &[("x/a", 100)]),
            ("x/a 100:100 down, x/b 100:0 up", &[("x/b", 100)]),
            ("x/a 100:100 hold, x/b 100:0 up", &[("x/b", 100)]),
            ("x/a 100:100 degraded, x/b 100:0 up", &[("x/b", 100)]),
            ("x/a 100:100 down, x/b 100:0 down", &[("x/a", 100)]),
            ("x/a 100:100 admin, x/b 100:0 hold", &[("x/b", 100)]),
            // The standby connection waits until no tunnel is up.
            ("x/a 100:100 down, x/b 100:0 up, y 0 up", &[("x/b", 100)]),
            ("x/a 100:100 down, x/b 100:0 down, y 0 up", &[("y", 1)]),
            ("x/a 0:100 down, x/b 0:0 up, y 100 down", &[("x/b", 1)]),
            ("x/a 100:100 degraded, x/b 100:0 down, y 0 up", &[("y", 1)]),
            // Equal-cost tunnels.
            ("x/a 100:100 up, x/b 100:100 up", &[("x/a", 100), ("x/b", 100)]),
            ("x/a 100:50 up, x/b 100:100 up, y 100 up", &[("x/a", 100), ("x/b", 200), ("y", 300)]),
            ("x/a 100:50 up, x/b 100:100 down, y 100 up", &[("x/a", 100), ("y", 100)]),
            ("x/a 20:100 up, x/b 20:0 up, y 80 up", &[("x/a", 20), ("y", 80)]),
            ("x/a 0:7 up, x/b 0:14 up, y 0 up", &[("x/a", 1), ("x/b", 2), ("y", 3)]),
            (
                "x/a 50:1 up, x/b 50:1 up, y/a 50:1 up, y/b 50:2 up",
                &[("x/a", 150), ("x/b", 150), ("y/a", 100), ("y/b", 200)],
            ),
            // Names in between.
            (
                "x 100 up, x-1 100 up, x/a 100:100 up, x/b 100:100 up, x0 100 up",
                &[("x", 200), ("x-1", 200), ("x/a", 100), ("x/b", 100), ("x0", 200)],
            ),
        ];
        for (text, expected) in table {
            let (members, states) = parsed(text);
            assert_eq!(active(&members, &states), expected, "{text}");
        }
    }

    #[test]
    fn shares_too_fine_for_whole_numbers_are_rounded_within_bounds() {
        let mut members = Members::new();
        for (connection, weights) in [(1, [89, 8]), (2, [83, 6]), (3, [79, 10]), (4, [97, 10]), (5, [1, 100])] {
            for (tunnel, weight) in weights.into_iter().enumerate() {
                members.insert(format!("c{connection}/{tunnel}"), Weight { route: 100, tunnel: weight });
            }
        }
        let states: States = members.keys().map(|name| (name.clone(), State::Up)).collect();
        let active = active(&members, &states);
        assert!(active.iter().all(|(_, share)| u64::from(*share) <= MOST), "{active:?}");
        for connection in 1..=5 {
            let share = share_of(&members, &format!("c{connection}"), &states);
            assert!((share - 0.2).abs() < 1e-5, "{share}");
        }
        let part = share_of(&members, "c1/0", &states);
        assert!((part - 0.2 * 89.0 / 97.0).abs() < 1e-5, "{part}");
        let weights = kernel_weights(&active);
        assert!(weights.contains(&255) && weights.iter().all(|weight| *weight > 0), "{weights:?}");
    }

    #[test]
    fn tunnels_of_next_hops_are_expanded_and_removed_together() {
        let two = vec![("x/a".to_owned(), 100), ("x/b".to_owned(), 0)];
        let tunnels = Tunnels([("x".to_owned(), two)].into());
        let hops = NextHops::from([("w".to_owned(), 7), ("x".to_owned(), 9)]);
        let mut members = tunnels.expand(&hops);
        assert_eq!(members.keys().collect::<Vec<_>>(), ["w", "x/a", "x/b"]);
        assert_eq!(next_hops(&members), hops);
        assert_eq!(Tunnels::default().differing(&tunnels).collect::<Vec<_>>(), ["x"]);
        remove(&mut members, "x");
        assert_eq!(members.keys().collect::<Vec<_>>(), ["w"]);
    }
}

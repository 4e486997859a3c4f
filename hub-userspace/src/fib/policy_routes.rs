//! Policy routes as the program looks them up: each source prefix is combined with each destination prefix in advance.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hub_common::maps::{Attachment, GROUP_BUCKETS, MAX_POLICY_PAIRS, PolicyPair, Remote, Route, policy_sources};
use ipnet::IpNet;

use super::{
    id_allocator::Full,
    id_maps::IdMaps,
    policy::scoped,
    tables::{PolicyRouteTables, PolicyTables},
};
use crate::{
    config::policy_routes::{PolicyKey, PolicyRoute},
    routing::rib::{Members, Rib},
};

/// Combinations of a generation; while they change, those of another one exist as well.
const MAX_PAIRS: usize = MAX_POLICY_PAIRS as usize / 2;
/// Numbers of a generation are this many bits long.
pub const GENERATION_SHIFT: u32 = 24;

/// Compiles a generation of the policy routes, after the groups of their next hops.
///
/// # Errors
/// When there are too many combinations.
pub fn policy_route_tables(rib: &Rib, ids: &IdMaps, generation: u32) -> Result<PolicyRouteTables, Full> {
    let IdMaps { policy, egress } = ids;
    let scope = policy_sources(generation);
    // Unique in all generations and both families.
    let mut numbers = (generation << GENERATION_SHIFT) + 1..;
    let mut tables = PolicyRouteTables::default();
    let route = |members: &Arc<Members>| {
        if let Some(first_bucket) = egress.first_bucket(members) {
            return Route { first_bucket, bucket_mask: GROUP_BUCKETS as u16 - 1, flags: 0 };
        }
        // A group of one has the bucket of the connection's slot.
        let only = members.keys().next().and_then(|name| policy.connections.get(name));
        Route { first_bucket: only.expect("every connection has been numbered"), bucket_mask: 0, flags: 0 }
    };
    for is_v4 in [true, false] {
        let of_family = |key: &PolicyKey| key.source.addr().is_ipv4() == is_v4;
        let policies: Vec<(&PolicyKey, Route)> = rib
            .policies()
            .iter()
            .filter(|(key, _)| of_family(key))
            .map(|(key, members)| (key, route(members)))
            .collect();
        let sources: BTreeSet<IpNet> = policies.iter().map(|(key, _)| key.source).collect();
        let destinations: BTreeSet<IpNet> = policies.iter().map(|(key, _)| key.destination).collect();
        // Sorted: a prefix comes directly before all prefixes in it.
        let destinations: Vec<IpNet> = destinations.into_iter().collect();
        let mut columns = Vec::with_capacity(destinations.len());
        for destination in &destinations {
            let number = numbers.next().unwrap_or_default();
            insert(&mut tables, scope + 1, *destination, Remote { policy: number, connection: 0 });
            columns.push(number);
        }
        for source in sources {
            let number = numbers.next().unwrap_or_default();
            let row = row(source, &destinations, &policies);
            let other = most_common(&row);
            for (destination, route) in columns.iter().zip(&row) {
                if *route != other {
                    let pair = PolicyPair { source: number, destination: *destination };
                    tables.pairs.insert(pair, route.unwrap_or(Route::NONE));
                }
            }
            if let Some(other) = other {
                tables.pairs.insert(PolicyPair::other(number), other);
            }
            let connection = u32::from(other.is_some());
            insert(&mut tables, scope, source, Remote { policy: number, connection });
            if tables.pairs.len() > MAX_PAIRS {
                return Err(Full::new("combinations of prefixes of policy routes", MAX_PAIRS));
            }
        }
    }
    Ok(tables)
}

/// The route from a source to each of these destinations, which are sorted.
fn row(source: IpNet, destinations: &[IpNet], policies: &[(&PolicyKey, Route)]) -> Vec<Option<Route>> {
    let mut row = vec![None; destinations.len()];
    // From each index the first one without a route; the path to it is shortened as it is walked.
    let mut free: Vec<usize> = (0..=destinations.len()).collect();
    let mut next_free = |from: usize, taken: bool| {
        let mut at = from;
        while free[at] != at {
            free[at] = free[free[at]];
            at = free[at];
        }
        if taken {
            free[at] = at + 1;
        }
        at
    };
    // In the order in which they match: the first one decides.
    for (key, route) in policies.iter().filter(|(key, _)| key.source.contains(&source)) {
        let first = destinations.partition_point(|destination| *destination < key.destination);
        let mut index = next_free(first, false);
        while destinations.get(index).is_some_and(|destination| key.destination.contains(destination)) {
            row[index] = Some(*route);
            next_free(index, true);
            index = next_free(index, false);
        }
    }
    row
}

/// The route for all destinations without an entry of their own: the one that saves most entries, if any.
fn most_common(row: &[Option<Route>]) -> Option<Route> {
    let mut counts = HashMap::<Route, usize>::new();
    row.iter().flatten().for_each(|route| *counts.entry(*route).or_default() += 1);
    let routed: usize = counts.values().sum();
    let (count, route) = counts
        .into_iter()
        .map(|(route, count)| (count, route))
        .max_by_key(|(count, route)| (*count, std::cmp::Reverse((route.first_bucket, route.bucket_mask))))?;
    (row.len() - count + 1 < routed).then_some(route)
}

/// The flags of attachments for policy routes. If these change, their new generation is set later.
pub(super) fn attachment_flags(routes: &[PolicyRoute], before: &PolicyTables) -> u16 {
    let flags = routes.iter().fold(0, |flags, route| match route.source {
        IpNet::V4(_) => flags | Attachment::POLICY_ROUTES_V4,
        IpNet::V6(_) => flags | Attachment::POLICY_ROUTES_V6,
    });
    match before.policy_generations().first() {
        Some(generation) if flags != 0 => Attachment::with_policy_generation(flags, *generation),
        _ => flags,
    }
}

fn insert(tables: &mut PolicyRouteTables, scope: u32, prefix: IpNet, value: Remote) {
    match prefix {
        IpNet::V4(net) => {
            tables.v4.insert(scoped(scope, net.network().octets(), net.prefix_len()), value);
        }
        IpNet::V6(net) => {
            tables.v6.insert(scoped(scope, net.network().octets(), net.prefix_len()), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    fn prefix(random: &mut SmallRng) -> IpNet {
        // Nested, with the same prefixes drawn often.
        let length = [0, 8, 9, 12, 16, 20, 24, 32][random.random_range(0..8)];
        let address = 10 << 24 | random.random_range(0..4_u32) << 20 | random.random_range(0..4_u32) << 10;
        IpNet::new(std::net::IpAddr::V4(address.into()), length).expect("a length").trunc()
    }

    /// The route of an address pair by a scan of all policy routes.
    fn scanned(policies: &[(&PolicyKey, Route)], source: IpNet, destination: IpNet) -> Option<Route> {
        let mut matching: Vec<_> = policies
            .iter()
            .filter(|(key, _)| key.source.contains(&source) && key.destination.contains(&destination))
            .collect();
        matching.sort_by_key(|(key, _)| *key);
        matching.first().map(|(_, route)| *route)
    }

    #[test]
    fn rows_equal_scan_of_all_policy_routes() {
        let mut random = SmallRng::seed_from_u64(17);
        for count in [0, 1, 2, 5, 20, 100, 1000] {
            let keys: BTreeSet<PolicyKey> = (0..count)
                .map(|_| PolicyKey {
                    priority: random.random_range(1..5),
                    source: prefix(&mut random),
                    destination: prefix(&mut random),
                })
                .collect();
            let routes = (0..).map(|first_bucket| Route { first_bucket, bucket_mask: 0, flags: 0 });
            let policies: Vec<_> = keys.iter().zip(routes).collect();
            let destinations: Vec<IpNet> =
                keys.iter().map(|key| key.destination).collect::<BTreeSet<_>>().into_iter().collect();
            for source in keys.iter().map(|key| key.source).collect::<BTreeSet<_>>() {
                let row = row(source, &destinations, &policies);
                for (destination, found) in destinations.iter().zip(row) {
                    assert_eq!(found, scanned(&policies, source, *destination), "{source} {destination}");
                }
            }
        }
    }
}

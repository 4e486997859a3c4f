//! Tables without their IDs, to compare agents with different histories.

use std::collections::{BTreeMap, BTreeSet};

use hub_common::maps::{
    ANY_LOCAL, Attachment, MssLimits, NO_PORT_RULES, NO_REVERSE_PATH, PolicyPair, Remote, Route, Rule, Scoped,
    UNATTRIBUTED, VPC, policy_sources,
};
use ipnet::IpNet;

use super::{
    evaluate::{buckets, name},
    sim::State,
};
use crate::{
    fib::tables::{FamilyMaps, PolicyRouteTables, Prefix, Tables},
    kernel::netlink::{RouteKey, RuleKind},
};

/// Largest difference in buckets between two distributions.
const ROUNDING: usize = 2;

#[derive(Debug, PartialEq, Eq)]
pub struct Canonical {
    /// The MSS limits, by connection.
    connections: BTreeMap<String, MssLimits>,
    mss_of_vpc: Option<MssLimits>,
    /// With their translations.
    attachments: BTreeMap<u32, (Attachment, String, Vec<String>, String)>,
    /// Selectors of connections, for packets to them.
    selectors: BTreeMap<String, Vec<String>>,
    /// Numbers of entries: no unused entry may remain.
    entries: [usize; 5],
    others: String,
    attached: BTreeMap<u32, (String, bool)>,
    guard: String,
    kernel_routes: String,
    /// By rule and family: the connection, and its table if that is another.
    rules: BTreeSet<String>,
    /// The members' next hops, by prefixes, and whether the table has all.
    policy_routes: BTreeMap<String, BTreeSet<String>>,
    /// Flags, members and kinds of next hops.
    routes: BTreeMap<IpNet, (u16, BTreeSet<String>, BTreeSet<String>)>,
}

pub fn canonical(state: &State) -> Canonical {
    let State { tables, routes, attached, kernel_routes, rules, .. } = state;
    let Tables { policy, neighbours, egress, policy_routes } = tables;
    let attachments = policy.attachments.iter().map(|(ifindex, attachment)| {
        let flags = Attachment::with_policy_generation(attachment.flags, 0);
        let plain = Attachment { scope: 0, connection: 0, translations: 0, flags, ..*attachment };
        let translations = policy.translations.get(&attachment.translations);
        assert_eq!(translations.is_none(), attachment.translations == 0, "an index without translations");
        let scope = scope(tables, attachment.scope);
        (*ifindex, (plain, name(tables, attachment.connection), scope, format!("{translations:?}")))
    });
    let route = |(destination, route): (&IpNet, &Route)| {
        if route.flags & Route::HUB != 0 {
            return (*destination, (route.flags, BTreeSet::new(), BTreeSet::new()));
        }
        let members = egress.members.keys().filter(|member| member.first_bucket == route.first_bucket);
        let members = members.map(|member| name(tables, member.connection)).collect();
        let ways = buckets(tables, *route).map(|hop| {
            format!("{} {} {} {} {:?}", name(tables, hop.connection), hop.ifindex, hop.mtu, hop.flags, hop.addresses)
        });
        (*destination, (route.flags, members, ways.collect()))
    };
    let in_use =
        routes.values().filter(|route| route.flags & Route::HUB == 0).flat_map(|route| buckets(tables, *route));
    let selectors = in_use.map(|hop| (name(tables, hop.connection), scope(tables, hop.scope)));
    let mut guard = state.guard.clone().expect("there is a table");
    let number = |mark: u32, name: &str| (mark & 0x1000_0000, name.to_owned());
    guard.next_hops = guard.next_hops.iter().map(|(mark, name)| number(*mark, name)).collect();
    Canonical {
        connections: policy.connections.iter().map(|(slot, name)| (name.clone(), policy.mss_limits[slot])).collect(),
        mss_of_vpc: policy.mss_limits.get(&VPC).copied(),
        attachments: attachments.collect(),
        selectors: selectors.collect(),
        entries: [
            policy.v4.remotes.len(),
            policy.v6.remotes.len(),
            egress.members.len(),
            policy.mss_limits.len(),
            policy.translations.len(),
        ],
        others: format!("{:?} {:?} {:?} {:?}", policy.vlans, policy.links, neighbours, state.translated),
        attached: attached.clone(),
        guard: format!("{guard:?}"),
        kernel_routes: format!(
            "{:?}",
            kernel_routes
                .iter()
                .map(|(key, action)| match key.table.checked_sub(1_180_000) {
                    Some(slot) => (name(tables, slot), RouteKey { table: 0, ..*key }, action),
                    None => (String::new(), *key, action),
                })
                .collect::<BTreeSet<_>>()
        ),
        rules: rules
            .iter()
            .map(|rule| match rule.kind {
                RuleKind::Marked { mark, mask, table } => {
                    let slot = (mark & !0x1000_0000) >> 16;
                    assert_eq!((mask, table), (0x1fff_0000, 1_180_000 + slot), "{rule:?}");
                    format!("{:?} {}", rule.family, name(tables, slot))
                }
                other => format!("{:?} {other:?}", rule.family),
            })
            .collect(),
        policy_routes: pairs(tables, policy_routes),
        routes: routes.iter().map(route).collect(),
    }
}

/// What each combination of two prefixes leads to.
fn pairs(tables: &Tables, policy_routes: &PolicyRouteTables) -> BTreeMap<String, BTreeSet<String>> {
    let in_use = tables.policy.policy_generations();
    assert!(in_use.len() <= 1, "all attachments have one generation of policy routes: {in_use:?}");
    let Some(generation) = in_use.first() else { return BTreeMap::new() };
    let mut all = of_pairs(tables, policy_routes, &policy_routes.v4, *generation);
    all.extend(of_pairs(tables, policy_routes, &policy_routes.v6, *generation));
    all
}

fn of_pairs<A: Ord + Copy + std::fmt::Debug>(
    tables: &Tables,
    policy_routes: &PolicyRouteTables,
    prefixes: &BTreeMap<Prefix<Scoped<A>>, Remote>,
    generation: u32,
) -> BTreeMap<String, BTreeSet<String>> {
    let of = |scope: u32| prefixes.iter().filter(move |(key, _)| key.data.scope == scope.to_be_bytes());
    let mut all = BTreeMap::new();
    for (source, from) in of(policy_sources(generation)) {
        for (destination, to) in of(policy_sources(generation) + 1) {
            let pair = PolicyPair { source: from.policy, destination: to.policy };
            let other = PolicyPair::other(from.policy);
            let found = policy_routes.pairs.get(&pair).or_else(|| policy_routes.pairs.get(&other));
            let found = found.filter(|route| **route != Route::NONE);
            let ways = found.into_iter().flat_map(|route| buckets(tables, *route));
            let key = format!(
                "{:?}/{} {:?}/{}",
                source.data.address, source.length, destination.data.address, destination.length
            );
            all.insert(key, ways.map(|hop| name(tables, hop.connection)).collect());
        }
    }
    all
}

/// Asserts that every destination's flows are distributed alike.
pub fn shares_must_agree(one: &State, other: &State) {
    for (destination, route) in &one.routes {
        let count = |state: &State, route: &Route| {
            let mut counts = BTreeMap::<String, usize>::new();
            if route.flags & Route::HUB == 0 {
                for hop in buckets(&state.tables, *route) {
                    *counts.entry(name(&state.tables, hop.connection)).or_default() += 1;
                }
            }
            counts
        };
        let (counts, others) = (count(one, route), count(other, &other.routes[destination]));
        for (name, count) in &counts {
            let other = others.get(name).copied().unwrap_or_default();
            assert!(count.abs_diff(other) <= ROUNDING, "{destination}: {counts:?} and {others:?}");
        }
    }
}

/// The selectors of a scope as text.
fn scope(tables: &Tables, number: u32) -> Vec<String> {
    let Tables { policy, .. } = tables;
    let mut all = of_family(tables, &policy.v4, number);
    all.extend(of_family(tables, &policy.v6, number));
    all
}

fn of_family<A: Ord + Copy + std::fmt::Debug>(tables: &Tables, family: &FamilyMaps<A>, scope: u32) -> Vec<String> {
    let of = |key: &Prefix<Scoped<A>>, scope: u32| key.data.scope == scope.to_be_bytes();
    let remotes = family.remotes.iter().filter(|(key, _)| of(key, scope));
    let text = |(key, remote): (&Prefix<Scoped<A>>, &Remote)| {
        let locals = family.locals.iter().filter(|(key, _)| remote.policy != ANY_LOCAL && of(key, remote.policy));
        let local = |(key, local): (&Prefix<Scoped<A>>, &hub_common::maps::Local)| {
            let rules = if local.rules == NO_PORT_RULES {
                Vec::new()
            } else {
                let rules = tables.policy.limits[&local.rules].iter();
                rules
                    .take_while(|rule| rule.connection != UNATTRIBUTED)
                    .map(|rule| (name(tables, rule.connection), Rule { connection: 0, ..*rule }))
                    .collect()
            };
            format!("{:?}/{} {} {rules:?}", key.data.address, key.length, name(tables, local.connection))
        };
        let locals: Vec<String> = locals.map(local).collect();
        let free = remote.connection & NO_REVERSE_PATH != 0;
        format!("{:?}/{} {} {free} {locals:?}", key.data.address, key.length, name(tables, remote.connection))
    };
    remotes.map(text).collect()
}

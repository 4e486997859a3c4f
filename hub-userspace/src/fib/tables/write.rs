//! The order in which the program's maps are written. Pure.
//!
//! A packet may arrive between any two writes, and each entry must refer only to existing entries. So new entries are
//! written from the last stage of the program to the first, and obsolete ones are deleted from the first to the last.

use std::{
    collections::{BTreeMap, HashSet},
    iter::empty,
    ops::Range,
};

use hub_common::maps::{
    Attachment, GROUP_BUCKETS, GroupMember, GroupRecord, LinkAddress, Local, MssLimits, Neighbour, NextHop, PolicyPair,
    Remote, Route, Rules, Scoped, Translations, Vlan,
};
use ipnet::IpNet;

use super::{
    EgressEntries, EgressTables, FamilyMaps, NeighbourTable, Obsolete, ObsoleteEntries, ObsoleteKeys, PolicyEntries,
    PolicyRouteTables, PolicyTables, Prefix, RouteChanges, Tables,
};
use crate::fib::diff::{MapDifference, difference, partial_difference};

/// Entries of one map and their new values, written in this order; `None` deletes the entry.
pub type MapChanges<K, V> = Vec<(K, Option<V>)>;

/// Changes of one of the program's maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The owner of a counter slot.
    Connections(MapChanges<u32, String>),
    Ports(MapChanges<u32, u32>),
    MssLimits(MapChanges<u32, MssLimits>),
    Translations(MapChanges<u32, Translations>),
    GroupMembers(MapChanges<GroupMember, u32>),
    NextHops(MapChanges<u32, NextHop>),
    Groups(MapChanges<u32, GroupRecord>),
    /// Never deleted: no route uses a bucket without a value.
    Buckets(MapChanges<u32, u32>),
    Neighbours(MapChanges<Neighbour, LinkAddress>),
    Links(MapChanges<Prefix<Scoped<[u8; 16]>>, u32>),
    PortRules(MapChanges<u32, Rules>),
    LocalsV4(MapChanges<Prefix<Scoped<[u8; 4]>>, Local>),
    RemotesV4(MapChanges<Prefix<Scoped<[u8; 4]>>, Remote>),
    LocalsV6(MapChanges<Prefix<Scoped<[u8; 16]>>, Local>),
    RemotesV6(MapChanges<Prefix<Scoped<[u8; 16]>>, Remote>),
    Routes(MapChanges<IpNet, Route>),
    PolicyPairs(MapChanges<PolicyPair, Route>),
    /// Of policy routes, in the maps of the remote prefixes of selectors.
    PolicyPrefixesV4(MapChanges<Prefix<Scoped<[u8; 4]>>, Remote>),
    PolicyPrefixesV6(MapChanges<Prefix<Scoped<[u8; 16]>>, Remote>),
    Vlans(MapChanges<Vlan, u32>),
    Attachments(MapChanges<u32, Attachment>),
}

impl Write {
    pub fn len(&self) -> usize {
        match self {
            Self::Connections(changes) => changes.len(),
            Self::Ports(changes) | Self::Buckets(changes) => changes.len(),
            Self::MssLimits(changes) => changes.len(),
            Self::Translations(changes) => changes.len(),
            Self::GroupMembers(changes) => changes.len(),
            Self::NextHops(changes) => changes.len(),
            Self::Groups(changes) => changes.len(),
            Self::Neighbours(changes) => changes.len(),
            Self::Links(changes) => changes.len(),
            Self::PortRules(changes) => changes.len(),
            Self::LocalsV4(changes) => changes.len(),
            Self::RemotesV4(changes) | Self::PolicyPrefixesV4(changes) => changes.len(),
            Self::LocalsV6(changes) => changes.len(),
            Self::RemotesV6(changes) | Self::PolicyPrefixesV6(changes) => changes.len(),
            Self::PolicyPairs(changes) => changes.len(),
            Self::Routes(changes) => changes.len(),
            Self::Vlans(changes) => changes.len(),
            Self::Attachments(changes) => changes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tables {
    /// The writes that produce these tables and change these routes. `None` leaves a table unchanged. `policy_routes`: of a
    /// generation.
    pub fn writes_to(
        &self,
        policy: Option<&PolicyEntries>,
        neighbours: Option<&NeighbourTable>,
        egress: &EgressEntries,
        policy_routes: Option<(u32, &PolicyRouteTables)>,
        routes: RouteChanges,
    ) -> Vec<Write> {
        let members = self.egress.difference_to(egress).members;
        let neighbours = neighbours.map(|new| difference(&self.neighbours, new)).unwrap_or_default();
        let (new_routes, old_routes) = routes.into_iter().partition(|(_, route)| route.is_some());
        let policy = policy.map(|policy| PolicyDifference::between(&self.policy, policy)).unwrap_or_default();
        let [before, after, last] = policy.puts();
        let [first, deleted, finally] = policy.deletes();
        let policy_routes = policy_routes.map(|(generation, new)| self.writes_of_policy_routes(generation, new));
        let parts = [
            before,
            vec![Write::GroupMembers(puts(&members))],
            self.reroutes_to(egress),
            vec![Write::Neighbours(puts(&neighbours))],
            after,
            vec![Write::Routes(new_routes)],
            // Before the attachments, which have the generation.
            policy_routes.unwrap_or_default(),
            last,
            // From here on only deletions.
            first,
            vec![Write::Routes(old_routes)],
            deleted,
            vec![Write::GroupMembers(deletes(&members)), Write::Neighbours(deletes(&neighbours))],
            finally,
        ];
        parts.into_iter().flatten().filter(|write| !write.is_empty()).collect()
    }

    /// The same for next hops and buckets only: all that a failure changes. A next hop without buckets stays in the map
    /// until its index is reused.
    pub fn reroutes_to(&self, egress: &EgressEntries) -> Vec<Write> {
        let EgressDifference { next_hops, groups, buckets, members: _ } = self.egress.difference_to(egress);
        let mut writes = vec![
            Write::NextHops(puts(&next_hops)),
            // Before the new ones: a record names the group that owns the buckets.
            Write::Groups(deletes(&groups)),
            Write::Groups(puts(&groups)),
            Write::Buckets(buckets),
            Write::NextHops(deletes(&next_hops)),
        ];
        writes.retain(|write| !write.is_empty());
        writes
    }

    /// Whether every interface of the next hops has its port.
    pub fn has_ports_of(&self, egress: &EgressEntries) -> bool {
        let mut hops = egress.next_hops.values().filter(|next_hop| next_hop.ifindex != 0);
        hops.all(|next_hop| self.policy.ports.get(&next_hop.port) == Some(&next_hop.ifindex))
    }

    /// Records that the first `count` entries of a write are in the map.
    pub fn note(&mut self, write: &Write, count: usize) {
        let Self { policy, neighbours, egress, policy_routes } = self;
        match write {
            Write::Connections(changes) => note(&mut policy.connections, changes, count),
            Write::Ports(changes) => note(&mut policy.ports, changes, count),
            Write::MssLimits(changes) => note(&mut policy.mss_limits, changes, count),
            Write::Translations(changes) => note(&mut policy.translations, changes, count),
            Write::GroupMembers(changes) => note(&mut egress.members, changes, count),
            Write::NextHops(changes) => note(&mut egress.next_hops, changes, count),
            Write::Groups(changes) => note(&mut egress.groups, changes, count),
            Write::Buckets(changes) => note_buckets(&mut egress.buckets, changes, count),
            Write::Neighbours(changes) => note(neighbours, changes, count),
            Write::Links(changes) => note(&mut policy.links, changes, count),
            Write::PortRules(changes) => note(&mut policy.limits, changes, count),
            Write::LocalsV4(changes) => note(&mut policy.v4.locals, changes, count),
            Write::RemotesV4(changes) => note(&mut policy.v4.remotes, changes, count),
            Write::LocalsV6(changes) => note(&mut policy.v6.locals, changes, count),
            Write::RemotesV6(changes) => note(&mut policy.v6.remotes, changes, count),
            Write::Routes(_) => {}
            Write::PolicyPairs(changes) => note(&mut policy_routes.pairs, changes, count),
            Write::PolicyPrefixesV4(changes) => note(&mut policy_routes.v4, changes, count),
            Write::PolicyPrefixesV6(changes) => note(&mut policy_routes.v6, changes, count),
            Write::Vlans(changes) => note(&mut policy.vlans, changes, count),
            Write::Attachments(changes) => note(&mut policy.attachments, changes, count),
        }
    }
}

/// The changes of the egress maps.
struct EgressDifference {
    next_hops: MapDifference<u32, NextHop>,
    groups: MapDifference<u32, GroupRecord>,
    buckets: MapChanges<u32, u32>,
    members: MapDifference<GroupMember, u32>,
}

impl EgressTables {
    fn difference_to(&self, new: &EgressEntries) -> EgressDifference {
        let EgressEntries { next_hops, members, buckets, groups, obsolete } = new;
        let value = |bucket: u32| self.buckets.get(bucket as usize).copied().unwrap_or(Self::NOWHERE);
        let differ = buckets.iter().filter(|(bucket, new)| value(*bucket) != *new);
        let puts = differ.map(|(bucket, new)| (*bucket, Some(*new)));
        let written: HashSet<u32> = buckets.iter().map(|(bucket, _)| *bucket).collect();
        let is_left = |bucket: &u32| value(*bucket) != Self::NOWHERE && !written.contains(bucket);
        let Some(Obsolete { next_hops: old_hops, buckets: old_buckets }) = obsolete else {
            let old = (0..).take(self.buckets.len()).filter(is_left);
            return EgressDifference {
                next_hops: difference(&self.next_hops, next_hops),
                groups: difference(&self.groups, groups),
                buckets: puts.chain(old.map(|bucket| (bucket, None))).collect(),
                members: difference(&self.members, members),
            };
        };
        let old_groups = || old_buckets.iter().filter(|range| range.len() > 1);
        let first = |first_bucket| GroupMember { first_bucket, connection: 0 };
        let of_group = |range: &Range<u32>| self.members.range(first(range.start)..first(range.end));
        let old = old_buckets.iter().cloned().flatten().filter(is_left);
        EgressDifference {
            next_hops: partial_difference(&self.next_hops, next_hops, old_hops.iter().copied()),
            groups: partial_difference(&self.groups, groups, old_groups().map(|range| range.start / GROUP_BUCKETS)),
            buckets: puts.chain(old.map(|bucket| (bucket, None))).collect(),
            members: partial_difference(&self.members, members, old_groups().flat_map(of_group).map(|(key, _)| *key)),
        }
    }
}

/// The changes of the policy.
#[derive(Default)]
struct PolicyDifference {
    connections: MapDifference<u32, String>,
    ports: MapDifference<u32, u32>,
    mss_limits: MapDifference<u32, MssLimits>,
    translations: MapDifference<u32, Translations>,
    links: MapDifference<Prefix<Scoped<[u8; 16]>>, u32>,
    limits: MapDifference<u32, Rules>,
    v4: SelectorDifference<[u8; 4]>,
    v6: SelectorDifference<[u8; 16]>,
    vlans: MapDifference<Vlan, u32>,
    attachments: MapDifference<u32, Attachment>,
}

impl PolicyDifference {
    fn between(old: &PolicyTables, entries: &PolicyEntries) -> Self {
        let new = &entries.tables;
        let Some(ObsoleteEntries { v4, v6, limits, links }) = &entries.obsolete else {
            return Self {
                connections: difference(&old.connections, &new.connections),
                ports: difference(&old.ports, &new.ports),
                mss_limits: difference(&old.mss_limits, &new.mss_limits),
                translations: difference(&old.translations, &new.translations),
                links: difference(&old.links, &new.links),
                limits: difference(&old.limits, &new.limits),
                v4: SelectorDifference::between(&old.v4, &new.v4),
                v6: SelectorDifference::between(&old.v6, &new.v6),
                vlans: difference(&old.vlans, &new.vlans),
                attachments: difference(&old.attachments, &new.attachments),
            };
        };
        Self {
            limits: partial_difference(&old.limits, &new.limits, limits.iter().copied()),
            v4: SelectorDifference::partial(&old.v4, &new.v4, v4),
            v6: SelectorDifference::partial(&old.v6, &new.v6, v6),
            attachments: partial_difference(&old.attachments, &new.attachments, empty()),
            links: partial_difference(&old.links, &new.links, links.iter().copied()),
            ..Self::default()
        }
    }

    /// New entries: before the next hops, between these and the routes, after the routes.
    fn puts(&self) -> [Vec<Write>; 3] {
        let Self { connections, ports, mss_limits, translations, links, limits, v4, v6, vlans, attachments } = self;
        [
            vec![
                Write::Connections(puts(connections)),
                Write::Ports(puts(ports)),
                Write::MssLimits(puts(mss_limits)),
                Write::Translations(puts(translations)),
            ],
            vec![
                Write::Links(puts(links)),
                Write::PortRules(puts(limits)),
                Write::LocalsV4(puts(&v4.locals)),
                Write::RemotesV4(puts(&v4.remotes)),
                Write::LocalsV6(puts(&v6.locals)),
                Write::RemotesV6(puts(&v6.remotes)),
            ],
            vec![Write::Vlans(puts(vlans)), Write::Attachments(puts(attachments))],
        ]
    }

    /// Deletions: before the routes, between these and the next hops, after the next hops.
    fn deletes(&self) -> [Vec<Write>; 3] {
        let Self { connections, ports, mss_limits, translations, links, limits, v4, v6, vlans, attachments } = self;
        [
            vec![Write::Attachments(deletes(attachments)), Write::Vlans(deletes(vlans))],
            vec![
                Write::RemotesV6(deletes(&v6.remotes)),
                Write::LocalsV6(deletes(&v6.locals)),
                Write::RemotesV4(deletes(&v4.remotes)),
                Write::LocalsV4(deletes(&v4.locals)),
                Write::PortRules(deletes(limits)),
                Write::Links(deletes(links)),
            ],
            vec![
                Write::Translations(deletes(translations)),
                Write::MssLimits(deletes(mss_limits)),
                Write::Ports(deletes(ports)),
                Write::Connections(deletes(connections)),
            ],
        ]
    }
}

/// The changes of one family's selectors.
struct SelectorDifference<A> {
    remotes: MapDifference<Prefix<Scoped<A>>, Remote>,
    locals: MapDifference<Prefix<Scoped<A>>, Local>,
}

impl<A> Default for SelectorDifference<A> {
    fn default() -> Self {
        Self { remotes: MapDifference::default(), locals: MapDifference::default() }
    }
}

impl<A: Ord + Copy> SelectorDifference<A> {
    fn between(old: &FamilyMaps<A>, new: &FamilyMaps<A>) -> Self {
        Self { remotes: difference(&old.remotes, &new.remotes), locals: difference(&old.locals, &new.locals) }
    }

    fn partial(old: &FamilyMaps<A>, new: &FamilyMaps<A>, obsolete: &ObsoleteKeys<A>) -> Self {
        let ObsoleteKeys { remotes, locals } = obsolete;
        Self {
            remotes: partial_difference(&old.remotes, &new.remotes, remotes.iter().copied()),
            locals: partial_difference(&old.locals, &new.locals, locals.iter().copied()),
        }
    }
}

fn puts<K: Copy, V: Clone>(difference: &MapDifference<K, V>) -> MapChanges<K, V> {
    difference.puts.iter().map(|(key, value)| (*key, Some(value.clone()))).collect()
}

fn deletes<K: Copy, V>(difference: &MapDifference<K, V>) -> MapChanges<K, V> {
    difference.deletes.iter().map(|key| (*key, None)).collect()
}

fn note<K: Ord + Copy, V: Clone>(table: &mut BTreeMap<K, V>, changes: &MapChanges<K, V>, count: usize) {
    for (key, value) in changes.iter().take(count) {
        match value {
            Some(value) => table.insert(*key, value.clone()),
            None => table.remove(key),
        };
    }
}

fn note_buckets(buckets: &mut Vec<u32>, changes: &MapChanges<u32, u32>, count: usize) {
    for (bucket, value) in changes.iter().take(count) {
        let index = *bucket as usize;
        if buckets.len() <= index {
            buckets.resize(index + 1, EgressTables::NOWHERE);
        }
        buckets[index] = value.unwrap_or(EgressTables::NOWHERE);
    }
}

//! The order in which the program's maps are written. Pure.
//!
//! A packet may come between any two writes. So what it finds leads only to what is there already: new entries are written
//! from the last stage of the program to the first, and what is gone is deleted from the first to the last.

use std::{collections::BTreeMap, iter::repeat};

use hub_common::maps::{
    Attachment, GroupMember, GroupRecord, LinkAddress, Local, Neighbour, NextHop, Remote, Route, Rules, Scoped, Vlan,
};
use ipnet::IpNet;

use super::{EgressTables, Family, PolicyTables, Prefix, RouteChanges, Tables};
use crate::fib::diff::{Difference, difference};

/// Entries of one map and their new values, written in this order; without a value, the entry is deleted.
pub type MapChanges<K, V> = Vec<(K, Option<V>)>;

/// Changes of one of the program's maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Whose counters a slot has.
    Connections(MapChanges<u32, String>),
    Ports(MapChanges<u32, u32>),
    GroupMembers(MapChanges<GroupMember, u32>),
    NextHops(MapChanges<u32, NextHop>),
    Groups(MapChanges<u32, GroupRecord>),
    /// Never deleted: a bucket without a value is used by no route.
    Buckets(MapChanges<u32, u32>),
    Neighbours(MapChanges<Neighbour, LinkAddress>),
    Links(MapChanges<Prefix<Scoped<[u8; 16]>>, u32>),
    PortRules(MapChanges<u32, Rules>),
    LocalsV4(MapChanges<Prefix<Scoped<[u8; 4]>>, Local>),
    RemotesV4(MapChanges<Prefix<Scoped<[u8; 4]>>, Remote>),
    LocalsV6(MapChanges<Prefix<Scoped<[u8; 16]>>, Local>),
    RemotesV6(MapChanges<Prefix<Scoped<[u8; 16]>>, Remote>),
    Routes(MapChanges<IpNet, Route>),
    Vlans(MapChanges<Vlan, u32>),
    Attachments(MapChanges<u32, Attachment>),
}

impl Write {
    pub fn len(&self) -> usize {
        match self {
            Self::Connections(changes) => changes.len(),
            Self::Ports(changes) | Self::Buckets(changes) => changes.len(),
            Self::GroupMembers(changes) => changes.len(),
            Self::NextHops(changes) => changes.len(),
            Self::Groups(changes) => changes.len(),
            Self::Neighbours(changes) => changes.len(),
            Self::Links(changes) => changes.len(),
            Self::PortRules(changes) => changes.len(),
            Self::LocalsV4(changes) => changes.len(),
            Self::RemotesV4(changes) => changes.len(),
            Self::LocalsV6(changes) => changes.len(),
            Self::RemotesV6(changes) => changes.len(),
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
    /// The writes that lead to these tables and change these routes.
    pub fn writes_to(&self, policy: &PolicyTables, egress: &EgressTables, routes: RouteChanges) -> Vec<Write> {
        let old = &self.policy;
        let connections = difference(&old.connections, &policy.connections);
        let ports = difference(&old.ports, &policy.ports);
        let members = difference(&self.egress.members, &egress.members);
        let neighbours = difference(&old.neighbours, &policy.neighbours);
        let links = difference(&old.links, &policy.links);
        let limits = difference(&old.limits, &policy.limits);
        let v4 = Selectors::between(&old.v4, &policy.v4);
        let v6 = Selectors::between(&old.v6, &policy.v6);
        let vlans = difference(&old.vlans, &policy.vlans);
        let attachments = difference(&old.attachments, &policy.attachments);
        let (new_routes, old_routes) = routes.into_iter().partition(|(_, route)| route.is_some());

        let mut writes = vec![
            Write::Connections(puts(&connections)),
            Write::Ports(puts(&ports)),
            Write::GroupMembers(puts(&members)),
        ];
        writes.extend(self.reroutes_to(egress));
        writes.extend([
            Write::Neighbours(puts(&neighbours)),
            Write::Links(puts(&links)),
            Write::PortRules(puts(&limits)),
            Write::LocalsV4(puts(&v4.locals)),
            Write::RemotesV4(puts(&v4.remotes)),
            Write::LocalsV6(puts(&v6.locals)),
            Write::RemotesV6(puts(&v6.remotes)),
            Write::Routes(new_routes),
            Write::Vlans(puts(&vlans)),
            Write::Attachments(puts(&attachments)),
        ]);
        writes.extend([
            Write::Attachments(deletes(&attachments)),
            Write::Vlans(deletes(&vlans)),
            Write::Routes(old_routes),
            Write::RemotesV6(deletes(&v6.remotes)),
            Write::LocalsV6(deletes(&v6.locals)),
            Write::RemotesV4(deletes(&v4.remotes)),
            Write::LocalsV4(deletes(&v4.locals)),
            Write::PortRules(deletes(&limits)),
            Write::Links(deletes(&links)),
            Write::GroupMembers(deletes(&members)),
            Write::Neighbours(deletes(&neighbours)),
            Write::Ports(deletes(&ports)),
            Write::Connections(deletes(&connections)),
        ]);
        writes.retain(|write| !write.is_empty());
        writes
    }

    /// The same for the next hops and buckets alone: all that a failure changes. What no bucket leads to any more stays in
    /// the map until its index is used again.
    pub fn reroutes_to(&self, egress: &EgressTables) -> Vec<Write> {
        let next_hops = difference(&self.egress.next_hops, &egress.next_hops);
        let groups = difference(&self.egress.groups, &egress.groups);
        let (old, new) = (&self.egress.buckets, &egress.buckets);
        let both =
            old.iter().chain(repeat(&EgressTables::NOWHERE)).zip(new.iter().chain(repeat(&EgressTables::NOWHERE)));
        let differ = (0..).zip(both.take(old.len().max(new.len()))).filter(|(_, (old, new))| old != new);
        let value = |value: u32| (value != EgressTables::NOWHERE).then_some(value);
        let buckets = differ.map(|(bucket, (_, new))| (bucket, value(*new))).collect();
        let mut writes = vec![
            Write::NextHops(puts(&next_hops)),
            // Before those that come: a record names the group that has the buckets.
            Write::Groups(deletes(&groups)),
            Write::Groups(puts(&groups)),
            Write::Buckets(buckets),
            Write::NextHops(deletes(&next_hops)),
        ];
        writes.retain(|write| !write.is_empty());
        writes
    }

    /// Whether every interface that the next hops lead to has its port.
    pub fn has_ports_of(&self, egress: &EgressTables) -> bool {
        let mut hops = egress.next_hops.values().filter(|next_hop| next_hop.ifindex != 0);
        hops.all(|next_hop| self.policy.ports.get(&next_hop.port) == Some(&next_hop.ifindex))
    }

    /// Notes that the first `count` entries of a write are in the map.
    pub fn note(&mut self, write: &Write, count: usize) {
        let Self { policy, egress } = self;
        match write {
            Write::Connections(changes) => note(&mut policy.connections, changes, count),
            Write::Ports(changes) => note(&mut policy.ports, changes, count),
            Write::GroupMembers(changes) => note(&mut egress.members, changes, count),
            Write::NextHops(changes) => note(&mut egress.next_hops, changes, count),
            Write::Groups(changes) => note(&mut egress.groups, changes, count),
            Write::Buckets(changes) => note_buckets(&mut egress.buckets, changes, count),
            Write::Neighbours(changes) => note(&mut policy.neighbours, changes, count),
            Write::Links(changes) => note(&mut policy.links, changes, count),
            Write::PortRules(changes) => note(&mut policy.limits, changes, count),
            Write::LocalsV4(changes) => note(&mut policy.v4.locals, changes, count),
            Write::RemotesV4(changes) => note(&mut policy.v4.remotes, changes, count),
            Write::LocalsV6(changes) => note(&mut policy.v6.locals, changes, count),
            Write::RemotesV6(changes) => note(&mut policy.v6.remotes, changes, count),
            Write::Routes(_) => {}
            Write::Vlans(changes) => note(&mut policy.vlans, changes, count),
            Write::Attachments(changes) => note(&mut policy.attachments, changes, count),
        }
    }
}

/// What changes of one family's selectors.
struct Selectors<A> {
    remotes: Difference<Prefix<Scoped<A>>, Remote>,
    locals: Difference<Prefix<Scoped<A>>, Local>,
}

impl<A: Ord + Copy> Selectors<A> {
    fn between(old: &Family<A>, new: &Family<A>) -> Self {
        Self { remotes: difference(&old.remotes, &new.remotes), locals: difference(&old.locals, &new.locals) }
    }
}

fn puts<K: Copy, V: Clone>(difference: &Difference<K, V>) -> MapChanges<K, V> {
    difference.puts.iter().map(|(key, value)| (*key, Some(value.clone()))).collect()
}

fn deletes<K: Copy, V>(difference: &Difference<K, V>) -> MapChanges<K, V> {
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

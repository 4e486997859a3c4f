//! What the program's maps hold, as the agent wants it: plain data, compared by [`crate::diff`].

use std::collections::BTreeMap;

use hub_common::maps::{Attachment, LinkAddress, Neighbour, NextHop, Remote, Route, Scoped, Vlan};

/// All maps but the counters. Keys and values are the maps' own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Names of the connections that the counters belong to, by slot.
    pub connections: BTreeMap<u32, String>,
    /// By ifindex.
    pub attachments: BTreeMap<u32, Attachment>,
    /// The VLAN's own ifindex.
    pub vlans: BTreeMap<Vlan, u32>,
    pub v4: Family<[u8; 4]>,
    pub v6: Family<[u8; 16]>,
    /// Index into `next_hops`, by bucket.
    pub buckets: BTreeMap<u32, u32>,
    pub next_hops: BTreeMap<u32, NextHop>,
    /// ifindex, by port.
    pub ports: BTreeMap<u32, u32>,
}

/// The maps that there are for each address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family<A> {
    pub remotes: BTreeMap<Prefix<Scoped<A>>, Remote>,
    /// `COUNTERS` slot of the connection.
    pub locals: BTreeMap<Prefix<Scoped<A>>, u32>,
    pub routes: BTreeMap<Prefix<A>, Route>,
    pub neighbours: BTreeMap<Neighbour<A>, LinkAddress>,
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self { remotes: BTreeMap::new(), locals: BTreeMap::new(), routes: BTreeMap::new(), neighbours: BTreeMap::new() }
    }
}

/// Key of a longest-prefix-match trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix<K> {
    pub data: K,
    /// Bits of `data` that count, from the first; the others are 0.
    pub length: u8,
}

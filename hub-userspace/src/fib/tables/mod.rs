//! What the program's maps hold: plain data, compared by [`crate::fib::diff`], and the writes that lead from one state of them
//! to the next.

mod write;

use std::collections::{BTreeMap, BTreeSet};

use hub_common::maps::{
    Attachment, GroupMember, GroupRecord, LinkAddress, Local, Neighbour, NextHop, Remote, Route, Rules, Scoped, Vlan,
};
use ipnet::IpNet;

pub use self::write::{MapChanges, Write};

/// What the program's maps hold now, but for the routes: there may be a million, and the RIB knows which of them changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub policy: PolicyTables,
    pub neighbours: NeighbourTable,
    pub egress: EgressTables,
}

/// Link addresses of hosts that are reached directly.
pub type NeighbourTable = BTreeMap<Neighbour, LinkAddress>;

/// Where packets come in and whom they are from: everything before the route is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTables {
    /// Names of the connections that the counters belong to, by slot.
    pub connections: BTreeMap<u32, String>,
    /// By ifindex.
    pub attachments: BTreeMap<u32, Attachment>,
    /// The VLAN's own ifindex.
    pub vlans: BTreeMap<Vlan, u32>,
    pub v4: FamilyMaps<[u8; 4]>,
    pub v6: FamilyMaps<[u8; 16]>,
    pub limits: BTreeMap<u32, Rules>,
    /// Bits of [`hub_common::maps::link`], by ifindex and prefix, IPv4 ones as IPv4-mapped.
    pub links: BTreeMap<Prefix<Scoped<[u8; 16]>>, u32>,
    /// ifindex, by port.
    pub ports: BTreeMap<u32, u32>,
    /// In no map: slots of connections with more limits to protocols and ports than there is room for. What is beyond
    /// is not admitted.
    pub truncated: BTreeSet<u32>,
}

/// The maps that there are for each address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyMaps<A> {
    pub remotes: BTreeMap<Prefix<Scoped<A>>, Remote>,
    pub locals: BTreeMap<Prefix<Scoped<A>>, Local>,
}

impl<A> Default for FamilyMaps<A> {
    fn default() -> Self {
        Self { remotes: BTreeMap::new(), locals: BTreeMap::new() }
    }
}

/// Where packets leave: few, however many routes lead there. All that a failure changes is here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressTables {
    pub next_hops: BTreeMap<u32, NextHop>,
    /// Members of groups with several; the value means nothing.
    pub members: BTreeMap<GroupMember, u32>,
    /// Index into `next_hops` and above it the bits of [`hub_common::maps::path_of`], by bucket; [`EgressTables::NOWHERE`] for one that no route uses.
    pub buckets: Vec<u32>,
    /// Whose buckets these are, by first bucket divided by [`hub_common::maps::GROUP_BUCKETS`]; groups of one are not here.
    pub groups: BTreeMap<u32, GroupRecord>,
}

impl EgressTables {
    pub const NOWHERE: u32 = u32::MAX;
}

/// Destinations whose routes change, and what they say from now on; nothing for one that is gone.
///
/// Not a whole table: there may be a million, and the RIB knows which of them changed.
pub type RouteChanges = Vec<(IpNet, Option<Route>)>;

/// Key of a longest-prefix-match trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix<K> {
    pub data: K,
    /// Bits of `data` that count, from the first; the others are 0.
    pub length: u8,
}

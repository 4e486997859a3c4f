//! The contents of the program's maps as plain data, compared by [`crate::fib::diff`], and the writes from one state to
//! the next.

mod policy_routes;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use hub_common::maps::{
    Attachment, GroupMember, GroupRecord, LinkAddress, Local, MssLimits, Neighbour, NextHop, Remote, Route, Rules,
    Scoped, Translations, Vlan,
};
use ipnet::IpNet;

pub use self::{
    policy_routes::PolicyRouteTables,
    write::{MapChanges, Write},
};

/// The current contents of the program's maps, except routes: there may be a million, and the RIB tracks their changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub policy: PolicyTables,
    pub neighbours: NeighbourTable,
    pub egress: EgressTables,
    pub policy_routes: PolicyRouteTables,
}

/// Link addresses of directly reached hosts.
pub type NeighbourTable = BTreeMap<Neighbour, LinkAddress>;

/// The maps of the stages before the route look-up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTables {
    /// Names of the connections by counter slot.
    pub connections: BTreeMap<u32, String>,
    /// By counter slot.
    pub mss_limits: BTreeMap<u32, MssLimits>,
    /// By ifindex.
    pub attachments: BTreeMap<u32, Attachment>,
    /// The VLAN's own ifindex.
    pub vlans: BTreeMap<Vlan, u32>,
    pub v4: FamilyMaps<[u8; 4]>,
    pub v6: FamilyMaps<[u8; 16]>,
    pub limits: BTreeMap<u32, Rules>,
    /// Those that attachments have.
    pub translations: BTreeMap<u32, Translations>,
    /// Bits of [`hub_common::maps::link`], by ifindex and prefix, IPv4 ones as IPv4-mapped.
    pub links: BTreeMap<Prefix<Scoped<[u8; 16]>>, u32>,
    /// ifindex, by port.
    pub ports: BTreeMap<u32, u32>,
}

/// New entries of the policy maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyEntries {
    pub tables: PolicyTables,
    /// Slots of connections with more port rules than fit, by scope and remote prefix. The excess is dropped.
    pub truncated: BTreeMap<(u32, IpNet), BTreeSet<u32>>,
    /// What was compiled of the scopes, if not all.
    pub regions: Vec<Region>,
    /// What to delete; `None`: all other entries. An obsolete entry may also be a new one, and then stays.
    pub obsolete: Option<ObsoleteEntries>,
}

/// Remote prefixes of a scope: all, or those of one of the connections on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub scope: u32,
    /// The prefixes in this one; `None`: all.
    pub within: Option<IpNet>,
}

impl Region {
    pub fn contains(&self, scope: u32, remote: IpNet) -> bool {
        self.scope == scope && self.within.is_none_or(|within| within.contains(&remote))
    }
}

/// Entries of the policy maps that are no longer used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObsoleteEntries {
    pub v4: ObsoleteKeys<[u8; 4]>,
    pub v6: ObsoleteKeys<[u8; 16]>,
    pub limits: BTreeSet<u32>,
    pub links: Vec<Prefix<Scoped<[u8; 16]>>>,
}

/// Keys of [`FamilyMaps`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObsoleteKeys<A> {
    pub remotes: Vec<Prefix<Scoped<A>>>,
    pub locals: Vec<Prefix<Scoped<A>>>,
}

/// The maps that exist once per address family.
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

/// The egress maps, small regardless of the number of routes. A failure changes only these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressTables {
    pub next_hops: BTreeMap<u32, NextHop>,
    /// Members of groups with several members; the value is unused.
    pub members: BTreeMap<GroupMember, u32>,
    /// Index into `next_hops` with the bits of [`hub_common::maps::path_of`] above it, by bucket;
    /// [`EgressTables::NOWHERE`] for one that no route uses.
    pub buckets: Vec<u32>,
    /// The group of the buckets, by first bucket divided by [`hub_common::maps::GROUP_BUCKETS`]; without groups of one.
    pub groups: BTreeMap<u32, GroupRecord>,
}

impl EgressTables {
    pub const NOWHERE: u32 = u32::MAX;
}

/// New entries of the egress maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressEntries {
    pub next_hops: BTreeMap<u32, NextHop>,
    pub members: BTreeMap<GroupMember, u32>,
    /// Bucket and value, as in [`EgressTables::buckets`].
    pub buckets: Vec<(u32, u32)>,
    pub groups: BTreeMap<u32, GroupRecord>,
    /// What to delete; `None`: all other entries.
    pub obsolete: Option<Obsolete>,
}

/// Entries of the egress maps that are no longer used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obsolete {
    pub next_hops: BTreeSet<u32>,
    /// Of groups. The group's record and members go with its buckets.
    pub buckets: Vec<Range<u32>>,
}

/// Destinations with changed routes, and the new routes; `None` for a removed one.
///
/// Not a whole table: there may be a million routes, and the RIB tracks their changes.
pub type RouteChanges = Vec<(IpNet, Option<Route>)>;

/// Key of a longest-prefix-match trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix<K> {
    pub data: K,
    /// Number of significant bits of `data`, from the first; the others are 0.
    pub length: u8,
}

//! Where things stand in the maps: numbers that outlive a compilation, so that a change touches only what changed.

use std::{collections::HashMap, net::IpAddr};

use hub_common::maps::{GROUP_BUCKETS, MAX_BUCKETS, MAX_CONNECTIONS, MAX_NEXT_HOPS, NextHop, VPC};

use crate::{
    buckets,
    selectors::Policy,
    slots::{Full, Slots},
};

/// Members of a group as it is configured: next hops (see [`Member`]) with their weights.
pub type GroupKey = Vec<(Member, u8)>;

/// A way out, whatever its state: a connection's slot or, on the VPC side, a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    Connection(u32),
    Vpc(Option<IpAddr>),
}

/// Buckets of a group: `first..first + members.len()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub first: u32,
    /// The owner of each bucket, as far as there is one.
    pub owners: Vec<Option<Member>>,
}

/// Buckets below this one are groups of one.
const SINGLES: u32 = MAX_BUCKETS / 4;

/// The numbers given away.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `COUNTERS` slot and selector scope of a connection, by name.
    pub connections: Slots<String>,
    /// Index into `PORTS`, by ifindex.
    pub ports: Slots<u32>,
    pub policies: Slots<Policy>,
    pub next_hops: Slots<NextHop>,
    singles: Slots<Member>,
    shared: Slots<GroupKey>,
    owners: HashMap<GroupKey, Vec<Option<Member>>>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            connections: Slots::new("connections", VPC + 1..VPC + 1 + MAX_CONNECTIONS),
            ports: Slots::new("interfaces", 0..MAX_CONNECTIONS),
            // 0 is hub_common::maps::ANY_LOCAL.
            policies: Slots::new("different sets of local selectors", 1..u32::MAX),
            next_hops: Slots::new("next hops", 0..MAX_NEXT_HOPS),
            singles: Slots::new("single next hops", 0..SINGLES),
            shared: Slots::new("different sets of next hops", SINGLES / GROUP_BUCKETS..MAX_BUCKETS / GROUP_BUCKETS),
            owners: HashMap::new(),
        }
    }
}

impl Layout {
    pub fn begin(&mut self) {
        self.connections.begin();
        self.ports.begin();
        self.policies.begin();
        self.next_hops.begin();
        self.singles.begin();
        self.shared.begin();
    }

    pub fn end(&mut self) {
        self.connections.end();
        self.ports.end();
        self.policies.end();
        self.next_hops.end();
        self.singles.end();
        self.shared.end();
        let shared = &self.shared;
        self.owners.retain(|key, _| shared.get(key).is_some());
    }

    /// Numbers wait until no packet is on its way with them any more.
    pub fn is_resting(&self) -> bool {
        self.ports.is_resting()
            || self.policies.is_resting()
            || self.next_hops.is_resting()
            || self.singles.is_resting()
            || self.shared.is_resting()
            || self.connections.is_resting()
    }

    /// No packet is on its way with a number that rests.
    pub fn release(&mut self) {
        self.connections.release();
        self.ports.release();
        self.policies.release();
        self.next_hops.release();
        self.singles.release();
        self.shared.release();
    }

    /// The group of these members, its buckets shared out over `active`.
    pub fn group(&mut self, key: &GroupKey, active: &[(Member, u32)]) -> Result<Group, Full> {
        if let [(member, _)] = key.as_slice() {
            // The weight of one alone means nothing.
            return Ok(Group { first: self.singles.take(*member)?, owners: vec![Some(*member)] });
        }
        let first = self.shared.take(key.clone())? * GROUP_BUCKETS;
        let owners = self.owners.entry(key.clone()).or_insert_with(|| vec![None; GROUP_BUCKETS as usize]);
        buckets::fill(owners, active);
        Ok(Group { first, owners: owners.clone() })
    }
}

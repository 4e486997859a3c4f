//! Where things stand in the maps: numbers that outlive a compilation, so that a change touches only what changed.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

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
    owners: HashMap<GroupKey, Owners>,
    /// Compilations so far.
    round: u64,
}

/// The owners of a group's buckets, and the round in which the group came.
#[derive(Debug, Clone)]
struct Owners {
    since: u64,
    buckets: Vec<Option<Member>>,
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
            round: 0,
        }
    }
}

impl Layout {
    pub fn begin(&mut self) {
        self.round += 1;
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
        if !self.owners.contains_key(key) {
            let owners = Owners { since: self.round, buckets: self.seed(key) };
            self.owners.insert(key.clone(), owners);
        }
        let owners = &mut self.owners.get_mut(key).expect("just inserted").buckets;
        buckets::fill(owners, active);
        Ok(Group { first, owners: owners.clone() })
    }

    /// What a new group starts from: the buckets of the group that it is most like, of those that were there before.
    /// A destination whose weights or members change so keeps the flows of the members that stay.
    fn seed(&self, key: &GroupKey) -> Vec<Option<Member>> {
        let common = |other: &GroupKey| {
            let members = other.iter().filter(|(member, _)| key.iter().any(|(own, _)| own == member)).count();
            // Of equal ones the smaller, then the first: the same input gives the same buckets.
            (members, Reverse(other.len()), Reverse(other.clone()))
        };
        let before = self.owners.iter().filter(|(_, owners)| owners.since < self.round);
        let alike = before.max_by_key(|(other, _)| common(other));
        alike.map_or_else(|| vec![None; GROUP_BUCKETS as usize], |(_, owners)| owners.buckets.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{GroupKey, Layout, Member};

    const A: Member = Member::Connection(2);
    const B: Member = Member::Connection(3);
    const C: Member = Member::Connection(4);

    /// Compiles one group, all of its members up.
    fn round(layout: &mut Layout, key: &GroupKey) -> Vec<Option<Member>> {
        layout.begin();
        let active: Vec<(Member, u32)> = key.iter().map(|(member, weight)| (*member, u32::from(*weight))).collect();
        let group = layout.group(key, &active).unwrap();
        layout.end();
        group.owners
    }

    fn moved(before: &[Option<Member>], after: &[Option<Member>]) -> usize {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    }

    #[test]
    fn a_weight_that_changes_moves_the_difference_alone() {
        let mut layout = Layout::default();
        let before = round(&mut layout, &vec![(A, 50), (B, 50)]);
        let after = round(&mut layout, &vec![(A, 25), (B, 75)]);
        assert_eq!(moved(&before, &after), 64);
    }

    #[test]
    fn a_member_that_comes_takes_its_share_and_moves_nothing_else() {
        let mut layout = Layout::default();
        let before = round(&mut layout, &vec![(A, 100), (B, 100)]);
        let after = round(&mut layout, &vec![(A, 100), (B, 100), (C, 100)]);
        let came = after.iter().filter(|owner| **owner == Some(C)).count();
        assert_eq!((came, moved(&before, &after)), (85, 85));
    }

    #[test]
    fn groups_of_one_compilation_do_not_depend_on_one_another() {
        let fresh = round(&mut Layout::default(), &vec![(A, 30), (B, 70)]);
        let mut layout = Layout::default();
        layout.begin();
        layout.group(&vec![(A, 50), (B, 50)], &[(A, 50), (B, 50)]).unwrap();
        let second = layout.group(&vec![(A, 30), (B, 70)], &[(A, 30), (B, 70)]).unwrap();
        assert_eq!(second.owners, fresh);
    }
}

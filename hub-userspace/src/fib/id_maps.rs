//! Indices into the maps. They persist across compilations, so that a change touches only the affected entries.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

use hub_common::maps::{
    ADMITS_NOTHING, GROUP_BUCKETS, MAX_BUCKETS, MAX_CONNECTIONS, MAX_NEXT_HOPS, MAX_PORT_RULES, NextHop, Rules,
    SHARED_SCOPE, Translations, VPC,
};

use crate::{
    config::Config,
    fib::{
        id_allocator::{DeferredFree, Full, IdAllocator},
        old_group::{OldGroup, record},
        policy::Uses,
        segment_ids::SegmentIds,
    },
    policy::selectors::Policy,
    routing::{buckets, rib::Members},
};

/// An egress member, regardless of its state: a connection's slot or, on the VPC side, a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    Connection(u32),
    Vpc(Option<IpAddr>),
}

/// Buckets of a group: `first..first + owners.len()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub first: u32,
    /// The owner of each bucket; `None` for an unassigned one.
    pub owners: Arc<[Option<Member>]>,
}

/// Lower buckets are groups of one. Those of connections come first, by slot: so a route shows that it leads to a
/// connection ([`hub_common::maps::Route`]).
const SINGLES: u32 = MAX_BUCKETS / 4;
const CONNECTION_SLOTS: Range<u32> = VPC + 1..VPC + 1 + MAX_CONNECTIONS;

/// The assigned ids.
#[derive(Debug, Clone, Default)]
pub struct IdMaps {
    pub policy: IngressLayout,
    pub egress: EgressIds,
}

/// Ids of the entries of [`crate::fib::tables::PolicyTables`].
#[derive(Debug, Clone)]
pub struct IngressLayout {
    /// `COUNTERS` slot of a connection, by name.
    pub connections: IdAllocator<String>,
    /// Scope of a connection's own selectors, by its name, its interface, and whether its SAs are known. After a move to
    /// another interface, and while the interface still has this scope although the SAs are known, the old scope remains
    /// unchanged for packets that still arrive.
    pub scopes: IdAllocator<(String, String, bool)>,
    pub segments: SegmentIds,
    /// Index into `PORTS`, by ifindex.
    pub ports: IdAllocator<u32>,
    pub policies: IdAllocator<Arc<Policy>>,
    /// Index into `PORT_RULES`.
    pub limits: IdAllocator<Rules>,
    pub translations: IdAllocator<Translations>,
    /// Index into `TRANSLATIONS`, by the ifindex of its attachment, as last compiled.
    pub translated: HashMap<u32, u32>,
    pub uses: Uses,
}

/// Ids of the entries of [`crate::fib::tables::EgressTables`], and the owners of buckets.
#[derive(Debug, Clone)]
pub struct EgressIds {
    pub next_hops: IdAllocator<NextHop>,
    /// The next hop of each member, as last compiled.
    hops: HashMap<Member, NextHop>,
    /// The segments that each member's next hop admits, as last compiled, and in the compilation before. Without members
    /// that were not compiled: a number may have been reused since.
    segments: HashMap<Member, u64>,
    segments_before: HashMap<Member, u64>,
    /// Buckets of routers on the VPC side.
    routers: IdAllocator<Option<IpAddr>>,
    shared: IdAllocator<Arc<Members>>,
    owners: HashMap<Arc<Members>, Owners>,
    /// Owners as of the last round, of groups that this round has changed: a new group starts from its predecessor as
    /// packets know it, whichever of the two is compiled first.
    owners_before: HashMap<Arc<Members>, Owners>,
    /// Owners from an earlier agent's groups, by the hash of names and weights, until the first compilation is
    /// committed.
    inherited: HashMap<u64, Owners>,
    /// The same by the hash of names only.
    inherited_names: HashMap<u64, Owners>,
}

/// The owners of a group's buckets.
#[derive(Debug, Clone)]
struct Owners {
    /// The members among which the buckets were last distributed.
    active: Vec<(Member, u32)>,
    buckets: Arc<[Option<Member>]>,
}

impl Default for IngressLayout {
    fn default() -> Self {
        Self {
            connections: IdAllocator::new("connections", CONNECTION_SLOTS),
            segments: SegmentIds::default(),
            scopes: IdAllocator::new("connections that change at once", VPC + 1..SHARED_SCOPE),
            ports: IdAllocator::new("interfaces", 0..MAX_CONNECTIONS),
            // 0 is hub_common::maps::ANY_LOCAL.
            policies: IdAllocator::new("different sets of local selectors", 1..u32::MAX),
            // Lower indices: hub_common::maps::NO_PORT_RULES.
            limits: IdAllocator::new("different sets of limited selectors", ADMITS_NOTHING + 1..MAX_PORT_RULES),
            translations: IdAllocator::new("different sets of translations", 1..MAX_CONNECTIONS),
            translated: HashMap::new(),
            uses: Uses::default(),
        }
    }
}

impl Default for EgressIds {
    fn default() -> Self {
        Self {
            next_hops: IdAllocator::new("next hops", 0..MAX_NEXT_HOPS),
            hops: HashMap::new(),
            segments: HashMap::new(),
            segments_before: HashMap::new(),
            routers: IdAllocator::new("routers of the VPC", CONNECTION_SLOTS.end..SINGLES),
            shared: IdAllocator::new(
                "different sets of next hops",
                SINGLES / GROUP_BUCKETS..MAX_BUCKETS / GROUP_BUCKETS,
            ),
            owners: HashMap::new(),
            owners_before: HashMap::new(),
            inherited: HashMap::new(),
            inherited_names: HashMap::new(),
        }
    }
}

impl IdMaps {
    /// Starts from the state of an earlier agent: slots of connections, owners of buckets.
    pub fn inherit(&mut self, connections: impl IntoIterator<Item = (String, u32)>, groups: Vec<OldGroup>) {
        self.policy.connections.inherit(connections);
        self.egress.inherit(groups);
    }

    /// All allocators.
    fn all(&mut self) -> [&mut dyn DeferredFree; 10] {
        let Self { policy, egress } = self;
        [
            &mut policy.connections,
            &mut policy.scopes,
            &mut policy.segments,
            &mut policy.ports,
            &mut policy.policies,
            &mut policy.limits,
            &mut policy.translations,
            &mut egress.next_hops,
            &mut egress.routers,
            &mut egress.shared,
        ]
    }

    /// Marks the ids quarantined now, for [`Self::release`] once no packet in flight uses them. Returns whether there
    /// are any.
    pub fn begin_release(&mut self) -> bool {
        self.all().map(DeferredFree::begin_release).contains(&true)
    }

    /// Frees the ids marked by [`Self::begin_release`]: no packet in flight uses them any more.
    pub fn release(&mut self) {
        for numbers in self.all() {
            numbers.release();
        }
    }
}

impl IngressLayout {
    pub fn begin(&mut self, config: &Config) {
        self.connections.begin();
        self.scopes.begin();
        self.segments.begin(config);
        self.ports.begin();
        self.policies.begin();
        self.limits.begin();
        self.translations.begin();
        self.uses.clear();
    }

    /// Scope of a connection's own selectors. Until those for known SAs are compiled, the others.
    pub fn scope(&self, connection: &str, interface: &str, is_known: bool) -> Option<u32> {
        let scope = |is_known| self.scopes.get(&(connection.to_owned(), interface.to_owned(), is_known));
        scope(is_known).or_else(|| scope(!is_known))
    }

    pub fn end(&mut self) {
        self.connections.end();
        self.scopes.end();
        self.segments.end();
        self.ports.end();
        self.policies.end();
        self.limits.end();
        self.translations.end();
    }
}

impl EgressIds {
    pub fn begin(&mut self) {
        self.next_hops.begin();
        self.hops.clear();
        self.segments_before = mem::take(&mut self.segments);
        self.routers.begin();
        self.shared.begin();
    }

    /// As [`Self::begin`], for the routers of the VPC, these connections, and these groups that no route has any more.
    pub fn begin_some<'a>(
        &mut self,
        connections: impl Iterator<Item = u32>,
        gone: impl Iterator<Item = &'a Arc<Members>>,
    ) {
        let routers = self.hops.extract_if(|member, _| matches!(member, Member::Vpc(_)));
        let mut former: Vec<NextHop> = routers.map(|(_, hop)| hop).collect();
        former.extend(connections.filter_map(|slot| self.hops.remove(&Member::Connection(slot))));
        self.next_hops.begin_some(&former);
        self.routers.begin();
        self.shared.begin_some(gone);
    }

    /// The index of a member's next hop.
    pub fn next_hop(&mut self, member: Member, next_hop: NextHop) -> Result<u32, Full> {
        self.hops.insert(member, next_hop);
        self.next_hops.take(next_hop)
    }

    /// The segments that a member's next hop admits now: also those of `retiring` that it admitted before.
    pub fn admitted(&mut self, member: Member, segments: u64, retiring: u64) -> u64 {
        let before = self.segments.get(&member).or_else(|| self.segments_before.get(&member)).copied();
        let admitted = segments | before.unwrap_or_default() & retiring;
        self.segments.insert(member, admitted);
        admitted
    }

    /// The first bucket of a group with several members.
    pub fn first_bucket(&self, members: &Arc<Members>) -> Option<u32> {
        Some(self.shared.get(members)? * GROUP_BUCKETS)
    }

    /// The bucket of a router on the VPC side; `None` is the link itself.
    pub fn router(&self, gateway: &Option<IpAddr>) -> Option<u32> {
        self.routers.get(gateway)
    }

    /// The buckets of groups that are no longer used.
    pub fn unused_buckets(&self) -> impl Iterator<Item = Range<u32>> {
        let routers = self.routers.unused().into_iter().map(|bucket| bucket..bucket + 1);
        let shared = self.shared.unused().into_iter().map(|group| group * GROUP_BUCKETS..(group + 1) * GROUP_BUCKETS);
        routers.chain(shared)
    }

    pub fn end(&mut self) {
        self.next_hops.end();
        self.routers.end();
        for members in self.shared.end() {
            self.owners.remove(&members);
        }
        self.owners_before.clear();
        self.inherited.clear();
        self.inherited_names.clear();
    }

    fn inherit(&mut self, groups: Vec<OldGroup>) {
        for OldGroup { record, owners } in groups {
            let buckets: Arc<[Option<Member>]> = owners.iter().map(|slot| slot.map(Member::Connection)).collect();
            // Use the current shares as weights, so that no bucket with the right share moves.
            let mut counts = BTreeMap::new();
            for owner in buckets.iter().flatten() {
                *counts.entry(*owner).or_default() += 1;
            }
            let owners = Owners { active: counts.into_iter().collect(), buckets };
            self.inherited.insert(record.members, owners.clone());
            self.inherited_names.insert(record.names, owners);
        }
    }

    /// The previous owners of a group's buckets.
    fn before(&self, members: &Arc<Members>, predecessor: Option<&Arc<Members>>) -> Option<&Owners> {
        let inherited = || {
            if self.inherited.is_empty() {
                return None;
            }
            let record = record(members);
            self.inherited.get(&record.members).or_else(|| self.inherited_names.get(&record.names))
        };
        let of_predecessor = || self.owners_before.get(predecessor?).or_else(|| self.owners.get(predecessor?));
        self.owners.get(members).or_else(of_predecessor).or_else(inherited)
    }

    /// The group of a single next hop: one bucket.
    pub fn single(&mut self, member: Member) -> Result<Group, Full> {
        let first = match member {
            Member::Connection(slot) => slot,
            Member::Vpc(router) => self.routers.take(router)?,
        };
        Ok(Group { first, owners: Arc::new([Some(member)]) })
    }

    /// The group of several members, with its buckets distributed among `active`. A new group starts from the buckets
    /// of its predecessor.
    pub fn shared(
        &mut self,
        members: &Arc<Members>,
        active: &[(Member, u32)],
        predecessor: Option<&Arc<Members>>,
    ) -> Result<Group, Full> {
        let first = self.shared.take(Arc::clone(members))? * GROUP_BUCKETS;
        let before = self.before(members, predecessor);
        let owners = match before {
            Some(same) if same.active == active => same.clone(),
            _ => {
                let nobody = || (vec![None; GROUP_BUCKETS as usize], [].as_slice());
                let (mut buckets, former) =
                    before.map_or_else(nobody, |owners| (owners.buckets.to_vec(), owners.active.as_slice()));
                buckets::fill(&mut buckets, former, active);
                Owners { active: active.to_vec(), buckets: buckets.into() }
            }
        };
        let group = Group { first, owners: Arc::clone(&owners.buckets) };
        let changed = |before: &Owners| !Arc::ptr_eq(&before.buckets, &group.owners);
        if let Some(before) = self.owners.insert(Arc::clone(members), owners).filter(changed) {
            self.owners_before.entry(Arc::clone(members)).or_insert(before);
        }
        Ok(group)
    }
}

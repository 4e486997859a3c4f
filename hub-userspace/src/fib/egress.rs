//! Next hops, the buckets that refer to them, and the routes that refer to the buckets.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use hub_common::maps::{GROUP_BUCKETS, GroupMember, NextHop, Route, VPC, link_addresses, path_of};
use ipnet::IpNet;

use super::inputs::Inputs;
use crate::{
    config::segments,
    fib::{
        id_allocator::Full,
        id_maps::{EgressIds, Group, IdMaps, IngressLayout, Member},
        old_group::record,
        policy::NO_TRANSLATIONS,
        tables::{EgressEntries, Obsolete, RouteChanges},
    },
    routing::{
        groups::AffectedGroups,
        members::kernel_weights,
        rib::{self, Members, Rib, Target},
    },
};

/// Egress entries of the affected groups, and the routes to these groups.
#[derive(Debug, Default)]
pub struct CompiledEgress {
    pub entries: EgressEntries,
    groups: HashMap<Arc<Members>, Route>,
    vpc: HashMap<Option<IpAddr>, Route>,
}

/// Compiles the affected groups of the RIB and the VPC's, after [`super::policy_tables`] has numbered the connections.
/// Unused ids are quarantined by [`EgressIds::end`]; call it once the tables are written.
pub fn egress_tables(
    inputs: Inputs<'_>,
    rib: &Rib,
    layout: &mut IdMaps,
    affected: &AffectedGroups,
) -> Result<CompiledEgress, Full> {
    let IdMaps { policy, egress } = layout;
    let slot = |name: &String| policy.connections.get(name);
    // In a fixed order, so that equal input gives equal ids.
    let groups: BTreeSet<&Arc<Members>> = match affected {
        AffectedGroups::All => {
            egress.begin();
            rib.groups().collect()
        }
        AffectedGroups::Some { connections, groups, gone } => {
            egress.begin_some(connections.iter().filter_map(slot), gone.iter());
            groups.iter().collect()
        }
    };
    let mut compiler = EgressCompiler {
        inputs,
        numbers: policy,
        layout: egress,
        next_hops: HashMap::new(),
        masks: HashMap::new(),
        retiring: policy.segments.retiring(),
        compiled: CompiledEgress::default(),
    };
    for members in groups {
        let route = compiler.connections(members, rib)?;
        compiler.compiled.groups.insert(Arc::clone(members), route);
    }
    for gateway in rib.gateways() {
        let group = compiler.layout.single(Member::Vpc(gateway))?;
        let route = compiler.route(&group, &HashMap::new(), &HashMap::new())?;
        compiler.compiled.vpc.insert(gateway, Route { flags: Route::VPC, ..route });
    }
    let mut result = compiler.compiled;
    if let AffectedGroups::Some { gone, .. } = affected {
        let singles = gone.iter().filter(|members| members.len() == 1).flat_map(|members| members.keys());
        let singles = singles.filter_map(slot).map(|bucket| bucket..bucket + 1);
        result.entries.obsolete = Some(Obsolete {
            next_hops: egress.next_hops.unused(),
            buckets: egress.unused_buckets().chain(singles).collect(),
        });
    }
    Ok(result)
}

impl CompiledEgress {
    /// The changes of the route trie for these destinations.
    ///
    /// # Panics
    /// When a destination's group was not among the affected ones.
    pub fn routes(&self, rib: &Rib, destinations: &BTreeSet<IpNet>) -> RouteChanges {
        let change = |destination: &IpNet| {
            let route = rib.target(*destination).map(|target| self.route(&target));
            let flags = if destination.prefix_len() == 0 { Route::DEFAULT } else { 0 };
            (*destination, route.map(|route| Route { flags: route.flags | flags, ..route }))
        };
        destinations.iter().map(change).collect()
    }

    fn route(&self, target: &Target) -> Route {
        match target {
            Target::Hub => Route { first_bucket: 0, bucket_mask: 0, flags: Route::HUB },
            Target::Vpc { gateway } => self.vpc[gateway],
            Target::Connections(members) => self.groups[members],
        }
    }
}

struct EgressCompiler<'a> {
    inputs: Inputs<'a>,
    numbers: &'a IngressLayout,
    layout: &'a mut EgressIds,
    /// Index into `NEXT_HOPS`, for the members so far.
    next_hops: HashMap<Member, u32>,
    /// The segments that reach each segment, or the VPC side.
    masks: HashMap<String, u64>,
    /// See [`SegmentIds::retiring`](super::segment_ids::SegmentIds::retiring).
    retiring: u64,
    compiled: CompiledEgress,
}

/// Names of the connections that carry a group's traffic.
type Names<'a> = HashMap<Member, &'a str>;

impl EgressCompiler<'_> {
    fn connections(&mut self, members: &Arc<Members>, rib: &Rib) -> Result<Route, Full> {
        let slots = &self.numbers.connections;
        let member = |name: &str| Member::Connection(slots.get(name).expect("every connection has been numbered"));
        let active = rib::active(members, self.inputs.states);
        let names: Names<'_> = active.iter().map(|(name, _)| (member(name), *name)).collect();
        let active: Vec<(Member, u32)> = active.into_iter().map(|(name, part)| (member(name), part)).collect();
        let (group, paths) = if let (1, [(only, _)]) = (members.len(), active.as_slice()) {
            // The weight of a single member has no effect.
            (self.layout.single(*only)?, HashMap::new())
        } else {
            let group = self.layout.shared(members, &active, rib.predecessor(members))?;
            let key = |name: &String| GroupMember {
                first_bucket: group.first,
                connection: slots.get(name).expect("every connection has been numbered"),
            };
            self.compiled.entries.members.extend(members.keys().map(|name| (key(name), 0)));
            self.compiled.entries.groups.insert(group.first / GROUP_BUCKETS, record(members));
            (group, self.paths(&active, &names))
        };
        self.route(&group, &paths, &names)
    }

    /// The path bits of a bucket, which select each member in the kernel's route from
    /// [`crate::fib::slow_path::action`]: members whose interface is up, in order of interfaces. Empty if the kernel's
    /// route has a single next hop.
    fn paths(&self, active: &[(Member, u32)], names: &Names<'_>) -> HashMap<Member, u32> {
        let hop = |((member, _), weight): (&(Member, u32), u8)| {
            let connection = &self.inputs.config.connections[names[member]];
            let link = self.inputs.host.link(&connection.interface).filter(|link| link.is_up())?;
            Some((link.index, connection.peer, *member, u32::from(weight)))
        };
        let shares: Vec<(&str, u32)> = active.iter().map(|(member, part)| (names[member], *part)).collect();
        let mut hops: Vec<_> = active.iter().zip(kernel_weights(&shares)).filter_map(hop).collect();
        if hops.len() < 2 {
            return HashMap::new();
        }
        hops.sort_unstable();
        let total = hops.iter().map(|(_, _, _, weight)| weight).sum();
        let mut before = 0;
        let path = |(_, _, member, weight)| {
            let path = path_of(before, weight, total);
            before += weight;
            (member, path)
        };
        hops.into_iter().map(path).collect()
    }

    /// Fills the buckets of a group; returns the route to it.
    fn route(&mut self, group: &Group, paths: &HashMap<Member, u32>, names: &Names<'_>) -> Result<Route, Full> {
        for (bucket, owner) in (group.first..).zip(group.owners.iter()) {
            let owner = owner.expect("a group has an active member: rib::active never gives none");
            let path = paths.get(&owner).copied().unwrap_or(0);
            let next_hop = self.next_hop(owner, names.get(&owner).copied())?;
            self.compiled.entries.buckets.push((bucket, next_hop | path));
        }
        let bucket_mask = u16::try_from(group.owners.len() - 1).expect("asserted in hub_common::maps");
        Ok(Route { first_bucket: group.first, bucket_mask, flags: 0 })
    }

    /// The next hop of a member; `name` is the connection's.
    fn next_hop(&mut self, member: Member, name: Option<&str>) -> Result<u32, Full> {
        if let Some(index) = self.next_hops.get(&member) {
            return Ok(*index);
        }
        let config = self.inputs.config;
        let next_hop = match member {
            Member::Connection(slot) => {
                let name = name.expect("an owner is active, and active members have names");
                let connection = &config.connections[name];
                let is_known = self.inputs.negotiated.contains_key(name);
                let scope = self.numbers.scope(name, &connection.interface, is_known);
                let scope = scope.expect("every connection has been numbered");
                let segments = self.segments(member, &connection.segment);
                let way = self.way_out((slot, scope, segments), &connection.interface, connection.peer);
                let translations = match connection.translate.is_empty() {
                    true => NO_TRANSLATIONS,
                    false => self.numbers.translated.get(&way.ifindex).copied().unwrap_or(NO_TRANSLATIONS),
                };
                NextHop { translations, ..way }
            }
            Member::Vpc(gateway) => {
                let vpc = config.vpc.as_ref().expect("only a VPC has VPC destinations");
                let segments = self.segments(member, segments::VPC);
                self.way_out((VPC, VPC, segments), &vpc.interface, gateway)
            }
        };
        let index = self.layout.next_hop(member, next_hop)?;
        self.compiled.entries.next_hops.insert(index, next_hop);
        self.next_hops.insert(member, index);
        Ok(index)
    }

    /// The segments that may use a member's next hop.
    fn segments(&mut self, member: Member, segment: &str) -> u64 {
        let Self { inputs, numbers, masks, .. } = self;
        let mask = *masks.entry(segment.to_owned()).or_insert_with(|| numbers.segments.mask(inputs.config, segment));
        self.layout.admitted(member, mask, self.retiring)
    }

    /// The next hop for a connection's `COUNTERS` slot, its scope, and the segments that reach it. `neighbour` is the
    /// gateway on the link; without one, each destination is its own neighbour.
    fn way_out(
        &self,
        (connection, scope, segments): (u32, u32, u64),
        interface: &str,
        neighbour: Option<IpAddr>,
    ) -> NextHop {
        let host = self.inputs.host;
        let nowhere = NextHop {
            connection,
            scope,
            ifindex: 0,
            port: 0,
            mtu: 0,
            flags: 0,
            addresses: [0; 3],
            translations: NO_TRANSLATIONS,
            segments,
            padding: [0; 4],
        };
        // A new interface has no port until the policy tables are compiled.
        let Some((link, port)) =
            host.link(interface).and_then(|link| Some((link, self.numbers.ports.get(&link.index)?)))
        else {
            return nowhere;
        };
        let mut flags = if link.is_up() { NextHop::UP } else { 0 };
        if self.inputs.tc_only.contains(&link.index) {
            flags |= NextHop::TC;
        }
        let mut destination_mac = [0; 6];
        if link.ethernet {
            flags |= NextHop::ETHERNET;
            match neighbour.map(|address| host.neighbours.get(&(link.index, address))) {
                None => flags |= NextHop::ON_LINK,
                Some(None) => {}
                Some(Some(mac)) => {
                    flags |= NextHop::RESOLVED;
                    destination_mac = *mac;
                }
            }
        }
        NextHop {
            ifindex: link.index,
            port,
            mtu: link.mtu,
            flags,
            addresses: link_addresses(destination_mac, link.mac.unwrap_or_default()),
            ..nowhere
        }
    }
}

//! The program's maps.

use aya::{
    Ebpf,
    maps::{Array, DevMap, HashMap, LpmTrie, MapData},
};
use hub_common::maps::{GroupMember, LinkAddress, MssLimits, Neighbour, NextHop, Rules, Scoped, Translations, Vlan};

use super::{
    DatapathError,
    counters::BySlot,
    groups::Groups,
    lookup::Lookup,
    named_map::{ByInterface, Named, Written, take},
    policy_routes::PolicyRoutes,
    records::Records,
};
use crate::{config::model::DataplaneSettings as Settings, fib::tables::Write};

/// Every map that the agent writes.
pub struct Maps {
    attachments: Named<ByInterface>,
    vlans: Named<HashMap<MapData, Vlan, u32>>,
    lookup: Lookup,
    links: Named<LpmTrie<MapData, Scoped<[u8; 16]>, u32>>,
    limits: Named<Array<MapData, Rules>>,
    neighbours: Named<HashMap<MapData, Neighbour, LinkAddress>>,
    policy_routes: Named<PolicyRoutes>,
    group_members: Named<HashMap<MapData, GroupMember, u32>>,
    groups: Named<Groups>,
    buckets: Named<Array<MapData, u32>>,
    next_hops: Named<Array<MapData, NextHop>>,
    mss_limits: Named<Array<MapData, MssLimits>>,
    translations: Named<Array<MapData, Translations>>,
    ports: Named<DevMap<MapData>>,
    pub counters: Named<BySlot>,
}

impl Maps {
    /// `groups`: see [`super::groups::create`].
    pub fn take(
        ebpf: &mut Ebpf,
        settings: &Settings,
        records: Records,
        groups: Named<Groups>,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            attachments: ByInterface::take(ebpf)?,
            vlans: take(ebpf, "VLANS")?,
            lookup: Lookup::take(ebpf, settings)?,
            links: take(ebpf, "LINKS")?,
            limits: take(ebpf, "PORT_RULES")?,
            neighbours: take(ebpf, "NEIGHBOURS")?,
            policy_routes: PolicyRoutes::take(ebpf)?,
            group_members: take(ebpf, "GROUP_MEMBERS")?,
            groups,
            buckets: take(ebpf, "BUCKETS")?,
            next_hops: take(ebpf, "NEXT_HOPS")?,
            mss_limits: take(ebpf, "MSS_LIMITS")?,
            translations: take(ebpf, "TRANSLATIONS")?,
            ports: take(ebpf, "PORTS")?,
            counters: BySlot::take(ebpf, records)?,
        })
    }

    /// Applies changes of a map in order; returns the number applied, and the error that stopped them.
    pub fn write(&mut self, write: &Write) -> Written {
        match write {
            Write::Connections(changes) => self.counters.change(changes),
            Write::Ports(changes) => self.ports.change(changes),
            Write::MssLimits(changes) => self.mss_limits.change(changes),
            Write::Translations(changes) => self.translations.change(changes),
            Write::GroupMembers(changes) => self.group_members.change(changes),
            Write::NextHops(changes) => self.next_hops.change(changes),
            Write::Groups(changes) => self.groups.change(changes),
            Write::Buckets(changes) => self.buckets.change(changes),
            Write::Neighbours(changes) => self.neighbours.change(changes),
            Write::Links(changes) => self.links.change(changes),
            Write::PortRules(changes) => self.limits.change(changes),
            Write::LocalsV4(changes) => self.lookup.change_locals(changes),
            Write::RemotesV4(changes) | Write::PolicyPrefixesV4(changes) => self.lookup.change_remotes(changes),
            Write::LocalsV6(changes) => self.lookup.change_locals(changes),
            Write::RemotesV6(changes) | Write::PolicyPrefixesV6(changes) => self.lookup.change_remotes(changes),
            Write::Routes(changes) => self.lookup.change_routes(changes),
            Write::PolicyPairs(changes) => self.policy_routes.change(changes),
            Write::Vlans(changes) => self.vlans.change(changes),
            Write::Attachments(changes) => self.attachments.change(changes),
        }
    }

    /// The look-up, which releases memory, see [`crate::fib::id_allocator::DeferredFree`].
    pub fn look_up(&mut self) -> &mut Lookup {
        &mut self.lookup
    }
}

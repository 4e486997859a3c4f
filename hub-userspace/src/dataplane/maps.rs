//! The program's maps, and the order they are written in.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{Array, DevMap, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key, xdp::XdpMapError},
};
use hub_common::maps::{
    Attachment, GroupMember, LinkAddress, NEAR_INTERFACES, Neighbour, NextHop, Rules, Scoped, Vlan,
};

use super::{
    Error,
    counters::{BySlot, Counters},
    groups::Groups,
    ledger::Ledger,
    lookup::{Lookup, Selectors},
};
use crate::{
    config::model::Dataplane as Settings,
    diff::{Difference, difference},
    tables::{EgressTables, PolicyTables, Prefix, RouteChanges},
};

/// A map of the program under its name.
pub struct Named<M> {
    pub name: &'static str,
    pub capacity: u32,
    pub map: M,
}

impl<M> Named<M> {
    pub fn put<K, V>(&mut self, key: &K, value: &V) -> Result<(), Error>
    where
        M: Writer<K, V>,
    {
        self.map.put(key, value).map_err(|error| Error::map(self.name, self.capacity, &error))
    }

    /// That there is no such entry is no error.
    pub fn delete<K, V>(&mut self, key: &K) -> Result<(), Error>
    where
        M: Writer<K, V>,
    {
        match self.map.delete(key) {
            Err(error) if !is_missing(&error) => Err(Error::map(self.name, self.capacity, &error)),
            _ => Ok(()),
        }
    }
}

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// What the maps hold, but for the routes: of these the RIB knows which have changed, and there are too many to keep
/// them twice.
#[derive(Default)]
pub struct Loaded {
    pub ingress: PolicyTables,
    pub ways: EgressTables,
}

/// Every map the agent writes.
pub struct Maps {
    attachments: Named<ByInterface>,
    vlans: Named<HashMap<MapData, Vlan, u32>>,
    lookup: Lookup,
    links: Named<LpmTrie<MapData, Scoped<[u8; 16]>, u32>>,
    limits: Named<Array<MapData, Rules>>,
    neighbours: Named<HashMap<MapData, Neighbour, LinkAddress>>,
    group_members: Named<HashMap<MapData, GroupMember, u32>>,
    groups: Named<Groups>,
    buckets: Named<Array<MapData, u32>>,
    next_hops: Named<Array<MapData, NextHop>>,
    ports: Named<DevMap<MapData>>,
    pub counters: Named<BySlot>,
}

impl Maps {
    /// `groups`: see [`super::groups::create`].
    pub fn take(ebpf: &mut Ebpf, settings: &Settings, ledger: Ledger, groups: Named<Groups>) -> Result<Self, Error> {
        Ok(Self {
            attachments: ByInterface::take(ebpf)?,
            vlans: take(ebpf, "VLANS")?,
            lookup: Lookup::take(ebpf, settings)?,
            links: take(ebpf, "LINKS")?,
            limits: take(ebpf, "PORT_RULES")?,
            neighbours: take(ebpf, "NEIGHBOURS")?,
            group_members: take(ebpf, "GROUP_MEMBERS")?,
            groups,
            buckets: take(ebpf, "BUCKETS")?,
            next_hops: take(ebpf, "NEXT_HOPS")?,
            ports: take(ebpf, "PORTS")?,
            counters: BySlot::take(ebpf, ledger)?,
        })
    }

    /// Counts of a slot, summed over the CPUs.
    pub fn counters(&self, slot: u32) -> Result<Counters, Error> {
        self.counters.read(slot)
    }

    /// Makes the maps hold what is wanted, and `loaded` with them; returns how many entries were written or deleted.
    pub fn write(
        &mut self,
        loaded: &mut Loaded,
        ingress: &PolicyTables,
        ways: &EgressTables,
        routes: &RouteChanges,
    ) -> Result<usize, Error> {
        let old = &loaded.ingress;
        let connections = difference(&old.connections, &ingress.connections);
        let ports = difference(&old.ports, &ingress.ports);
        let limits = difference(&old.limits, &ingress.limits);
        let links = difference(&old.links, &ingress.links);
        let neighbours = difference(&old.neighbours, &ingress.neighbours);
        let members = difference(&loaded.ways.members, &ways.members);
        let v4 = Selectors::between(&old.v4, &ingress.v4);
        let v6 = Selectors::between(&old.v6, &ingress.v6);
        let vlans = difference(&old.vlans, &ingress.vlans);
        let attachments = difference(&old.attachments, &ingress.attachments);

        let mut written = put(&mut self.counters, &mut loaded.ingress.connections, &connections)?
            + put(&mut self.ports, &mut loaded.ingress.ports, &ports)?
            + put(&mut self.group_members, &mut loaded.ways.members, &members)?
            + self.steer(&mut loaded.ways, ways)?;
        let old = &mut loaded.ingress;
        written += put(&mut self.neighbours, &mut old.neighbours, &neighbours)?
            + put(&mut self.links, &mut old.links, &links)?
            + put(&mut self.limits, &mut old.limits, &limits)?
            + self.lookup.put(&mut old.v4, &v4)?
            + self.lookup.put(&mut old.v6, &v6)?
            + self.lookup.change_routes(routes.iter().filter(|(_, route)| route.is_some()))?
            + put(&mut self.vlans, &mut old.vlans, &vlans)?
            + put(&mut self.attachments, &mut old.attachments, &attachments)?;

        written += delete(&mut self.attachments, &mut old.attachments, &attachments)?
            + delete(&mut self.vlans, &mut old.vlans, &vlans)?
            + self.lookup.change_routes(routes.iter().filter(|(_, route)| route.is_none()))?
            + self.lookup.delete(&mut old.v6, &v6)?
            + self.lookup.delete(&mut old.v4, &v4)?
            + delete(&mut self.limits, &mut old.limits, &limits)?
            + delete(&mut self.links, &mut old.links, &links)?
            + delete(&mut self.group_members, &mut loaded.ways.members, &members)?
            + delete(&mut self.neighbours, &mut old.neighbours, &neighbours)?
            + delete(&mut self.ports, &mut old.ports, &ports)?
            + delete(&mut self.counters, &mut old.connections, &connections)?;
        Ok(written)
    }

    /// What the look-up has to give away, see [`crate::id_allocator::DeferredFree`].
    pub fn look_up(&mut self) -> &mut Lookup {
        &mut self.lookup
    }

    /// The same for the ways out alone: new next hops first, then the buckets that lead to them. What no bucket leads
    /// to any more stays until its index is used again.
    pub fn steer(&mut self, loaded: &mut EgressTables, wanted: &EgressTables) -> Result<usize, Error> {
        let next_hops = difference(&loaded.next_hops, &wanted.next_hops);
        let groups = difference(&loaded.groups, &wanted.groups);
        let mut written = put(&mut self.next_hops, &mut loaded.next_hops, &next_hops)?
            + delete(&mut self.groups, &mut loaded.groups, &groups)?
            + put(&mut self.groups, &mut loaded.groups, &groups)?;
        let Named { name, capacity, map } = &mut self.buckets;
        let len = loaded.buckets.len().max(wanted.buckets.len());
        loaded.buckets.resize(len, EgressTables::NOWHERE);
        for (bucket, (old, new)) in (0..).zip(loaded.buckets.iter_mut().zip(&wanted.buckets)) {
            if old != new && *new != EgressTables::NOWHERE {
                map.set(bucket, *new, 0).map_err(|error| Error::map(name, *capacity, &error))?;
                written += 1;
            }
            *old = *new;
        }
        Ok(written + delete(&mut self.next_hops, &mut loaded.next_hops, &next_hops)?)
    }
}

/// One entry at a time; the kernel replaces a trie's or hash's entry as one.
pub trait Writer<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    fn delete(&mut self, key: &K) -> Result<(), MapError>;
}

pub fn put<K: Ord + Copy, V: Clone>(
    map: &mut Named<impl Writer<K, V>>,
    loaded: &mut BTreeMap<K, V>,
    changes: &Difference<K, V>,
) -> Result<usize, Error> {
    for (key, value) in &changes.puts {
        map.put(key, value)?;
        loaded.insert(*key, value.clone());
    }
    Ok(changes.puts.len())
}

pub fn delete<K: Ord + Copy, V>(
    map: &mut Named<impl Writer<K, V>>,
    loaded: &mut BTreeMap<K, V>,
    changes: &Difference<K, V>,
) -> Result<usize, Error> {
    for key in &changes.deletes {
        map.delete(key)?;
        loaded.remove(key);
    }
    Ok(changes.deletes.len())
}

impl<D: Pod, V: Pod> Writer<Prefix<D>, V> for LpmTrie<MapData, D, V> {
    fn put(&mut self, key: &Prefix<D>, value: &V) -> Result<(), MapError> {
        self.insert(&Key::new(u32::from(key.length), key.data), value, 0)
    }

    fn delete(&mut self, key: &Prefix<D>) -> Result<(), MapError> {
        self.remove(&Key::new(u32::from(key.length), key.data))
    }
}

impl<K: Pod, V: Pod> Writer<K, V> for HashMap<MapData, K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn delete(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

/// Nothing refers to an array's entry that is no longer wanted: it stays until its index is used again.
impl<V: Pod> Writer<u32, V> for Array<MapData, V> {
    fn put(&mut self, key: &u32, value: &V) -> Result<(), MapError> {
        self.set(*key, value, 0)
    }

    fn delete(&mut self, _key: &u32) -> Result<(), MapError> {
        Ok(())
    }
}

/// Attachments: those of most interfaces in an array, the others in a hash.
pub struct ByInterface {
    near: Array<MapData, Attachment>,
    far: HashMap<MapData, u32, Attachment>,
}

impl ByInterface {
    fn take(ebpf: &mut Ebpf) -> Result<Named<Self>, Error> {
        let near = take(ebpf, "ATTACHMENTS")?;
        let Named { name, capacity, map: far } = take(ebpf, "FAR_ATTACHMENTS")?;
        Ok(Named { name, capacity, map: Self { near: near.map, far } })
    }
}

impl Writer<u32, Attachment> for ByInterface {
    fn put(&mut self, ifindex: &u32, attachment: &Attachment) -> Result<(), MapError> {
        match *ifindex < NEAR_INTERFACES {
            true => self.near.set(*ifindex, *attachment, 0),
            false => self.far.insert(ifindex, attachment, 0),
        }
    }

    fn delete(&mut self, ifindex: &u32) -> Result<(), MapError> {
        match *ifindex < NEAR_INTERFACES {
            true => self.near.set(*ifindex, Attachment::NONE, 0),
            false => self.far.remove(ifindex),
        }
    }
}

/// As for an array; the kernel itself empties the port of a device that goes (kernel/bpf/devmap.c).
impl Writer<u32, u32> for DevMap<MapData> {
    fn put(&mut self, port: &u32, ifindex: &u32) -> Result<(), MapError> {
        self.set(*port, *ifindex, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => error,
            XdpMapError::ChainedProgramNotSupported => unreachable!("no program was given"),
        })
    }

    fn delete(&mut self, _port: &u32) -> Result<(), MapError> {
        Ok(())
    }
}

pub fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<Named<M>, Error> {
    let map = ebpf.take_map(name).expect("the embedded object has every map");
    let capacity = capacity(&map);
    let map = M::try_from(map).map_err(|error| Error::map(name, capacity, &error))?;
    Ok(Named { name, capacity, map })
}

fn capacity(map: &Map) -> u32 {
    let (Map::Array(data) | Map::DevMap(data) | Map::HashMap(data) | Map::LpmTrie(data) | Map::PerCpuArray(data)) = map
    else {
        return 0;
    };
    data.info().map_or(0, |info| info.max_entries())
}

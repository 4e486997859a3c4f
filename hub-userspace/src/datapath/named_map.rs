//! A named map of the program; applies changes in order.

use aya::{
    Ebpf, Pod,
    maps::{Array, DevMap, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key, xdp::XdpMapError},
};
use hub_common::maps::{Attachment, NEAR_INTERFACES};

use super::DatapathError;
use crate::fib::tables::{MapChanges, Prefix};

/// A map of the program with its name.
pub struct Named<M> {
    pub name: &'static str,
    pub capacity: u32,
    pub map: M,
}

/// The number of changes applied, and the error that stopped them.
pub type Written = (usize, Result<(), DatapathError>);

impl<M> Named<M> {
    /// Applies changes in order.
    pub fn change<K, V>(&mut self, changes: &MapChanges<K, V>) -> Written
    where
        M: Writer<K, V>,
    {
        for (done, (key, value)) in changes.iter().enumerate() {
            let result = match value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            };
            if result.is_err() {
                return (done, result);
            }
        }
        (changes.len(), Ok(()))
    }

    pub fn put<K, V>(&mut self, key: &K, value: &V) -> Result<(), DatapathError>
    where
        M: Writer<K, V>,
    {
        self.map.put(key, value).map_err(|error| DatapathError::map(self.name, self.capacity, &error))
    }

    /// A missing entry is no error.
    pub fn delete<K, V>(&mut self, key: &K) -> Result<(), DatapathError>
    where
        M: Writer<K, V>,
    {
        match self.map.delete(key) {
            Err(error) if !is_missing(&error) => Err(DatapathError::map(self.name, self.capacity, &error)),
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

/// Writes single entries; the kernel replaces an entry of a trie or hash atomically.
pub trait Writer<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    fn delete(&mut self, key: &K) -> Result<(), MapError>;
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

/// Deletion leaves an array's entry unchanged: nothing refers to it until its index is reused.
impl<V: Pod> Writer<u32, V> for Array<MapData, V> {
    fn put(&mut self, key: &u32, value: &V) -> Result<(), MapError> {
        self.set(*key, value, 0)
    }

    fn delete(&mut self, _key: &u32) -> Result<(), MapError> {
        Ok(())
    }
}

/// Attachments: those of most interfaces in an array, the others in a hash map.
pub struct ByInterface {
    near: Array<MapData, Attachment>,
    far: HashMap<MapData, u32, Attachment>,
}

impl ByInterface {
    pub fn of(near: MapData, far: MapData) -> Result<Self, MapError> {
        Ok(Self { near: Map::Array(near).try_into()?, far: Map::HashMap(far).try_into()? })
    }

    pub fn take(ebpf: &mut Ebpf) -> Result<Named<Self>, DatapathError> {
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

/// As for an array. The kernel itself clears the port of a removed device (kernel/bpf/devmap.c).
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

pub fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<Named<M>, DatapathError> {
    let map = ebpf.take_map(name).expect("the embedded object has every map");
    let capacity = capacity(&map);
    let map = M::try_from(map).map_err(|error| DatapathError::map(name, capacity, &error))?;
    Ok(Named { name, capacity, map })
}

fn capacity(map: &Map) -> u32 {
    let (Map::Array(data)
    | Map::CpuMap(data)
    | Map::DevMap(data)
    | Map::HashMap(data)
    | Map::LpmTrie(data)
    | Map::PerCpuArray(data)) = map
    else {
        return 0;
    };
    data.info().map_or(0, |info| info.max_entries())
}

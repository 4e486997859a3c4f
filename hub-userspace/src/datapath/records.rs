//! The history of connections for the next agent: counters, slot and state of each connection.
//!
//! Four maps are pinned. The programs count in `traffic` and `refusals`; only agents use `connections` and `reasons`.
//! The next agent's programs continue to count in the same maps, so no packet is missed. A version with another layout
//! creates new maps. The old program counts in the old maps until it is replaced. Then their sums are added to
//! `connections`:
//!
//! 1. `counters-new/` is filled; `counters/` becomes `counters-old/`; `counters-new/` becomes `counters/`;
//! 2. the programs are replaced; until then the counters are the sum of both;
//! 3. the old sums of each slot are added to its record, which is marked as done; `counters-old/` is removed.
//!
//! If an agent is killed between any two steps, the next one continues from there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, MapError, MapInfo, MapType};
use aya_obj::generated::bpf_map_type;
use hub_common::{
    Reason,
    maps::{ConnectionRecord, MAX_CONNECTIONS, NAME_BYTES, Refusals, Traffic, VPC},
};
use tracing::{info, warn};

use super::{
    Counters, DatapathError,
    old::Old,
    pins::{Pins, make_directory, remove_directory, rename},
    reason_names::{self, REASON_BYTES, ReasonName},
};

const CURRENT: &str = "counters";
const NEW: &str = "counters-new";
const OLD: &str = "counters-old";

/// `COUNTERS` slots.
pub const SLOTS: u32 = VPC + 1 + MAX_CONNECTIONS;

/// The pinned maps, by file name.
const MAPS: [PinnedMap; 4] = [
    PinnedMap::new("traffic", MapType::PerCpuArray, size_of::<Traffic>(), SLOTS),
    PinnedMap::new("refusals", MapType::PerCpuArray, size_of::<Refusals>(), SLOTS),
    PinnedMap::new("connections", MapType::Array, size_of::<ConnectionRecord>(), SLOTS),
    PinnedMap::new("reasons", MapType::Array, REASON_BYTES, Reason::COUNT as u32),
];

#[derive(Clone, Copy)]
struct PinnedMap {
    name: &'static str,
    kind: MapType,
    value_bytes: u32,
    entries: u32,
}

impl PinnedMap {
    const fn new(name: &'static str, kind: MapType, value_bytes: usize, entries: u32) -> Self {
        Self { name, kind, value_bytes: value_bytes as u32, entries }
    }

    /// Checks the layout, because aya accepts any.
    fn is_of(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() == size_of::<u32>() as u32
            && info.value_size() == self.value_bytes
            && info.max_entries() == self.entries
    }

    fn create(&self, directory: &Path) -> Result<MapData, DatapathError> {
        let kind = match self.kind {
            MapType::PerCpuArray => bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
            _ => bpf_map_type::BPF_MAP_TYPE_ARRAY,
        };
        let map = aya_obj::Map::new_from_params(kind as u32, 4, self.value_bytes, self.entries, 0);
        let error = |cause: String| DatapathError::Map { map: self.name, cause };
        let map = MapData::create(map, self.name, None).map_err(|cause| error(cause.to_string()))?;
        map.pin(directory.join(self.name)).map_err(|cause| error(cause.to_string()))?;
        Ok(map)
    }
}

/// The records of all slots, and the counters of a previous version.
#[derive(Default)]
pub struct Records {
    map: Option<Array<MapData, ConnectionRecord>>,
    /// The map's contents.
    by_slot: BTreeMap<u32, ConnectionRecord>,
    old: Option<Old>,
    /// Slots without owner: the old programs may still count in them.
    to_clear: Option<Vec<u32>>,
}

/// Paths of an instance's maps, for the loader.
pub fn paths(pins: &Pins) -> [(&'static str, PathBuf); 2] {
    let directory = pins.place(CURRENT);
    [("TRAFFIC", directory.join("traffic")), ("REFUSALS", directory.join("refusals"))]
}

impl Records {
    /// Opens the maps of an instance, and creates them if this version has none.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let [current, new, old] = [CURRENT, NEW, OLD].map(|name| pins.place(name));
        remove_directory(&new)?;
        if !current.exists() && old.exists() {
            rename(&old, &current)?;
        }
        if !current.exists() {
            create(&new, &BTreeMap::new())?;
            rename(&new, &current)?;
        } else if !is_of_this_version(&current) {
            info!(name: "counters_carried_over", "the counters are from another version: they are carried over");
            if old.exists() {
                warn!(name: "counters_lost", "the counters of the version before that are lost: not all of its programs have been replaced");
                remove_directory(&old)?;
            }
            create(&new, &Old::open(&current).map(|old| old.records()).unwrap_or_default())?;
            rename(&current, &old)?;
            rename(&new, &current)?;
        }
        let old = if old.exists() { Old::open(&old) } else { None };
        Ok(Self { old, to_clear: Some(Vec::new()), ..Self::read(&current)? })
    }

    /// Opens the maps of an instance read-only.
    pub fn look(pins: &Pins) -> Result<Self, DatapathError> {
        let current = pins.place(CURRENT);
        if !is_of_this_version(&current) {
            return Err(DatapathError::OtherVersion);
        }
        Ok(Self { old: Old::open(&pins.place(OLD)), ..Self::read(&current)? })
    }

    fn read(directory: &Path) -> Result<Self, DatapathError> {
        let error = |cause: String| DatapathError::Map { map: "connections", cause };
        let map = MapData::from_pin(directory.join("connections")).map_err(|cause| error(cause.to_string()))?;
        let map = Array::try_from(Map::Array(map)).map_err(|cause| error(cause.to_string()))?;
        let mut records = BTreeMap::new();
        for slot in 0..SLOTS {
            let record: ConnectionRecord = map.get(&slot, 0).map_err(|cause| error(cause.to_string()))?;
            if record != ConnectionRecord::NONE {
                records.insert(slot, record);
            }
        }
        Ok(Self { map: Some(map), by_slot: records, old: None, to_clear: None })
    }

    /// Slots with their owners' names and records. Names are unique.
    pub fn owners(&self) -> BTreeMap<u32, (String, &ConnectionRecord)> {
        self.by_slot.iter().filter_map(|(slot, record)| Some((*slot, (name(record)?, record)))).collect()
    }

    /// A slot's counters from earlier versions, in addition to those in the current maps.
    pub fn earlier(&self, slot: u32) -> Counters {
        let record = self.by_slot.get(&slot).copied().unwrap_or(ConnectionRecord::NONE);
        let carried = Counters::from(record.traffic) + Counters::from(record.refusals);
        match &self.old {
            Some(old) if record.flags & ConnectionRecord::CARRIED_OVER == 0 => carried + old.counters(slot),
            _ => carried,
        }
    }

    /// Assigns a slot to a new owner, without history.
    pub fn give(&mut self, slot: u32, owner: &str) -> Result<(), MapError> {
        let flags = if self.old.is_some() { ConnectionRecord::CARRIED_OVER } else { 0 };
        let mut record = ConnectionRecord { flags, name_length: owner.len() as u32, ..ConnectionRecord::NONE };
        record.name[..owner.len()].copy_from_slice(owner.as_bytes());
        self.set(slot, &record)
    }

    /// Removes the owner of a slot.
    pub fn take_away(&mut self, slot: u32) -> Result<(), MapError> {
        match &mut self.to_clear {
            Some(to_clear) => to_clear.push(slot),
            None => self.set(slot, &ConnectionRecord::NONE)?,
        }
        Ok(())
    }

    /// Records the state of a slot's owner.
    pub fn note(&mut self, slot: u32, note: impl FnOnce(&mut ConnectionRecord)) -> Result<(), DatapathError> {
        let Some(mut record) = self.by_slot.get(&slot).copied() else { return Ok(()) };
        note(&mut record);
        self.set(slot, &record).map_err(|error| failed(&error))
    }

    /// Call it when the old programs are replaced: nothing counts any more in the previous version's maps, or for
    /// removed owners.
    pub fn commit(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        for slot in self.to_clear.take().unwrap_or_default() {
            self.set(slot, &ConnectionRecord::NONE).map_err(|error| failed(&error))?;
        }
        let Some(old) = &self.old else { return Ok(()) };
        for slot in old.slots() {
            let mut record = self.by_slot.get(&slot).copied().unwrap_or(ConnectionRecord::NONE);
            let counted = old.counters(slot);
            let has_owner = slot <= VPC || record.name_length > 0;
            if !has_owner || record.flags & ConnectionRecord::CARRIED_OVER != 0 || counted == Counters::default() {
                continue;
            }
            let sum = counted + Counters::from(record.traffic) + Counters::from(record.refusals);
            let Counters { rx_packets, rx_bytes, tx_packets, tx_bytes, reasons } = sum;
            record.traffic = Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes };
            record.refusals = Refusals { reasons };
            record.flags |= ConnectionRecord::CARRIED_OVER;
            write(&mut self.map, &mut self.by_slot, slot, &record).map_err(|error| failed(&error))?;
        }
        self.old = None;
        remove_directory(&pins.place(OLD))
    }

    fn set(&mut self, slot: u32, record: &ConnectionRecord) -> Result<(), MapError> {
        write(&mut self.map, &mut self.by_slot, slot, record)
    }
}

/// Writes only changed records.
fn write(
    map: &mut Option<Array<MapData, ConnectionRecord>>,
    records: &mut BTreeMap<u32, ConnectionRecord>,
    slot: u32,
    record: &ConnectionRecord,
) -> Result<(), MapError> {
    if records.get(&slot) == Some(record) {
        return Ok(());
    }
    if let Some(map) = map {
        map.set(slot, record, 0)?;
    }
    match *record == ConnectionRecord::NONE {
        true => records.remove(&slot),
        false => records.insert(slot, *record),
    };
    Ok(())
}

fn failed(error: &MapError) -> DatapathError {
    DatapathError::map("connections", SLOTS, error)
}

fn name(record: &ConnectionRecord) -> Option<String> {
    let name = record.name.get(..(record.name_length as usize).min(NAME_BYTES))?;
    Some(std::str::from_utf8(name).ok()?.to_owned()).filter(|name| !name.is_empty())
}

fn is_of_this_version(directory: &Path) -> bool {
    let same_layout =
        MAPS.iter().all(|layout| MapInfo::from_pin(directory.join(layout.name)).is_ok_and(|info| layout.is_of(&info)));
    same_layout
        && reason_names::read(directory)
            .is_some_and(|names| names == Reason::ALL.map(|reason| reason_names::padded(reason.name())))
}

/// Creates the maps with these records.
fn create(directory: &Path, records: &BTreeMap<u32, ConnectionRecord>) -> Result<(), DatapathError> {
    make_directory(directory)?;
    let [traffic, refusals, connections, reasons] = MAPS;
    traffic.create(directory)?;
    refusals.create(directory)?;
    let map = connections.create(directory)?;
    let mut map: Option<Array<MapData, ConnectionRecord>> =
        Some(Map::Array(map).try_into().map_err(|error| failed(&error))?);
    let mut written = BTreeMap::new();
    for (slot, record) in records.iter().filter(|(slot, _)| **slot < SLOTS) {
        write(&mut map, &mut written, *slot, record).map_err(|error| failed(&error))?;
    }
    let error = |error| DatapathError::map("reasons", Reason::COUNT as u32, &error);
    let mut names: Array<MapData, ReasonName> = Map::Array(reasons.create(directory)?).try_into().map_err(error)?;
    for reason in Reason::ALL {
        names.set(reason as u32, reason_names::padded(reason.name()), 0).map_err(error)?;
    }
    Ok(())
}

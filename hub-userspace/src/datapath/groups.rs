//! The running programs' tables, pinned in `tables/`: the owners of buckets, for the next agent, and the attachments, to
//! end the forwarding.
//!
//! A new agent pins its tables in `tables-new/`, and renames that once its programs run.

use std::{
    collections::BTreeSet,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, IterableMap as _, Map, MapData, MapError},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use hub_common::maps::{Attachment, BUCKET_INDEX, GROUP_BUCKETS, GroupRecord, MAX_BUCKETS};

use tracing::debug;

use crate::fib::old_group::OldGroup;

use super::{
    DatapathError, bpf,
    named_map::{ByInterface, Named, Writer},
    pins::{Pins, make_directory, remove_directory, rename},
};

const CURRENT: &str = "tables";
const NEW: &str = "tables-new";
const OLD: &str = "tables-old";

/// Files of the attachments.
const NEAR: &str = "attachments";
const FAR: &str = "far_attachments";

const NAME: &str = "GROUPS";
const GROUPS: u32 = MAX_BUCKETS / GROUP_BUCKETS;

/// The agent's own map, in addition to the program's.
pub struct Groups(Array<MapData, GroupRecord>);

impl Writer<u32, GroupRecord> for Groups {
    fn put(&mut self, number: &u32, record: &GroupRecord) -> Result<(), MapError> {
        self.0.set(*number, record, 0)
    }

    fn delete(&mut self, number: &u32) -> Result<(), MapError> {
        self.0.set(*number, GroupRecord::default(), 0)
    }
}

/// Creates an empty map of groups.
pub fn create() -> Result<Named<Groups>, DatapathError> {
    let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, size_of::<GroupRecord>() as u32, GROUPS, 0);
    let map = MapData::create(map, NAME, None).and_then(|map| Array::try_from(Map::Array(map)));
    map.map(|map| Named { name: NAME, capacity: GROUPS, map: Groups(map) })
        .map_err(|error| DatapathError::map(NAME, GROUPS, &error))
}

/// Pins a new agent's tables in addition to the running ones.
pub fn stage(pins: &Pins, ebpf: &Ebpf, groups: &Groups) -> Result<(), DatapathError> {
    let new = pins.place(NEW);
    remove_directory(&new)?;
    make_directory(&new)?;
    let error = |map: &'static str, cause: &dyn std::error::Error| DatapathError::Map { map, cause: cause.to_string() };
    let maps = [("BUCKETS", "buckets"), ("NEXT_HOPS", "next_hops"), ("ATTACHMENTS", NEAR), ("FAR_ATTACHMENTS", FAR)];
    for (map, file) in maps {
        let object = ebpf.map(map).expect("the embedded object has every map");
        object.pin(new.join(file)).map_err(|cause| error(map, &cause))?;
    }
    groups.0.map().pin(new.join("groups")).map_err(|cause| error(NAME, &cause))
}

/// Makes the new tables current; call it when the new agent's programs run.
pub fn commit(pins: &Pins) -> Result<(), DatapathError> {
    let [current, new, old] = [CURRENT, NEW, OLD].map(|name| pins.place(name));
    if current.exists() {
        remove_directory(&old)?;
        rename(&current, &old)?;
    }
    rename(&new, &current)?;
    remove_directory(&old)
}

/// Removes the attachments of all interfaces from the tables: the programs then pass all packets unmarked. Does nothing
/// with tables of a version with other attachments.
pub fn deny(pins: &Pins) {
    let interfaces: BTreeSet<u32> = pins.links().into_iter().map(|(ifindex, _)| ifindex).collect();
    // An agent may have been killed while both its programs and those of an earlier one were attached.
    for directory in [CURRENT, NEW, OLD].map(|name| pins.place(name)) {
        let open = |file: &str| {
            let map = MapData::from_pin(directory.join(file)).ok()?;
            (map.info().ok()?.value_size() as usize == size_of::<Attachment>()).then_some(map)
        };
        let (Some(near), Some(far)) = (open(NEAR), open(FAR)) else { continue };
        let Ok(mut attachments) = ByInterface::of(near, far) else { continue };
        for ifindex in &interfaces {
            if let Err(error) = attachments.delete(ifindex) {
                debug!(ifindex, "no attachment to remove: {error}");
            }
        }
    }
}

/// The running programs' groups; empty if they are of a version with other tables.
pub fn read(pins: &Pins) -> Vec<OldGroup> {
    // An agent may have been killed between the two renames.
    let found: Vec<PathBuf> =
        [CURRENT, OLD].map(|name| pins.place(name)).into_iter().filter(|path| path.exists()).collect();
    found.first().and_then(|directory| read_from(directory)).unwrap_or_default()
}

fn read_from(directory: &Path) -> Option<Vec<OldGroup>> {
    let open = |file: &str| MapData::from_pin(directory.join(file)).ok();
    let groups: Array<MapData, GroupRecord> = Map::Array(open("groups")?).try_into().ok()?;
    let buckets: Array<MapData, u32> = Map::Array(open("buckets")?).try_into().ok()?;
    if groups.len() != GROUPS || buckets.len() != MAX_BUCKETS {
        return None;
    }
    let next_hops = open("next_hops")?;
    let bytes = next_hops.info().ok()?.value_size() as usize;
    // The first field in every version.
    let slot = |next_hop: u32| {
        let mut value = vec![0; bytes];
        bpf::look_up(&bpf::Array { fd: next_hops.fd().as_fd(), bytes }, next_hop, &mut value).ok()?;
        Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
    };
    let mut found = Vec::new();
    for number in 0..GROUPS {
        let record = groups.get(&number, 0).ok()?;
        if record == GroupRecord::default() {
            continue;
        }
        let of_group = number * GROUP_BUCKETS..(number + 1) * GROUP_BUCKETS;
        let owners =
            of_group.map(|bucket| buckets.get(&bucket, 0).ok().and_then(|value| slot(value & BUCKET_INDEX))).collect();
        found.push(OldGroup { record, owners });
    }
    Some(found)
}

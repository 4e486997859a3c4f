//! The agent's own counts of each connection, such as rekeyings, for the next agent.
//!
//! They are saved at each scrape, before its answer: a counter that has been read never goes back, whenever the agent is
//! killed. Without scrapes nothing is saved. The map is pinned beside the datapath and keyed by the connection's name.

use std::{
    collections::BTreeMap,
    fs,
    ops::Add,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;
use hub_common::maps::{MAX_CONNECTIONS, NAME_BYTES};
use tracing::debug;

use super::pins::Pins;

const FILE: &str = "counts";
/// `BPF_F_NO_PREALLOC` (linux/bpf.h).
const NO_PREALLOCATION: u32 = 1;
/// Counts of a value. The last one is reserved.
const WORDS: usize = 4;

/// UTF-8, padded with zeros.
type Name = [u8; NAME_BYTES];
type CountMap = HashMap<MapData, Name, [u64; WORDS]>;

/// What the agent itself counts of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnCounts {
    /// Completed rekeyings of IKE and child SAs.
    pub rekeys: u64,
    pub probes_sent: u64,
    /// Probes without a reply in time.
    pub probes_lost: u64,
}

impl Add for OwnCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rekeys: self.rekeys + other.rekeys,
            probes_sent: self.probes_sent + other.probes_sent,
            probes_lost: self.probes_lost + other.probes_lost,
        }
    }
}

/// The saved counts of all connections.
#[derive(Default)]
pub struct SavedCounts {
    /// Where the map is pinned; `None`: nothing is saved.
    path: Option<PathBuf>,
    map: Option<CountMap>,
    /// Of earlier agents, by name.
    earlier: BTreeMap<String, OwnCounts>,
    /// The map's content.
    saved: BTreeMap<String, OwnCounts>,
}

impl SavedCounts {
    pub(super) fn of(pins: &Pins) -> Self {
        Self { path: Some(pins.place(FILE)), ..Self::default() }
    }

    /// Adds the counts of earlier agents to those of this one, in place, and saves the sums. Forgets all other
    /// connections.
    pub fn total<'a>(&mut self, counts: impl Iterator<Item = (&'a str, &'a mut OwnCounts)>) {
        self.open();
        let mut totals = BTreeMap::new();
        for (name, count) in counts {
            *count = *count + self.earlier.get(name).copied().unwrap_or_default();
            totals.insert(name, *count);
        }
        self.earlier.retain(|name, _| totals.contains_key(name.as_str()));
        let Self { map: Some(map), saved, .. } = self else { return };
        // First, so that there is room for new connections.
        saved.retain(|name, _| {
            let is_kept = totals.contains_key(name.as_str());
            if !is_kept {
                note(map.remove(&key(name)));
            }
            is_kept
        });
        for (name, total) in totals {
            if saved.get(name).copied().unwrap_or_default() == total {
                continue;
            }
            let OwnCounts { rekeys, probes_sent, probes_lost } = total;
            if note(map.insert(key(name), [rekeys, probes_sent, probes_lost, 0], 0)) {
                saved.insert(name.to_owned(), total);
            }
        }
    }

    /// Opens the map and reads it, at the first call.
    fn open(&mut self) {
        let Some(path) = self.path.take() else { return };
        let map = open(&path).or_else(|error| {
            debug!("{}: created again: {error}", path.display());
            create(&path)
        });
        match map {
            Ok(map) => {
                self.earlier = map.iter().filter_map(|entry| read(&entry.ok()?)).collect();
                self.saved.clone_from(&self.earlier);
                self.map = Some(map);
            }
            Err(error) => debug!("the next agent does not continue the counts: {error}"),
        }
    }
}

fn open(path: &Path) -> anyhow::Result<CountMap> {
    let map = MapData::from_pin(path)?;
    let info = map.info()?;
    anyhow::ensure!(
        (info.key_size() as usize, info.value_size() as usize) == (NAME_BYTES, 8 * WORDS),
        "it is of another version"
    );
    Ok(Map::HashMap(map).try_into()?)
}

fn create(path: &Path) -> anyhow::Result<CountMap> {
    // There may be none.
    drop(fs::remove_file(path));
    let (key, value) = (NAME_BYTES as u32, 8 * WORDS as u32);
    let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, key, value, MAX_CONNECTIONS, NO_PREALLOCATION);
    let map = MapData::create(map, FILE, None)?;
    map.pin(path)?;
    Ok(Map::HashMap(map).try_into()?)
}

fn key(name: &str) -> Name {
    let mut key = [0; NAME_BYTES];
    let bytes = name.as_bytes();
    // Names have 63 bytes at most.
    let length = bytes.len().min(NAME_BYTES);
    key[..length].copy_from_slice(&bytes[..length]);
    key
}

fn read((key, [rekeys, probes_sent, probes_lost, _]): &(Name, [u64; WORDS])) -> Option<(String, OwnCounts)> {
    let name = key.split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?.to_owned();
    Some((name, OwnCounts { rekeys: *rekeys, probes_sent: *probes_sent, probes_lost: *probes_lost }))
}

/// Whether the kernel has accepted the change.
fn note(result: Result<(), MapError>) -> bool {
    result.inspect_err(|error| debug!("a count is not saved: {error}")).is_ok()
}

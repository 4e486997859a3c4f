//! Names of the reasons, pinned next to the counters: another version of the agent may number them differently.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use hub_common::Reason;

pub const REASON_BYTES: usize = 32;
/// A reason's name, padded with zeros: the value in the map `reasons`, by number.
pub type ReasonName = [u8; REASON_BYTES];

/// Reads the map in a directory.
pub fn read(directory: &Path) -> Option<Vec<ReasonName>> {
    let map = MapData::from_pin(directory.join("reasons")).ok()?;
    let map: Array<MapData, ReasonName> = Map::Array(map).try_into().ok()?;
    map.iter().collect::<Result<_, _>>().ok()
}

pub fn padded(name: &str) -> ReasonName {
    let mut padded = [0; REASON_BYTES];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

const _: () = {
    let mut reason = 0;
    while reason < Reason::COUNT {
        assert!(Reason::ALL[reason].name().len() < REASON_BYTES);
        reason += 1;
    }
};

//! The ladder's own maps. Those of the hub come with its stages, so these have other names.

use aya_ebpf::{
    macros::map,
    maps::{Array, DevMap, PerCpuArray},
};
use benches_ebpf::shape::Settings;

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The number of the next frame.
#[map]
pub static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Where `bare` sends everything: port 0.
#[map]
pub static FLOOR: DevMap = DevMap::with_max_entries(1, 0);

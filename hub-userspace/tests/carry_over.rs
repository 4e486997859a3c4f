//! Counters of another version's datapath: maps with another layout, whose sums a new agent carries over by name.
//!
//! Needs root and bpffs, in a network namespace of the test's own.

use std::{collections::BTreeSet, fs, path::PathBuf};

use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY};
use hub_common::Reason;
use hub_userspace::{
    config::model,
    datapath::{Claim, Counters, Dataplane, Instance},
};
use nix::sched::{CloneFlags, unshare};

/// The other version has fewer slots, an additional counter after the traffic, and two reasons: one of ours with
/// another number, and one that no longer exists.
const SLOTS: u32 = 100;
const REASONS: [&str; 2] = ["spoofed_source", "of_another_time"];

/// Name, its length, state, flags, padding; since, well since, changes; traffic; refusals.
const RECORD: usize = 128 + 4 * 4 + 3 * 8 + 5 * 8 + REASONS.len() * 8;

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
        drop(fs::remove_dir(self.0.parent().expect("it has one")));
    }
}

fn create(kind: bpf_map_type, value_bytes: usize, entries: u32, path: PathBuf) -> Map {
    let map = aya_obj::Map::new_from_params(kind as u32, 4, u32::try_from(value_bytes).unwrap(), entries, 0);
    let map = MapData::create(map, "old", None).unwrap();
    map.pin(path).unwrap();
    if kind == BPF_MAP_TYPE_ARRAY { Map::Array(map) } else { Map::PerCpuArray(map) }
}

fn values<V: aya::Pod>(value: V) -> PerCpuValues<V> {
    vec![value; cpus()].try_into().unwrap()
}

fn cpus() -> usize {
    aya::util::nr_cpus().unwrap()
}

#[test]
fn counters_of_other_version_carry_over_by_name() {
    assert!(rustix::process::geteuid().is_root(), "this test makes BPF maps: run it as root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let instance: Instance = format!("test-carry-over-{}", std::process::id()).parse().unwrap();
    // This mounts bpffs, too.
    let settings = model::DataplaneSettings::default();
    let start = || Dataplane::start(&settings, Claim::new(&instance).unwrap()).unwrap();
    let dataplane = start();
    let directory = Directory(PathBuf::from("/sys/fs/bpf/vpnhub").join(instance.as_str()));
    drop(dataplane);
    let old = directory.0.join("counters");
    fs::remove_dir_all(&old).unwrap();
    fs::create_dir(&old).unwrap();

    let mut traffic: PerCpuArray<MapData, [u64; 5]> =
        create(BPF_MAP_TYPE_PERCPU_ARRAY, 40, SLOTS, old.join("traffic")).try_into().unwrap();
    let mut refusals: PerCpuArray<MapData, [u64; 2]> =
        create(BPF_MAP_TYPE_PERCPU_ARRAY, 16, SLOTS, old.join("refusals")).try_into().unwrap();
    let mut connections: Array<MapData, [u8; RECORD]> =
        create(BPF_MAP_TYPE_ARRAY, RECORD, SLOTS, old.join("connections")).try_into().unwrap();
    let mut reasons: Array<MapData, [u8; 32]> =
        create(BPF_MAP_TYPE_ARRAY, 32, 2, old.join("reasons")).try_into().unwrap();
    for (number, name) in (0..).zip(REASONS) {
        let mut value = [0; 32];
        value[..name.len()].copy_from_slice(name.as_bytes());
        reasons.set(number, value, 0).unwrap();
    }
    let mut record = Vec::new();
    record.extend(*b"shanghai");
    record.resize(128, 0);
    // Its name has eight bytes; it is down, on its own.
    record.extend([8_u32, 3, 1, 0].into_iter().flat_map(u32::to_ne_bytes));
    record.extend([5_000_000_000_u64, 0, 7].into_iter().flat_map(u64::to_ne_bytes));
    // Carried over once before.
    record.extend([1000_u64, 2000, 0, 0, 888, 50, 0].into_iter().flat_map(u64::to_ne_bytes));
    connections.set(9, <[u8; RECORD]>::try_from(record).unwrap(), 0).unwrap();
    let cpus = u64::try_from(cpus()).unwrap();
    traffic.set(9, values([10, 100, 0, 0, 999]), 0).unwrap();
    refusals.set(9, values([2, 77]), 0).unwrap();

    let expected = |more: u64| {
        let mut counters =
            Counters { rx_packets: 1000 + 10 * cpus + more, rx_bytes: 2000 + 100 * cpus, ..Counters::default() };
        counters.reasons[Reason::SpoofedSource as usize] = 50 + 2 * cpus;
        counters
    };
    // The first is killed before it replaces the old programs.
    for _ in 0..2 {
        let claim = Claim::new(&instance).unwrap();
        let inherited = claim.inherited().clone();
        let dataplane = Dataplane::start(&settings, claim).unwrap();
        let (slot, memory) = &inherited.connections["shanghai"];
        let memory = memory.unwrap();
        assert_eq!((*slot, memory.failed, memory.changes, memory.since.as_secs()), (9, true, 7, 5));
        assert_eq!(dataplane.counters(9).unwrap(), expected(0));
        assert!(directory.0.join("counters-old").exists());
    }
    let mut dataplane = start();
    // Counts of the old programs until their replacement are included.
    traffic.set(9, values([11, 100, 0, 0, 999]), 0).unwrap();
    dataplane.keep(&BTreeSet::new()).unwrap();
    assert_eq!(dataplane.counters(9).unwrap(), expected(cpus));
    assert!(!directory.0.join("counters-old").exists());
    drop(dataplane);
    let mut dataplane = start();
    dataplane.keep(&BTreeSet::new()).unwrap();
    assert_eq!(dataplane.counters(9).unwrap(), expected(cpus), "and only once");
}

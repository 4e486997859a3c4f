//! The tables of docs/scale.md, against the maps of the program.

use std::{collections::BTreeMap, fs};

use aya_obj::{
    Object,
    generated::bpf_map_type::{
        self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_CPUMAP, BPF_MAP_TYPE_DEVMAP,
        BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF,
    },
};
use hub_common::maps::{Refusals, Traffic};

use super::PROGRAM;

/// The number of CPUs that the chapter plans for.
const CPUS: u64 = 64;

/// A map of the program.
struct Definition {
    kind: bpf_map_type,
    key_bytes: u64,
    value_bytes: u64,
    entries: u64,
}

impl Definition {
    /// Memory of all entries, of one CPU (`array_map_alloc`, kernel/bpf/arraymap.c).
    fn bytes(&self) -> u64 {
        match self.kind {
            BPF_MAP_TYPE_RINGBUF => self.entries,
            // A pointer.
            BPF_MAP_TYPE_DEVMAP => 8 * self.entries,
            _ => self.value_bytes.next_multiple_of(8) * self.entries,
        }
    }
}

/// All but the program's variables.
fn definitions() -> BTreeMap<String, Definition> {
    let object = Object::parse(PROGRAM).expect("the agent's program");
    let maps = object.maps.iter().filter(|(name, _)| !name.starts_with('.'));
    let definition = |(name, map): (&String, &aya_obj::Map)| {
        let Ok(kind) = bpf_map_type::try_from(map.map_type()) else { panic!("{name}: type {}", map.map_type()) };
        let [key_bytes, value_bytes, entries] = [map.key_size(), map.value_size(), map.max_entries()].map(u64::from);
        (name.clone(), Definition { kind, key_bytes, value_bytes, entries })
    };
    maps.map(definition).collect()
}

/// Cells of the chapter's tables.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string("../docs/scale.md").expect("the chapter");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = |row: &str| -> Vec<String> {
        row.split('|').map(|cell| cell.trim().trim_matches('`').replace(',', "")).collect()
    };
    // Tables of sizes have five columns.
    rows.map(cells).filter(|row| row.len() == 5).collect()
}

/// Characters of a map's name in the kernel (`BPF_OBJ_NAME_LEN`), without the end.
const KERNEL_NAME: usize = 15;

#[test]
fn chapter_has_every_map_with_its_size() {
    let rows = rows();
    let (mut per_cpu, mut shared) = (0, 0);
    for (name, map) in definitions() {
        assert!(name.len() <= KERNEL_NAME, "{name}: `bpftool map` and the benches know maps by the kernel's names");
        let found: Vec<_> = rows.iter().filter(|row| row[0] == name).collect();
        let Definition { kind, key_bytes, value_bytes, entries } = map;
        let bytes = map.bytes();
        let numbers = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>();
        let named = |kind: &str, rest: &[u64]| [vec![kind.to_owned()], numbers(rest)].concat();
        let expected = match kind {
            BPF_MAP_TYPE_PERCPU_ARRAY => {
                per_cpu += bytes;
                numbers(&[value_bytes, entries, bytes, CPUS * bytes])
            }
            BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_DEVMAP => {
                shared += bytes;
                let kind = match kind {
                    BPF_MAP_TYPE_ARRAY => "array",
                    BPF_MAP_TYPE_DEVMAP => "devmap",
                    _ => "array of maps",
                };
                named(kind, &[value_bytes, entries, bytes])
            }
            BPF_MAP_TYPE_RINGBUF => {
                shared += bytes;
                ["ring".to_owned(), String::new(), entries.to_string(), bytes.to_string()].to_vec()
            }
            BPF_MAP_TYPE_HASH => named("hash", &[key_bytes, value_bytes, entries]),
            BPF_MAP_TYPE_LPM_TRIE => named("LPM trie", &[key_bytes, value_bytes, entries]),
            // The agent sets its number of entries.
            BPF_MAP_TYPE_CPUMAP => continue,
            _ => panic!("docs/scale.md has no table for {name}"),
        };
        let found: Vec<_> = found.iter().map(|row| &row[1..]).collect();
        assert_eq!(found, [&expected[..]], "docs/scale.md, {name}");
    }
    let sums: Vec<_> = rows.iter().filter(|row| row[0] == "all").map(|row| &row[row.len() - 2..]).collect();
    let [of_cpu, of_all] = [per_cpu, CPUS * per_cpu].map(|bytes| bytes.to_string());
    assert_eq!(sums, [&[of_cpu, of_all][..], &[String::new(), shared.to_string()]]);
}

#[test]
fn chapter_has_no_other_maps() {
    let known = definitions();
    // Names of maps, as the kernel has them, in the first cell.
    let is_name =
        |cell: &str| cell.contains('_') && cell.chars().all(|c| c.is_ascii_uppercase() || "_0123456789".contains(c));
    let other = |row: &Vec<String>| is_name(&row[0]) && !known.contains_key(&row[0]);
    let others: Vec<_> = rows().into_iter().filter(other).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn sentences_of_the_chapter_hold() {
    let text = fs::read_to_string("../docs/scale.md").expect("the chapter").replace('\n', " ");
    let of_connection = (size_of::<Traffic>() + size_of::<Refusals>()) as u64 * CPUS;
    let (traffic, refusals) = (size_of::<Traffic>(), size_of::<Refusals>());
    let thousand = size_of::<Traffic>() * 1000;
    let buckets = u64::from(hub_common::spread::BUCKETS);
    for sentence in [
        format!("({traffic} + {refusals}) × {CPUS} = {},{:03} bytes", of_connection / 1000, of_connection % 1000),
        format!("with 1,000 connections {},{:03} bytes", thousand / 1000, thousand % 1000),
        format!("{},{:03} / {CPUS} = {} for each CPU", buckets / 1000, buckets % 1000, buckets / CPUS),
        format!("{} buckets have one cache line", 64 / 8),
        format!(
            "a failover of {0} buckets takes {1} lines",
            hub_common::maps::GROUP_BUCKETS,
            hub_common::maps::GROUP_BUCKETS / 8
        ),
    ] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&text).contains(&sentence), "docs/scale.md lacks {sentence:?}");
    }
}

//! Types of BPF programs and maps that the datapath needs.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};

const PROGRAMS: [(&str, ProgramType); 2] =
    [("XDP programs", ProgramType::Xdp), ("TC programs", ProgramType::SchedClassifier)];

const MAPS: [(&str, MapType); 8] = [
    ("arrays", MapType::Array),
    ("arrays by CPU", MapType::PerCpuArray),
    ("hash tables", MapType::Hash),
    ("LPM tries", MapType::LpmTrie),
    ("arrays of maps", MapType::ArrayOfMaps),
    ("device maps", MapType::DevMap),
    ("CPU maps", MapType::CpuMap),
    ("ring buffers", MapType::RingBuf),
];

/// Those that the kernel lacks, by trying each: loads tiny programs and makes tiny maps. Needs the privileges that loading
/// the datapath needs. `None`: it cannot be tried.
pub fn missing_features() -> Option<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (name, kind) in PROGRAMS {
        if !is_program_supported(kind).ok()? {
            missing.push(name);
        }
    }
    for (name, kind) in MAPS {
        if !is_map_supported(kind).ok()? {
            missing.push(name);
        }
    }
    Some(missing)
}

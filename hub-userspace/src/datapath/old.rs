//! Counters of another version: maps whose layout is known only at run time.

use std::{collections::BTreeMap, ops::Range, os::fd::AsFd as _, path::Path};

use aya::maps::{MapData, MapType};
use hub_common::{
    Reason,
    maps::{ConnectionRecord, NAME_BYTES, Traffic},
};

use super::{Counters, bpf, reason_names::REASON_BYTES};

const WORD: usize = size_of::<u64>();

/// The readable maps of another version.
pub struct Old {
    traffic: Option<Values>,
    refusals: Option<Values>,
    connections: Option<Values>,
    /// This version's reasons, indexed by the other version's numbers.
    reasons: Vec<Option<Reason>>,
}

/// An array map, per CPU or not.
struct Values {
    map: MapData,
    value_bytes: usize,
    /// Bytes between the values of consecutive CPUs.
    stride: usize,
    entries: u32,
    cpus: usize,
}

impl Values {
    fn open(path: &Path) -> Option<Self> {
        let map = MapData::from_pin(path).ok()?;
        let info = map.info().ok()?;
        let (value_bytes, entries) = (info.value_size() as usize, info.max_entries());
        let (cpus, stride) = match info.map_type().ok()? {
            MapType::PerCpuArray => (aya::util::nr_cpus().ok()?, value_bytes.next_multiple_of(WORD)),
            MapType::Array => (1, value_bytes),
            _ => return None,
        };
        Some(Self { map, value_bytes, stride, entries, cpus })
    }

    /// The value of each CPU.
    fn get(&self, index: u32) -> Vec<Vec<u8>> {
        let mut values = vec![0; self.stride * self.cpus];
        let array = bpf::Array { fd: self.map.fd().as_fd(), bytes: values.len() };
        match bpf::look_up(&array, index, &mut values) {
            Ok(()) => values.chunks(self.stride).map(|value| value[..self.value_bytes].to_vec()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// The value's words, summed over all CPUs.
    fn sums(&self, index: u32) -> Vec<u64> {
        let mut sums = vec![0; self.value_bytes / WORD];
        for value in self.get(index) {
            for (sum, word) in sums.iter_mut().zip(words(&value)) {
                *sum += word;
            }
        }
        sums
    }
}

impl Old {
    /// Opens the maps in a directory; `None` without one.
    pub fn open(directory: &Path) -> Option<Self> {
        let open = |name: &str| Values::open(&directory.join(name));
        let names = open("reasons").filter(|names| names.value_bytes == REASON_BYTES)?;
        let reason = |number| {
            let name = names.get(number).pop()?;
            Reason::ALL.into_iter().find(|reason| reason.name().as_bytes() == without_padding(&name))
        };
        let reasons = (0..names.entries).map(reason).collect();
        let [traffic, refusals, connections] = ["traffic", "refusals", "connections"].map(open);
        Some(Self { traffic, refusals, connections, reasons })
    }

    pub fn slots(&self) -> Range<u32> {
        0..self.traffic.iter().chain(&self.refusals).map(|values| values.entries).max().unwrap_or(0)
    }

    /// The old programs' counters of a slot.
    pub fn counters(&self, slot: u32) -> Counters {
        let traffic = self.traffic.as_ref().map(|values| values.sums(slot)).unwrap_or_default();
        let refusals = self.refusals.as_ref().map(|values| values.sums(slot)).unwrap_or_default();
        self.named(&traffic, &refusals)
    }

    fn named(&self, traffic: &[u64], refusals: &[u64]) -> Counters {
        let mut counters = Counters::default();
        if let [rx_packets, rx_bytes, tx_packets, tx_bytes, ..] = *traffic {
            counters = Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes }.into();
        }
        for (reason, count) in self.reasons.iter().zip(refusals) {
            if let Some(reason) = reason {
                counters.reasons[*reason as usize] += count;
            }
        }
        counters
    }

    /// The records, converted to this version's format: see [`ConnectionRecord`] for the fields common to all versions.
    pub fn records(&self) -> BTreeMap<u32, ConnectionRecord> {
        let Some(connections) = &self.connections else { return BTreeMap::new() };
        let record = |slot: u32| {
            let value = connections.get(slot).pop()?;
            let rest = words(value.get(NAME_BYTES..)?).collect::<Vec<_>>();
            let (fixed, refusals) = rest.split_at_checked(rest.len().checked_sub(self.reasons.len())?)?;
            let [_, _, since, healthy_since, changes, ref traffic @ ..] = *fixed else { return None };
            let half = |at: usize| Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?));
            let counters = self.named(traffic, refusals);
            let Counters { rx_packets, rx_bytes, tx_packets, tx_bytes, reasons } = counters;
            let record = ConnectionRecord {
                name: value[..NAME_BYTES].try_into().ok()?,
                name_length: half(NAME_BYTES)?,
                state: half(NAME_BYTES + 4)?,
                flags: half(NAME_BYTES + 8)? & ConnectionRecord::FAILED,
                padding: 0,
                since,
                healthy_since,
                changes,
                traffic: Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes },
                refusals: hub_common::maps::Refusals { reasons },
            };
            (record != ConnectionRecord::NONE).then_some((slot, record))
        };
        (0..connections.entries).filter_map(record).collect()
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(WORD).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
}

fn without_padding(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

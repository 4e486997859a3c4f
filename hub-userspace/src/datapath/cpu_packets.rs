//! Packets by the CPU that processed them, from the counters that the program keeps for each CPU.

use std::collections::BTreeMap;

use hub_common::{
    Reason,
    maps::{Refusals, Traffic},
};

/// Packets that the program has processed, by CPU: admitted ones, and dropped ones. Those counted by earlier versions
/// of the program are not among them.
///
/// The values of a per-CPU map are those of the possible CPUs, in ascending order: their numbers, unless the kernel's
/// numbers have gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuPackets(Vec<u64>);

impl CpuPackets {
    fn add<V>(&mut self, values: &[V], packets: impl Fn(&V) -> u64) {
        self.0.resize(self.0.len().max(values.len()), 0);
        for (sum, value) in self.0.iter_mut().zip(values) {
            *sum += packets(value);
        }
    }

    pub(super) fn add_traffic(&mut self, values: &[Traffic]) {
        self.add(values, |traffic| traffic.rx_packets);
    }

    /// Passed packets are in [`Traffic`], too, if their source is admitted.
    pub(super) fn add_refusals(&mut self, values: &[Refusals]) {
        let is_drop = |reason: &Reason| reason.is_drop();
        self.add(values, |refusals| {
            Reason::ALL.into_iter().filter(is_drop).map(|reason| refusals.reasons[reason as usize]).sum()
        });
    }

    pub fn merge(&mut self, other: &Self) {
        self.add(&other.0, |packets| *packets);
    }

    /// Each possible CPU with its packets, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(self.0.iter().copied())
    }

    /// The CPUs with most packets, without idle ones.
    pub fn busiest(&self, most: usize) -> BTreeMap<u32, u64> {
        let mut busy: Vec<_> = self.iter().filter(|(_, packets)| *packets > 0).collect();
        busy.sort_unstable_by_key(|(cpu, packets)| (u64::MAX - packets, *cpu));
        busy.into_iter().take(most).collect()
    }
}

impl FromIterator<u64> for CpuPackets {
    fn from_iter<I: IntoIterator<Item = u64>>(packets: I) -> Self {
        Self(packets.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admitted_and_dropped_packets_count_by_cpu() {
        let mut packets = CpuPackets::default();
        packets.add_traffic(&[5, 0].map(|rx_packets| Traffic { rx_packets, tx_packets: 99, ..Traffic::default() }));
        let mut refusals = [Refusals::default(); 2];
        refusals[1].reasons[Reason::SpoofedSource as usize] = 3;
        // Counted as admitted.
        refusals[0].reasons[Reason::ToHub as usize] = 4;
        packets.add_refusals(&refusals);
        assert_eq!(packets.iter().collect::<Vec<_>>(), [(0, 5), (1, 3)]);
        packets.merge(&[1, 1, 7].into_iter().collect());
        assert_eq!(packets.iter().collect::<Vec<_>>(), [(0, 6), (1, 4), (2, 7)]);
    }

    #[test]
    fn busiest_cpus_are_bounded_and_never_idle() {
        let packets: CpuPackets = [0, 9, 5, 9, 1].into_iter().collect();
        assert_eq!(packets.busiest(2), BTreeMap::from([(1, 9), (3, 9)]));
        assert_eq!(packets.busiest(9), BTreeMap::from([(1, 9), (2, 5), (3, 9), (4, 1)]));
    }
}

//! Packets by CPU, and what serves the receive queues of an interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    datapath::CpuPackets,
    kernel::spread::{CpuMask, Interrupt, Receive, Softnet},
};

/// CPUs in a list; of more, those with most packets.
const MOST_CPUS: usize = 64;
/// CPUs of an interface or interrupt: those with most packets or interrupts.
const MOST_OF_ONE: usize = 8;

/// Packets that a CPU has processed, of one interface's: see [`CpuPackets`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PacketsOfCpu {
    pub cpu: u32,
    pub packets: u64,
}

impl PacketsOfCpu {
    /// The eight CPUs with most packets, ascending, without idle ones.
    pub fn busiest(packets: &CpuPackets) -> Vec<Self> {
        packets.busiest(MOST_OF_ONE).into_iter().map(|(cpu, packets)| Self { cpu, packets }).collect()
    }
}

/// What a CPU has processed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CpuStatus {
    pub cpu: u32,
    /// Packets of all connections and of the VPC that the program has processed there.
    pub packets: u64,
    /// Of `/proc/net/softnet_stat`, since boot, of all interfaces of the host, with 32 bits each: received packets, those
    /// that did not fit into the backlog, and times that packets were left when the budget was used up. `None` if
    /// unknown.
    pub received: Option<u32>,
    pub backlog_drops: Option<u32>,
    pub time_squeezes: Option<u32>,
}

impl CpuStatus {
    /// Of all online CPUs, ascending, up to 64; and the number of omitted ones.
    pub fn all(packets: &CpuPackets, softnet: &BTreeMap<u32, Softnet>) -> (Vec<Self>, usize) {
        let mut packets: BTreeMap<u32, u64> = packets.iter().filter(|(_, packets)| *packets > 0).collect();
        for cpu in softnet.keys() {
            packets.entry(*cpu).or_default();
        }
        let mut all: Vec<Self> = packets.into_iter().map(|(cpu, packets)| Self::of(cpu, packets, softnet)).collect();
        let omitted = all.len().saturating_sub(MOST_CPUS);
        if omitted > 0 {
            all.sort_by_key(|status| (u64::MAX - status.packets, u32::MAX - status.received.unwrap_or(0)));
            all.truncate(MOST_CPUS);
            all.sort_by_key(|status| status.cpu);
        }
        (all, omitted)
    }

    fn of(cpu: u32, packets: u64, softnet: &BTreeMap<u32, Softnet>) -> Self {
        let counts = softnet.get(&cpu);
        Self {
            cpu,
            packets,
            received: counts.map(|counts| counts.processed),
            backlog_drops: counts.map(|counts| counts.dropped),
            time_squeezes: counts.map(|counts| counts.squeezed),
        }
    }
}

/// What an interface receives by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReceiveStatus {
    /// The receive queues: the first 64.
    pub queues: Vec<QueueStatus>,
    /// The device's interrupts, ascending: the first 64. A virtual interface has none.
    pub interrupts: Vec<InterruptStatus>,
    /// Number of all interrupts of the device.
    pub interrupt_count: usize,
}

/// A receive queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct QueueStatus {
    pub queue: u32,
    /// CPUs to which RPS distributes its packets, such as `0-3`; empty without RPS.
    pub rps_cpus: String,
}

/// Interrupts that a CPU has served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InterruptsOfCpu {
    pub cpu: u32,
    pub interrupts: u64,
}

/// An interrupt of a device, for one of its queues or for others of its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InterruptStatus {
    pub irq: u32,
    /// The driver's name of it, such as `eth0-rx-1`; empty if nothing handles it.
    pub name: String,
    /// CPUs that may serve it (`smp_affinity_list`), such as `0-3`; `None` if unknown.
    pub affinity: Option<String>,
    /// CPUs that do (`effective_affinity_list`).
    pub effective_affinity: Option<String>,
    /// Interrupts since boot: the eight CPUs with most, without zeros.
    pub counts: Vec<InterruptsOfCpu>,
}

impl From<Receive> for ReceiveStatus {
    fn from(Receive { rps_cpus, interrupts, interrupt_count }: Receive) -> Self {
        Self {
            queues: rps_cpus.into_iter().map(|(queue, cpus)| QueueStatus { queue, rps_cpus: cpus.list() }).collect(),
            interrupts: interrupts.into_iter().map(Into::into).collect(),
            interrupt_count,
        }
    }
}

impl From<Interrupt> for InterruptStatus {
    fn from(Interrupt { number, name, affinity, effective, counts }: Interrupt) -> Self {
        let list = |cpus: Option<CpuMask>| cpus.map(|cpus| cpus.list());
        let counts = counts.into_iter().collect::<CpuPackets>().busiest(MOST_OF_ONE);
        Self {
            irq: number,
            name,
            affinity: list(affinity),
            effective_affinity: list(effective),
            counts: counts.into_iter().map(|(cpu, interrupts)| InterruptsOfCpu { cpu, interrupts }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn online_cpus_are_listed_and_offline_ones_with_packets() {
        let counts = Softnet { processed: 70, dropped: 1, squeezed: 2 };
        let softnet = BTreeMap::from([(0, counts), (1, counts)]);
        // CPU 2 went offline, CPU 3 was never online.
        let (cpus, omitted) = CpuStatus::all(&[0, 5, 6, 0].into_iter().collect(), &softnet);
        let lines: Vec<_> = cpus.iter().map(|cpu| (cpu.cpu, cpu.packets, cpu.received)).collect();
        assert_eq!((lines, omitted), (vec![(0, 0, Some(70)), (1, 5, Some(70)), (2, 6, None)], 0));
        assert_eq!((cpus[0].backlog_drops, cpus[0].time_squeezes), (Some(1), Some(2)));
    }

    #[test]
    fn busiest_cpus_of_many_are_listed_ascending() {
        let softnet: BTreeMap<u32, Softnet> = (0..256).map(|cpu| (cpu, Softnet::default())).collect();
        let packets: CpuPackets = (0..256).map(|cpu| if cpu % 4 == 3 { 1000 - cpu } else { 0 }).collect();
        let (cpus, omitted) = CpuStatus::all(&packets, &softnet);
        let numbers: Vec<u32> = cpus.iter().map(|cpu| cpu.cpu).collect();
        assert_eq!((numbers, omitted), ((0..64).map(|number| number * 4 + 3).collect(), 192));
    }
}

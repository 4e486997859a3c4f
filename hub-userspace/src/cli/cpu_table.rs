//! Packets by CPU and interrupts, as text.

use std::collections::BTreeMap;

use super::table::{right, table};
use crate::api_types::status::{ConnectionStatus, CpuStatus, InterruptStatus, PacketsOfCpu, ReceiveStatus, Status};

/// CPUs and interrupts that a table or note lists, and interfaces of a CPU.
const MOST: usize = 8;
const MOST_INTERFACES: usize = 3;

/// The busiest CPUs, with the interfaces of connections and of the VPC whose packets they process. Empty without any
/// packets.
pub fn packets(status: &Status) -> String {
    let total: u64 = status.cpus.iter().map(|cpu| cpu.packets).sum();
    if total == 0 {
        return String::new();
    }
    let mut interfaces = BTreeMap::<u32, BTreeMap<&str, u64>>::new();
    let connections = status
        .connections
        .iter()
        .flat_map(ConnectionStatus::members)
        .map(|one| (one.interface.as_str(), &one.cpu_packets));
    let vpc = status.vpc.iter().map(|vpc| (vpc.interface.as_str(), &vpc.cpu_packets));
    for (interface, packets) in connections.chain(vpc) {
        for PacketsOfCpu { cpu, packets } in packets {
            *interfaces.entry(*cpu).or_default().entry(interface).or_default() += packets;
        }
    }
    let mut cpus: Vec<&CpuStatus> = status.cpus.iter().collect();
    cpus.sort_by_key(|cpu| (u64::MAX - cpu.packets, cpu.cpu));
    let omitted = status.cpus_omitted + cpus.len().saturating_sub(MOST);
    cpus.truncate(MOST);
    cpus.sort_by_key(|cpu| cpu.cpu);

    let mut rows = table(&["CPU", "PACKETS", "SHARE", "BACKLOG DROPS", "MOST PACKETS FROM"]);
    for CpuStatus { cpu, packets, backlog_drops, .. } in cpus {
        #[expect(clippy::cast_precision_loss, reason = "a share, for people")]
        let share = format!("{:.1} %", 100.0 * *packets as f64 / total as f64);
        let drops = backlog_drops.map_or_else(|| "-".to_owned(), |drops| drops.to_string());
        rows.add_row([cpu.to_string(), packets.to_string(), share, drops, most(interfaces.get(cpu))]);
    }
    right(&mut rows, &[0, 1, 2, 3]);
    let note = if omitted == 0 { String::new() } else { format!("{omitted} more CPUs: see --output json\n") };
    format!("{rows}\n{note}\n")
}

/// The interfaces with most packets.
fn most(interfaces: Option<&BTreeMap<&str, u64>>) -> String {
    let mut all: Vec<_> = interfaces.into_iter().flatten().collect();
    all.sort_by_key(|(name, packets)| (u64::MAX - **packets, **name));
    let more = if all.len() > MOST_INTERFACES { ", ..." } else { "" };
    let names: Vec<&str> = all.into_iter().take(MOST_INTERFACES).map(|(name, _)| *name).collect();
    names.join(", ") + more
}

/// A note on the interrupts of an underlay; `None` without any.
pub fn interrupts(interface: &str, receive: &ReceiveStatus) -> Option<String> {
    if receive.interrupt_count == 0 {
        return None;
    }
    let text = |interrupt: &InterruptStatus| {
        let InterruptStatus { irq, name, affinity, effective_affinity, .. } = interrupt;
        let cpus = effective_affinity.as_ref().or(affinity.as_ref());
        let by = cpus.map_or_else(String::new, |cpus| format!(" by CPU {cpus}"));
        let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
        format!("{irq}{name}{by}")
    };
    let listed: Vec<String> = receive.interrupts.iter().take(MOST).map(text).collect();
    let more = receive.interrupt_count - listed.len();
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    Some(format!("{interface}: IRQs {}{more}\n", listed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_name_their_cpus_and_are_bounded() {
        let interrupt = |irq, name: &str, affinity: Option<&str>, effective: Option<&str>| InterruptStatus {
            irq,
            name: name.to_owned(),
            affinity: affinity.map(str::to_owned),
            effective_affinity: effective.map(str::to_owned),
            counts: Vec::new(),
        };
        let mut receive = ReceiveStatus::default();
        assert_eq!(interrupts("tun0", &receive), None);
        receive.interrupts = vec![interrupt(37, "", None, None), interrupt(38, "eth0-rx-0", Some("0-3"), Some("2"))];
        receive.interrupt_count = 2;
        let expected = "eth0: IRQs 37, 38 (eth0-rx-0) by CPU 2\n";
        assert_eq!(interrupts("eth0", &receive).as_deref(), Some(expected));
        receive.interrupts = (0..64).map(|irq| interrupt(irq, "", Some("0-3"), None)).collect();
        receive.interrupt_count = 200;
        let text = interrupts("eth0", &receive).expect("it has some");
        assert!(text.ends_with("7 by CPU 0-3, and 192 more\n"), "{text}");
    }

    #[test]
    fn interfaces_with_most_packets_come_first() {
        let all = BTreeMap::from([("a", 1), ("b", 5), ("c", 2), ("d", 5)]);
        assert_eq!(most(Some(&all)), "b, d, c, ...");
        assert_eq!(most(None), "");
    }
}

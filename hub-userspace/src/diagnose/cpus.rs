//! How the packets are distributed over the CPUs. Pure.

use super::facts::{CpuLoad, Facts};
use crate::api_types::{
    diagnose::{Area, Code, Finding},
    status::{InterruptStatus, Status, UnderlayStatus},
};

/// Packets a second that one CPU processes without effort, also through IPsec.
const FEW: u64 = 10_000;
/// Parts of a hundred of all packets on one CPU.
const ALMOST_ALL: u64 = 90;

pub fn judge(facts: &Facts) -> Option<Finding> {
    let status = &facts.status.as_ref()?.status;
    let CpuLoad { packets_per_second } = facts.cpu_load.as_ref()?;
    let (area, subject, code) = (Area::Host, "CPUs", Code::CpuLoad);
    let total: u64 = packets_per_second.values().sum();
    if total < FEW {
        return Some(Finding::ok(area, subject, code, format!("{total} packets a second, which one CPU can process")));
    }
    let (busiest, most) = packets_per_second.iter().max_by_key(|(_, packets)| **packets)?;
    let share = most * 100 / total;
    let others = status.cpus.len() + status.cpus_omitted - 1;
    if share < ALMOST_ALL || others == 0 {
        let message = format!("{total} packets a second; the busiest one, CPU {busiest}, processes {share} % of them");
        return Some(Finding::ok(area, subject, code, message));
    }
    let message = format!(
        "CPU {busiest} processes {share} % of {total} packets a second, {}",
        if others == 1 { "the other one almost none".to_owned() } else { format!("the {others} others almost none") }
    );
    Some(Finding::warning(area, subject, code, message, action(status)))
}

/// What distributes the packets.
fn action(status: &Status) -> String {
    if status.underlays.is_empty() {
        return "name the interface on which ESP arrives as [underlay.INTERFACE]: the agent distributes ESP over the \
                CPUs; on other interfaces, set as many receive queues as CPUs (`ethtool -L INTERFACE combined N`)"
            .to_owned();
    }
    let idle = status.underlays.iter().find(|underlay| underlay.spread_in_force.is_none());
    if let Some(underlay) = idle {
        let interface = &underlay.interface;
        return match interrupts_of_one_cpu(underlay) {
            Some((cpu, numbers)) => format!(
                "CPU {cpu} serves all interrupts of {interface}: start irqbalance, or write other CPUs to \
                 /proc/irq/N/smp_affinity_list, N being {numbers}; or write spread = \"rps\" in [underlay.{interface}]"
            ),
            None => format!("write spread = \"rps\" in [underlay.{interface}]"),
        };
    }
    if let Some(underlay) = status.underlays.iter().find(|underlay| underlay.spread_hint.is_some()) {
        return format!("write spread = \"xdp\" in [underlay.{}]: RPS does not distribute its ESP", underlay.interface);
    }
    "the packets of an SA stay on one CPU, so that they stay in order: if one connection has most of the traffic, give \
     it several tunnels, or write esp = { per_cpu_sas = true } if both ends have strongSwan 6 and Linux 6.13"
        .to_owned()
}

/// The CPU that serves all interrupts of a device with several, and these.
fn interrupts_of_one_cpu(underlay: &UnderlayStatus) -> Option<(&str, String)> {
    let used = |interrupt: &&InterruptStatus| !interrupt.counts.is_empty();
    let interrupts: Vec<_> = underlay.receive.as_ref()?.interrupts.iter().filter(used).collect();
    let [first, _, ..] = interrupts[..] else { return None };
    let cpu = first.effective_affinity.as_deref().filter(|cpus| cpus.parse::<u32>().is_ok())?;
    let is_same = |interrupt: &&InterruptStatus| interrupt.effective_affinity.as_deref() == Some(cpu);
    let numbers: Vec<_> = interrupts.iter().map(|interrupt| interrupt.irq.to_string()).collect();
    interrupts.iter().all(is_same).then(|| (cpu, numbers.join(", ")))
}

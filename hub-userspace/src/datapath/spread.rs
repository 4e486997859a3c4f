//! Distributes received ESP over CPUs by SPI: the XDP program of underlay interfaces with `spread = "xdp"`.
//!
//! Its links are pinned beside those of the forwarder and are replaced like them: see [`super::pins`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
};

use aya::{
    Ebpf,
    maps::{Array, CpuMap, MapData},
};
use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type};
use hub_common::spread::BUCKETS;
use rustix::io::Errno;
use tracing::{info, warn};

use super::{
    DatapathError, Dataplane,
    attach::{Attached, Programs, chain, detach_xdp, errno, why_not_native},
    links::attach_link,
    named_map::{Named, take},
    pins::{AttachmentKind, Pins},
};
use crate::kernel::spread::{SpreadInterface, SpreadPlan, VLANS};

/// Packets that wait for a CPU, at most; as many as with RPS (`net.core.netdev_max_backlog`, 1000). A queue holds
/// 8 bytes for each, and the buffers of those that wait. Below 192 a burst of a receive queue loses packets.
const QUEUE: u32 = 1024;

/// Name of the map of CPUs. Its number of entries is the kernel's number of CPUs.
pub const CPUS: &str = "SPREAD_CPUS";

/// The program's maps, and what is attached.
pub struct Spreading {
    cpus: Named<CpuMap<MapData>>,
    buckets: Named<Array<MapData, u32>>,
    /// CPUs with a queue.
    queues: BTreeSet<u32>,
    /// The CPU of each bucket.
    filled: Vec<Option<u32>>,
    /// By interface index.
    results: BTreeMap<u32, Result<Attached, String>>,
}

impl Spreading {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            cpus: take(ebpf, CPUS)?,
            buckets: take(ebpf, "SPREAD_BUCKETS")?,
            queues: BTreeSet::new(),
            filled: vec![None; BUCKETS as usize],
            results: BTreeMap::new(),
        })
    }

    /// Sets the CPU of each bucket. A CPU has a queue before a bucket refers to it, and until none does. Removing a
    /// queue loses no packet: the kernel empties it first (`cpu_map_kthread_run`, kernel/bpf/cpumap.c).
    fn fill(&mut self, cpu_of: impl Fn(u32) -> Option<u32>) -> Result<(), DatapathError> {
        let desired: Vec<Option<u32>> = (0..BUCKETS).map(cpu_of).collect();
        let cpus: BTreeSet<u32> = desired.iter().copied().flatten().collect();
        for cpu in &cpus {
            if !self.queues.contains(cpu) {
                self.set_queue(*cpu, QUEUE)?;
                self.queues.insert(*cpu);
            }
        }
        for (bucket, cpu) in (0..).zip(&desired) {
            if self.filled[bucket as usize] != *cpu {
                self.buckets.put(&bucket, &cpu.map_or(0, |cpu| cpu + 1))?;
                self.filled[bucket as usize] = *cpu;
            }
        }
        for cpu in self.queues.difference(&cpus).copied().collect::<Vec<_>>() {
            self.set_queue(cpu, 0)?;
            self.queues.remove(&cpu);
        }
        Ok(())
    }

    /// The interface was removed. Its index may be reused.
    pub(super) fn forget(&mut self, ifindex: u32) {
        self.results.remove(&ifindex);
    }

    /// 0 removes the queue.
    fn set_queue(&mut self, cpu: u32, packets: u32) -> Result<(), DatapathError> {
        let failure = |error| DatapathError::Map { map: CPUS, cause: chain(&error) };
        self.cpus.map.set(cpu, packets, None, 0).map_err(failure)
    }
}

impl Dataplane {
    /// Applies the desired state; interfaces without one are detached. A failure leaves received packets to the kernel,
    /// undistributed.
    pub fn spread(&mut self, plan: &SpreadPlan) {
        let Self { programs, spreading, pins, .. } = self;
        let Some(pins) = pins else { return };
        let pinned = pins.links().into_iter().filter(|(_, kind)| kind.is_spread());
        for (ifindex, kind) in pinned.filter(|(ifindex, _)| !plan.interfaces.contains_key(ifindex)) {
            pins.detach(kind, ifindex);
        }
        spreading.results.retain(|ifindex, _| plan.interfaces.contains_key(ifindex));
        let cpus = if plan.interfaces.is_empty() { &[][..] } else { &plan.cpus };
        let filled = spreading.fill(|bucket| cpus.get(bucket as usize % cpus.len().max(1)).copied());
        if plan.interfaces.is_empty() {
            return filled.unwrap_or_else(|error| warn!(name: "spread_failed", "{error}"));
        }
        for (ifindex, interface) in &plan.interfaces {
            let before = spreading.results.get(ifindex);
            let attached = match &filled {
                Ok(()) => attach(programs, pins, before, *ifindex, interface),
                Err(error) => Err(error.to_string()),
            };
            if before != Some(&attached) {
                let SpreadInterface { name, .. } = interface;
                match &attached {
                    Ok(Attached { mode, .. }) => {
                        info!(name: "spread_attached", interface = name, mode, "received ESP is distributed by SPI");
                    }
                    Err(error) => {
                        warn!(name: "spread_failed", interface = name, "received ESP is not distributed over CPUs: {error}");
                    }
                }
                spreading.results.insert(*ifindex, attached);
            }
        }
    }

    /// How the program is attached to an interface of the plan, or why it is not.
    pub fn spread_result(&self, ifindex: u32) -> Option<&Result<Attached, String>> {
        self.spreading.results.get(&ifindex)
    }

    /// Sets the CPU of each bucket, for [`Dataplane::test_run`].
    ///
    /// # Errors
    /// When the kernel refuses a CPU.
    pub fn spread_over(&mut self, cpu_of: impl Fn(u32) -> Option<u32>) -> Result<(), DatapathError> {
        self.spreading.fill(cpu_of)
    }
}

/// Detaches from an interface.
pub(super) fn detach(pins: &Pins, ifindex: u32) {
    for kind in [AttachmentKind::SpreadNative, AttachmentKind::SpreadGeneric] {
        if pins.has(kind, ifindex) {
            pins.detach(kind, ifindex);
        }
    }
}

/// Attaches to an interface, or replaces the program of an earlier agent: natively if the driver can. Generic XDP has
/// the packets later, with an skb each, and switches GRO off for the interface (`netif_elide_gro`,
/// include/linux/netdevice.h).
fn attach(
    programs: &mut Programs,
    pins: &Pins,
    before: Option<&Result<Attached, String>>,
    ifindex: u32,
    interface: &SpreadInterface,
) -> Result<Attached, String> {
    let program = programs.spread().map_err(|error| error.to_string())?;
    let program = program.fd().map_err(|error| chain(&error))?;
    let link = |kind, flags| attach_link(pins, kind, ifindex, program.as_fd(), bpf_attach_type::BPF_XDP, flags);
    // The interface is an attachment, too, which is about to do without XDP.
    detach_xdp(pins, ifindex);
    let was_generic = pins.has(AttachmentKind::SpreadGeneric, ifindex);
    let reason_before = before.and_then(|before| before.as_ref().ok()?.reason.clone());
    let reason = match interface.generic {
        Some(reason) => reason.to_owned(),
        // Native XDP would be refused again, and not be asked for without a gap.
        None if was_generic && reason_before.as_deref() != Some(VLANS) => {
            reason_before.unwrap_or_else(|| "an earlier agent has attached it so".to_owned())
        }
        None => {
            if was_generic {
                pins.detach(AttachmentKind::SpreadGeneric, ifindex);
            }
            match link(AttachmentKind::SpreadNative, XDP_FLAGS_DRV_MODE) {
                Ok(()) => return Ok(Attached::native()),
                Err(error) if is_taken(&error) => return Err(taken(&interface.name)),
                Err(error) => why_not_native(&error),
            }
        }
    };
    // An interface supports only one of both modes.
    if pins.has(AttachmentKind::SpreadNative, ifindex) {
        pins.detach(AttachmentKind::SpreadNative, ifindex);
    }
    match link(AttachmentKind::SpreadGeneric, XDP_FLAGS_SKB_MODE) {
        Ok(()) => Ok(Attached::generic(reason)),
        Err(error) if is_taken(&error) => Err(taken(&interface.name)),
        Err(error) => Err(format!("the XDP program cannot be attached: {}", chain(&error))),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::BUSY | Errno::EXIST))
}

fn taken(name: &str) -> String {
    format!(
        "another XDP program is attached to {name}, which is left alone: detach it, for example with `ip link set dev \
         {name} xdp off`, or write rps"
    )
}

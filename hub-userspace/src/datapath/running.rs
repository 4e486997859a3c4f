//! Reads a datapath without its agent.

use std::collections::BTreeMap;

use hub_common::maps::{UNATTRIBUTED, VPC};

use super::{
    Counters, CpuPackets, DatapathError, Instance,
    counters::BySlot,
    pins::{AttachmentKind, Pins, interface_name},
};
use crate::connection::memory::ConnectionMemory;

/// The datapath in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub interfaces: Vec<RunningInterface>,
    /// By name.
    pub connections: BTreeMap<String, RunningConnection>,
    /// Counters of the VPC side.
    pub vpc: Counters,
    /// Counters of packets without an attributable connection.
    pub unattributed: Counters,
}

/// An interface that a program is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningInterface {
    pub ifindex: u32,
    /// The name, if the calling thread is in the datapath's network namespace.
    pub name: Option<String>,
    /// `xdp-native`, `xdp-generic` or `tc`, as in status.
    pub mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningConnection {
    pub counters: Counters,
    /// As left by the last agent.
    pub state: Option<ConnectionMemory>,
}

/// Reads the datapath of an instance, whether or not its agent runs; `None` without a datapath.
///
/// # Errors
/// When it belongs to another version.
pub fn running(instance: &Instance) -> Result<Option<Running>, DatapathError> {
    let Some(pins) = Pins::look(instance) else { return Ok(None) };
    let mut modes = BTreeMap::new();
    // The order of attachment kinds puts XDP before TC.
    for (ifindex, kind) in pins.live_links() {
        let mode = match kind {
            AttachmentKind::TcxEgress
            | AttachmentKind::Egress
            | AttachmentKind::SpreadNative
            | AttachmentKind::SpreadGeneric => continue,
            AttachmentKind::Native => "xdp-native",
            AttachmentKind::Generic => "xdp-generic",
            AttachmentKind::Tcx | AttachmentKind::Clsact => "tc",
        };
        modes.entry(ifindex).or_insert(mode);
    }
    if modes.is_empty() {
        return Ok(None);
    }
    let is_here = pins.is_here();
    let name = |ifindex| if is_here { interface_name(ifindex) } else { None };
    let interfaces =
        modes.into_iter().map(|(ifindex, mode)| RunningInterface { ifindex, name: name(ifindex), mode }).collect();
    let counters = BySlot::look(&pins)?;
    let read = |slot| counters.read(slot, &mut CpuPackets::default());
    let mut connections = BTreeMap::new();
    for (slot, (name, record)) in counters.map.records.owners() {
        let connection = RunningConnection { counters: read(slot)?, state: ConnectionMemory::of(record) };
        connections.insert(name, connection);
    }
    Ok(Some(Running { interfaces, connections, vpc: read(VPC)?, unattributed: read(UNATTRIBUTED)? }))
}

//! A datapath without its agent: read, and removed.

use std::collections::BTreeMap;

use hub_common::maps::{UNATTRIBUTED, VPC};

use super::{
    Counters, DatapathError, Instance,
    counters::BySlot,
    pins::{AttachmentKind, Pins, interface_name},
};
use crate::connection::memory::ConnectionMemory;

/// What runs in the kernel by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub interfaces: Vec<RunningInterface>,
    /// By name.
    pub connections: BTreeMap<String, RunningConnection>,
    /// Counters of the VPC side.
    pub vpc: Counters,
    /// Of packets that cannot be told from which connection they came.
    pub unattributed: Counters,
}

/// An interface that a program is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningInterface {
    pub ifindex: u32,
    /// In the network namespace of the calling thread, where that is the datapath's.
    pub name: Option<String>,
    /// `xdp-native`, `xdp-generic` or `tc`, as in status.
    pub mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningConnection {
    pub counters: Counters,
    /// As the last agent has left it.
    pub state: Option<ConnectionMemory>,
}

/// Reads the datapath of an instance, whether or not its agent runs; nothing where there is none.
///
/// # Errors
/// When it is another version's.
pub fn running(instance: &Instance) -> Result<Option<Running>, DatapathError> {
    let Some(pins) = Pins::look(instance) else { return Ok(None) };
    let mut modes = BTreeMap::new();
    // In an order in which XDP comes before the TC program behind it.
    for (ifindex, kind) in pins.live_links() {
        let mode = match kind {
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
    let mut connections = BTreeMap::new();
    for (slot, (name, record)) in counters.map.records.owners() {
        let connection = RunningConnection { counters: counters.read(slot)?, state: ConnectionMemory::of(record) };
        connections.insert(name, connection);
    }
    Ok(Some(Running { interfaces, connections, vpc: counters.read(VPC)?, unattributed: counters.read(UNATTRIBUTED)? }))
}

/// Detaches the datapath of an instance and removes all that is pinned; how many programs were attached.
///
/// # Errors
/// When its agent runs, or the directory cannot be removed.
pub fn unload(instance: &Instance) -> Result<usize, DatapathError> {
    Pins::take(instance)?.map_or(Ok(0), Pins::unload)
}

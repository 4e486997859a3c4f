//! An agent's claim to the datapath of its instance, and the state that it inherits from the earlier agent.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    DatapathError, Instance, error, groups,
    pins::{AttachmentKind, Pins},
    records::Records,
};
use crate::{connection::memory::ConnectionMemory, fib::old_group::OldGroup};

/// This process runs the instance: the datapath, if there is one, forwards unchanged.
pub struct Claim {
    pub(super) pins: Pins,
    pub(super) records: Records,
    inherited: Inherited,
}

/// State that a new agent inherits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Inherited {
    /// The datapath is forwarding packets.
    pub is_running: bool,
    /// `COUNTERS` slots and states of connections, by name.
    pub connections: BTreeMap<String, (u32, Option<ConnectionMemory>)>,
    pub groups: Vec<OldGroup>,
    /// Indices of the interfaces attached by TC only, because XDP does not work there.
    pub tc_only: BTreeSet<u32>,
    /// Indices of the interfaces attached by XDP, too.
    #[serde(default)]
    pub xdp: BTreeSet<u32>,
}

impl Claim {
    /// # Errors
    /// When the host cannot run the programs, when another agent runs this instance, or when its datapath is in another
    /// network namespace.
    pub fn new(instance: &Instance) -> Result<Self, DatapathError> {
        error::check_host()?;
        let pins = Pins::claim(instance)?;
        let records = Records::open(&pins)?;
        let mut live = pins.live_links();
        live.retain(|(_, kind)| !kind.is_spread());
        let xdp = live.iter().filter(|(_, kind)| kind.is_xdp()).map(|(ifindex, _)| *ifindex).collect::<BTreeSet<_>>();
        let tc = live.iter().filter(|(_, kind)| matches!(kind, AttachmentKind::Tcx | AttachmentKind::Clsact));
        let inherited = Inherited {
            is_running: !live.is_empty(),
            connections: (records.owners().into_iter())
                .map(|(slot, (name, record))| (name, (slot, ConnectionMemory::of(record))))
                .collect(),
            groups: groups::read(&pins),
            tc_only: tc.map(|(ifindex, _)| *ifindex).filter(|ifindex| !xdp.contains(ifindex)).collect(),
            xdp,
        };
        Ok(Self { pins, records, inherited })
    }

    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }
}

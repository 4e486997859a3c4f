//! What the XDP program is to do. Pure.

use std::collections::BTreeMap;

/// Native XDP loses tags that the NIC has removed from the frame when it hands the frame to another CPU.
pub const VLANS: &str = "it has VLAN interfaces, and native XDP loses tags that the NIC removes";

/// The desired state of all interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpreadPlan {
    /// CPUs that get packets, ascending.
    pub cpus: Vec<u32>,
    /// By index.
    pub interfaces: BTreeMap<u32, SpreadInterface>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpreadInterface {
    pub name: String,
    /// Why it must be generic XDP, if so.
    pub generic: Option<&'static str>,
}

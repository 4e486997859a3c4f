//! Names of [`ConnectionStatus::warnings`](super::ConnectionStatus::warnings).

/// No address of the hub is in the local selectors.
pub const NO_HUB_ADDRESS: &str = "no_hub_address";
/// The interface is a port of a bridge.
pub const BRIDGE_PORT: &str = "bridge_port";
/// Packets of local senders are forwarded without a checksum.
pub const SENDER_CHECKSUM: &str = "sender_checksum";
/// Learned routes are refused.
pub const LEARNED_REFUSED: &str = "learned_refused";
/// Flows are shared with another customer gateway.
pub const SHARED_FLOWS: &str = "shared_flows";
/// strongSwan has no SAs for each CPU.
pub const PER_CPU_SAS: &str = "per_cpu_sas";

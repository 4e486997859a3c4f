//! A link of the host.

use serde::{Deserialize, Serialize};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`: "veth", "xfrm", ...; `None` for hardware.
    pub kind: Option<String>,
    /// Whether frames have an Ethernet header (`ARPHRD_ETHER`); otherwise packets start at the IP header.
    pub ethernet: bool,
    /// Link address, when it has 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// In bytes, without link header.
    pub mtu: u32,
    /// `IFF_UP`: administratively up.
    pub admin_up: bool,
    /// Carries packets: `IFF_LOWER_UP`, and the operational state is up or unknown (tunnels report none).
    pub running: bool,
    /// For an 802.1Q interface: the index of its lower interface in this namespace, and the VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// For an xfrm interface: the interface id of its policies and SAs (`IFLA_XFRM_IF_ID`).
    pub if_id: Option<u32>,
    /// Kind of the device that it is a port of (`IFLA_INFO_SLAVE_KIND`): "bridge", "bond", ...
    #[serde(default)]
    pub port_kind: Option<String>,
}

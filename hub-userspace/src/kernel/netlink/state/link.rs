//! A link of the host.

use serde::{Deserialize, Serialize};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`: "veth", "xfrm", ...; nothing for hardware.
    pub kind: Option<String>,
    /// Whether frames have an Ethernet header (`ARPHRD_ETHER`); else packets start at the IP header.
    pub ethernet: bool,
    /// Link address, when it has 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// Bytes, link header not counted.
    pub mtu: u32,
    /// `IFF_UP`: the administrator wants it up.
    pub admin_up: bool,
    /// It carries packets: `IFF_LOWER_UP`, and its operational state is up or unknown (tunnels do
    /// not report one).
    pub running: bool,
    /// For an 802.1Q interface: the index of the interface below it, in this namespace, and the
    /// VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// For an xfrm interface: the number that its policies and SAs have (`IFLA_XFRM_IF_ID`).
    pub if_id: Option<u32>,
}

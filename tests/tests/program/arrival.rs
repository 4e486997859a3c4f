//! An arriving frame, with the kernel's metadata.

use hub_tests::model as reference;
use hub_userspace::datapath::Hook;

/// Link addresses that a decrypted packet may still have in front of it, from its outer frame. A TC test run requires
/// them, and takes the packet's protocol from the `EtherType` behind them.
const LEFT_OVER: [u8; 12] = [2, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9, 9];

/// An arriving frame, with the kernel's metadata.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub interface: u32,
    pub frame: Vec<u8>,
    /// The kernel's protocol of raw IP, an `EtherType`; the default is by IP version. On Ethernet the frame has it.
    pub taken_for: Option<u16>,
    /// `skb->mark`, which must not be trusted.
    pub mark: u32,
}

impl Arrival {
    /// With every bit of the mark set.
    pub fn new(interface: u32, frame: Vec<u8>) -> Self {
        Self { interface, frame, taken_for: None, mark: u32::MAX }
    }

    /// The bytes that a TC test run requires before raw IP.
    pub fn left_over(&self) -> Vec<u8> {
        [&LEFT_OVER[..], &self.protocol(true).to_be_bytes()].concat()
    }

    /// The hook at which the program receives it; `raw`: without a link header.
    pub fn hook(&self, hook: Hook, raw: bool) -> reference::Hook {
        match hook {
            Hook::Xdp | Hook::Spread => reference::Hook::Xdp,
            Hook::Tc | Hook::Egress => reference::Hook::Tc { protocol: self.protocol(raw) },
        }
    }

    /// `skb->protocol`, as the kernel has it in a test run (`eth_type_trans()`, net/ethernet/eth.c).
    pub fn protocol(&self, raw: bool) -> u16 {
        if raw {
            return self.taken_for.unwrap_or_else(|| by_version(&self.frame));
        }
        match self.frame.get(12..14).map(|pair| u16::from_be_bytes([pair[0], pair[1]])) {
            // IEEE 802.2: the number is a length (ETH_P_802_2, linux/if_ether.h).
            Some(0..0x0600) | None => 4,
            Some(ether_type) => ether_type,
        }
    }
}

/// The protocol of raw IP by its version; for an unknown version an experimental one (RFC 5342).
fn by_version(packet: &[u8]) -> u16 {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => 0x0800,
        Some(6) => 0x86dd,
        _ => 0x88b5,
    }
}

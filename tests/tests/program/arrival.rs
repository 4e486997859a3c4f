//! What comes in: a frame, and what the kernel knows of it.

use hub_tests::model as reference;
use hub_userspace::datapath::Hook;

/// Link addresses as a packet may still have before it that was decrypted: of the frame it came in. A test run of TC
/// wants them, and takes the packet for what the `EtherType` behind them says.
const LEFT_OVER: [u8; 12] = [2, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9, 9];

/// A frame on its way in, and what the kernel knows of it.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub interface: u32,
    pub frame: Vec<u8>,
    /// What the kernel takes raw IP for, an `EtherType`; by its version unless told. On Ethernet the frame says it.
    pub taken_for: Option<u16>,
    /// `skb->mark`, of which nothing is to be believed.
    pub mark: u32,
}

impl Arrival {
    /// With a mark that claims everything.
    pub fn new(interface: u32, frame: Vec<u8>) -> Self {
        Self { interface, frame, taken_for: None, mark: u32::MAX }
    }

    /// What a test run of TC wants before raw IP.
    pub fn left_over(&self) -> Vec<u8> {
        [&LEFT_OVER[..], &self.protocol(true).to_be_bytes()].concat()
    }

    /// Where it gets to a program at this hook; `raw`: without a link header.
    pub fn hook(&self, hook: Hook, raw: bool) -> reference::Hook {
        match hook {
            Hook::Xdp => reference::Hook::Xdp,
            Hook::Tc => reference::Hook::Tc { protocol: self.protocol(raw) },
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

/// What raw IP of this version is to be taken for; of no version that there is, for an experiment's (RFC 5342).
fn by_version(packet: &[u8]) -> u16 {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => 0x0800,
        Some(6) => 0x86dd,
        _ => 0x88b5,
    }
}

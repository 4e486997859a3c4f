//! The floor for a hub with many egress devices: the cost of a redirect to as many devices.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{frame, maps, shape::FAN};

const ETHERNET: usize = 14;
/// End of the UDP source port, after 20 bytes of IPv4 or 40 of IPv6.
const IPV4_PORT: usize = ETHERNET + 20 + 2;
const IPV6_PORT: usize = ETHERNET + 40 + 2;

/// Sends each flow out of the device that its source port names, as it came.
#[xdp]
pub fn fan(mut context: XdpContext) -> u32 {
    let port = match frame::start::<ETHERNET>(&mut context) {
        Some([.., 0x08, 0x00]) => {
            frame::start::<IPV4_PORT>(&mut context).map(|start| [start[IPV4_PORT - 2], start[IPV4_PORT - 1]])
        }
        Some([.., 0x86, 0xdd]) => {
            frame::start::<IPV6_PORT>(&mut context).map(|start| [start[IPV6_PORT - 2], start[IPV6_PORT - 1]])
        }
        _ => None,
    };
    let Some(port) = port else {
        return xdp_action::XDP_PASS;
    };
    let port = u32::from(u16::from_be_bytes(port));
    maps::FAN.redirect(port % FAN, u64::from(xdp_action::XDP_ABORTED)).unwrap_or(xdp_action::XDP_ABORTED)
}

//! Sends frames as they were given.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// In a test run: out of the device that the context names.
#[xdp]
pub fn back(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

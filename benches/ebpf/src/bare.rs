//! The floor: the cost of a redirect alone.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::maps;

/// Sends everything out of port 0, as it came. It looks nothing up, checks nothing and writes nothing.
#[xdp]
pub fn bare(_context: XdpContext) -> u32 {
    maps::PORTS.redirect(0, u64::from(xdp_action::XDP_ABORTED)).unwrap_or(xdp_action::XDP_ABORTED)
}

//! Leaves everything to the kernel.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// A veth device takes frames that XDP sends to it only when it runs a program itself (or GRO): this one does nothing.
#[xdp]
pub fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

//! Receives at the far ends of two tunnels to one site: as the sink does, and notes when each frame came and where.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_ns, macros::xdp, programs::XdpContext};

use crate::{
    maps,
    shape::{ARRIVALS, Arrival},
    sink,
};

#[xdp]
pub fn first_tunnel(context: XdpContext) -> u32 {
    receive(context, 0)
}

#[xdp]
pub fn second_tunnel(context: XdpContext) -> u32 {
    receive(context, 1)
}

#[inline(always)]
fn receive(mut context: XdpContext, tunnel: u32) -> u32 {
    if maps::MUTED.get(0).is_some_and(|muted| muted & 1 << tunnel != 0) {
        return xdp_action::XDP_DROP;
    }
    let Some(seen) = sink::look(&mut context) else {
        return xdp_action::XDP_PASS;
    };
    sink::count(tunnel, &seen);
    if let Some(entry) = maps::RECORD.get_ptr_mut(seen.number % ARRIVALS) {
        // SAFETY: the helper has no conditions.
        let time = unsafe { bpf_ktime_get_ns() };
        // SAFETY: an element of the array. A frame of the same place comes a second later, and the binary reads only
        // what has been there for a while.
        unsafe { *entry = Arrival { time, number: seen.number, tunnel } };
    }
    xdp_action::XDP_DROP
}

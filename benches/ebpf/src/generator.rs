//! Sends: one frame a run, out of the device that the test run names.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{
    frame, maps,
    shape::{IPV4, IPV6, IPV6_NETWORKS, Layout, Settings},
};

/// For `BPF_PROG_TEST_RUN` with live frames. The kernel takes the pages that have come back and does not restore them:
/// they still have the MACs, TTL and checksum that the hub left. So all of the head is written every time.
///
/// Makes nothing while too many frames are under way, if there is a window. On one core they hardly ever are, as the
/// hub and the sink run between two batches. But a stray packet from another core, such as a ping, takes the hub's
/// device along to that core until its queue is empty, which it would never be again: the generator alone is many times
/// faster than any hub.
#[xdp]
pub fn generator(mut context: XdpContext) -> u32 {
    let Some(settings) = maps::SETTINGS.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let made = match settings.version {
        4 => make::<{ IPV4.words }>(&mut context, settings, &IPV4),
        _ if settings.networks == 0 => make::<{ IPV6.words }>(&mut context, settings, &IPV6),
        _ => make::<{ IPV6.words }>(&mut context, settings, &IPV6_NETWORKS),
    };
    // A frame that is not made is not counted either: the binary asks for it again.
    if made.is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

#[inline(always)]
fn make<const WORDS: usize>(context: &mut XdpContext, settings: &Settings, layout: &Layout) -> Option<()> {
    let sequence = maps::SEQUENCE.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own, and only one test run makes frames.
    let sequence = unsafe { &mut *sequence };
    // The low 32 bits identify a frame.
    let number = *sequence as u32;
    // SAFETY: a whole word at its own address, which the sink may be writing: old or new, both will do.
    let arrived = unsafe { maps::ARRIVED.get_ptr(0)?.read_volatile() };
    if number.wrapping_sub(arrived) >= settings.window {
        return None;
    }
    frame::write::<WORDS>(context, settings, layout, number)?;
    *sequence += 1;
    Some(())
}

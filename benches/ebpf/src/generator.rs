//! Sends: one frame a run, out of the device that the test run names.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{
    frame, maps,
    shape::{IPV4, IPV6, Layout, Settings},
};

/// For `BPF_PROG_TEST_RUN` with live frames. The kernel takes the pages that have come back and does not restore them:
/// they still have the MACs, TTL and checksum that the hub left. So all of the head is written every time.
#[xdp]
pub fn generator(context: XdpContext) -> u32 {
    let Some(settings) = maps::SETTINGS.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let sent = match settings.version {
        4 => write::<{ IPV4.words }>(&context, settings, &IPV4),
        _ => write::<{ IPV6.words }>(&context, settings, &IPV6),
    };
    // An aborted frame is not counted as made: the binary then makes less than it was asked for, and says so.
    if sent.is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

#[inline(always)]
fn write<const WORDS: usize>(context: &XdpContext, settings: &Settings, layout: &Layout) -> Option<()> {
    let head = frame::head::<WORDS>(context)?;
    let sequence = maps::SEQUENCE.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own, and only one test run makes frames.
    let number = unsafe {
        let number = *sequence;
        *sequence = number + 1;
        number as u32
    };
    *head = settings.sent.first();
    layout.number(head, settings, number);
    layout.sum_header(head, settings);
    Some(())
}

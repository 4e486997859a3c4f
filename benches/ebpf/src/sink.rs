//! Receives: counts the generator's frames, and checks each of them.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{
    frame, maps,
    shape::{IPV4, IPV6, IPV6_NETWORKS, Layout, Settings},
};

/// On the far device. Takes the generator's frames and leaves all others to the kernel.
#[xdp]
pub fn sink(mut context: XdpContext) -> u32 {
    match look(&mut context).and_then(|seen| count(0, &seen)) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}

/// One of the generator's frames.
pub struct Seen {
    pub number: u32,
    /// Whether it came out as it must.
    pub good: bool,
}

/// `None` when the frame is not the generator's.
#[inline(always)]
pub fn look(context: &mut XdpContext) -> Option<Seen> {
    let settings = maps::SETTINGS.get(0)?;
    match settings.version {
        4 => check::<{ IPV4.words }>(context, settings, &IPV4),
        _ if settings.networks == 0 => check::<{ IPV6.words }>(context, settings, &IPV6),
        _ => check::<{ IPV6.words }>(context, settings, &IPV6_NETWORKS),
    }
}

#[inline(always)]
pub fn count(tunnel: u32, seen: &Seen) -> Option<()> {
    let counts = maps::COUNTS.get_ptr_mut(tunnel)?;
    // SAFETY: the element is this CPU's own, and XDP programs do not interrupt one another on a CPU.
    let counts = unsafe { &mut *counts };
    if seen.good {
        counts.good += 1;
    } else {
        counts.garbled += 1;
    }
    Some(())
}

/// Compares with what must come out for the frame's number: length, MAC of this device, addresses, TTL, ports,
/// checksums.
#[inline(always)]
fn check<const WORDS: usize>(context: &mut XdpContext, settings: &Settings, layout: &Layout) -> Option<Seen> {
    let length = frame::length(context);
    let head = &*frame::head::<WORDS>(context)?;
    let number = layout.generated(head)?;
    if let Some(arrived) = maps::ARRIVED.get_ptr_mut(0) {
        // SAFETY: a whole word at its own address. CPUs may overwrite each other's: either is as good an answer.
        unsafe { arrived.write_volatile(number.wrapping_add(1)) };
    }
    let good = length == settings.length as usize && layout.is_right(head, settings, number);
    Some(Seen { number, good })
}

//! Receives: counts the generator's frames, and checks each of them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::bpf_skb_load_bytes,
    macros::{socket_filter, xdp},
    programs::{SkBuffContext, XdpContext},
};

use crate::{
    frame, maps,
    shape::{Head, IPV4, IPV6, IPV6_NETWORKS, Layout, Settings},
};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// On the far device. Takes the generator's frames and leaves all others to the kernel.
#[xdp]
pub fn sink(mut context: XdpContext) -> u32 {
    match look(&mut context).and_then(|seen| count(0, &seen)) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}

/// The filter of a TUN device, which runs in the driver's transmit function (`tun_net_xmit`, drivers/net/tun.c). Drops
/// the generator's frames and accepts all others.
#[socket_filter]
pub fn raw_sink(context: SkBuffContext) -> i64 {
    match look_raw(&context).and_then(|seen| count(0, &seen)) {
        Some(()) => 0,
        None => i64::from(context.len()),
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
    // SAFETY: the element is this CPU's own. XDP programs and transmit functions run with bottom halves disabled, so
    // none of them interrupts another on a CPU.
    let counts = unsafe { &mut *counts };
    if seen.good {
        counts.good += 1;
    } else {
        counts.garbled += 1;
    }
    Some(())
}

/// The same for a frame that has lost its link header.
#[inline(always)]
fn look_raw(context: &SkBuffContext) -> Option<Seen> {
    let settings = maps::SETTINGS.get(0)?;
    match settings.version {
        4 => check_raw::<{ IPV4.words }>(context, settings, &IPV4),
        _ if settings.networks == 0 => check_raw::<{ IPV6.words }>(context, settings, &IPV6),
        _ => check_raw::<{ IPV6.words }>(context, settings, &IPV6_NETWORKS),
    }
}

#[inline(always)]
fn check<const WORDS: usize>(context: &mut XdpContext, settings: &Settings, layout: &Layout) -> Option<Seen> {
    let length = frame::length(context);
    seen::<WORDS>(frame::head::<WORDS>(context)?, length, settings, layout)
}

/// A socket filter reads the packet only by a helper.
#[inline(always)]
fn check_raw<const WORDS: usize>(context: &SkBuffContext, settings: &Settings, layout: &Layout) -> Option<Seen> {
    // The settings exempt the link header from the comparison.
    let mut head = Head([0_u64; WORDS]);
    // SAFETY: the program's own context, and the bytes of `head` behind a link header.
    let loaded = unsafe {
        let behind = (&raw mut head).byte_add(ETHERNET);
        bpf_skb_load_bytes(context.as_ptr(), 0, behind.cast(), (WORDS * 8 - ETHERNET) as u32)
    };
    if loaded != 0 {
        return None;
    }
    seen::<WORDS>(&head, context.len() as usize + ETHERNET, settings, layout)
}

/// Compares with what must come out for the frame's number: length, MAC of this device, addresses, TTL, ports,
/// checksums.
#[inline(always)]
fn seen<const WORDS: usize>(head: &Head<WORDS>, length: usize, settings: &Settings, layout: &Layout) -> Option<Seen> {
    let number = layout.generated(head)?;
    if let Some(arrived) = maps::ARRIVED.get_ptr_mut(0) {
        // SAFETY: a whole word at its own address. CPUs may overwrite each other's: either is as good an answer.
        unsafe { arrived.write_volatile(number.wrapping_add(1)) };
    }
    let good = length == settings.length as usize && layout.is_right(head, settings, number);
    Some(Seen { number, good })
}

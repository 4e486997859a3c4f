//! The forwarder of VPN-Hub: takes the decrypted traffic of each site and sends it straight out of the right tunnel.
//!
//! A packet goes through six stages, a file each: [`parse`], [`selector`], [`route`], [`nexthop`], [`rewrite`],
//! [`redirect`]. Any of them may end the way with a [`Reason`], which says whether the kernel gets the packet or nobody.
//! Nothing is written to a packet before the last check has passed: what the kernel gets, it gets as it came.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use hub_common::{
    Reason,
    maps::{Attachment, UNATTRIBUTED},
};

use hub_ebpf::{
    counters::{self, Admission, Attribution},
    family::{Address, V4, V6},
    frame::{Frame, SkbFrame, XdpFrame},
    lookup::{ClassTrie, LpmTries, ResolvedPair, Tables},
    nexthop,
    parse::{self, Network, Start},
    policy::selector,
    redirect, rewrite, route,
};

/// Entry point of XDP, native and generic.
#[xdp]
pub fn vpnhub_xdp(context: XdpContext) -> u32 {
    forward::<ClassTrie, _>(&mut XdpFrame::new(context))
}

/// The same, with routes and selectors in LPM tries.
#[xdp]
pub fn vpnhub_xdp_lpm(context: XdpContext) -> u32 {
    forward::<LpmTries, _>(&mut XdpFrame::new(context))
}

/// Entry point of TC, for interfaces that XDP cannot send to or come in on: those without Ethernet headers above all.
#[classifier]
pub fn vpnhub_tc(context: TcContext) -> i32 {
    forward::<ClassTrie, _>(&mut SkbFrame::new(context)) as i32
}

/// The same, with routes and selectors in LPM tries.
#[classifier]
pub fn vpnhub_tc_lpm(context: TcContext) -> i32 {
    forward::<LpmTries, _>(&mut SkbFrame::new(context)) as i32
}

#[inline(always)]
fn forward<T: Tables<V4> + Tables<V6>, F: Frame>(frame: &mut F) -> u32 {
    let Some(attachment) = parse::attachment(frame.interface()) else {
        let attribution = Attribution::new::<F>(UNATTRIBUTED);
        attribution.set_admission::<F>(Admission::Nothing);
        return counters::finish(frame, &attribution, Reason::NotAttached);
    };
    let attribution = Attribution::new::<F>(attachment.connection);
    let outcome = match parse::link(frame, &attachment) {
        Ok(Network::Ipv4(start)) => stages::<V4, T, F>(frame, start, &attachment, &attribution),
        Ok(Network::Ipv6(start)) => stages::<V6, T, F>(frame, start, &attachment, &attribution),
        Err(reason) => Err(reason),
    };
    match outcome {
        Ok(action) => action,
        Err(reason) => counters::finish(frame, &attribution, reason),
    }
}

/// The way of an IP packet. `attribution` gets the connection that sent it from the selector stage.
#[inline(always)]
fn stages<A: Address, T: Tables<A>, F: Frame>(
    frame: &mut F,
    start: Start,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Result<u32, Reason> {
    let packet = parse::packet::<A, F>(frame, start)?;
    let pair = ResolvedPair::<A, T>::of(&packet)?;
    let route = route::lookup(&pair, pair.destination);
    selector::ingress(&packet, frame, &pair, route, attachment, attribution)?;
    attribution.set_bytes(packet.length);
    let route = route::check::<F>(route, attachment, attribution)?;
    let next_hop = nexthop::choose(&packet, frame, &pair, &route, attribution)?;
    rewrite::rewrite(frame, &packet, next_hop)?;
    redirect::redirect(frame, attribution, next_hop)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses loops without end: a program that could panic would not load.
    loop {}
}

// The kernel lends some helpers to GPL-compatible programs only (include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

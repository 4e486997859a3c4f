//! The forwarder of VPN-Hub: sends the decrypted traffic of each site out of the right tunnel interface.
//!
//! A packet runs through seven stages, a file each: [`parse`], [`translate`], [`selector`], [`route`], [`nexthop`],
//! [`rewrite`], [`redirect`]. Each stage may end the processing with a [`Reason`], which determines whether the packet is dropped or
//! passed to the kernel. The kernel gets a packet unmodified, except for the MSS of a SYN that has a next hop: all
//! other changes come after the last check.
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
    Family,
    counters::{self, Admission, Attribution},
    family::{V4, V6},
    frame::{Direction, Frame, SkbFrame, XdpFrame},
    lookup::{ClassTrie, LpmTries, ResolvedPair, Tables},
    nexthop,
    parse::{self, Network, Start},
    policy::selector,
    redirect,
    refusal::Refusal,
    rewrite, route, spread, translate,
};

/// Entry point for XDP, native and generic.
#[xdp]
#[inline(always)]
pub fn vpnhub_xdp(context: XdpContext) -> u32 {
    forward::<ClassTrie, _>(&mut XdpFrame::new(context))
}

/// The same with LPM tries.
#[xdp]
#[inline(always)]
pub fn vpnhub_xdp_lpm(context: XdpContext) -> u32 {
    forward::<LpmTries, _>(&mut XdpFrame::new(context))
}

/// Entry point for TC: for interfaces that XDP cannot receive from or send to, mainly those without Ethernet headers.
#[classifier]
#[inline(always)]
pub fn vpnhub_tc(context: TcContext) -> i32 {
    forward::<ClassTrie, _>(&mut SkbFrame::new(context)) as i32
}

/// The same with LPM tries.
#[classifier]
#[inline(always)]
pub fn vpnhub_tc_lpm(context: TcContext) -> i32 {
    forward::<LpmTries, _>(&mut SkbFrame::new(context)) as i32
}

/// Entry point for TC at egress, on interfaces with translations.
#[classifier]
#[inline(always)]
pub fn vpnhub_egress(context: TcContext) -> i32 {
    let mut frame = SkbFrame::new(context);
    if !frame.has_passed(Direction::Egress) {
        translate::destination(&mut frame);
        frame.note_passed(Direction::Egress);
    }
    SkbFrame::PASS as i32
}

/// Entry point for XDP on underlay interfaces with `spread = "xdp"`.
#[xdp]
#[inline(always)]
pub fn vpnhub_spread(context: XdpContext) -> u32 {
    spread::distribute(&XdpFrame::new(context))
}

#[inline(always)]
fn forward<T: Tables<V4> + Tables<V6>, F: Frame>(frame: &mut F) -> u32 {
    if frame.has_passed(Direction::Ingress) {
        return F::PASS;
    }
    let Some(attachment) = parse::attachment(frame.interface()) else {
        let attribution = Attribution::new(UNATTRIBUTED);
        attribution.set_admission::<F>(Admission::Nothing);
        return counters::finish(frame, &attribution, &Reason::NotAttached.into());
    };
    let attribution = Attribution::new(attachment.connection);
    let outcome = match parse::link(frame, &attachment) {
        Ok(Network::Ipv4(start)) => stages::<V4, T, F>(frame, start, &attachment, &attribution),
        Ok(Network::Ipv6(start)) => stages::<V6, T, F>(frame, start, &attachment, &attribution),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(action) => action,
        Err(refusal) => counters::finish(frame, &attribution, &refusal),
    }
}

/// The stages of an IP packet. The selector stage sets the packet's connection in `attribution`.
#[inline(always)]
fn stages<A: Family, T: Tables<A>, F: Frame>(
    frame: &mut F,
    start: Start,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Result<u32, Refusal> {
    let mut packet = parse::packet::<A, F>(frame, start)?;
    translate::source(frame, &mut packet, attachment);
    let pair = ResolvedPair::<A, T>::of(&packet)?;
    let reach = parse::reach(&packet, start)?;
    let route = route::lookup(&pair, pair.destination);
    let segment = selector::ingress(&packet, reach, frame, &pair, route, attachment, attribution)?;
    attribution.set_bytes(packet.length);
    let route = route::policy(&pair, attachment, route);
    let route = route::check::<F>(route, attachment, attribution)?;
    let next_hop = nexthop::choose(&packet, frame, &pair, segment, route, attribution)?;
    rewrite::rewrite(frame, &packet, attribution, next_hop)?;
    redirect::redirect(frame, attribution, next_hop)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier rejects infinite loops, so a program that can panic does not load.
    loop {}
}

// Some helpers are available only to GPL-compatible programs (include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! The forwarder of VPN-Hub: takes the decrypted traffic of each site and sends it straight out of the right tunnel.
//!
//! A packet goes through six stages, a file each: [`parse`], [`selector`], [`route`], [`nexthop`], [`rewrite`],
//! [`redirect`]. Any of them may end the way with a [`Reason`], which says whether the kernel gets the packet or nobody.
//! Nothing is written to a packet before the last check has passed: what the kernel gets, it gets as it came.
#![no_std]
#![no_main]

mod address;
mod frame;
mod headers;
mod limits;
mod maps;
mod nexthop;
mod parse;
mod redirect;
mod rewrite;
mod route;
mod selector;
mod tables;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use hub_common::{
    Reason,
    maps::{Attachment, UNATTRIBUTED},
};

use crate::{
    address::{Address, V4, V6},
    frame::{Frame, XdpFrame},
    parse::Network,
    tables::{Compiled, Ends, Tables, Tries},
};

/// Entry point of XDP, native and generic.
#[xdp]
pub fn vpnhub_xdp(context: XdpContext) -> u32 {
    forward::<Compiled, _>(&mut XdpFrame::new(context))
}

/// The same, with routes and selectors in LPM tries.
#[xdp]
pub fn vpnhub_xdp_lpm(context: XdpContext) -> u32 {
    forward::<Tries, _>(&mut XdpFrame::new(context))
}

#[inline(always)]
fn forward<T: Tables<V4> + Tables<V6>, F: Frame>(frame: &mut F) -> u32 {
    let Some(attachment) = parse::attachment(frame.interface()) else {
        return redirect::refuse::<F>(UNATTRIBUTED, Reason::NotAttached);
    };
    let mut connection = attachment.connection;
    let outcome = match parse::link(frame, &attachment) {
        Ok(Network::Ipv4(offset)) => stages::<V4, T, F>(frame, offset, &attachment, &mut connection),
        Ok(Network::Ipv6(offset)) => stages::<V6, T, F>(frame, offset, &attachment, &mut connection),
        Err(reason) => Err(reason),
    };
    outcome.unwrap_or_else(|reason| redirect::refuse::<F>(connection, reason))
}

/// The way of an IP packet. `connection` becomes the one it came from as soon as a selector has told.
#[inline(always)]
fn stages<A: Address, T: Tables<A>, F: Frame>(
    frame: &mut F,
    offset: usize,
    attachment: &Attachment,
    connection: &mut u32,
) -> Result<u32, Reason> {
    let packet = parse::packet::<A, F>(frame, offset)?;
    let ends = Ends::<A, T>::of(&packet)?;
    let route = route::lookup(&ends);
    parse::to_hub(route)?;
    selector::ingress(&packet, frame, &ends, attachment, connection)?;
    redirect::received(*connection, &packet);
    let route = route::judge(route, attachment)?;
    let next_hop = nexthop::choose(&packet, frame, &ends, &route)?;
    rewrite::rewrite(frame, &packet, next_hop)?;
    redirect::redirect(frame, *connection, &packet, next_hop)
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

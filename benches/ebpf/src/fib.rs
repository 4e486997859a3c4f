//! Forwards by the kernel's own routes and neighbours, as a contender: XDP without tables of its own.
//!
//! No selectors, no weights, no counters: the helper answers the route, the MTU and both MACs.

use core::{ffi::c_int, mem};

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Lookup, xdp_action},
    helpers::bpf_fib_lookup,
    macros::xdp,
    programs::XdpContext,
};

use crate::{frame, maps};

const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const IPV6: usize = ETHERNET + 40;
/// Address families of Linux (linux/socket.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends IPv4 and IPv6 where the kernel would, and leaves to it whatever it would not simply forward.
#[xdp]
pub fn fib(mut context: XdpContext) -> u32 {
    let forwarded = match frame::start::<ETHERNET>(&mut context) {
        Some([.., 0x08, 0x00]) => ipv4(&mut context),
        Some([.., 0x86, 0xdd]) => ipv6(&mut context),
        _ => None,
    };
    forwarded.unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn ipv4(context: &mut XdpContext) -> Option<u32> {
    let mut lookup = lookup(context, AF_INET);
    let packet = frame::start::<IPV4>(context)?;
    let header = &packet[ETHERNET..];
    // Options and expired packets are the kernel's.
    if header[0] != 0x45 || header[8] <= 1 {
        return None;
    }
    lookup.l4_protocol = header[9];
    lookup.__bindgen_anon_1.tot_len = u16::from_be_bytes([header[2], header[3]]);
    lookup.__bindgen_anon_2.tos = header[1];
    lookup.__bindgen_anon_3.ipv4_src = word(packet, ETHERNET + 12);
    lookup.__bindgen_anon_4.ipv4_dst = word(packet, ETHERNET + 16);
    ask(context, &mut lookup)?;

    let packet = frame::start::<IPV4>(context)?;
    packet[ETHERNET + 8] -= 1;
    // One off the TTL is 0x0100 more in the checksum, with the carry brought round (RFC 1141).
    let sum = u32::from(u16::from_be_bytes([packet[ETHERNET + 10], packet[ETHERNET + 11]])) + 0x0100;
    let [high, low] = ((sum + u32::from(sum >= 0xffff)) as u16).to_be_bytes();
    packet[ETHERNET + 10] = high;
    packet[ETHERNET + 11] = low;
    Some(send(packet, &lookup))
}

#[inline(always)]
fn ipv6(context: &mut XdpContext) -> Option<u32> {
    let mut lookup = lookup(context, AF_INET6);
    let packet = frame::start::<IPV6>(context)?;
    let header = &packet[ETHERNET..];
    if header[7] <= 1 {
        return None;
    }
    lookup.l4_protocol = header[6];
    // The kernel expects the length of the packet; the header has the length of the payload.
    lookup.__bindgen_anon_1.tot_len = u16::from_be_bytes([header[4], header[5]]).wrapping_add(40);
    lookup.__bindgen_anon_3.ipv6_src = words(packet, ETHERNET + 8);
    lookup.__bindgen_anon_4.ipv6_dst = words(packet, ETHERNET + 24);
    ask(context, &mut lookup)?;

    let packet = frame::start::<IPV6>(context)?;
    packet[ETHERNET + 7] -= 1;
    Some(send(packet, &lookup))
}

#[inline(always)]
fn lookup(context: &XdpContext, family: u8) -> Lookup {
    // SAFETY: integers, and unions and arrays of them: zeros are a value of each.
    let mut lookup: Lookup = unsafe { mem::zeroed() };
    lookup.family = family;
    // SAFETY: the context is the kernel's own, and valid as long as the program runs.
    lookup.ifindex = unsafe { (*context.ctx).ingress_ifindex };
    lookup
}

/// Has the kernel fill in interface and MACs. `None` when it would do anything but forward.
#[inline(always)]
fn ask(context: &XdpContext, lookup: &mut Lookup) -> Option<()> {
    let length = size_of::<Lookup>() as c_int;
    // SAFETY: the context is the kernel's; the other argument is a struct of this length, which no one else has.
    let answer = unsafe { bpf_fib_lookup(context.ctx.cast(), lookup, length, 0) };
    (answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS)).then_some(())
}

#[inline(always)]
fn send<const N: usize>(packet: &mut [u8; N], lookup: &Lookup) -> u32 {
    packet[..6].copy_from_slice(&lookup.dmac);
    packet[6..12].copy_from_slice(&lookup.smac);
    maps::PORTS.redirect(lookup.ifindex, u64::from(xdp_action::XDP_ABORTED)).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Four bytes in the order of the frame.
#[inline(always)]
fn word<const N: usize>(packet: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

#[inline(always)]
fn words<const N: usize>(packet: &[u8; N], at: usize) -> [u32; 4] {
    [word(packet, at), word(packet, at + 4), word(packet, at + 8), word(packet, at + 12)]
}

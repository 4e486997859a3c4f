//! Stage 2, and part of stage 6: a site's own addresses become those that the hub knows the site by, and back at the
//! egress. 1:1 by prefix and without state: only the network bits change.
//!
//! The hub has a single view of all addresses. So a packet's source is translated before the look-ups, and its
//! destination after the last of them: the tables of all stages, and the kernel's, have the addresses at the hub.
//!
//! - At ingress, XDP rewrites what it sends, and leaves what it passes to TC. TC rewrites at once: the kernel gets the
//!   source as the hub knows it.
//! - At egress, XDP rewrites what it sends. All other packets to the interface, whether TC, the kernel or the hub itself
//!   sends them, run through the program `vpnhub_egress`.
//!
//! An ICMP error contains the start of the packet that caused it: there, it is the opposite address.
//!
//! The functions that look up and rewrite are global: the verifier checks them once.

mod table;

use hub_common::{
    checksum,
    maps::{Attachment, MAX_CONNECTIONS, NextHop},
};

pub use self::table::Translate;
use crate::{
    family::{Address, V4, V6},
    frame::{Covered, Frame},
    headers::{Ethernet, Ipv4, Ipv6},
    parse::{self, Packet, TCP},
};

/// Above the length of a packet, for [`Frame::translate_any`]: IPv6.
pub const V6_BIT: u32 = 1 << 24;
/// The destination becomes the site's own; without it, the source becomes that at the hub. For [`Frame::translate_inner`].
pub const TO_SITE_BIT: u32 = 1 << 25;
const LENGTH: u32 = V6_BIT - 1;

const ICMP: u8 = 1;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const UDP_LITE: u8 = 136;
/// Bytes of an ICMP header, before the packet that caused an error.
const ICMP_HEADER: usize = 8;
/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: usize = 2;
/// Offset of a fragment (RFC 791): other fragments than the first have no transport header.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Bounds an offset in a frame for the verifier: beyond the longest headers.
const OFFSETS: usize = 0x3fff;
/// IPv6 extension headers before the transport header.
const MAX_EXTENSIONS: usize = 8;
/// No sum over data that changed.
const NO_CHANGE: u16 = 0;
/// Indices of tables have 16 bits: two fit a word, or one above a sum.
const TABLE_SHIFT: u32 = 16;
const _: () = assert!(MAX_CONNECTIONS <= 1 << TABLE_SHIFT);
/// Instead of a protocol.
const NOT_PLAIN: u8 = 0;

/// Translates the source of a packet that came in on this attachment. Call it before the look-ups.
///
/// A source that the hub cannot express, because another one of the site has that address there, becomes a martian.
/// So the verifier need not follow the rest of the program once more.
#[inline(always)]
pub fn source<A: Translate, F: Frame>(frame: &mut F, packet: &mut Packet<A>, attachment: &Attachment) {
    let table = attachment.translations;
    if table == 0 {
        return;
    }
    let change = packet.source.translate(table, 0);
    if F::IS_LAST {
        let protocol = replace(frame, packet.offset, packet.source, 0, change);
        rest::<A, F>(frame, packet.offset, packet.length, table, (protocol, change));
    } else {
        packet.translation = u64::from(table << TABLE_SHIFT | u32::from(change));
    }
}

/// Rewrites the addresses of a packet that XDP sends: the source if its attachment has translations, the destination if
/// the next hop's has.
#[inline(always)]
pub fn forwarded<A: Translate, F: Frame>(frame: &mut F, packet: &Packet<A>, next_hop: &NextHop) {
    let to = next_hop.translations;
    if F::IS_LAST || packet.translation | u64::from(to) == 0 {
        return;
    }
    let (from, mut change) = ((packet.translation >> TABLE_SHIFT) as u32, packet.translation as u16);
    replace(frame, packet.offset, packet.source, 0, change);
    if to != 0 {
        let mut destination = packet.destination;
        let more = destination.translate(to, TO_SITE_BIT);
        replace(frame, packet.offset, destination, TO_SITE_BIT, more);
        change = checksum::sum(change, more);
    }
    // Read again: three paths meet here, and would each have to carry it.
    let protocol = A::plain(frame, packet.offset);
    rest::<A, F>(frame, packet.offset, packet.length, from | to << TABLE_SHIFT, (protocol, change));
}

/// Translates the destination of a packet that leaves by this interface.
#[inline(always)]
pub fn destination<F: Frame>(frame: &mut F) {
    let Some(attachment) = parse::attachment(frame.interface()) else { return };
    let table = attachment.translations;
    if table == 0 {
        return;
    }
    // Tags are not in front of it yet.
    let offset = if attachment.flags & Attachment::ETHERNET == 0 { 0 } else { size_of::<Ethernet>() };
    let Some(header) = frame.at::<Ipv4>(offset) else { return };
    match (frame.protocol(), header.version_and_length >> 4) {
        (Some(<V4 as Address>::ETHERTYPE), 4) => {
            let destination = u32::from_be_bytes(header.destination);
            let length = length(frame, offset, 0, header.total_length);
            to_site(frame, offset, length, destination, table);
        }
        (Some(<V6 as Address>::ETHERTYPE), 6) => {
            let Some(header) = frame.at::<Ipv6>(offset) else { return };
            let destination = header.destination.map(u64::from_be_bytes);
            let length = length(frame, offset, size_of::<Ipv6>(), header.payload_length);
            to_site(frame, offset, length, destination, table);
        }
        _ => {}
    }
}

/// Translates the destination of a packet with an IP header at `offset`, and `length` bytes long.
#[inline(always)]
fn to_site<A: Translate, F: Frame>(frame: &mut F, offset: usize, length: usize, mut destination: A, table: u32) {
    let change = destination.translate_here(table, TO_SITE_BIT);
    let protocol = replace(frame, offset, destination, TO_SITE_BIT, change);
    rest::<A, F>(frame, offset, length, table << TABLE_SHIFT, (protocol, change));
}

/// The length of an IP packet, by the field in its header.
#[inline(always)]
fn length<F: Frame>(frame: &F, offset: usize, header_length: usize, field: [u8; 2]) -> usize {
    match u16::from_be_bytes(field) {
        // A super-packet of the hub's own that is longer than a header can say (BIG TCP).
        0 => (frame.length() - offset).min(LENGTH as usize),
        length => header_length + usize::from(length),
    }
}

/// Replaces an address if it changed: see [`Translate::replace`]. Returns as [`Translate::plain`].
#[inline(always)]
fn replace<A: Translate, F: Frame>(frame: &mut F, offset: usize, address: A, bits: u32, change: u16) -> u8 {
    match change {
        NO_CHANGE => A::plain(frame, offset),
        change => address.replace(frame, offset, bits, change),
    }
}

/// The rest of a packet with an IP header at `offset`, and `length` bytes long, after the addresses there have changed.
/// `tables`: see [`Frame::translate_any`]. `protocol`: see [`Translate::plain`].
#[inline(always)]
fn rest<A: Translate, F: Frame>(
    frame: &mut F,
    offset: usize,
    length: usize,
    tables: u32,
    (protocol, change): (u8, u16),
) {
    let (field, covered) = match protocol {
        NOT_PLAIN => return frame.translate_any(offset as u32, length as u32 | A::BIT, tables, change.into()),
        TCP => (A::HEADER_LENGTH + 16, Covered::Address),
        _ => (A::HEADER_LENGTH + 6, Covered::AddressOfUdp),
    };
    if change != NO_CHANGE && field + 2 <= length {
        frame.adjust_checksum(offset + field, change, covered);
    }
}

/// Implementation of [`Frame::translate_any`].
#[inline(always)]
pub fn any<F: Frame>(frame: &mut F, offset: u32, packet: u32, tables: u32, change: u32) {
    // Bounds the offsets for the verifier.
    let start = offset as usize & 0xff;
    let end = start + (packet & LENGTH) as usize;
    let is_v6 = packet & V6_BIT != 0;
    let transport = if is_v6 { transport_v6(frame, start, end) } else { transport_v4(frame, start) };
    let Some(Transport { protocol, at }) = transport else { return };
    if change != 0
        && let Some((offset, covered)) = checksum_of(protocol)
        && at + offset + 2 <= end
    {
        frame.adjust_checksum(at + offset, change as u16, covered);
    }
    if protocol != if is_v6 { ICMPV6 } else { ICMP } || at + ICMP_HEADER > end {
        return;
    }
    // Two bytes: from a check for one, the verifier learns nothing.
    let Some([kind, _]) = frame.copy(at) else { return };
    // RFC 4443 section 2.1. IPv4: destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC
    // 792).
    let is_error = matches!((is_v6, kind), (true, 0..128) | (false, 3 | 4 | 5 | 11 | 12));
    if !is_error {
        return;
    }
    let bits = packet & V6_BIT;
    for (table, bits) in [(tables & ((1 << TABLE_SHIFT) - 1), bits), (tables >> TABLE_SHIFT, bits | TO_SITE_BIT)] {
        if table != 0 {
            frame.translate_inner(at as u32, end as u32 | bits, table);
        }
    }
}

/// Implementation of [`Frame::translate_inner`].
#[inline(always)]
pub fn inner<F: Frame>(frame: &mut F, at: u32, packet: u32, table: u32) {
    let at = at as usize & OFFSETS;
    let (end, bits) = ((packet & LENGTH) as usize, packet & !LENGTH);
    let change = if bits & V6_BIT == 0 {
        inner_v4(frame, at + ICMP_HEADER, end, bits, table)
    } else {
        inner_v6(frame, at + ICMP_HEADER, end, bits, table)
    };
    if change != NO_CHANGE {
        frame.adjust_checksum(at + ICMP_CHECKSUM, change, Covered::Data);
    }
}

/// Protocol and offset of a transport header.
struct Transport {
    protocol: u8,
    at: usize,
}

/// The transport header of an IPv4 packet; `None` in other fragments than the first.
#[inline(always)]
fn transport_v4<F: Frame>(frame: &F, start: usize) -> Option<Transport> {
    let header = frame.at::<Ipv4>(start)?;
    if u16::from_be_bytes(header.fragment) & FRAGMENT_OFFSET != 0 {
        return None;
    }
    Some(Transport { protocol: header.protocol, at: start + usize::from(header.version_and_length & 0x0f) * 4 })
}

/// As [`behind_extensions`].
#[inline(always)]
fn transport_v6<F: Frame>(frame: &F, start: usize, end: usize) -> Option<Transport> {
    let next = frame.at::<Ipv6>(start)?.next_header;
    behind_extensions(frame, next, start + size_of::<Ipv6>(), end)
}

/// The address after translation, and by what it changed; `None` if it did not.
#[inline(always)]
fn counterpart<A: Translate>(mut address: A, table: u32, bits: u32) -> Option<(A, u16)> {
    match address.translate(table, bits & TO_SITE_BIT) {
        NO_CHANGE => None,
        change => Some((address, change)),
    }
}

/// Offset in its header of a transport checksum that covers the addresses.
#[inline(always)]
const fn checksum_of(protocol: u8) -> Option<(usize, Covered)> {
    match protocol {
        TCP => Some((16, Covered::Address)),
        UDP => Some((6, Covered::AddressOfUdp)),
        UDP_LITE | DCCP => Some((6, Covered::Address)),
        ICMPV6 => Some((ICMP_CHECKSUM, Covered::Address)),
        _ => None,
    }
}

/// The transport header of an IPv6 packet; `None` in other fragments than the first, and behind more extension headers
/// than [`MAX_EXTENSIONS`], or unknown ones.
#[inline(always)]
fn behind_extensions<F: Frame>(frame: &F, next: u8, start: usize, end: usize) -> Option<Transport> {
    let (mut protocol, mut at) = (next, start);
    for _ in 0..=MAX_EXTENSIONS {
        // Hop-by-hop options, routing, fragment, authentication, destination options (RFC 8200 section 4, RFC 4302).
        if !matches!(protocol, 0 | 43 | 44 | 51 | 60) {
            return Some(Transport { protocol, at });
        }
        if at + 4 > end {
            return None;
        }
        let [following, length, high, low] = frame.copy(at)?;
        let units = usize::from(length);
        at = match protocol {
            44 if u16::from_be_bytes([high, low]) & !7 != 0 => return None,
            44 => at + 8,
            51 => at + (units + 2) * 4,
            _ => at + (units + 1) * 8,
        } & OFFSETS;
        protocol = following;
    }
    None
}

/// Translates the opposite address in the header inside an ICMP error, and updates the checksums there. Returns by what
/// the message changed.
#[inline(always)]
fn inner_v4<F: Frame>(frame: &mut F, start: usize, end: usize, bits: u32, table: u32) -> u16 {
    let start = start & OFFSETS;
    let place = if bits & TO_SITE_BIT == 0 { 16 } else { 12 };
    if start + size_of::<Ipv4>() > end {
        return NO_CHANGE;
    }
    let Some(header) = frame.copy::<{ size_of::<Ipv4>() }>(start) else { return NO_CHANGE };
    let [version_and_length, _, _, _, _, _, high, low, _, protocol, ..] = header;
    let old = [header[place], header[place + 1], header[place + 2], header[place + 3]];
    let Some((new, change)) = counterpart(u32::from_be_bytes(old), table, bits) else { return NO_CHANGE };
    if version_and_length >> 4 != 4 || frame.write(start + place, new.to_be_bytes()).is_err() {
        return NO_CHANGE;
    }
    let total = checksum::sum(change, inner_checksum(frame, start + 10, end, change, false));
    // Opaque: the compiler would shift what it knows not to be a number on other paths.
    let header_length = usize::from(core::hint::black_box(version_and_length) & 0x0f) * 4;
    match checksum_of(protocol) {
        Some((offset, covered)) if u16::from_be_bytes([high, low]) & FRAGMENT_OFFSET == 0 => {
            let of_udp = covered == Covered::AddressOfUdp;
            checksum::sum(total, inner_checksum(frame, start + header_length + offset, end, change, of_udp))
        }
        _ => total,
    }
}

/// As [`inner_v4`].
#[inline(always)]
fn inner_v6<F: Frame>(frame: &mut F, start: usize, end: usize, bits: u32, table: u32) -> u16 {
    let start = start & OFFSETS;
    let place = start + if bits & TO_SITE_BIT == 0 { 24 } else { 8 };
    if start + size_of::<Ipv6>() > end {
        return NO_CHANGE;
    }
    let (Some([version, _]), Some([next, _])) = (frame.copy(start), frame.copy(start + 6)) else { return NO_CHANGE };
    let (Some(high), Some(low)) = (frame.copy::<8>(place), frame.copy::<8>(place + 8)) else { return NO_CHANGE };
    let Some((new, change)) = counterpart([high, low].map(u64::from_be_bytes), table, bits) else { return NO_CHANGE };
    let [high, low] = new.map(u64::to_be_bytes);
    if version >> 4 != 6 || frame.write(place, high).is_err() || frame.write(place + 8, low).is_err() {
        return NO_CHANGE;
    }
    let Some(Transport { protocol, at }) = behind_extensions(frame, next, start + size_of::<Ipv6>(), end) else {
        return change;
    };
    match checksum_of(protocol) {
        Some((offset, covered)) => {
            let of_udp = covered == Covered::AddressOfUdp;
            checksum::sum(change, inner_checksum(frame, at + offset, end, change, of_udp))
        }
        None => change,
    }
}

/// Updates a checksum inside an ICMP error, if the error contains it. Returns by what it changed.
#[inline(always)]
fn inner_checksum<F: Frame>(frame: &mut F, at: usize, end: usize, change: u16, of_udp: bool) -> u16 {
    let at = at & OFFSETS;
    if at + 2 > end {
        return NO_CHANGE;
    }
    let Some(old) = frame.copy::<2>(at).map(u16::from_ne_bytes) else { return NO_CHANGE };
    let new = match checksum::adjusted(old, change) {
        _ if of_udp && old == 0 => return NO_CHANGE,
        0 if of_udp => u16::MAX,
        new => new,
    };
    if frame.write(at, new.to_ne_bytes()).is_err() { NO_CHANGE } else { checksum::difference(old, new) }
}

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
    maps::{Attachment, NextHop},
};

pub use self::table::Translate;
use crate::{
    family::{Address, V4, V6},
    frame::{Covered, Frame},
    headers::{Ethernet, Ipv4, Ipv6},
    parse::{self, Packet, TCP},
};

/// Above the length of a packet, for [`Frame::translate`]: IPv6.
pub const V6_BIT: u32 = 1 << 24;
/// The destination becomes the site's own; without it, the source becomes that at the hub.
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

/// Translates the source of a packet that came in on this attachment. Call it before the look-ups.
///
/// A source that the hub cannot express, because another one of the site has that address there, becomes a martian.
/// So the verifier need not follow the rest of the program once more.
#[inline(always)]
pub fn source<A: Translate, F: Frame>(frame: &mut F, packet: &mut Packet<A>, attachment: &Attachment) {
    let translations = attachment.translations;
    if translations == 0 {
        return;
    }
    packet.source = packet.source.translated_or(translations, 0, A::LOOPBACK);
    if F::IS_LAST {
        frame.translate(packet.offset as u32, packet.length as u32 | A::BIT, translations, 0);
    }
}

/// Rewrites the addresses of a packet that XDP sends: the source if its attachment has translations, the destination if
/// the next hop's has.
#[inline(always)]
pub fn forwarded<A: Translate, F: Frame>(
    frame: &mut F,
    packet: &Packet<A>,
    attachment: &Attachment,
    next_hop: &NextHop,
) {
    if F::IS_LAST {
        return;
    }
    let is_translated = next_hop.flags & NextHop::TRANSLATED;
    if attachment.translations | is_translated != 0 {
        let to = if is_translated == 0 { 0 } else { next_hop.ifindex };
        frame.translate(packet.offset as u32, packet.length as u32 | A::BIT, attachment.translations, to);
    }
}

/// Translates the destination of a packet that leaves by this interface.
#[inline(always)]
pub fn destination<F: Frame>(frame: &mut F) {
    let Some(attachment) = parse::attachment(frame.interface()) else { return };
    if attachment.translations == 0 {
        return;
    }
    // Tags are not in front of it yet.
    let offset = if attachment.flags & Attachment::ETHERNET == 0 { 0 } else { size_of::<Ethernet>() };
    let Some(header) = frame.at::<Ipv4>(offset) else { return };
    let total_length = u16::from_be_bytes(header.total_length);
    let (bits, header_length, length) = match (frame.protocol(), header.version_and_length >> 4) {
        (Some(<V4 as Address>::ETHERTYPE), 4) => (V4::BIT, 0, total_length),
        (Some(<V6 as Address>::ETHERTYPE), 6) => {
            let Some(header) = frame.at::<Ipv6>(offset) else { return };
            (V6::BIT, size_of::<Ipv6>(), u16::from_be_bytes(header.payload_length))
        }
        _ => return,
    };
    let length = match length {
        // A super-packet of the hub's own that is longer than a header can say (BIG TCP).
        0 => (frame.length() - offset).min(LENGTH as usize),
        length => header_length + usize::from(length),
    };
    frame.translate(offset as u32, length as u32 | bits, 0, frame.interface());
}

/// Implementation of [`Frame::translate`].
#[inline(always)]
pub fn apply<F: Frame>(frame: &mut F, offset: u32, packet: u32, from: u32, to: u32) {
    // Here, not in the program: the verifier would follow the rest of that once for each result.
    let to = if to == 0 { 0 } else { parse::attachment(to).map_or(0, |egress| egress.translations) };
    // Bounds the offsets for the verifier.
    let start = offset as usize & 0xff;
    let end = start + (packet & LENGTH) as usize;
    let is_plain = if packet & V6_BIT == 0 {
        plain::<V4, F>(frame, start, end, from, to)
    } else {
        plain::<V6, F>(frame, start, end, from, to)
    };
    if is_plain {
        return;
    }
    if from != 0 {
        frame.translate_any(offset, packet, from);
    }
    if to != 0 {
        frame.translate_any(offset, packet | TO_SITE_BIT, to);
    }
}

/// Translates the usual packet, with TCP or UDP directly behind the IP header, and no later fragment. Returns whether it is
/// one.
#[inline(always)]
fn plain<A: Translate, F: Frame>(frame: &mut F, start: usize, end: usize, from: u32, to: u32) -> bool {
    let Some((protocol, change)) = A::replace(frame, start, from, to) else { return false };
    if change == NO_CHANGE {
        return true;
    }
    let (at, covered) = match protocol {
        TCP => (16, Covered::Address),
        _ => (6, Covered::AddressOfUdp),
    };
    let at = start + A::HEADER_LENGTH + at;
    if at + 2 <= end {
        frame.adjust_checksum(at, change, covered);
    }
    true
}

/// Implementation of [`Frame::translate_any`].
#[inline(always)]
pub fn any<F: Frame>(frame: &mut F, offset: u32, packet: u32, translations: u32) {
    let start = offset as usize & 0xff;
    let end = start + (packet & LENGTH) as usize;
    let bits = packet & !LENGTH;
    let outer = if bits & V6_BIT == 0 {
        outer_v4(frame, start, end, bits, translations)
    } else {
        outer_v6(frame, start, end, bits, translations)
    };
    let Some(Transport { protocol, at }) = outer else { return };
    let is_v6 = bits & V6_BIT != 0;
    if protocol != if is_v6 { ICMPV6 } else { ICMP } || at + ICMP_HEADER > end {
        return;
    }
    // Two bytes: from a check for one, the verifier learns nothing.
    let Some([kind, _]) = frame.copy(at) else { return };
    let inner = at + ICMP_HEADER;
    let change = match kind {
        // The errors (RFC 4443 section 2.1).
        0..128 if is_v6 => inner_v6(frame, inner, end, bits, translations),
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
        3 | 4 | 5 | 11 | 12 if !is_v6 => inner_v4(frame, inner, end, bits, translations),
        _ => NO_CHANGE,
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

/// Translates the address in the header of the packet itself, and updates its checksums. Returns the transport header
/// that an ICMP message would have.
#[inline(always)]
fn outer_v4<F: Frame>(frame: &mut F, start: usize, end: usize, bits: u32, translations: u32) -> Option<Transport> {
    let header = frame.at_mut::<Ipv4>(start)?;
    let field = if bits & TO_SITE_BIT == 0 { &mut header.source } else { &mut header.destination };
    let (old, new) = (*field, u32::from_be_bytes(*field).translated(translations, bits)?.to_be_bytes());
    let change = match old == new {
        true => NO_CHANGE,
        false => checksum::difference_of(old, new),
    };
    if change != NO_CHANGE {
        *field = new;
        header.checksum = checksum::adjusted(u16::from_ne_bytes(header.checksum), change).to_ne_bytes();
    }
    if u16::from_be_bytes(header.fragment) & FRAGMENT_OFFSET != 0 {
        return None;
    }
    let transport =
        Transport { protocol: header.protocol, at: start + usize::from(header.version_and_length & 0x0f) * 4 };
    if change != NO_CHANGE {
        pseudo_header_changed(frame, &transport, end, change);
    }
    Some(transport)
}

/// As [`outer_v4`].
#[inline(always)]
fn outer_v6<F: Frame>(frame: &mut F, start: usize, end: usize, bits: u32, translations: u32) -> Option<Transport> {
    let header = frame.at_mut::<Ipv6>(start)?;
    let next = header.next_header;
    let field = if bits & TO_SITE_BIT == 0 { &mut header.source } else { &mut header.destination };
    let (old, new) = (*field, field.map(u64::from_be_bytes).translated(translations, bits)?.map(u64::to_be_bytes));
    let change = if old == new { NO_CHANGE } else { difference_v6(old, new) };
    if change != NO_CHANGE {
        *field = new;
        frame.data_changed(change);
    }
    let transport = behind_extensions(frame, next, start + size_of::<Ipv6>(), end)?;
    if change != NO_CHANGE {
        pseudo_header_changed(frame, &transport, end, change);
    }
    Some(transport)
}

#[inline(always)]
fn difference_v6(old: [[u8; 8]; 2], new: [[u8; 8]; 2]) -> u16 {
    checksum::sum(checksum::difference_of(old[0], new[0]), checksum::difference_of(old[1], new[1]))
}

#[inline(always)]
fn pseudo_header_changed<F: Frame>(frame: &mut F, transport: &Transport, end: usize, change: u16) {
    if let Some((offset, covered)) = checksum_of(transport.protocol)
        && transport.at + offset + 2 <= end
    {
        frame.adjust_checksum(transport.at + offset, change, covered);
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
fn inner_v4<F: Frame>(frame: &mut F, start: usize, end: usize, bits: u32, translations: u32) -> u16 {
    let start = start & OFFSETS;
    let place = start + if bits & TO_SITE_BIT == 0 { 16 } else { 12 };
    if start + size_of::<Ipv4>() > end {
        return NO_CHANGE;
    }
    let (Some([version_and_length, _]), Some([high, low, _, protocol])) = (frame.copy(start), frame.copy(start + 6))
    else {
        return NO_CHANGE;
    };
    let Some(old) = frame.copy::<4>(place) else { return NO_CHANGE };
    let Some(new) = u32::from_be_bytes(old).translated(translations, bits) else { return NO_CHANGE };
    let new = new.to_be_bytes();
    if version_and_length >> 4 != 4 || old == new || frame.write(place, new).is_err() {
        return NO_CHANGE;
    }
    let change = checksum::difference_of(old, new);
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
fn inner_v6<F: Frame>(frame: &mut F, start: usize, end: usize, bits: u32, translations: u32) -> u16 {
    let start = start & OFFSETS;
    let place = start + if bits & TO_SITE_BIT == 0 { 24 } else { 8 };
    if start + size_of::<Ipv6>() > end {
        return NO_CHANGE;
    }
    let (Some([version, _]), Some([next, _])) = (frame.copy(start), frame.copy(start + 6)) else { return NO_CHANGE };
    let (Some(high), Some(low)) = (frame.copy::<8>(place), frame.copy::<8>(place + 8)) else { return NO_CHANGE };
    let old = [high, low];
    let Some(new) = old.map(u64::from_be_bytes).translated(translations, bits) else { return NO_CHANGE };
    let new = new.map(u64::to_be_bytes);
    if version >> 4 != 6 || old == new || frame.write(place, new[0]).is_err() || frame.write(place + 8, new[1]).is_err()
    {
        return NO_CHANGE;
    }
    let change = difference_v6(old, new);
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

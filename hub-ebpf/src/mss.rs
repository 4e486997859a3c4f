//! The MSS clamp of stage 6: lowers the maximum segment size that a TCP SYN announces, so that segments fit both
//! tunnels. Without it, a path that loses "fragmentation needed" loses every full segment.
//!
//! Like the kernel's `TCPMSS` target, it changes the first MSS option of a SYN or SYN-ACK and adds none. Fragments,
//! options with wrong lengths, and TCP behind an IPv6 extension header stay unchanged.
//!
//! One function of each program type is global: the verifier checks it once.

use hub_common::{
    checksum,
    maps::{MssLimits, NextHop},
};

use crate::{
    counters::Attribution,
    family::Address,
    frame::{Covered, Frame},
    headers::Ipv4,
    maps,
    parse::{FRAGMENT, Packet},
};

// Offsets in a TCP header (RFC 9293 section 3.1).
const DATA_OFFSET: usize = 12;
pub const FLAGS: usize = 13;
const CHECKSUM: usize = 16;
const OPTIONS: usize = 20;
/// The flag SYN.
const SYN: u8 = 2;
/// Bytes of an MSS option: kind, length, value.
const MSS_OPTION: usize = 4;
/// Options before the end of the longest header's last MSS option: all have one byte.
const MAX_OPTIONS: usize = 60 - OPTIONS - MSS_OPTION + 1;
// Kinds of options (RFC 9293 section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

#[inline(always)]
pub const fn is_syn(flags: u8) -> bool {
    flags & SYN != 0
}

/// Clamps the MSS if this TCP packet is a SYN, from the packet's connection to the next hop's.
#[inline(always)]
pub fn clamp<A: Address, F: Frame>(frame: &mut F, packet: &Packet<A>, attribution: &Attribution, next_hop: &NextHop) {
    let header = packet.header_length as u32 | A::VERSION << 8;
    let connections = attribution.connection() | next_hop.connection << 16;
    frame.clamp_mss(packet.offset as u32, header, packet.length as u32, connections);
}

/// Implementation of [`Frame::clamp_mss`].
#[inline(always)]
pub fn clamp_segment<F: Frame>(frame: &mut F, offset: u32, header: u32, length: u32, connections: u32) {
    // Bounds the offsets for the verifier, which checks this function separately.
    let (offset, header_length) = (offset as usize & 0xff, header as usize & 0xff);
    let is_v4 = header >> 8 == 4;
    if is_v4
        && let Some(header) = frame.at::<Ipv4>(offset)
        && u16::from_be_bytes(header.fragment) & FRAGMENT != 0
    {
        return;
    }
    let start = offset + header_length;
    let Some([data_offset, flags]) = frame.at::<[u8; 2]>(start + DATA_OFFSET) else { return };
    let size = usize::from(data_offset >> 4) * 4;
    if !is_syn(*flags) || header_length + size > length as usize {
        return;
    }
    let limit = match (limit(connections & 0xffff, is_v4), limit(connections >> 16, is_v4)) {
        (0, 0) => return,
        (0, only) | (only, 0) => only,
        (from, to) => from.min(to),
    };
    let mut at = start + OPTIONS;
    for _ in 0..MAX_OPTIONS {
        if at + MSS_OPTION > start + size {
            return;
        }
        let Some([kind, option_length, high, low]) = frame.copy::<MSS_OPTION>(at) else { return };
        match (kind, option_length) {
            (NO_OPERATION, _) => at += 1,
            (END, _) | (_, 0 | 1) => return,
            (MSS, 4) => {
                if u16::from_be_bytes([high, low]) > limit {
                    let (old, new) = ([high, low], limit.to_be_bytes());
                    // The words that the checksum covers start at even offsets.
                    let is_odd = (at - start) & 1 != 0;
                    let word = |bytes| {
                        let word = u16::from_ne_bytes(bytes);
                        if is_odd { word.swap_bytes() } else { word }
                    };
                    if frame.write(at + 2, new).is_ok() {
                        let difference = checksum::difference(word(old), word(new));
                        frame.adjust_checksum(start + CHECKSUM, difference, Covered::Data);
                    }
                }
                return;
            }
            _ => at += usize::from(option_length),
        }
    }
}

/// The MSS limit of a `COUNTERS` slot; 0 for none.
#[inline(always)]
fn limit(connection: u32, is_v4: bool) -> u16 {
    match maps::MSS_LIMITS.get(connection) {
        Some(MssLimits { v4, .. }) if is_v4 => *v4,
        Some(MssLimits { v6, .. }) => *v6,
        None => 0,
    }
}

//! Records of packets for `vpnhub monitor --packets` and `vpnhub capture`. Without a listener, a packet that is dropped or
//! passed costs a load and a comparison more, and so does a forwarded one.
//!
//! The records of drops and passes are made when the processing ends, those of forwarded packets once they are sent: of
//! their last bytes. Filters are evaluated here. Each has a rate limit for each outcome, so that a flood of one reason
//! cannot displace the records of another.
//!
//! One function of each program type is global, and those that evaluate a filter are: the verifier checks them once.

use aya_ebpf::{
    bindings::BPF_RB_AVAIL_DATA,
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_ringbuf_query},
};
use hub_common::maps::{
    self as common, Attachment, CAPTURE_BURST, CAPTURE_INTERVAL, CAPTURE_OUTCOMES, CAPTURE_RARE, CAPTURE_RING_BYTES,
    CaptureLimit, CaptureRecord, FORWARDED, MAX_SNAPLEN, NextHop,
};

use crate::{
    counters::Attribution,
    frame::Frame,
    headers::{Ethernet, Ipv4, Ipv6},
    maps,
    parse::{self, FRAGMENT, MAX_TAGS, TCP, UDP},
};

/// Above the outcome, for [`Frame::record`]: the kind of link that the packet leaves by.
const LINK_SHIFT: u32 = 8;

const FRAGMENT_OFFSET: u16 = 0x1fff;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
// IPv6 extension headers (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const MAX_EXTENSIONS: usize = 4;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
/// Bounds an offset in a frame for the verifier.
const OFFSETS: usize = 0xfff;

/// Records a packet that is dropped or passed, if somebody listens.
#[inline(always)]
pub fn refused<F: Frame>(frame: &F, attribution: &Attribution, reason: u32) {
    if maps::capture_filters() != 0 {
        frame.record(reason, attribution.connection(), 0);
    }
}

/// Records a packet that was sent, if somebody listens to such.
#[inline(always)]
pub fn forwarded<F: Frame>(frame: &F, attribution: &Attribution, next_hop: &NextHop) {
    if maps::capture_forwards() != 0 {
        let ethernet = next_hop.flags & NextHop::ETHERNET != 0;
        let link = if ethernet { CaptureRecord::ETHERNET } else { CaptureRecord::RAW };
        let outcome = FORWARDED | link << LINK_SHIFT;
        frame.record(outcome, attribution.connection() | next_hop.connection << 16, next_hop.ifindex);
    }
}

/// Implementation of [`Frame::record`].
#[inline(always)]
pub fn record<F: Frame>(frame: &F, outcome: u32, connections: u32, egress: u32) {
    // SAFETY: a helper without pointers. The time of the last tick is cheaper, and good enough for the limits.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now >= maps::capture_until() {
        return;
    }
    let Some(scratch) = maps::CAPTURE_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the element belongs to this CPU, and programs of XDP and TC ingress do not interrupt one another on a CPU.
    // The functions that evaluate filters make references of their own: none of these is used behind such a call.
    let (record, bytes) = unsafe { (&mut (*scratch).record, (&raw mut (*scratch).bytes).cast::<u8>()) };
    record.outcome = outcome & 0xff;
    record.connection = connections & 0xffff;
    record.egress = connections >> 16;
    record.filters = 0;
    preselect(outcome & 0xff, now);
    // SAFETY: as above.
    let record = unsafe { &mut (*scratch).record };
    let possible = record.filters;
    if possible == 0 {
        return;
    }
    let (link, start) = match outcome & 0xff {
        FORWARDED => match outcome >> LINK_SHIFT {
            CaptureRecord::RAW if F::IS_LAST => (CaptureRecord::RAW, link_header(frame)),
            link => (link, 0),
        },
        _ => ingress(frame),
    };
    record.ifindex = if egress != 0 { egress } else { frame.interface() };
    record.link = link;
    record.tag = if egress != 0 || link != CaptureRecord::ETHERNET { 0 } else { frame.tag_with_protocol() };
    addresses(frame, link, start, record);
    (record.filters, record.captured) = (0, 0);
    select(possible, now);
    // SAFETY: as above.
    let record = unsafe { &mut (*scratch).record };
    if record.filters == 0 {
        return;
    }
    // SAFETY: a helper without pointers.
    record.time = unsafe { bpf_ktime_get_ns() };
    let length = frame.length();
    // SAFETY: a value on the stack. Volatile: otherwise the compiler subtracts from a pointer, which the verifier rejects.
    let length = (unsafe { core::ptr::read_volatile(&raw const length) } as u32).saturating_sub(start as u32);
    record.length = length;
    let captured = bounded(record.captured.min(length).max(1));
    let loaded = if frame.load(start, bytes, captured) { captured } else { 0 };
    record.captured = loaded;
    let size = size_of::<CaptureRecord>() as u64 + u64::from(captured);
    // SAFETY: the scratch element has `size` bytes: `captured` is bounded.
    let result = unsafe { bpf_ringbuf_output((&raw const maps::CAPTURE).cast_mut().cast(), scratch.cast(), size, 0) };
    if result != 0 {
        left_out(record);
    }
}

/// 1 to [`MAX_SNAPLEN`], also for the verifier.
#[inline(always)]
fn bounded(captured: u32) -> u32 {
    let less = captured.wrapping_sub(1);
    // SAFETY: a value on the stack. Volatile, so that the compiler does not use what it knows instead of the comparison.
    // Linux 6.1 learns no bound from a comparison with 0.
    let less = unsafe { core::ptr::read_volatile(&raw const less) };
    if less < MAX_SNAPLEN { less + 1 } else { MAX_SNAPLEN }
}

/// Bytes of a link header that the frame still has although it goes to an interface without one: the kernel removes it
/// later, see [`Frame::replace_link_header`].
#[inline(always)]
fn link_header<F: Frame>(frame: &F) -> usize {
    match ingress(frame) {
        (CaptureRecord::ETHERNET, _) => size_of::<Ethernet>(),
        (_, start) => start,
    }
}

/// Kind of link, and offset of the first byte, of a packet where it came in.
#[inline(always)]
fn ingress<F: Frame>(frame: &F) -> (u32, usize) {
    match parse::attachment(frame.interface()) {
        Some(attachment) if attachment.flags & Attachment::ETHERNET == 0 => (CaptureRecord::RAW, frame.raw_offset()),
        Some(_) => (CaptureRecord::ETHERNET, 0),
        None => (CaptureRecord::UNKNOWN, 0),
    }
}

/// Sets the bits of the filters that the packet may be for, as far as that is known before it is parsed. During a flood
/// most packets end here.
#[inline(always)]
fn preselect(outcome: u32, now: u64) {
    let in_use = if outcome == FORWARDED { maps::capture_forwards() } else { maps::capture_filters() };
    for slot in 0..common::CAPTURE_FILTERS {
        if in_use >> slot == 0 {
            break;
        }
        if in_use >> slot & 1 == 0 {
            continue;
        }
        capture_preselect(slot, now);
    }
}

/// Sets the bit of a filter that the packet may be for. In the record: a word of the caller's, with its known bits, would be
/// as many states to the verifier as there are sets of filters.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn capture_preselect(slot: u32, now: u64) -> u32 {
    let (Some(record), Some(filter)) = (record_of_this_cpu(), maps::CAPTURE_FILTERS.get(slot)) else { return 0 };
    let outcome = record.outcome & (CAPTURE_OUTCOMES - 1);
    if !filter.admits_outcome(record) {
        return 0;
    }
    // Independent of the other conditions. SAFETY: a helper without pointers.
    if outcome == FORWARDED && filter.one_in > 1 && unsafe { bpf_get_prandom_u32() } % filter.one_in != 0 {
        return 0;
    }
    if filter.is_plain != 0
        && let Some(limit) = limit(slot, outcome)
        && used(limit, now) > (CAPTURE_BURST - 1) * CAPTURE_INTERVAL
    {
        limit.left_out += 1;
        return 0;
    }
    record.filters |= 1 << slot;
    0
}

/// Evaluates the possible filters and their limits. Sets the bits of those that the record is for, and the bytes that they
/// want.
#[inline(always)]
fn select(possible: u32, now: u64) {
    // SAFETY: the program's own map.
    let unread = unsafe { bpf_ringbuf_query((&raw const maps::CAPTURE).cast_mut().cast(), BPF_RB_AVAIL_DATA.into()) };
    let most = match unread {
        _ if unread > u64::from(CAPTURE_RING_BYTES / 4 * 3) => 1,
        _ if unread > u64::from(CAPTURE_RING_BYTES / 2) => CAPTURE_RARE,
        _ => CAPTURE_BURST,
    };
    for slot in 0..common::CAPTURE_FILTERS {
        if possible >> slot & 1 == 0 {
            continue;
        }
        capture_select(slot, now, most);
    }
}

/// Evaluates a filter and its limit.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn capture_select(slot: u32, now: u64, most: u64) -> u32 {
    let (Some(record), Some(filter)) = (record_of_this_cpu(), maps::CAPTURE_FILTERS.get(slot)) else { return 0 };
    let outcome = record.outcome & (CAPTURE_OUTCOMES - 1);
    if !filter.admits(record) {
        return 0;
    }
    let Some(limit) = limit(slot, outcome) else { return 0 };
    if used(limit, now) > (most - 1) * CAPTURE_INTERVAL {
        limit.left_out += 1;
        return 0;
    }
    limit.full_at = limit.full_at.max(now) + CAPTURE_INTERVAL;
    record.filters |= 1 << slot;
    record.captured = record.captured.max(filter.snaplen);
    0
}

/// The record that is being made.
#[inline(always)]
fn record_of_this_cpu<'a>() -> Option<&'a mut CaptureRecord> {
    // SAFETY: the element belongs to this CPU, and no other reference to it is used while this one lives.
    maps::CAPTURE_SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut (*scratch).record })
}

/// The part of a burst that is used, in nanoseconds.
#[inline(always)]
fn used(limit: &CaptureLimit, now: u64) -> u64 {
    limit.full_at.saturating_sub(now)
}

/// Counts a packet for which the ring has no room.
#[inline(always)]
fn left_out(record: &CaptureRecord) {
    for slot in 0..common::CAPTURE_FILTERS {
        if record.filters >> slot & 1 != 0
            && let Some(limit) = limit(slot, record.outcome & (CAPTURE_OUTCOMES - 1))
        {
            limit.left_out += 1;
        }
    }
}

#[inline(always)]
fn limit<'a>(slot: u32, outcome: u32) -> Option<&'a mut CaptureLimit> {
    let limit = maps::CAPTURE_LIMITS.get_ptr_mut(slot * CAPTURE_OUTCOMES + outcome)?;
    // SAFETY: the element belongs to this CPU, as above, and no reference lives while another is made.
    Some(unsafe { &mut *limit })
}

/// Sets addresses, protocol and ports as far as they can be parsed.
#[inline(always)]
fn addresses<F: Frame>(frame: &F, link: u32, start: usize, record: &mut CaptureRecord) {
    zero(&mut record.source[0]);
    zero(&mut record.source[1]);
    zero(&mut record.destination[0]);
    zero(&mut record.destination[1]);
    zero(&mut record.family);
    zero(&mut record.protocol);
    zero(&mut record.ports);
    zero(&mut record.has_ports);
    let (offset, version) = match link {
        CaptureRecord::ETHERNET => match after_tags(frame) {
            Some(found) => found,
            None => return,
        },
        CaptureRecord::RAW => match frame.copy::<{ size_of::<Ipv4>() }>(start & OFFSETS) {
            Some([byte, ..]) => (start & OFFSETS, byte >> 4),
            None => return,
        },
        _ => return,
    };
    match version {
        4 => ipv4(frame, offset, record),
        6 => ipv6(frame, offset, record),
        _ => {}
    }
}

/// Volatile: otherwise the compiler calls a function that sets byte by byte.
#[inline(always)]
fn zero<T: Default>(word: &mut T) {
    // SAFETY: a reference.
    unsafe { core::ptr::write_volatile(word, T::default()) }
}

/// Offset and version of the IP header after an Ethernet header.
#[inline(always)]
fn after_tags<F: Frame>(frame: &F) -> Option<(usize, u8)> {
    let mut offset = size_of::<Ethernet>();
    for _ in 0..=MAX_TAGS {
        let ethertype = u16::from_be_bytes(frame.copy::<2>((offset - 2) & OFFSETS)?);
        match ethertype {
            IPV4 => return Some((offset, 4)),
            IPV6 => return Some((offset, 6)),
            tag if parse::is_tag(tag) => offset += 4,
            _ => return None,
        }
    }
    None
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, offset: usize, record: &mut CaptureRecord) {
    let Some(header) = frame.copy::<{ size_of::<Ipv4>() }>(offset & OFFSETS) else { return };
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    record.family = 4;
    record.source = mapped(word(12));
    record.destination = mapped(word(16));
    record.protocol = header[9].into();
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT & FRAGMENT_OFFSET == 0 {
        ports(frame, offset + usize::from(header[0] & 0x0f) * 4, record);
    }
}

/// In network byte order.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    if cfg!(target_endian = "little") {
        [0, u64::from(address) << 32 | 0xffff_0000]
    } else {
        [0, 0xffff << 32 | u64::from(address)]
    }
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, offset: usize, record: &mut CaptureRecord) {
    let Some(header) = frame.copy::<{ size_of::<Ipv6>() }>(offset & OFFSETS) else { return };
    let word = |at: usize| {
        let half = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if cfg!(target_endian = "little") {
            u64::from(half(at)) | u64::from(half(at + 4)) << 32
        } else {
            u64::from(half(at)) << 32 | u64::from(half(at + 4))
        }
    };
    record.family = 6;
    record.source = [word(8), word(16)];
    record.destination = [word(24), word(32)];
    let mut next = header[6];
    let mut at = offset + size_of::<Ipv6>();
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT_HEADER | DESTINATION_OPTIONS) {
            break;
        }
        if at > OFFSETS {
            return;
        }
        let Some([following, length, high, low]) = frame.copy::<4>(at & OFFSETS) else { break };
        let is_fragment = next == FRAGMENT_HEADER;
        next = following;
        if is_fragment && u16::from_be_bytes([high, low]) & !7 != 0 {
            record.protocol = next.into();
            return;
        }
        at += if is_fragment { 8 } else { 8 + usize::from(length) * 8 };
    }
    record.protocol = next.into();
    ports(frame, at, record);
}

#[inline(always)]
fn ports<F: Frame>(frame: &F, at: usize, record: &mut CaptureRecord) {
    const _: () = assert!(TCP == 6 && UDP == 17);
    if matches!(record.protocol as u8, TCP | UDP | DCCP | SCTP | UDP_LITE)
        && at <= OFFSETS
        && let Some(ports) = frame.copy::<4>(at & OFFSETS)
    {
        record.ports = u32::from_be_bytes(ports);
        record.has_ports = 1;
    }
}

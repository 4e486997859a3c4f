//! For pktgen's frames: stamped where they are sent, checked and timed where they come out.

use aya_ebpf::{
    bindings::{TC_ACT_OK, xdp_action},
    helpers::bpf_ktime_get_ns,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{
    expect::{CLASS, CLASSES, Expect, PORT},
    frame, maps,
};

/// pktgen's own header begins with this (`PKTGEN_MAGIC`, net/core/pktgen.c).
const MAGIC: u32 = 0xbe9b_e955;
/// TTL, or hop limit, of the frames that pktgen makes.
const TTL: u8 = 32;

const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const IPV6: usize = ETHERNET + 40;
const UDP: usize = 8;
/// Of pktgen's header: magic, number, and two words of time, which the stamp takes.
const TIME: usize = 8;
const HEADER: usize = TIME + 8;

/// Writes the time into the frame, on its way out. pktgen's own is from before it waited for the frame's turn.
#[classifier]
pub fn stamp(context: TcContext) -> i32 {
    if let Some(Expect { version, stamped: 1, .. }) = maps::EXPECT.get(0) {
        let at = if *version == 4 { IPV4 } else { IPV6 } + UDP;
        // Other frames leave by this device too.
        if context.load::<u32>(at).is_ok_and(|magic| magic == MAGIC.to_be()) {
            // SAFETY: the helper has no conditions.
            let now = unsafe { bpf_ktime_get_ns() };
            // One that could not be stamped counts as slow: its time is that of pktgen.
            let _ = context.store(at + TIME, &now, 0);
        }
    }
    TC_ACT_OK
}

/// On the far device. Takes pktgen's frames and leaves all others to the kernel.
#[xdp]
pub fn pktgen_sink(mut context: XdpContext) -> u32 {
    let seen = maps::EXPECT.get(0).and_then(|expect| match expect.version {
        4 => ipv4(&mut context, expect),
        _ => ipv6(&mut context, expect),
    });
    let Some((good, sent)) = seen else { return xdp_action::XDP_PASS };
    let Some(tally) = maps::TALLY.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the element is this CPU's own, and XDP programs do not interrupt one another on a CPU.
    let tally = unsafe { &mut *tally };
    if !good {
        tally.garbled += 1;
        return xdp_action::XDP_DROP;
    }
    tally.good += 1;
    if let Some(sent) = sent {
        // SAFETY: the helper has no conditions.
        let took = unsafe { bpf_ktime_get_ns() }.saturating_sub(sent);
        if took > tally.slowest {
            tally.slowest = took;
        }
        // Not above the last class: fits.
        let class = (took / CLASS).min(u64::from(CLASSES - 1)) as u32;
        if let Some(count) = maps::LATENCY.get_ptr_mut(class) {
            // SAFETY: as above.
            unsafe { *count += 1 };
        }
    }
    xdp_action::XDP_DROP
}

/// Whether one of pktgen's frames came out as it must, and when it was sent; `None` when it is not pktgen's.
#[inline(always)]
fn ipv4(context: &mut XdpContext, expect: &Expect) -> Option<(bool, Option<u64>)> {
    let length = frame::length(context);
    let start = &*frame::start::<{ IPV4 + UDP + HEADER }>(context)?;
    if start[12..14] != [0x08, 0x00] || start[ETHERNET] != 0x45 || start[ETHERNET + 9] != 17 || !ours(start, IPV4) {
        return None;
    }
    let mut sum = 0;
    for half in 0..10 {
        let at = ETHERNET + half * 2;
        sum += u32::from(u16::from_be_bytes([start[at], start[at + 1]]));
    }
    let sum = (sum & 0xffff) + (sum >> 16);
    let good = sum == 0xffff
        && start[ETHERNET + 8] == TTL - 1
        && start[ETHERNET + 12..ETHERNET + 16] == expect.source[..4]
        && start[ETHERNET + 16..ETHERNET + 20] == expect.destination[..4];
    Some((good && link(start, length, expect), time(start, IPV4, expect)))
}

#[inline(always)]
fn ipv6(context: &mut XdpContext, expect: &Expect) -> Option<(bool, Option<u64>)> {
    let length = frame::length(context);
    let start = &*frame::start::<{ IPV6 + UDP + HEADER }>(context)?;
    if start[12..14] != [0x86, 0xdd] || start[ETHERNET + 6] != 17 || !ours(start, IPV6) {
        return None;
    }
    let good = start[ETHERNET + 7] == TTL - 1
        && start[ETHERNET + 8..ETHERNET + 24] == expect.source
        && start[ETHERNET + 24..ETHERNET + 40] == expect.destination;
    Some((good && link(start, length, expect), time(start, IPV6, expect)))
}

#[inline(always)]
fn ours<const N: usize>(start: &[u8; N], udp: usize) -> bool {
    let at = udp + UDP;
    start[udp + 2..udp + 4] == PORT.to_be_bytes() && start[at..at + 4] == MAGIC.to_be_bytes()
}

#[inline(always)]
fn link<const N: usize>(start: &[u8; N], length: usize, expect: &Expect) -> bool {
    start[..6] == expect.mac && length == expect.length as usize
}

#[inline(always)]
fn time<const N: usize>(start: &[u8; N], udp: usize, expect: &Expect) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&start[udp + UDP + TIME..udp + UDP + HEADER]);
    (expect.stamped == 1).then(|| u64::from_ne_bytes(bytes))
}

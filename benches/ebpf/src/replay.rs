//! For `ipsec`: one recorded frame sent again and again, and decrypted packets counted.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_OK, TC_ACT_SHOT, bpf_hdr_start_off::BPF_HDR_START_NET, xdp_action},
    helpers::{bpf_skb_load_bytes_relative, bpf_xdp_store_bytes},
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};

use crate::{
    recording::{CAPACITY, HEAD_WORDS, IN_TURN, Recording, Turn},
    shape::Counts,
};

/// The frame to send.
#[map]
static RECORDING: Array<Recording> = Array::with_max_entries(1, 0);

/// Start of the decrypted packet as it must arrive. All zeros: nothing is expected.
#[map]
static DECRYPTED: Array<[u32; HEAD_WORDS]> = Array::with_max_entries(1, 0);

#[map]
static DECRYPTED_COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// For `BPF_PROG_TEST_RUN` with live frames. The receiver decrypts in place and the kernel does not restore pages that
/// come back, so all of the frame is written every time.
#[xdp]
pub fn replay(context: XdpContext) -> u32 {
    RECORDING.get(0).map_or(xdp_action::XDP_ABORTED, |recording| send(&context, recording))
}

/// The frames to send in turn.
#[map]
static RECORDINGS: Array<Recording> = Array::with_max_entries(IN_TURN, 0);

#[map]
static TURN: PerCpuArray<Turn> = PerCpuArray::with_max_entries(1, 0);

/// The same, with each frame in turn.
#[xdp]
pub fn replay_in_turn(context: XdpContext) -> u32 {
    let Some(turn) = TURN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the element is this CPU's own, and a test run has the CPU for itself.
    let turn = unsafe { &mut *turn };
    let number = turn.next;
    turn.next = if number + 1 < turn.count { number + 1 } else { 0 };
    RECORDINGS.get(number).map_or(xdp_action::XDP_ABORTED, |recording| send(&context, recording))
}

#[inline(always)]
fn send(context: &XdpContext, recording: &Recording) -> u32 {
    // 1 to `CAPACITY`, which the verifier must see.
    let length = (recording.length.wrapping_sub(1) & (CAPACITY as u32 - 1)) + 1;
    // SAFETY: the program's own context, and a map's value that is as long.
    let result =
        unsafe { bpf_xdp_store_bytes(context.ctx.cast(), 0, recording.bytes.as_ptr().cast_mut().cast(), length) };
    if result == 0 { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// On the interface behind the decryption: takes the expected packets, leaves others to the kernel. Counts both.
#[classifier]
pub fn decrypted(context: TcContext) -> i32 {
    let (Some(expected), Some(counts)) = (DECRYPTED.get(0), DECRYPTED_COUNTS.get_ptr_mut(0)) else {
        return TC_ACT_SHOT;
    };
    if expected[0] == 0 {
        return TC_ACT_OK;
    }
    let mut head = [0_u32; HEAD_WORDS];
    // From the network header: the outer packet's link header may precede it.
    // SAFETY: the program's own context, and bytes of its stack.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            context.as_ptr().cast_const(),
            0,
            head.as_mut_ptr().cast(),
            size_of_val(&head) as u32,
            BPF_HDR_START_NET,
        )
    };
    // SAFETY: the element is this CPU's own, and no other packet is received while this one is.
    let counts = unsafe { &mut *counts };
    if result == 0 && head == *expected {
        counts.good += 1;
        TC_ACT_SHOT
    } else {
        counts.garbled += 1;
        TC_ACT_OK
    }
}

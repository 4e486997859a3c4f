//! Programs at TC: the floor of its contenders, and the generator's way into a TUN device.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_skb_change_head},
    macros::classifier,
    programs::TcContext,
};

use crate::{
    maps,
    shape::{DEVICE_IN, DEVICE_OUT, Settings},
};

/// Of an Ethernet header.
const ETHERNET: usize = 14;

/// The floor at TC: sends everything out of one device, as it came. If that device has no link header, the kernel
/// removes the frame's (`__bpf_redirect_no_mac`, net/core/filter.c).
#[classifier]
pub fn bare_tc(_context: TcContext) -> i32 {
    redirect(DEVICE_OUT, 0)
}

/// The same from a device without link headers to an Ethernet device: the kernel redirects only frames that have one
/// (`__bpf_redirect_common`). Writes that of the generator's frames.
#[classifier]
pub fn bare_tc_link(context: TcContext) -> i32 {
    match maps::SETTINGS.get(0).and_then(|settings| add_link_header(&context, settings)) {
        Some(()) => redirect(DEVICE_OUT, 0),
        None => TC_ACT_SHOT,
    }
}

/// On a device that the generator sends to. Lets every frame arrive from a TUN device as if its process had written it:
/// raw IP, through the kernel's receive queue of this CPU.
#[classifier]
pub fn feed(_context: TcContext) -> i32 {
    redirect(DEVICE_IN, u64::from(BPF_F_INGRESS))
}

#[inline(always)]
fn redirect(device: u32, flags: u64) -> i32 {
    match maps::DEVICES.get(device) {
        // SAFETY: a helper without pointers.
        Some(index) => unsafe { bpf_redirect(*index, flags) as i32 },
        None => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn add_link_header(context: &TcContext, settings: &Settings) -> Option<()> {
    // SAFETY: the program's own context; there are no references into the frame yet.
    if unsafe { bpf_skb_change_head(context.as_ptr().cast(), ETHERNET as u32, 0) } != 0 {
        return None;
    }
    let start = context.data();
    if start + ETHERNET > context.data_end() {
        return None;
    }
    let [first, second, ..] = settings.sent.0;
    // SAFETY: compared with the frame's end. Alignment: the header is where the generator's was, at a multiple of 8
    // (see `frame::head`), of which the TUN device's was removed.
    unsafe {
        *(start as *mut u64) = first;
        *((start + 8) as *mut u32) = second as u32;
        *((start + 12) as *mut u16) = (second >> 32) as u16;
    }
    Some(())
}

//! Access to the bytes of a frame.

use aya_ebpf::programs::XdpContext;

use crate::shape::{Head, Layout, Settings};

/// The first `WORDS` words of the frame, if it has as many.
#[inline(always)]
pub fn head<const WORDS: usize>(context: &mut XdpContext) -> Option<&mut Head<WORDS>> {
    let start = context.data();
    if start + size_of::<Head<WORDS>>() > context.data_end() {
        return None;
    }
    // SAFETY: compared with the frame's end; any bytes are a `Head`; `&mut` makes it the only one, and nothing else
    // runs on this frame. Alignment: a test run lays its frames 256 bytes behind an 8-aligned struct
    // (net/bpf/test_run.c), and that is where they stay until the sink; where a driver copies one, both x86-64 and
    // arm64 load words from any address.
    Some(unsafe { &mut *(start as *mut Head<WORDS>) })
}

/// Makes the frame number `number`: all of the head is written, whatever was there.
#[inline(always)]
pub fn write<const WORDS: usize>(
    context: &mut XdpContext,
    settings: &Settings,
    layout: &Layout,
    number: u32,
) -> Option<()> {
    let head = head::<WORDS>(context)?;
    *head = settings.sent.first();
    layout.number(head, settings.sent_base, settings, number);
    layout.sum_header(head, settings);
    Some(())
}

/// The first `N` bytes of the frame, if it has as many.
#[inline(always)]
pub fn start<const N: usize>(context: &mut XdpContext) -> Option<&mut [u8; N]> {
    let start = context.data();
    if start + N > context.data_end() {
        return None;
    }
    // SAFETY: compared with the frame's end; bytes need no alignment; `&mut` makes it the only one.
    Some(unsafe { &mut *(start as *mut [u8; N]) })
}

/// Bytes of the frame.
#[inline(always)]
pub fn length(context: &XdpContext) -> usize {
    context.data_end() - context.data()
}

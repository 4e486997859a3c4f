//! Access to the bytes of a packet, the same for every kind of program the stages run in.

use core::ptr::NonNull;

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};

/// A frame under a program. Its bytes may move or go with any call that takes `&mut self`.
pub trait Frame {
    /// What the program returns to hand the packet to the kernel.
    const PASS: u32;
    /// What the program returns to drop the packet.
    const DROP: u32;

    type Context: EbpfContext;

    /// The program's context, for helpers.
    fn context(&self) -> &Self::Context;

    /// Index of the interface the frame came in on.
    fn interface(&self) -> u32;

    /// Address of the first byte.
    fn start(&self) -> usize;

    /// Address behind the last byte.
    fn end(&self) -> usize;

    /// Takes `bytes` away from the front, or where negative adds them, their content undefined.
    fn shrink_head(&mut self, bytes: i32) -> Result<(), Refused>;

    /// Takes `bytes` away from the back.
    fn shrink_tail(&mut self, bytes: i32) -> Result<(), Refused>;

    /// Bytes of the frame.
    #[inline(always)]
    fn length(&self) -> usize {
        self.end() - self.start()
    }

    /// The `T` that starts `offset` bytes into the frame, if all of it is there.
    #[inline(always)]
    fn at<T: Bytes>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `locate` has compared with the frame's end, `T` is bytes, and nothing else runs on this frame.
        self.locate(offset).map(|place| unsafe { place.as_ref() })
    }

    /// As [`Frame::at`], to write to.
    #[inline(always)]
    fn at_mut<T: Bytes>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `at`; `&mut self` makes it the only reference.
        self.locate(offset).map(|mut place| unsafe { place.as_mut() })
    }

    #[inline(always)]
    fn locate<T: Bytes>(&self, offset: usize) -> Option<NonNull<T>> {
        let place = self.start() + offset;
        if place + size_of::<T>() > self.end() {
            return None;
        }
        // SAFETY: no frame starts at address 0.
        Some(unsafe { NonNull::new_unchecked(place as *mut T) })
    }
}

/// Header types of bytes alone: any alignment, any bit pattern.
///
/// # Safety
///
/// `align_of` is 1, there is no padding, and every bit pattern is a value.
pub unsafe trait Bytes {}

// SAFETY: an array of bytes.
unsafe impl<const N: usize> Bytes for [u8; N] {}

/// The kernel could not move the ends of the frame.
pub struct Refused;

/// A frame under XDP, native or generic.
pub struct XdpFrame {
    context: XdpContext,
}

impl XdpFrame {
    #[inline(always)]
    pub const fn new(context: XdpContext) -> Self {
        Self { context }
    }
}

impl Frame for XdpFrame {
    const PASS: u32 = xdp_action::XDP_PASS;
    const DROP: u32 = xdp_action::XDP_DROP;
    type Context = XdpContext;

    #[inline(always)]
    fn context(&self) -> &XdpContext {
        &self.context
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program; the field is a plain load.
        unsafe { (*self.context.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        self.context.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.context.data_end()
    }

    #[inline(always)]
    fn shrink_head(&mut self, bytes: i32) -> Result<(), Refused> {
        // SAFETY: the helper takes the program's own context; callers hold no reference into the frame.
        match unsafe { bpf_xdp_adjust_head(self.context.as_ptr().cast(), bytes) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    #[inline(always)]
    fn shrink_tail(&mut self, bytes: i32) -> Result<(), Refused> {
        // SAFETY: as above.
        match unsafe { bpf_xdp_adjust_tail(self.context.as_ptr().cast(), -bytes) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }
}

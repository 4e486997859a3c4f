//! Access to the bytes of a packet, the same for every kind of program the stages run in.

mod skb;
mod xdp;

use core::ptr::NonNull;

use aya_ebpf::EbpfContext;
use hub_common::maps::NextHop;

pub use self::{skb::SkbFrame, xdp::XdpFrame};

/// A frame under a program. Its bytes may move or go with any call that takes `&mut self`.
pub trait Frame {
    /// What the program returns to hand the packet to the kernel.
    const PASS: u32;
    /// What the program returns to drop the packet.
    const DROP: u32;
    /// Flags of next hops that this kind of program cannot send to: another one can, to which the packet passes.
    const UNREACHABLE: u32;
    /// Whether what passes leaves the programs: then it is marked and counted. What XDP passes comes to the TC program
    /// behind it, which decides again.
    const IS_LAST: bool;
    /// Whether packets with IP options, which a router may look at, go on.
    const FORWARDS_OPTIONS: bool;

    type Context: EbpfContext;

    /// The program's context, for helpers.
    fn context(&self) -> &Self::Context;

    /// Index of the interface the frame came in on.
    fn interface(&self) -> u32;

    /// Address of the first byte.
    fn start(&self) -> usize;

    /// Address behind the last byte that is there to be read. The frame may be longer: its headers are there.
    fn end(&self) -> usize;

    /// Bytes of the frame.
    fn length(&self) -> usize;

    /// Where the IP header starts on an interface without link headers: bytes from the start of the frame.
    fn raw_offset(&self) -> usize;

    /// Control word of a tag that is not among the bytes (IEEE 802.1Q), the outermost then.
    fn tag(&self) -> Option<u16>;

    /// What the kernel takes the packet for: its `EtherType` (`skb->protocol`). `None` where the kernel has not looked yet.
    fn protocol(&self) -> Option<u16>;

    /// Sets our bits of the packet mark, for what passes.
    fn mark(&mut self, mark: u32);

    /// Has the kernel take this for the flow's hash (`skb->hash`), by which it chooses among a route's next hops.
    fn set_hash(&mut self, hash: u32);

    /// [`ports::transport`](crate::policy::ports::transport) of this frame, by way of a function that the verifier looks at by itself.
    fn transport(&self, offset: u32, length: u32, known: u32, ports: u32) -> u64;

    /// Whether an IP packet of this length, or each segment of it, is one that the next hop takes.
    fn fits(&mut self, length: usize, next_hop: &NextHop) -> bool;

    /// To be called after the hop limit in an IPv6 header has been decremented.
    fn hop_limit_decremented(&mut self);

    /// Takes `bytes` away from the back.
    fn shrink_tail(&mut self, bytes: usize) -> Result<(), HelperError>;

    /// Makes room for a link header of `new` bytes, 0 for none, instead of one that has `old` bytes and perhaps tags
    /// among them. What it then holds is undefined.
    fn replace_link_header(&mut self, old: usize, new: usize) -> Result<(), HelperError>;

    /// Sends the frame out of the next hop's interface: what the program returns for that.
    fn send(&self, next_hop: &NextHop) -> Result<u32, HelperError>;

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

/// The kernel could not move the pair of the frame.
pub struct HelperError;

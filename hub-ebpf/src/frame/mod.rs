//! Access to a packet, independent of the program type.

mod skb;
mod xdp;

use core::ptr::NonNull;

use aya_ebpf::EbpfContext;
use hub_common::maps::NextHop;

pub use self::{skb::SkbFrame, xdp::XdpFrame};

/// Which packets of an interface a TC program gets.
#[derive(Clone, Copy)]
pub enum Direction {
    Ingress,
    Egress,
}

/// A frame in a program. A call that takes `&mut self` may move or remove its bytes.
pub trait Frame {
    /// Return code that passes the packet to the kernel.
    const PASS: u32;
    /// Return code that drops the packet.
    const DROP: u32;
    /// Flags of next hops that this program type cannot send to. The packet passes to the program that can.
    const UNREACHABLE: u32;
    /// Whether a packet that passes leaves the programs: then it is marked and counted. A packet that XDP passes runs
    /// through the TC program, which decides again.
    const IS_LAST: bool;
    /// Whether packets with IP options are forwarded.
    const FORWARDS_OPTIONS: bool;

    type Context: EbpfContext;

    /// The program's context, for helpers.
    fn context(&self) -> &Self::Context;

    /// Index of the ingress interface.
    fn interface(&self) -> u32;

    /// Address of the first byte.
    fn start(&self) -> usize;

    /// Address after the last readable byte. The frame may be longer, but its headers are readable.
    fn end(&self) -> usize;

    /// Length of the frame.
    fn length(&self) -> usize;

    /// Offset of the IP header on an interface without link headers.
    fn raw_offset(&self) -> usize;

    /// Control word of the outermost tag (IEEE 802.1Q) if it was removed from the frame.
    fn tag(&self) -> Option<u16>;

    /// The `EtherType` that the kernel assumes (`skb->protocol`). `None` if the kernel has not set it yet.
    fn protocol(&self) -> Option<u16>;

    /// Sets the program's bits of the packet mark.
    fn mark(&mut self, mark: u32);

    /// Whether this agent's TC program of this direction has already processed and passed the packet on this interface,
    /// which happens during a [hand-over](crate::maps::is_handing_over). True only once.
    fn has_passed(&mut self, direction: Direction) -> bool;

    /// Leaves a tag in a packet that passes, for [`Frame::has_passed`].
    fn note_passed(&mut self, direction: Direction);

    /// Sets the flow hash (`skb->hash`), by which the kernel chooses among a route's next hops.
    fn set_hash(&mut self, hash: u32);

    /// [`ports::transport`](crate::policy::ports::transport) of this frame, through a function that the verifier checks
    /// separately.
    fn transport(&self, offset: u32, length: u32, known: u32) -> u64;

    /// Whether an IP packet of this length, or each segment of it, fits the next hop's MTU.
    fn fits(&mut self, length: usize, next_hop: &NextHop) -> bool;

    /// [`mss::clamp_segment`](crate::mss::clamp_segment) of this frame, through a function that the verifier checks
    /// separately.
    /// `header`: bytes of the IP header and, above them, the IP version. `connections`: the `COUNTERS` slots of ingress
    /// and, above it, egress.
    fn clamp_mss(&mut self, offset: u32, header: u32, length: u32, connections: u32);

    /// The bytes at `offset`, also those that [`Frame::at`] cannot read.
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// [`translate::any`](crate::translate::any) for this frame, through a function that the verifier checks separately:
    /// what follows the IP header, after addresses there were translated. `offset`: of the IP header. `packet`: the IP
    /// packet's length, and above it [`translate::V6_BIT`](crate::translate::V6_BIT). `tables`: indices into `TRANSLATIONS`
    /// for the source and, 16 bits above it, the destination; 0 for none. `change`: what the sum over both addresses grew
    /// by; 0 for nothing.
    fn translate_any(&mut self, offset: u32, packet: u32, tables: u32, change: u32);

    /// [`translate::inner`](crate::translate::inner) for this frame, likewise: the packet in an ICMP error. `at`: offset of
    /// the ICMP header. `packet`: offset of its end, and above it the bits of [`Frame::translate_any`] and
    /// [`translate::TO_SITE_BIT`](crate::translate::TO_SITE_BIT).
    fn translate_inner(&mut self, at: u32, packet: u32, table: u32);

    /// Replaces the bytes at `offset`, also those that [`Frame::at`] cannot read.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Result<(), HelperError>;

    /// Updates the transport checksum at `offset` after what it covers changed by a
    /// [difference](hub_common::checksum::difference).
    fn adjust_checksum(&mut self, offset: usize, difference: u16, covered: Covered);

    /// Call it after bytes changed by a difference that no checksum of the packet compensates for.
    fn data_changed(&mut self, difference: u16);

    /// Removes `bytes` from the end.
    fn shrink_tail(&mut self, bytes: usize) -> Result<(), HelperError>;

    /// Replaces a link header of `old` bytes, including tags, by one of `new` bytes; 0 for none. The new bytes are
    /// undefined.
    fn replace_link_header(&mut self, old: usize, new: usize) -> Result<(), HelperError>;

    /// Sends the frame out of the next hop's interface. Returns the program's return code.
    fn send(&self, next_hop: &NextHop) -> Result<u32, HelperError>;

    /// [`capture::record`](crate::capture::record) of this frame, through a function that the verifier checks separately.
    /// `outcome`: see there. `connections`: the `COUNTERS` slots of ingress and, above it, egress. `egress`: index of the
    /// interface that the packet leaves by; 0 if it does not.
    fn record(&self, outcome: u32, connections: u32, egress: u32);

    /// Copies bytes of the frame from `offset` on.
    ///
    /// `to` must have room for `length` bytes, which are at least one.
    fn load(&self, offset: usize, to: *mut u8, length: u32) -> bool;

    /// [`Frame::tag`] with the protocol of the tag above it; 0 for none.
    fn tag_with_protocol(&self) -> u32;

    /// The `T` at `offset`, if the frame has all of it.
    #[inline(always)]
    fn at<T: Bytes>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `locate` checks the bounds, `T` is plain bytes, and nothing else accesses this frame.
        self.locate(offset).map(|pointer| unsafe { pointer.as_ref() })
    }

    /// As [`Frame::at`], mutable.
    #[inline(always)]
    fn at_mut<T: Bytes>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `at`; `&mut self` makes it the only reference.
        self.locate(offset).map(|mut pointer| unsafe { pointer.as_mut() })
    }

    #[inline(always)]
    fn locate<T: Bytes>(&self, offset: usize) -> Option<NonNull<T>> {
        let address = self.start() + offset;
        if address + size_of::<T>() > self.end() {
            return None;
        }
        // SAFETY: no frame is at address 0.
        Some(unsafe { NonNull::new_unchecked(address as *mut T) })
    }
}

/// Header types that consist of plain bytes: any alignment, any bit pattern.
///
/// # Safety
///
/// `align_of` is 1, there is no padding, and every bit pattern is a value.
pub unsafe trait Bytes {}

// SAFETY: an array of bytes.
unsafe impl<const N: usize> Bytes for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize, const M: usize> Bytes for [[u8; N]; M] {}

/// What changed of that which a transport checksum covers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Covered {
    /// Bytes of the segment.
    Data,
    /// An address of the IP header, by the pseudo-header.
    Address,
    /// The same of UDP, where a checksum of 0 means none.
    AddressOfUdp,
}

/// A helper failed.
pub struct HelperError;

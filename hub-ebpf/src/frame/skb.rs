use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_hdr_start_off::BPF_HDR_START_NET,
    },
    helpers::{
        bpf_check_mtu, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_set_hash, bpf_skb_change_head,
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use hub_common::maps::NextHop;

use super::{Covered, Direction, Frame, HelperError};
use crate::{
    capture,
    headers::{Ethernet, Ipv4},
    maps, mss,
    parse::MAX_TAGS,
    policy::ports,
    translate,
};

/// A frame in a TC program: an skb, on interfaces of any kind. It may be longer than the MTU, because of GRO or of a
/// sender's segmentation offload.
pub struct SkbFrame {
    context: TcContext,
}

/// Bytes that the program reads directly: two tags, the longest IPv4 header, TCP up to the flags.
const HEADERS: u32 = 14 + 8 + 60 + mss::FLAGS as u32 + 1;

impl SkbFrame {
    #[inline(always)]
    pub fn new(context: TcContext) -> Self {
        let length = context.len().min(HEADERS);
        if context.data() + length as usize > context.data_end() {
            // SAFETY: the helper takes the program's own context; there are no references into the frame yet. If it
            // fails, the headers are not readable and the packet is malformed.
            unsafe { bpf_skb_pull_data(context.skb.skb, length) };
        }
        Self { context }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.context.as_ptr().cast()
    }

    /// An interface and a direction.
    #[inline(always)]
    fn place(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => self.interface(),
            Direction::Egress => !self.interface(),
        }
    }
}

impl Frame for SkbFrame {
    /// The next program on the interface runs.
    const PASS: u32 = TC_ACT_UNSPEC.cast_unsigned();
    const DROP: u32 = TC_ACT_SHOT as u32;
    const UNREACHABLE: u32 = 0;
    const IS_LAST: bool = true;
    const FORWARDS_OPTIONS: bool = true;
    type Context = TcContext;

    #[inline(always)]
    fn context(&self) -> &TcContext {
        &self.context
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel passes a valid context to the program; the field is a plain load, as are those below.
        unsafe { (*self.skb()).ifindex }
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
    fn length(&self) -> usize {
        self.context.len() as usize
    }

    /// A decrypted packet may still have the link header of the outer packet (`skb_mac_header_rebuild`, called in
    /// `net/xfrm/xfrm_input.c`), which the program then sees first.
    ///
    /// The kernel sets `wire_len` without that header, before the first program of the hook runs (`sch_handle_ingress`,
    /// net/core/dev.c). Another program may have changed the frame's length since, and in a test run it is not set.
    /// So the difference counts only if the frame does not start with an IP header. If it counted wrongly, the packet
    /// would have no IP version, and every receiver drops it.
    ///
    /// Otherwise a load relative to the network header detects the link header: it fails at the offset of the frame's
    /// last byte.
    #[inline(always)]
    fn raw_offset(&self) -> usize {
        // SAFETY: see `interface`.
        let removed = self.context.len().wrapping_sub(unsafe { (*self.skb()).wire_len });
        if removed as usize == size_of::<Ethernet>()
            && let Some(start) = self.at::<Ipv4>(0)
            && !matches!(start.version_and_length >> 4, 4 | 6)
        {
            return size_of::<Ethernet>();
        }
        let mut byte = 0_u8;
        let bytes = self.end() - self.start();
        // SAFETY: a value on the stack. Volatile: otherwise the compiler merges the expressions and complements a
        // pointer, which the verifier rejects.
        let last = (unsafe { ptr::read_volatile(&raw const bytes) } as u32).wrapping_sub(1);
        // SAFETY: the program's own context, and a byte of its stack.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb().cast_const().cast(),
                last,
                (&raw mut byte).cast(),
                1,
                BPF_HDR_START_NET,
            )
        };
        if result == 0 { 0 } else { size_of::<Ethernet>() }
    }

    /// The NIC or the kernel has removed the outermost tag from the frame (`skb_vlan_untag`, net/core/skbuff.c).
    #[inline(always)]
    fn tag(&self) -> Option<u16> {
        // SAFETY: see `interface`.
        let (present, control) = unsafe { ((*self.skb()).vlan_present, (*self.skb()).vlan_tci) };
        if present != 0 { Some(control as u16) } else { None }
    }

    #[inline(always)]
    fn protocol(&self) -> Option<u16> {
        // SAFETY: see `interface`. In network byte order.
        Some(u16::from_be(unsafe { (*self.skb()).protocol } as u16))
    }

    /// Overwrites the program's bits: a decrypted packet may still have the mark of the outer packet.
    #[inline(always)]
    fn mark(&mut self, mark: u32) {
        // SAFETY: see `interface`. Volatile: the verifier accepts only a store of all four bytes; otherwise the
        // compiler stores the two that change.
        unsafe {
            let field = &raw mut (*self.skb()).mark;
            field.write_volatile(field.read_volatile() & !maps::mark().mask | mark);
        }
    }

    /// The tag is a random number of this agent and the interface, in the control block that TC programs and filters of
    /// one hook share (`skb->cb`). The kernel overwrites it when it receives the packet. Nobody else knows the number,
    /// and without a hand-over it has no effect.
    #[inline(always)]
    fn has_passed(&mut self, direction: Direction) -> bool {
        if !maps::is_handing_over() {
            return false;
        }
        let ([tag, more], place) = (maps::handover_tag(), self.place(direction));
        // SAFETY: see `interface`.
        let control = unsafe { &mut (*self.skb()).cb };
        if control[0] != tag || control[1] != more || control[2] != place {
            return false;
        }
        control[0] = 0;
        true
    }

    #[inline(always)]
    fn note_passed(&mut self, direction: Direction) {
        if !maps::is_handing_over() {
            return;
        }
        let ([tag, more], place) = (maps::handover_tag(), self.place(direction));
        // SAFETY: see `interface`.
        let control = unsafe { &mut (*self.skb()).cb };
        (control[0], control[1], control[2]) = (tag, more, place);
    }

    #[inline(always)]
    fn set_hash(&mut self, hash: u32) {
        // SAFETY: the program's own context.
        unsafe { bpf_set_hash(self.skb(), hash) };
    }

    #[inline(always)]
    fn transport(&self, offset: u32, length: u32, known: u32) -> u64 {
        ports_transport_tc(self.skb(), offset, length, known)
    }

    #[inline(always)]
    fn fits(&mut self, length: usize, next_hop: &NextHop) -> bool {
        if length <= next_hop.mtu as usize {
            return true;
        }
        // SAFETY: see `interface`.
        if unsafe { (*self.skb()).gso_size } == 0 {
            return false;
        }
        let (mut mtu, flags) = (0, u64::from(BPF_MTU_CHK_SEGS));
        // SAFETY: the program's own context, and a word of its stack.
        unsafe { bpf_check_mtu(self.skb().cast(), next_hop.ifindex, &raw mut mtu, 0, flags) == 0 }
    }

    #[inline(always)]
    fn clamp_mss(&mut self, offset: u32, header: u32, length: u32, connections: u32) {
        mss_clamp_tc(self.skb(), offset, header, length, connections);
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the program's own context, and bytes of its stack.
        let result = unsafe {
            bpf_skb_load_bytes(self.skb().cast_const().cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32)
        };
        if result == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn translate_any(&mut self, offset: u32, packet: u32, tables: u32, change: u32) {
        translate_any_tc(self.skb(), offset, packet, tables, change);
    }

    #[inline(always)]
    fn translate_inner(&mut self, at: u32, packet: u32, table: u32) {
        translate_inner_tc(self.skb(), at, packet, table);
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Result<(), HelperError> {
        // SAFETY: the program's own context, and bytes of its stack; callers hold no reference into the frame.
        match unsafe { bpf_skb_store_bytes(self.skb(), offset as u32, bytes.as_ptr().cast(), N as u32, 0) } {
            0 => Ok(()),
            _ => Err(HelperError),
        }
    }

    /// The kernel's helper knows a checksum that does not cover the segment yet (`CHECKSUM_PARTIAL`): it has the sum of
    /// the pseudo-header only. The NIC's checksum over the whole packet (`CHECKSUM_COMPLETE`) stays valid if bytes of
    /// the segment change, because the two changes compensate for each other. For an address, the helper updates it by
    /// the change of the transport checksum; [`Frame::data_changed`] does the rest.
    #[inline(always)]
    fn adjust_checksum(&mut self, offset: usize, difference: u16, covered: Covered) {
        let flags = match covered {
            Covered::Data => 0,
            Covered::Address => BPF_F_PSEUDO_HDR,
            Covered::AddressOfUdp => BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0,
        };
        // SAFETY: the program's own context. It fails if the packet ends before the checksum.
        unsafe { bpf_l4_csum_replace(self.skb(), offset as u32, 0, difference.into(), flags.into()) };
    }

    #[inline(always)]
    fn data_changed(&mut self, difference: u16) {
        // SAFETY: the program's own context. It fails if the NIC has not summed the packet.
        unsafe { bpf_csum_update(self.skb(), difference.into()) };
    }

    #[inline(always)]
    fn shrink_tail(&mut self, bytes: usize) -> Result<(), HelperError> {
        // SAFETY: the program's own context; callers hold no reference into the frame.
        match unsafe { bpf_skb_change_tail(self.skb(), self.context.len() - bytes as u32, 0) } {
            0 => Ok(()),
            _ => Err(HelperError),
        }
    }

    /// The kernel removes a header that the egress interface does not have (`__bpf_redirect_no_mac`,
    /// net/core/filter.c).
    #[inline(always)]
    fn replace_link_header(&mut self, old: usize, new: usize) -> Result<(), HelperError> {
        if old == 0 {
            // SAFETY: as above.
            return match unsafe { bpf_skb_change_head(self.skb(), new as u32, 0) } {
                0 => Ok(()),
                _ => Err(HelperError),
            };
        }
        let mut tags = (old - size_of::<Ethernet>()) / 4;
        if self.tag().is_some() {
            tags += 1;
        }
        for _ in 0..MAX_TAGS {
            if tags == 0 {
                break;
            }
            // SAFETY: as above.
            if unsafe { bpf_skb_vlan_pop(self.skb()) } != 0 {
                return Err(HelperError);
            }
            tags -= 1;
        }
        Ok(())
    }

    #[inline(always)]
    fn send(&self, next_hop: &NextHop) -> Result<u32, HelperError> {
        // SAFETY: a helper without pointers.
        match unsafe { bpf_redirect(next_hop.ifindex, 0) } as i32 {
            TC_ACT_REDIRECT => Ok(TC_ACT_REDIRECT as u32),
            _ => Err(HelperError),
        }
    }

    #[inline(always)]
    fn record(&self, outcome: u32, connections: u32, egress: u32) {
        capture_record_tc(self.skb(), outcome, connections, egress);
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: *mut u8, length: u32) -> bool {
        // SAFETY: the program's own context, and `length` bytes of the caller's.
        unsafe { bpf_skb_load_bytes(self.skb().cast_const().cast(), offset as u32, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn tag_with_protocol(&self) -> u32 {
        // SAFETY: see `interface`. The protocol is in network byte order.
        let protocol = unsafe { (*self.skb()).vlan_proto } as u16;
        self.tag().map_or(0, |tag| u32::from(u16::from_be(protocol)) << 16 | u32::from(tag))
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ports_transport_tc(skb: *mut __sk_buff, offset: u32, length: u32, known: u32) -> u64 {
    ports::transport(&SkbFrame { context: TcContext::new(skb) }, offset, length, known)
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mss_clamp_tc(skb: *mut __sk_buff, offset: u32, header: u32, length: u32, connections: u32) -> u32 {
    mss::clamp_segment(&mut SkbFrame { context: TcContext::new(skb) }, offset, header, length, connections);
    0
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_any_tc(skb: *mut __sk_buff, offset: u32, packet: u32, tables: u32, change: u32) -> u32 {
    translate::any(&mut SkbFrame { context: TcContext::new(skb) }, offset, packet, tables, change);
    0
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_inner_tc(skb: *mut __sk_buff, at: u32, packet: u32, table: u32) -> u32 {
    translate::inner(&mut SkbFrame { context: TcContext::new(skb) }, at, packet, table);
    0
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn capture_record_tc(skb: *mut __sk_buff, outcome: u32, connections: u32, egress: u32) -> u32 {
    capture::record(&SkbFrame { context: TcContext::new(skb) }, outcome, connections, egress);
    0
}

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS,
        bpf_hdr_start_off::BPF_HDR_START_NET,
    },
    helpers::{
        bpf_check_mtu, bpf_csum_update, bpf_redirect, bpf_set_hash, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_skb_load_bytes_relative, bpf_skb_pull_data, bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use hub_common::maps::NextHop;

use super::{Frame, HelperError};
use crate::{headers::Ethernet, maps, parse::MAX_TAGS, policy::ports};

/// A frame under TC, which the kernel has made an skb of: from and to interfaces of any kind, and longer than an MTU
/// where GRO has joined packets or a sender has left it to others to cut them.
pub struct SkbFrame {
    context: TcContext,
}

/// Bytes from the start on that may be looked at: two tags, the longest IPv4 header, ports.
const HEADERS: u32 = 14 + 8 + 60 + 4;

impl SkbFrame {
    #[inline(always)]
    pub fn new(context: TcContext) -> Self {
        let wanted = context.len().min(HEADERS);
        if context.data() + wanted as usize > context.data_end() {
            // SAFETY: the helper takes the program's own context; nobody has a reference into the frame yet. Where it fails
            // the headers are not there, and the packet is malformed.
            unsafe { bpf_skb_pull_data(context.skb.skb, wanted) };
        }
        Self { context }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.context.as_ptr().cast()
    }
}

impl Frame for SkbFrame {
    /// Other programs on the interface get their turn.
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
        // SAFETY: the kernel hands a valid context to the program; the field is a plain load, as are those below.
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

    /// A packet that was decrypted may still have the link header it came in (`skb_mac_header_rebuild`, called in
    /// `net/xfrm/xfrm_input.c`), and the program is shown that first. Only the network header's own place tells: its bytes
    /// cannot be read up to the frame's last one plus those of a link header.
    #[inline(always)]
    fn raw_offset(&self) -> usize {
        let mut byte = 0_u8;
        let bytes = self.end() - self.start();
        // SAFETY: a value on the stack. Read like this, it is not made one expression with what follows: the compiler would
        // complement a pointer, which the verifier refuses.
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

    /// The kernel has taken the outermost tag out of the frame, if the NIC has not (`skb_vlan_untag`, net/core/skbuff.c).
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

    /// Whatever was there: a decrypted packet may still have the mark of the packet that it came in.
    #[inline(always)]
    fn mark(&mut self, mark: u32) {
        // SAFETY: see `interface`. Volatile: the verifier takes a store of all four bytes only, and the compiler would
        // write the two that change.
        unsafe {
            let place = &raw mut (*self.skb()).mark;
            place.write_volatile(place.read_volatile() & !maps::mark().mask | mark);
        }
    }

    #[inline(always)]
    fn set_hash(&mut self, hash: u32) {
        // SAFETY: the program's own context.
        unsafe { bpf_set_hash(self.skb(), hash) };
    }

    #[inline(always)]
    fn transport(&self, offset: u32, length: u32, known: u32, ports: u32) -> u64 {
        ports_transport_tc(self.skb(), offset, length, known, ports)
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

    /// A NIC's sum over the whole packet is kept right. In IPv4 the header's checksum makes up for the TTL.
    #[inline(always)]
    fn hop_limit_decremented(&mut self) {
        let less = u32::from(u16::from_ne_bytes([0, 1]));
        // SAFETY: the program's own context. It fails where there is no such sum.
        unsafe { bpf_csum_update(self.skb(), !less) };
    }

    #[inline(always)]
    fn shrink_tail(&mut self, bytes: usize) -> Result<(), HelperError> {
        // SAFETY: the program's own context; callers hold no reference into the frame.
        match unsafe { bpf_skb_change_tail(self.skb(), self.context.len() - bytes as u32, 0) } {
            0 => Ok(()),
            _ => Err(HelperError),
        }
    }

    /// A header that is not wanted any more the kernel takes off (`__bpf_redirect_no_mac`, net/core/filter.c).
    #[inline(always)]
    fn replace_link_header(&mut self, old: usize, new: usize) -> Result<(), HelperError> {
        if old == 0 {
            // SAFETY: as above.
            return match unsafe { bpf_skb_change_head(self.skb(), new as u32, 0) } {
                0 => Ok(()),
                _ => Err(HelperError),
            };
        }
        let mut tags = (old - size_of::<Ethernet>()) / 4 + usize::from(self.tag().is_some());
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
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ports_transport_tc(skb: *mut __sk_buff, offset: u32, length: u32, known: u32, ports: u32) -> u64 {
    ports::transport(&SkbFrame { context: TcContext::new(skb) }, offset, length, known, ports)
}

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use hub_common::{checksum, maps::NextHop};

use super::{Covered, Direction, Frame, HelperError};
use crate::{capture, maps, mss, policy::ports, translate};

/// A frame in an XDP program, native or generic.
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
    const UNREACHABLE: u32 = NextHop::TC;
    const IS_LAST: bool = false;
    const FORWARDS_OPTIONS: bool = false;
    type Context = XdpContext;

    #[inline(always)]
    fn context(&self) -> &XdpContext {
        &self.context
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel passes a valid context to the program; the field is a plain load.
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
    fn length(&self) -> usize {
        self.end() - self.start()
    }

    #[inline(always)]
    fn raw_offset(&self) -> usize {
        0
    }

    /// XDP has no access to tags that the NIC has removed.
    #[inline(always)]
    fn tag(&self) -> Option<u16> {
        None
    }

    #[inline(always)]
    fn protocol(&self) -> Option<u16> {
        None
    }

    #[inline(always)]
    fn mark(&mut self, _mark: u32) {}

    #[inline(always)]
    fn has_passed(&mut self, _direction: Direction) -> bool {
        false
    }

    #[inline(always)]
    fn note_passed(&mut self, _direction: Direction) {}

    #[inline(always)]
    fn set_hash(&mut self, _hash: u32) {}

    #[inline(always)]
    fn transport(&self, offset: u32, length: u32, known: u32) -> u64 {
        ports_transport_xdp(self.context.ctx, offset, length, known)
    }

    #[inline(always)]
    fn fits(&mut self, length: usize, next_hop: &NextHop) -> bool {
        length <= next_hop.mtu as usize
    }

    #[inline(always)]
    fn clamp_mss(&mut self, offset: u32, header: u32, length: u32, connections: u32) {
        mss_clamp_xdp(self.context.ctx, offset, header, length, connections);
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.at(offset).copied()
    }

    #[inline(always)]
    fn translate_any(&mut self, offset: u32, packet: u32, tables: u32, change: u32) {
        translate_any_xdp(self.context.ctx, offset, packet, tables, change);
    }

    #[inline(always)]
    fn translate_inner(&mut self, at: u32, packet: u32, table: u32) {
        translate_inner_xdp(self.context.ctx, at, packet, table);
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Result<(), HelperError> {
        *self.at_mut(offset).ok_or(HelperError)? = bytes;
        Ok(())
    }

    #[inline(always)]
    fn adjust_checksum(&mut self, offset: usize, difference: u16, covered: Covered) {
        let Some(field) = self.at_mut(offset) else { return };
        let before = u16::from_ne_bytes(*field);
        if before == 0 && covered == Covered::AddressOfUdp {
            return;
        }
        let after = match checksum::adjusted(before, difference) {
            0 if covered == Covered::AddressOfUdp => u16::MAX,
            after => after,
        };
        *field = after.to_ne_bytes();
    }

    #[inline(always)]
    fn data_changed(&mut self, _difference: u16) {}

    #[inline(always)]
    fn shrink_tail(&mut self, bytes: usize) -> Result<(), HelperError> {
        // SAFETY: the helper takes the program's own context; callers hold no reference into the frame.
        match unsafe { bpf_xdp_adjust_tail(self.context.as_ptr().cast(), -(bytes as i32)) } {
            0 => Ok(()),
            _ => Err(HelperError),
        }
    }

    #[inline(always)]
    fn replace_link_header(&mut self, old: usize, new: usize) -> Result<(), HelperError> {
        if old == new {
            return Ok(());
        }
        // SAFETY: as above.
        match unsafe { bpf_xdp_adjust_head(self.context.as_ptr().cast(), old as i32 - new as i32) } {
            0 => Ok(()),
            _ => Err(HelperError),
        }
    }

    #[inline(always)]
    fn send(&self, next_hop: &NextHop) -> Result<u32, HelperError> {
        // The flags are the helper's return code if the port does not exist.
        maps::PORTS.redirect(next_hop.port, u64::from(Self::DROP)).map_err(|_| HelperError)
    }

    #[inline(always)]
    fn record(&self, outcome: u32, connections: u32, egress: u32) {
        capture_record_xdp(self.context.ctx, outcome, connections, egress);
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: *mut u8, length: u32) -> bool {
        // SAFETY: the program's own context, and `length` bytes of the caller's.
        unsafe { bpf_xdp_load_bytes(self.context.ctx, offset as u32, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn tag_with_protocol(&self) -> u32 {
        0
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ports_transport_xdp(context: *mut xdp_md, offset: u32, length: u32, known: u32) -> u64 {
    ports::transport(&XdpFrame::new(XdpContext::new(context)), offset, length, known)
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mss_clamp_xdp(context: *mut xdp_md, offset: u32, header: u32, length: u32, connections: u32) -> u32 {
    mss::clamp_segment(&mut XdpFrame::new(XdpContext::new(context)), offset, header, length, connections);
    0
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_any_xdp(context: *mut xdp_md, offset: u32, packet: u32, tables: u32, change: u32) -> u32 {
    translate::any(&mut XdpFrame::new(XdpContext::new(context)), offset, packet, tables, change);
    0
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_inner_xdp(context: *mut xdp_md, at: u32, packet: u32, table: u32) -> u32 {
    translate::inner(&mut XdpFrame::new(XdpContext::new(context)), at, packet, table);
    0
}

/// Returns 0: the verifier requires a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn capture_record_xdp(context: *mut xdp_md, outcome: u32, connections: u32, egress: u32) -> u32 {
    capture::record(&XdpFrame::new(XdpContext::new(context)), outcome, connections, egress);
    0
}

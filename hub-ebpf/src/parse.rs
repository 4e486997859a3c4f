//! Stage 1: parses the headers, and determines whether the packet can be forwarded.
//!
//! Reads are checked against the end of the frame, and lengths against each other. Unknown packets pass to the kernel,
//! for the hub itself only. Inconsistent packets are dropped, and so are packets that the kernel would parse
//! differently.

use core::mem::MaybeUninit;

use hub_common::{
    Reason,
    maps::{Attachment, Vlan},
};

use crate::{
    family::{Address, V4, V6},
    frame::Frame,
    headers::{Ethernet, Ipv4, Ipv6, Tag},
    maps,
    refusal::Refusal,
    special::Special,
};

/// Family of the packet, and start of its IP header.
pub enum Network {
    Ipv4(Start),
    Ipv6(Start),
}

/// Start of an IP header.
#[derive(Clone, Copy)]
pub struct Start {
    /// Bytes from the start of the frame.
    pub offset: usize,
    /// The frame was sent to a multicast or broadcast address.
    pub to_group: bool,
}

/// The parsed packet.
pub struct Packet<A> {
    /// Offset of the IP header in the frame.
    pub offset: usize,
    /// Length of the IP packet by its own header; the frame may have padding after it.
    pub length: usize,
    /// Length of the IP header, without extension headers.
    pub header_length: usize,
    pub source: A,
    pub destination: A,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Protocol, or the fixed header's next header.
    pub protocol: u8,
    /// It has options that a router must process.
    pub options: bool,
    /// For [`translate::forwarded`](crate::translate::forwarded), in one register: what a sum over the source grew by when
    /// it was translated, and 16 bits above it the index into `TRANSLATIONS`, 0 for none.
    pub translation: u64,
}

/// How far the addresses allow a packet to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Forwardable,
    /// Multicast or broadcast: only to the hub.
    Multicast,
    /// Source or destination is link-local, or the destination loopback or unspecified.
    LinkLocal,
    /// None of these, but the source is a martian.
    Martian,
}

/// `EtherType` of a tag: IEEE 802.1Q and 802.1ad.
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
/// Maximum number of 802.1Q tags.
pub const MAX_TAGS: usize = 2;
/// VLAN identifier in a tag's control word; 0: priority tag.
const VLAN_ID: u16 = 0x0fff;
/// The group bit of a MAC: multicast and broadcast (IEEE 802.3).
const GROUP_BIT: u8 = 1;

/// More-fragments flag and fragment offset (RFC 791): zero for a whole packet.
pub const FRAGMENT: u16 = 0x3fff;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// IPv6 hop-by-hop options (RFC 8200 section 4.3).
const HOP_BY_HOP: u8 = 0;

/// The attachment of an interface.
#[inline(always)]
pub fn attachment(ifindex: u32) -> Option<Attachment> {
    // Copied at once: the kernel may reuse the memory of a removed element.
    let attachment = match maps::ATTACHMENTS.get(ifindex) {
        Some(near) => *near,
        // SAFETY: while the program runs, the memory remains an element of this map.
        None => unsafe { *maps::FAR_ATTACHMENTS.get_ptr(ifindex)? },
    };
    if attachment.flags & Attachment::PRESENT != 0 { Some(attachment) } else { None }
}

/// Finds the IP header after the link header.
#[inline(always)]
pub fn link<F: Frame>(frame: &F, attachment: &Attachment) -> Result<Network, Refusal> {
    if attachment.flags & Attachment::ETHERNET == 0 { raw(frame) } else { ethernet(frame, attachment) }
}

/// A link without a header. The driver sets the packet's protocol, which must agree with the version in the packet.
#[inline(always)]
fn raw<F: Frame>(frame: &F) -> Result<Network, Refusal> {
    let offset = frame.raw_offset();
    let header = frame.at::<Ipv4>(offset).ok_or(Reason::Malformed)?;
    let version = header.version_and_length >> 4;
    if let Some(protocol) = frame.protocol() {
        if frame.tag().is_some() {
            return Err(Reason::ProtocolMismatch.into());
        }
        match (protocol, version) {
            (<V4 as Address>::ETHERTYPE, 4) | (<V6 as Address>::ETHERTYPE, 6) => {}
            (<V4 as Address>::ETHERTYPE | <V6 as Address>::ETHERTYPE, _) => return Err(Reason::ProtocolMismatch.into()),
            _ => return Err(Reason::NotIp.into()),
        }
    }
    let start = Start { offset, to_group: false };
    match version {
        4 => Ok(Network::Ipv4(start)),
        6 => Ok(Network::Ipv6(start)),
        _ => Err(Reason::Malformed.into()),
    }
}

#[inline(always)]
fn ethernet<F: Frame>(frame: &F, attachment: &Attachment) -> Result<Network, Refusal> {
    let header = frame.at::<Ethernet>(0).ok_or(Reason::Malformed)?;
    let mut ethertype = u16::from_be_bytes(header.ethertype);
    if let Some(protocol) = frame.protocol()
        && protocol != ethertype
        && (is_parsed(protocol) || is_parsed(ethertype))
    {
        return Err(Reason::ProtocolMismatch.into());
    }
    let mut offset = size_of::<Ethernet>();
    let mut vlan = 0;
    let mut tags = 0;
    if let Some(control) = frame.tag() {
        vlan = vlan_of(frame, vlan, control)?;
        tags = 1;
    }
    while tags < MAX_TAGS && is_tag(ethertype) {
        let tag = frame.at::<Tag>(offset).ok_or(Reason::Malformed)?;
        vlan = vlan_of(frame, vlan, u16::from_be_bytes(tag.control))?;
        ethertype = u16::from_be_bytes(tag.ethertype);
        offset += size_of::<Tag>();
        tags += 1;
    }
    let to_group = header.destination[0] & GROUP_BIT != 0;
    let start = Start { offset, to_group };
    let network = match ethertype {
        <V4 as Address>::ETHERTYPE => Network::Ipv4(start),
        <V6 as Address>::ETHERTYPE => Network::Ipv6(start),
        // The kernel strips any number of priority tags (`__netif_receive_skb_core`, net/core/dev.c).
        VLAN | SERVICE_VLAN => return Err(Reason::TooManyTags.into()),
        _ => return Err(Reason::NotIp.into()),
    };
    if !to_group && header.destination != attachment.mac {
        return Err(Reason::OtherHost.into());
    }
    Ok(network)
}

/// Whether this `EtherType` is that of a tag to the kernel (`eth_type_vlan`, `include/linux/if_vlan.h`).
#[inline(always)]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == VLAN || ethertype == SERVICE_VLAN
}

#[inline(always)]
fn is_parsed(ethertype: u16) -> bool {
    is_tag(ethertype) || matches!(ethertype, <V4 as Address>::ETHERTYPE | <V6 as Address>::ETHERTYPE)
}

/// The frame's VLAN after one more tag. Like in the kernel, the outermost non-zero VLAN id wins. If the host has an
/// interface for that VLAN, the frame belongs to that interface.
#[inline(always)]
fn vlan_of<F: Frame>(frame: &F, before: u16, control: u16) -> Result<u16, Refusal> {
    let id = control & VLAN_ID;
    if before != 0 || id == 0 {
        return Ok(before);
    }
    match maps::VLANS.get_ptr(Vlan { ifindex: frame.interface(), id: u32::from(id) }) {
        Some(_) => Err(Reason::OtherVlan.into()),
        None => Ok(id),
    }
}

/// Parses the IP header.
#[inline(always)]
pub fn packet<A: Address + ParseIp, F: Frame>(frame: &F, start: Start) -> Result<Packet<A>, Refusal> {
    let packet = A::parse(frame, start.offset)?;
    Ok(Packet { offset: unknown(start.offset), ..packet })
}

/// The same offset, of which the verifier knows no more than the bounds of a byte. Otherwise it would check all later
/// stages anew for each number of tags.
#[inline(always)]
fn unknown(offset: usize) -> usize {
    // The verifier knows what is in a word of the stack, but not what is in the middle of it
    // (`check_stack_read_fixed_off`, `kernel/bpf/verifier.c`).
    const MIDDLE: usize = 4;
    const { assert!(size_of::<Ethernet>() + MAX_TAGS * size_of::<Tag>() <= u8::MAX as usize) };
    let mut word = MaybeUninit::<u64>::uninit();
    // SAFETY: both accesses are within the word. Volatile: otherwise the compiler leaves the word out.
    unsafe {
        word.as_mut_ptr().write_volatile(((offset as u64) << (MIDDLE * 8)).to_le());
        usize::from(word.as_ptr().cast::<u8>().add(MIDDLE).read_volatile())
    }
}

/// How far the packet may go. A unicast packet in a multicast or broadcast frame is dropped (RFC 1122 section 3.3.6).
///
/// Call it after the walks of the look-up: the verifier checks these anew for each of the results here, which takes it
/// twice as long.
#[inline(always)]
pub fn reach<A: Special>(packet: &Packet<A>, start: Start) -> Result<Reach, Refusal> {
    let Packet { source, destination, .. } = packet;
    let reach = if !source.may_be_special() && !destination.may_be_special() {
        Reach::Forwardable
    } else if destination.is_multicast() {
        Reach::Multicast
    } else if source.is_link_local() || destination.is_link_local() || destination.is_local() {
        Reach::LinkLocal
    } else if source.is_martian_source() {
        Reach::Martian
    } else {
        Reach::Forwardable
    };
    if start.to_group && reach != Reach::Multicast { Err(Reason::Malformed.into()) } else { Ok(reach) }
}

/// The part of parsing that differs by family.
pub trait ParseIp: Sized {
    /// Parses the IP header at `offset`.
    fn parse<F: Frame>(frame: &F, offset: usize) -> Result<Packet<Self>, Refusal>;

    /// Source and destination port, the first four bytes of the transport header; 0 for fragments and protocols without
    /// ports. Read on demand: most routes have one next hop and need no flow hash.
    fn ports<F: Frame>(packet: &Packet<Self>, frame: &F) -> u32;
}

impl ParseIp for V4 {
    #[inline(always)]
    fn parse<F: Frame>(frame: &F, offset: usize) -> Result<Packet<Self>, Refusal> {
        let header = frame.at::<Ipv4>(offset).ok_or(Reason::Malformed)?;
        let header_length = usize::from(header.version_and_length & 0x0f) * 4;
        let length = usize::from(u16::from_be_bytes(header.total_length));
        if header.version_and_length >> 4 != 4
            || header_length < size_of::<Ipv4>()
            || length < header_length
            || frame.length() < offset + length
        {
            return Err(Reason::Malformed.into());
        }
        let (source, destination) = (u32::from_be_bytes(header.source), u32::from_be_bytes(header.destination));
        Ok(Packet {
            offset,
            length,
            header_length,
            source,
            destination,
            hop_limit: header.ttl,
            protocol: header.protocol,
            options: header_length > size_of::<Ipv4>(),
            translation: 0,
        })
    }

    #[inline(always)]
    fn ports<F: Frame>(packet: &Packet<Self>, frame: &F) -> u32 {
        match frame.at::<Ipv4>(packet.offset) {
            Some(header) if u16::from_be_bytes(header.fragment) & FRAGMENT == 0 => packet.ports(frame),
            _ => 0,
        }
    }
}

impl ParseIp for V6 {
    #[inline(always)]
    fn parse<F: Frame>(frame: &F, offset: usize) -> Result<Packet<Self>, Refusal> {
        let header = frame.at::<Ipv6>(offset).ok_or(Reason::Malformed)?;
        let length = size_of::<Ipv6>() + usize::from(u16::from_be_bytes(header.payload_length));
        // A hop-by-hop header in an empty payload: a jumbogram (RFC 2675), or malformed.
        let is_empty = length == size_of::<Ipv6>() && header.next_header == HOP_BY_HOP;
        if header.version >> 4 != 6 || is_empty || frame.length() < offset + length {
            return Err(Reason::Malformed.into());
        }
        let (source, destination) = (header.source.map(u64::from_be_bytes), header.destination.map(u64::from_be_bytes));
        Ok(Packet {
            offset,
            length,
            header_length: size_of::<Ipv6>(),
            source,
            destination,
            hop_limit: header.hop_limit,
            protocol: header.next_header,
            options: header.next_header == HOP_BY_HOP,
            translation: 0,
        })
    }

    /// Ports after an extension header, including the fragment header, are ignored. The flow hash stays consistent: all
    /// packets of such a flow, and all fragments of a packet, have that header.
    #[inline(always)]
    fn ports<F: Frame>(packet: &Packet<Self>, frame: &F) -> u32 {
        packet.ports(frame)
    }
}

impl<A> Packet<A> {
    #[inline(always)]
    fn ports<F: Frame>(&self, frame: &F) -> u32 {
        ports(frame, self.protocol, self.offset, self.header_length, self.length)
    }
}

/// The ports of a transport header directly after the IP header, if the protocol has ports and the packet contains
/// them, otherwise 0. `offset`: of the IP header.
#[inline(always)]
pub fn ports<F: Frame>(frame: &F, protocol: u8, offset: usize, header_length: usize, length: usize) -> u32 {
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    match protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE if length >= header_length + 4 => {
            frame.at::<[u8; 4]>(offset + header_length).map_or(0, |ports| u32::from_be_bytes(*ports))
        }
        _ => 0,
    }
}

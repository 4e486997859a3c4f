//! Stage 5: MSS of a SYN, TTL, checksum and link header, and the checks that pass the packet to the kernel.
//!
//! All checks come before the first write, except that of the MSS at TC: the kernel forwards what TC passes. XDP leaves
//! the MSS of such packets to TC, which runs behind it: only an skb shows whether its TCP checksum is complete.

use hub_common::{
    Reason, checksum,
    maps::{LinkAddress, Neighbour, NextHop, redirected},
};

use crate::{
    counters::Attribution,
    family::{Address, V4, V6},
    frame::{Frame, HelperError},
    headers::Ethernet,
    maps, mss,
    parse::Packet,
    refusal::Refusal,
};

/// Minimum Ethernet payload (IEEE 802.3): a shorter packet is padded on the wire.
const ETHERNET_MIN_PAYLOAD: usize = 46;

#[inline(always)]
pub fn rewrite<A: Address + HopLimit, F: Frame>(
    frame: &mut F,
    packet: &Packet<A>,
    attribution: &Attribution,
    next_hop: &NextHop,
) -> Result<(), Refusal> {
    if F::IS_LAST {
        mss::clamp(frame, packet, attribution, next_hop);
    }
    if next_hop.flags & F::UNREACHABLE != 0 {
        return Err(Reason::HandedOver.into());
    }
    if packet.hop_limit <= 1 {
        return Err(Reason::TtlExpired.into());
    }
    if !frame.fits(packet.length, next_hop) {
        return Err(Reason::TooBig.into());
    }
    if packet.options && !F::FORWARDS_OPTIONS {
        return Err(Reason::IpOptions.into());
    }
    let addresses = neighbour(packet, next_hop)?;

    if !F::IS_LAST {
        mss::clamp(frame, packet, attribution, next_hop);
    }
    A::decrement(frame, packet.offset)
        .and_then(|()| trim(frame, packet, next_hop))
        .and_then(|()| link_header::<A, F>(frame, packet, next_hop, addresses))
        .map_err(|HelperError| Reason::RedirectFailed.into())
}

/// Link addresses of the egress frame; unused on raw-IP links.
#[inline(always)]
fn neighbour<A: Address>(packet: &Packet<A>, next_hop: &NextHop) -> Result<[u32; 3], Refusal> {
    if next_hop.flags & NextHop::ETHERNET == 0 {
        return Ok([0; 3]);
    }
    if next_hop.flags & NextHop::ON_LINK != 0 {
        let key = Neighbour { address: packet.destination.mapped(), ifindex: next_hop.ifindex, family: A::VERSION };
        // SAFETY: while the program runs, the memory remains an element of this map, but perhaps a different one.
        if let Some(LinkAddress { mac, .. }) = unsafe { maps::NEIGHBOURS.get(key) } {
            return Ok(redirected(next_hop.addresses, *mac));
        }
        report_miss(key);
        return Err(Reason::NoNeighbour.into());
    }
    if next_hop.flags & NextHop::RESOLVED == 0 {
        return Err(Reason::NoNeighbour.into());
    }
    Ok(next_hop.addresses)
}

/// Reports the neighbour to the agent, which has it resolved. The kernel, which gets this packet, resolves it only if
/// it forwards.
#[inline(always)]
fn report_miss(neighbour: Neighbour) {
    if let Some(mut entry) = maps::NEIGHBOUR_MISS.reserve::<Neighbour>(0) {
        entry.write(neighbour);
        entry.submit(0);
    }
}

/// Removes bytes after the IP packet: padding, which a raw-IP link must not carry, and trailers, which may exceed the
/// egress MTU. Padding up to the minimum Ethernet frame stays, because most small packets have it.
#[inline(always)]
fn trim<A, F: Frame>(frame: &mut F, packet: &Packet<A>, next_hop: &NextHop) -> Result<(), HelperError> {
    let payload = frame.length() - packet.offset;
    let excess = payload - packet.length;
    if excess == 0 || (payload <= ETHERNET_MIN_PAYLOAD && next_hop.flags & NextHop::ETHERNET != 0) {
        return Ok(());
    }
    frame.shrink_tail(excess)
}

/// Replaces the ingress link header, tags included, by the egress one.
#[inline(always)]
fn link_header<A: Address, F: Frame>(
    frame: &mut F,
    packet: &Packet<A>,
    next_hop: &NextHop,
    addresses: [u32; 3],
) -> Result<(), HelperError> {
    let ethernet = next_hop.flags & NextHop::ETHERNET != 0;
    let length = if ethernet { size_of::<Ethernet>() } else { 0 };
    frame.replace_link_header(packet.offset, length)?;
    if ethernet {
        // By words: the compiler turns a copy of the whole array into byte stores.
        let header = frame.at_mut::<[u8; size_of::<Ethernet>()]>(0).ok_or(HelperError)?;
        for (bytes, word) in header.chunks_exact_mut(4).zip(addresses) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        header[12..].copy_from_slice(&A::ETHERTYPE.to_be_bytes());
    }
    Ok(())
}

/// The part of rewriting that differs by family.
pub trait HopLimit {
    /// Decrements the TTL or hop limit of the IP header at `offset`, and updates the checksum.
    fn decrement<F: Frame>(frame: &mut F, offset: usize) -> Result<(), HelperError>;
}

impl HopLimit for V4 {
    #[inline(always)]
    fn decrement<F: Frame>(frame: &mut F, offset: usize) -> Result<(), HelperError> {
        // TTL, protocol, checksum.
        let bytes = frame.at_mut::<[u8; 4]>(offset + 8).ok_or(HelperError)?;
        *bytes = checksum::decrement_ttl(*bytes);
        Ok(())
    }
}

impl HopLimit for V6 {
    #[inline(always)]
    fn decrement<F: Frame>(frame: &mut F, offset: usize) -> Result<(), HelperError> {
        let [hop_limit] = frame.at_mut::<[u8; 1]>(offset + 7).ok_or(HelperError)?;
        *hop_limit -= 1;
        frame.hop_limit_decremented();
        Ok(())
    }
}

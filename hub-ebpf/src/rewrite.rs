//! Stage 6: translated addresses, MSS of a SYN, TTL, checksum and link header, and the checks that pass the packet to the
//! kernel.
//!
//! All checks come before the first write. TC also lowers the MSS of what it passes: the kernel forwards it. XDP leaves
//! that to TC, which runs behind it: only an skb shows whether its TCP checksum is complete.

use hub_common::{
    Reason, checksum,
    maps::{LinkAddress, Neighbour, NextHop, redirected},
};

use crate::{
    counters::Attribution,
    family::{Address, V4, V6},
    frame::{Bytes, Frame, HelperError},
    headers::{Ethernet, Ipv4, Ipv6},
    maps, mss,
    parse::{Packet, TCP},
    refusal::Refusal,
    translate::{self, Translate},
};

/// Minimum Ethernet payload (IEEE 802.3): a shorter packet is padded on the wire.
const ETHERNET_MIN_PAYLOAD: usize = 46;

#[inline(always)]
pub fn rewrite<A: Address + HopLimit + Translate, F: Frame>(
    frame: &mut F,
    packet: &Packet<A>,
    attribution: &Attribution,
    next_hop: &NextHop,
) -> Result<(), Refusal> {
    let neighbour = match check(frame, packet, next_hop) {
        Ok(neighbour) => neighbour,
        Err(refusal) => {
            if F::IS_LAST && packet.protocol == TCP {
                mss::clamp(frame, packet, attribution, next_hop);
            }
            return Err(refusal);
        }
    };
    translate::forwarded(frame, packet, next_hop);
    transport_and_hop_limit(frame, packet, attribution, next_hop)
        .and_then(|()| trim(frame, packet, next_hop))
        .and_then(|()| link_header::<A, F>(frame, packet, next_hop, neighbour))
        .map_err(|HelperError| Reason::RedirectFailed.into())
}

/// The checks before the first write. Returns the neighbour.
#[inline(always)]
fn check<A: Address, F: Frame>(
    frame: &mut F,
    packet: &Packet<A>,
    next_hop: &NextHop,
) -> Result<Option<&'static LinkAddress>, Refusal> {
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
    neighbour(packet, next_hop)
}

/// Lowers the MSS of a SYN, and decrements the hop limit. For other TCP segments, one check of the bounds covers the
/// flags and the hop limit.
#[inline(always)]
fn transport_and_hop_limit<A: Address + HopLimit, F: Frame>(
    frame: &mut F,
    packet: &Packet<A>,
    attribution: &Attribution,
    next_hop: &NextHop,
) -> Result<(), HelperError> {
    if packet.protocol == TCP {
        if !packet.options
            && let Some(headers) = frame.at_mut::<A::HeadersToFlags>(packet.offset)
            && !mss::is_syn(headers.as_ref()[A::HEADER_LENGTH + mss::FLAGS])
        {
            A::decrement(headers.as_mut());
            A::decremented(frame);
            return Ok(());
        }
        // All the rest, so that no check of the bounds before the call is reused after it.
        mss::clamp(frame, packet, attribution, next_hop);
    }
    A::decrement(frame.at_mut::<A::HeadersToHopLimit>(packet.offset).ok_or(HelperError)?.as_mut());
    A::decremented(frame);
    Ok(())
}

/// The destination's own link address; `None` if the next hop has it, or the link has none.
#[inline(always)]
fn neighbour<A: Address>(packet: &Packet<A>, next_hop: &NextHop) -> Result<Option<&'static LinkAddress>, Refusal> {
    if next_hop.flags & NextHop::ETHERNET == 0 {
        return Ok(None);
    }
    if next_hop.flags & NextHop::ON_LINK != 0 {
        let key = Neighbour { address: packet.destination.mapped(), ifindex: next_hop.ifindex, family: A::VERSION };
        // SAFETY: while the program runs, the memory remains an element of this map, but perhaps a different one.
        if let Some(neighbour) = unsafe { maps::NEIGHBOURS.get(key) } {
            return Ok(Some(neighbour));
        }
        report_miss(key);
        return Err(Reason::NoNeighbour.into());
    }
    if next_hop.flags & NextHop::RESOLVED == 0 {
        return Err(Reason::NoNeighbour.into());
    }
    Ok(None)
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
    neighbour: Option<&LinkAddress>,
) -> Result<(), HelperError> {
    let ethernet = next_hop.flags & NextHop::ETHERNET != 0;
    let length = if ethernet { size_of::<Ethernet>() } else { 0 };
    frame.replace_link_header(packet.offset, length)?;
    if ethernet {
        let addresses = match neighbour {
            Some(LinkAddress { mac, .. }) => redirected(next_hop.addresses, *mac),
            None => next_hop.addresses,
        };
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
    /// The start of an IP header without options and a TCP header, up to the flags.
    type HeadersToFlags: Bytes + AsRef<[u8]> + AsMut<[u8]>;
    /// The start of an IP header, up to the hop limit or what changes with it.
    type HeadersToHopLimit: Bytes + AsMut<[u8]>;

    /// Decrements the TTL or hop limit of an IP header, and updates the header's checksum.
    fn decrement(header: &mut [u8]);

    /// Call it after [`Self::decrement`].
    fn decremented<F: Frame>(frame: &mut F);
}

impl HopLimit for V4 {
    type HeadersToFlags = [u8; size_of::<Ipv4>() + mss::FLAGS + 1];
    type HeadersToHopLimit = [u8; 12];

    #[inline(always)]
    fn decrement(header: &mut [u8]) {
        // TTL, protocol, checksum.
        if let Some(bytes) = header[8..].first_chunk_mut() {
            *bytes = checksum::decrement_ttl(*bytes);
        }
    }

    #[inline(always)]
    fn decremented<F: Frame>(_frame: &mut F) {}
}

impl HopLimit for V6 {
    type HeadersToFlags = [u8; size_of::<Ipv6>() + mss::FLAGS + 1];
    type HeadersToHopLimit = [u8; 8];

    #[inline(always)]
    fn decrement(header: &mut [u8]) {
        header[7] -= 1;
    }

    #[inline(always)]
    fn decremented<F: Frame>(frame: &mut F) {
        // No checksum covers the hop limit.
        frame.data_changed(!u16::from_ne_bytes([0, 1]));
    }
}

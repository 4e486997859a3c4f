//! Selectors that are for a protocol or ports alone (RFC 4301 section 4.4.1.1): rare, so nothing of this is on the way of
//! other packets.
//!
//! What is asked of a packet here is not quite what its flow is told apart by: type and code of an ICMP message stand for
//! ports, and the protocol behind an IPv6 fragment header counts.

use hub_common::maps::{Rule, UNATTRIBUTED};

use crate::{
    address::{V4, V6},
    frame::Frame,
    headers::{Ipv4, Ipv6},
    maps,
    parse::Packet,
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// IPv6 fragment header (RFC 8200 section 4.5); it begins with the next header.
const FRAGMENT_HEADER: u8 = 44;
/// More-fragments flag and fragment offset of IPv4 (RFC 791).
const FRAGMENT: u16 = 0x3fff;

/// Which way a packet goes, and so which of its ports is the site's.
#[derive(Clone, Copy)]
pub enum Way {
    FromSite,
    ToSite,
}

/// What a rule says something about.
pub struct Transport {
    protocol: u8,
    /// Source in the upper half, destination in the lower one; of an ICMP message type and code, twice.
    ports: u32,
    /// The packet shows them.
    has_ports: bool,
}

/// The part that differs by family.
pub trait Limited: Sized {
    fn transport<F: Frame>(packet: &Packet<Self>, frame: &F) -> Transport;
}

impl Limited for V4 {
    #[inline(always)]
    fn transport<F: Frame>(packet: &Packet<Self>, frame: &F) -> Transport {
        if packet.protocol == ICMP
            && let Some(header) = frame.at::<Ipv4>(packet.offset)
            && u16::from_be_bytes(header.fragment) & FRAGMENT == 0
        {
            return message(packet, frame, usize::from(header.version_and_length & 0x0f) * 4);
        }
        Transport { protocol: packet.protocol, ports: packet.ports, has_ports: packet.ports != 0 }
    }
}

impl Limited for V6 {
    #[inline(always)]
    fn transport<F: Frame>(packet: &Packet<Self>, frame: &F) -> Transport {
        let header = size_of::<Ipv6>();
        if packet.protocol == ICMPV6 {
            return message(packet, frame, header);
        }
        let mut protocol = packet.protocol;
        if protocol == FRAGMENT_HEADER
            && packet.length > header
            && let Some([next]) = frame.at::<[u8; 1]>(packet.offset + header)
        {
            protocol = *next;
        }
        Transport { protocol, ports: packet.ports, has_ports: packet.ports != 0 }
    }
}

/// The ICMP message that starts `header` bytes into the packet.
#[inline(always)]
fn message<A, F: Frame>(packet: &Packet<A>, frame: &F, header: usize) -> Transport {
    let kind = match packet.length >= header + 2 {
        true => frame.at::<[u8; 2]>(packet.offset + header).map(|kind| u32::from(u16::from_be_bytes(*kind))),
        false => None,
    };
    let number = kind.unwrap_or(0);
    Transport { protocol: packet.protocol, ports: number << 16 | number, has_ports: kind.is_some() }
}

/// The connection of the first rule that admits the packet.
#[inline(always)]
pub fn admit<A: Limited, F: Frame>(packet: &Packet<A>, frame: &F, limits: u32, way: Way) -> Option<u32> {
    let Transport { protocol, ports, has_ports } = A::transport(packet, frame);
    let (source, destination) = (ports >> 16, ports & 0xffff);
    let (remote, local) = match way {
        Way::FromSite => (source, destination),
        Way::ToSite => (destination, source),
    };
    match first(limits, u32::from(protocol), u32::from(has_ports), remote, local) {
        UNATTRIBUTED => None,
        connection => Some(connection),
    }
}

/// [`UNATTRIBUTED`] for none. A function of its own, unlike all else: it is called seldom, and would else stand in the
/// program four times for each family.
#[inline(never)]
fn first(limits: u32, protocol: u32, has_ports: u32, remote: u32, local: u32) -> u32 {
    let Some(rules) = maps::LIMITS.get(limits) else { return UNATTRIBUTED };
    for rule in rules {
        if rule.connection == UNATTRIBUTED || admits(rule, protocol, has_ports, remote, local) {
            return rule.connection;
        }
    }
    UNATTRIBUTED
}

#[inline(always)]
fn admits(rule: &Rule, protocol: u32, has_ports: u32, remote: u32, local: u32) -> bool {
    let within = |[first, last]: [u16; 2], port: u32| u32::from(first) <= port && port <= u32::from(last);
    let of_protocol = rule.protocol == 0 || u32::from(rule.protocol) == protocol;
    let of_ports =
        rule.flags & Rule::PORTS == 0 || (has_ports != 0 && within(rule.remote, remote) && within(rule.local, local));
    of_protocol && of_ports
}

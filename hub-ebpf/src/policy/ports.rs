//! Selectors that are for a protocol or ports alone (RFC 4301 section 4.4.1.1): rare, so nothing of this is on the way of
//! other packets.
//!
//! What is asked of a packet here is not quite what its flow is told apart by: type and code of an ICMP message stand for
//! ports, and the protocol behind an IPv6 fragment header counts.
//!
//! Two global functions, unlike all else: the verifier looks at such by themselves, and not with each of the many ways on
//! which a packet may come to them.

use hub_common::maps::{Rule, UNATTRIBUTED};

use crate::{
    family::Address,
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
pub enum Direction {
    FromSite,
    ToSite,
}

/// What a rule says something about, as it fits a register: ports (source in the upper half; of an ICMP message type and
/// code, twice), protocol, and whether the packet shows ports.
mod transport {
    pub const PROTOCOL_SHIFT: u32 = 32;
    pub const HAS_PORTS_SHIFT: u32 = 40;

    #[inline(always)]
    pub const fn pack(protocol: u8, ports: Option<u32>) -> u64 {
        let (has_ports, ports) = match ports {
            Some(ports) => (1, ports),
            None => (0, 0),
        };
        has_ports << HAS_PORTS_SHIFT | (protocol as u64) << PROTOCOL_SHIFT | ports as u64
    }
}

/// The connection of the first rule that admits the packet.
#[inline(always)]
pub fn admit<A: Address, F: Frame>(packet: &Packet<A>, frame: &F, rules: u32, way: Direction) -> Option<u32> {
    let known = u32::from(packet.protocol) | A::VERSION << 8;
    let transport = frame.transport(packet.offset as u32, packet.length as u32, known, A::ports(packet, frame));
    let protocol = (transport >> transport::PROTOCOL_SHIFT) as u32 & 0xff;
    let has_ports = (transport >> transport::HAS_PORTS_SHIFT) as u32;
    let (source, destination) = (transport as u32 >> 16, transport as u32 & 0xffff);
    let (remote, local) = match way {
        Direction::FromSite => (source, destination),
        Direction::ToSite => (destination, source),
    };
    match ports_first_match(rules, protocol, has_ports, remote, local) {
        UNATTRIBUTED => None,
        connection => Some(connection),
    }
}

/// What [`Frame::transport`] is for every kind of frame. `known` is the protocol or next header, and above it the version.
#[inline(always)]
pub fn transport<F: Frame>(frame: &F, offset: u32, length: u32, known: u32, ports: u32) -> u64 {
    // As if the verifier, which looks at this by itself, did not know that no header starts further on.
    let offset = offset as usize & 0xff;
    let (protocol, ipv4) = (known as u8, known >> 8 == 4);
    let shown = if ports != 0 { Some(ports) } else { None };
    if ipv4 {
        if protocol == ICMP
            && let Some(header) = frame.at::<Ipv4>(offset)
            && u16::from_be_bytes(header.fragment) & FRAGMENT == 0
        {
            let header = usize::from(header.version_and_length & 0x0f) * 4;
            return transport::pack(protocol, message(frame, offset, header, length));
        }
    } else if protocol == ICMPV6 {
        return transport::pack(protocol, message(frame, offset, size_of::<Ipv6>(), length));
    } else if protocol == FRAGMENT_HEADER
        && length as usize > size_of::<Ipv6>()
        && let Some([next]) = frame.at::<[u8; 1]>(offset + size_of::<Ipv6>())
    {
        return transport::pack(*next, shown);
    }
    transport::pack(protocol, shown)
}

/// Type and code, twice, of the ICMP message that starts `header` bytes into the packet.
#[inline(always)]
fn message<F: Frame>(frame: &F, offset: usize, header: usize, length: u32) -> Option<u32> {
    if (length as usize) < header + 2 {
        return None;
    }
    let number = frame.at::<[u8; 2]>(offset + header).map(|kind| u32::from(u16::from_be_bytes(*kind)))?;
    Some(number << 16 | number)
}

/// [`UNATTRIBUTED`] for none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ports_first_match(rules: u32, protocol: u32, has_ports: u32, remote: u32, local: u32) -> u32 {
    let Some(rules) = maps::PORT_RULES.get(rules) else { return UNATTRIBUTED };
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

//! Selectors that are limited to a protocol or ports (RFC 4301 section 4.4.1.1). They are rare; other packets do not
//! run this code.
//!
//! The fields differ from those of the flow hash: type and code of an ICMP message are its ports, and the protocol
//! after an IPv6 fragment header is the packet's protocol.
//!
//! Two functions here are global: the verifier checks them once, and not for each path that leads to them.

use hub_common::maps::{Rule, UNATTRIBUTED};

use crate::{
    family::Address,
    frame::Frame,
    headers::{Ipv4, Ipv6},
    maps,
    parse::{self, FRAGMENT, Packet},
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// IPv6 fragment header (RFC 8200 section 4.5); it begins with the next header.
const FRAGMENT_HEADER: u8 = 44;

/// Direction of a packet, which determines which of its ports is the site's.
#[derive(Clone, Copy)]
pub enum Direction {
    FromSite,
    ToSite,
}

/// The fields that a rule matches, packed into a register: ports (source in the upper half; for ICMP, type and code
/// twice), protocol, and whether the packet has visible ports.
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

/// The owner of the first rule that admits the packet.
#[inline(always)]
pub fn admit<A: Address, F: Frame>(packet: &Packet<A>, frame: &F, rules: u32, direction: Direction) -> Option<u32> {
    let known = u32::from(packet.protocol) | A::VERSION << 8;
    let transport = frame.transport(packet.offset as u32, packet.length as u32, known);
    let protocol = (transport >> transport::PROTOCOL_SHIFT) as u32 & 0xff;
    let has_ports = (transport >> transport::HAS_PORTS_SHIFT) as u32;
    let (source, destination) = (transport as u32 >> 16, transport as u32 & 0xffff);
    let (remote, local) = match direction {
        Direction::FromSite => (source, destination),
        Direction::ToSite => (destination, source),
    };
    match ports_first_match(rules, protocol, has_ports, remote, local) {
        UNATTRIBUTED => None,
        connection => Some(connection),
    }
}

/// Implementation of [`Frame::transport`]. `known`: the protocol or next header, and above it the IP version.
#[inline(always)]
pub fn transport<F: Frame>(frame: &F, offset: u32, length: u32, known: u32) -> u64 {
    // Bounds the offset for the verifier, which checks this function separately.
    let (offset, length) = (offset as usize & 0xff, length as usize);
    let protocol = known as u8;
    let visible = |header| {
        let ports = parse::ports(frame, protocol, offset, header, length);
        if ports != 0 { Some(ports) } else { None }
    };
    if known >> 8 == 4 {
        return match frame.at::<Ipv4>(offset) {
            Some(header) if u16::from_be_bytes(header.fragment) & FRAGMENT == 0 => {
                let header = usize::from(header.version_and_length & 0x0f) * 4;
                let ports = if protocol == ICMP { message(frame, offset, header, length) } else { visible(header) };
                transport::pack(protocol, ports)
            }
            _ => transport::pack(protocol, None),
        };
    }
    match protocol {
        ICMPV6 => transport::pack(protocol, message(frame, offset, size_of::<Ipv6>(), length)),
        FRAGMENT_HEADER
            if length > size_of::<Ipv6>()
                && let Some([next]) = frame.at::<[u8; 1]>(offset + size_of::<Ipv6>()) =>
        {
            transport::pack(*next, None)
        }
        _ => transport::pack(protocol, visible(size_of::<Ipv6>())),
    }
}

/// Type and code, twice, of the ICMP message at offset `header` of the packet.
#[inline(always)]
fn message<F: Frame>(frame: &F, offset: usize, header: usize, length: usize) -> Option<u32> {
    if length < header + 2 {
        return None;
    }
    let number = frame.at::<[u8; 2]>(offset + header).map(|kind| u32::from(u16::from_be_bytes(*kind)))?;
    Some(number << 16 | number)
}

/// The owner of the first rule that matches; [`UNATTRIBUTED`] for none.
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
    let protocol_matches = rule.protocol == 0 || u32::from(rule.protocol) == protocol;
    let ports_match =
        rule.flags & Rule::PORTS == 0 || (has_ports != 0 && within(rule.remote, remote) && within(rule.local, local));
    protocol_matches && ports_match
}

//! The parts of a frame: Ethernet (IEEE 802.3, 802.1Q), IPv4 (RFC 791), IPv6 (RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Hook, Interface, Verdict, World};

/// The IP packet in a frame.
#[derive(Debug)]
pub struct Packet {
    /// Where it starts in the frame.
    pub offset: usize,
    /// Length in bytes, from its own header.
    pub length: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// Protocol, or the first next header.
    pub protocol: u8,
    /// Source and destination port as one number; 0 if there are none.
    pub ports: u32,
    /// The protocol that selectors match: for IPv6, the one behind a fragment header.
    pub selector_protocol: u8,
    /// Source and destination port, or twice the type and code of an ICMP message; `None` if the packet shows none.
    pub selector_ports: [Option<u16>; 2],
    /// IPv4 options or IPv6 hop-by-hop options.
    pub options: bool,
    /// For a packet that does not leave its link: the reason for passing it to the kernel.
    pub link_scope: Option<&'static str>,
}

const MALFORMED: Verdict = Verdict::Drop("malformed");
const MISMATCH: Verdict = Verdict::Drop("protocol_mismatch");

// EtherTypes. No other number, 0x9100 neither, is a tag for the kernel (eth_type_vlan(), linux/if_vlan.h).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

/// Parses a frame down to the ports. Fails with a verdict if no configuration would forward the frame.
pub fn packet(world: &World, hook: Hook, interface: &Interface, frame: &[u8]) -> Result<Packet, Verdict> {
    let (version, offset, to_group) = match interface.ethernet {
        true => ethernet(world, hook, interface, frame)?,
        false => (raw(hook, frame)?, 0, false),
    };
    let mut packet = match version {
        4 => ipv4(offset, &frame[offset..])?,
        _ => ipv6(offset, &frame[offset..])?,
    };
    if is_group(packet.destination) {
        packet.link_scope = Some("multicast");
    } else if to_group {
        // Link-layer broadcast or multicast to a unicast address: RFC 1122 section 3.3.6.
        return Err(MALFORMED);
    } else if is_link_local(packet.source) || stays_on_link(packet.destination) {
        packet.link_scope = Some("link_local");
    }
    Ok(packet)
}

/// IP version of a packet without a link header. The kernel uses `skb->protocol`, not the packet's version field.
fn raw(hook: Hook, frame: &[u8]) -> Result<u8, Verdict> {
    // Shorter than the shortest IP header.
    if frame.len() < 20 {
        return Err(MALFORMED);
    }
    let version = frame[0] >> 4;
    match hook {
        Hook::Xdp if matches!(version, 4 | 6) => Ok(version),
        Hook::Xdp => Err(MALFORMED),
        Hook::Tc { protocol: IPV4 } if version == 4 => Ok(4),
        Hook::Tc { protocol: IPV6 } if version == 6 => Ok(6),
        Hook::Tc { protocol: IPV4 | IPV6 } => Err(MISMATCH),
        Hook::Tc { .. } => Err(Verdict::Pass("not_ip")),
    }
}

/// IP version by the link header, the offset of the IP header, and whether the frame is for a group.
fn ethernet(world: &World, hook: Hook, interface: &Interface, frame: &[u8]) -> Result<(u8, usize, bool), Verdict> {
    let mut ether_type = number16(frame, 12)?;
    if let Hook::Tc { protocol } = hook
        && protocol != ether_type
        && [protocol, ether_type].iter().any(|number| matches!(*number, IPV4 | IPV6 | TAG | SERVICE_TAG))
    {
        return Err(MISMATCH);
    }
    let mut offset = 14;
    let mut outermost_vlan = 0;
    for _ in 0..2 {
        if !matches!(ether_type, TAG | SERVICE_TAG) {
            break;
        }
        let control = number16(frame, offset)?;
        ether_type = number16(frame, offset + 2)?;
        offset += 4;
        // A tag with VLAN 0 carries only a priority: the next tag gives the VLAN.
        let vlan = control & 0xfff;
        if outermost_vlan == 0 && vlan != 0 {
            outermost_vlan = vlan;
            if world.interfaces.iter().any(|upper| upper.vlan == Some((interface.index, vlan))) {
                return Err(Verdict::Pass("other_vlan"));
            }
        }
    }
    let version = match ether_type {
        IPV4 => 4,
        IPV6 => 6,
        TAG | SERVICE_TAG => return Err(Verdict::Drop("too_many_tags")),
        _ => return Err(Verdict::Pass("not_ip")),
    };
    let to_group = frame[0] & 1 == 1;
    if !to_group && frame[..6] != interface.mac {
        return Err(Verdict::Pass("other_host"));
    }
    Ok((version, offset, to_group))
}

fn ipv4(offset: usize, bytes: &[u8]) -> Result<Packet, Verdict> {
    if bytes.len() < 20 || bytes[0] >> 4 != 4 {
        return Err(MALFORMED);
    }
    let header = usize::from(bytes[0] & 0xf) * 4;
    let length = usize::from(number16(bytes, 2)?);
    if header < 20 || length < header || length > bytes.len() {
        return Err(MALFORMED);
    }
    let more_or_offset = number16(bytes, 6)? & 0x3fff;
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
    let transport = if more_or_offset == 0 { &bytes[header..length] } else { &[] };
    Ok(Packet {
        offset,
        length,
        source: address(12),
        destination: address(16),
        hops: bytes[8],
        protocol: bytes[9],
        ports: ports(bytes[9], transport),
        selector_protocol: bytes[9],
        selector_ports: selector_ports(bytes[9], 1, transport),
        options: header > 20,
        link_scope: None,
    })
}

fn ipv6(offset: usize, bytes: &[u8]) -> Result<Packet, Verdict> {
    if bytes.len() < 40 || bytes[0] >> 4 != 6 {
        return Err(MALFORMED);
    }
    let length = 40 + usize::from(number16(bytes, 4)?);
    // Hop-by-hop options in an empty payload.
    if length > bytes.len() || (length == 40 && bytes[6] == 0) {
        return Err(MALFORMED);
    }
    let address = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).expect("16 bytes")));
    Ok(Packet {
        offset,
        length,
        source: address(8),
        destination: address(24),
        hops: bytes[7],
        protocol: bytes[6],
        ports: ports(bytes[6], &bytes[40..length]),
        // The first byte of the fragment header is its next header (RFC 8200 section 4.5).
        selector_protocol: if bytes[6] == 44 && length > 40 { bytes[40] } else { bytes[6] },
        selector_ports: selector_ports(bytes[6], 58, &bytes[40..length]),
        options: bytes[6] == 0,
        link_scope: None,
    })
}

/// The first four bytes of TCP, UDP, DCCP, SCTP and UDP-Lite are the ports.
fn ports(protocol: u8, transport: &[u8]) -> u32 {
    match (protocol, transport) {
        (6 | 17 | 33 | 132 | 136, [a, b, c, d, ..]) => u32::from_be_bytes([*a, *b, *c, *d]),
        _ => 0,
    }
}

/// The values that port selectors match; `icmp` is the family's ICMP. If both ports are 0, there are none.
fn selector_ports(protocol: u8, icmp: u8, transport: &[u8]) -> [Option<u16>; 2] {
    let number = |at: usize| transport.get(at..at + 2).map(|pair| u16::from(pair[0]) * 256 + u16::from(pair[1]));
    match protocol {
        _ if protocol == icmp => [number(0); 2],
        _ if ports(protocol, transport) != 0 => [number(0), number(2)],
        _ => [None; 2],
    }
}

/// Martian sources (RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.2, 2.5.3 and 2.7).
pub fn is_nobody(address: IpAddr) -> bool {
    is_group(address) || (stays_on_link(address) && !is_link_local(address))
}

/// Multicast, or the limited broadcast.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// Addresses that a router must not forward to: link-local (RFC 3927 section 7, RFC 4291 section 2.5.6), and loopback,
/// "this network" and unspecified, which do not leave a host (RFC 1812 section 5.3.7, RFC 4291 sections 2.5.2 and
/// 2.5.3).
fn stays_on_link(address: IpAddr) -> bool {
    is_link_local(address)
        || address.is_loopback()
        || match address {
            IpAddr::V4(address) => address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unspecified(),
        }
}

pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn number16(bytes: &[u8], at: usize) -> Result<u16, Verdict> {
    match bytes.get(at..at + 2) {
        Some(pair) => Ok(u16::from(pair[0]) * 256 + u16::from(pair[1])),
        None => Err(MALFORMED),
    }
}

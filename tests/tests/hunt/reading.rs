//! The kernel's interpretation of a frame: any number of VLAN tags, then the IP header.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hub_tests::packet::number::{ICMP, ICMPV6, IPV4, IPV6, SERVICE_VLAN, TCP, UDP, VLAN};
use hub_tests::packet::verify_ip_checksums;

use crate::places::Place;

/// GRE's protocol number of redirected web traffic (draft-wilson-wrec-wccp-v2-01 section 4.12.1).
pub const WCCP: u16 = 0x883e;

/// A frame with an IP packet in it.
#[derive(Debug, Clone)]
pub struct Reading {
    /// VLAN tags in front of the IP header.
    pub tags: usize,
    /// Destination of the Ethernet header; `None` on a raw link.
    pub to_mac: Option<[u8; 6]>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hops: u8,
    pub protocol: u8,
    /// Length of the packet in bytes, from its own header.
    pub length: usize,
    /// Length of its IP header in bytes, with IPv4 options, without extension headers.
    pub header: usize,
    /// No options, no extension headers, not a fragment, no VLAN, lengths and checksums correct.
    pub plain: bool,
}

impl Reading {
    /// Parses a packet that entered the hub from a place, or arrived there. A TUN device with packet information has
    /// four bytes of it in front, whose last two are the `EtherType`. `None`: not IP, or truncated within its header.
    pub fn of(place: Place, bytes: &[u8]) -> Option<Self> {
        let (to_mac, mut ether_type, mut at) = match place {
            Place::Delta => match bytes.first()? >> 4 {
                4 => (None, IPV4, 0),
                6 => (None, IPV6, 0),
                _ => return None,
            },
            // A GRE tunnel treats the bytes behind that number as IPv4, possibly after four others
            // (`gre_parse_header`).
            Place::Epsilon if number16(bytes, 2)? == WCCP => (None, IPV4, if bytes.get(4)? >> 4 == 4 { 4 } else { 8 }),
            Place::Epsilon => (None, number16(bytes, 2)?, 4),
            _ => (Some(*bytes.first_chunk()?), number16(bytes, 12)?, 14),
        };
        let (mut tags, mut vlan) = (0, 0);
        while matches!(ether_type, VLAN | SERVICE_VLAN) {
            vlan |= number16(bytes, at)? & 0xfff;
            ether_type = number16(bytes, at + 2)?;
            at += 4;
            tags += 1;
        }
        let packet = bytes.get(at..)?;
        let mut reading = match ether_type {
            IPV4 => Self::ipv4(packet)?,
            IPV6 => Self::ipv6(packet)?,
            _ => return None,
        };
        reading.tags = tags;
        reading.to_mac = to_mac;
        // The program forwards frames of a VLAN that has no interface. The kernel drops them, so that one without a known
        // neighbour is lost.
        reading.plain &= vlan == 0;
        // Only a GRE tunnel handles this number.
        reading.plain &= place != Place::Epsilon || number16(bytes, 2) != Some(WCCP);
        Some(reading)
    }

    fn ipv4(bytes: &[u8]) -> Option<Self> {
        let (source, destination) = (address4(bytes, 12)?, address4(bytes, 16)?);
        if bytes[0] >> 4 != 4 {
            return None;
        }
        let length = usize::from(number16(bytes, 2)?);
        let fragment = number16(bytes, 6)? & 0x3fff != 0;
        let plain = bytes[0] == 0x45 && !fragment && is_sound(bytes, length, bytes[9], 20);
        let header = usize::from(bytes[0] & 0xf) * 4;
        let (hops, protocol) = (bytes[8], bytes[9]);
        Some(Self { tags: 0, to_mac: None, source, destination, hops, protocol, length, header, plain })
    }

    fn ipv6(bytes: &[u8]) -> Option<Self> {
        let (source, destination) = (address6(bytes, 8)?, address6(bytes, 24)?);
        if bytes[0] >> 4 != 6 {
            return None;
        }
        let length = 40 + usize::from(number16(bytes, 4)?);
        let plain = is_sound(bytes, length, bytes[6], 40);
        let (hops, protocol) = (bytes[7], bytes[6]);
        let header = 40;
        Some(Self { tags: 0, to_mac: None, source, destination, hops, protocol, length, header, plain })
    }
}

/// Whether the checksums and lengths of a packet without options are correct.
fn is_sound(bytes: &[u8], length: usize, protocol: u8, header: usize) -> bool {
    let icmp = if header == 20 { ICMP } else { ICMPV6 };
    let transport = match protocol {
        UDP => 8,
        TCP => 20,
        other if other == icmp => 8,
        _ => return false,
    };
    let Some(packet) = bytes.get(..length).filter(|packet| packet.len() >= header + transport) else { return false };
    let udp_length = number16(packet, header + 4).map(usize::from);
    (protocol != UDP || udp_length == Some(length - header)) && verify_ip_checksums(packet).is_ok()
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tags, source, destination, hops, protocol, length, plain, .. } = self;
        let plain = if *plain { "plain" } else { "unusual" };
        write!(
            f,
            "{source} -> {destination}, protocol {protocol}, hops {hops}, {length} bytes, {tags} VLAN tags, {plain}"
        )
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

fn address4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into())
}

fn address6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into())
}

//! ICMP echo packets, from the IP header on: encoding, and strict decoding. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers, and types of the two messages (RFC 792; RFC 4443 sections 4.1 and 4.2).
pub const ICMP: u8 = 1;
pub const ICMP_REQUEST: u8 = 8;
pub const ICMP_REPLY: u8 = 0;
pub const ICMPV6: u8 = 58;
pub const ICMPV6_REQUEST: u8 = 128;
pub const ICMPV6_REPLY: u8 = 129;

/// Bytes of the IP headers, without options, and of the echo header.
pub const IPV4_HEADER: usize = 20;
pub const IPV6_HEADER: usize = 40;
const ECHO_HEADER: usize = 8;

const HOP_LIMIT: u8 = 64;
/// Flags and fragment offset (RFC 791): don't fragment; the bits that must be zero in an unfragmented packet.
const DONT_FRAGMENT: u16 = 0x4000;
const FRAGMENT: u16 = 0x3fff;

/// A decoded echo reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identifier: u16,
    pub sequence: u16,
    pub payload: &'a [u8],
}

/// An echo request as a complete IP packet; `None` if the addresses differ in IP version.
pub fn request(source: IpAddr, destination: IpAddr, identifier: u16, sequence: u16, payload: &[u8]) -> Option<Vec<u8>> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut message = message(ICMP_REQUEST, identifier, sequence, payload);
            let checksum = checksum(&[&message]);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            Some([&ipv4_header(source, destination, message.len())[..], &message].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut message = message(ICMPV6_REQUEST, identifier, sequence, payload);
            let checksum = checksum(&[&pseudo_header(source, destination, message.len()), &message]);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            Some([&ipv6_header(source, destination, message.len())[..], &message].concat())
        }
        _ => None,
    }
}

/// Decodes a packet from the wire; `None` unless it is a complete echo reply with valid lengths and checksums.
///
/// IPv6 extension headers are not supported: an echo reply has no reason to carry one.
pub fn reply(packet: &[u8]) -> Option<Reply<'_>> {
    match packet.first()? >> 4 {
        4 => reply_v4(packet),
        6 => reply_v6(packet),
        _ => None,
    }
}

fn reply_v4(packet: &[u8]) -> Option<Reply<'_>> {
    let header_length = usize::from(packet.first()? & 0x0f) * 4;
    let length = usize::from(u16_at(packet, 2)?);
    // Bytes after the packet are padding of the frame.
    let packet = packet.get(..length)?;
    let (header, message) = packet.split_at_checked(header_length)?;
    if header_length < IPV4_HEADER
        || checksum(&[header]) != 0
        || u16_at(header, 6)? & FRAGMENT != 0
        || header[9] != ICMP
        || checksum(&[message]) != 0
    {
        return None;
    }
    let source = Ipv4Addr::from(*header[12..].first_chunk::<4>()?);
    let destination = Ipv4Addr::from(*header[16..].first_chunk::<4>()?);
    echo(message, ICMP_REPLY, source.into(), destination.into())
}

fn reply_v6(packet: &[u8]) -> Option<Reply<'_>> {
    let length = IPV6_HEADER + usize::from(u16_at(packet, 4)?);
    let (header, message) = packet.get(..length)?.split_at_checked(IPV6_HEADER)?;
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
    if header[6] != ICMPV6 || checksum(&[&pseudo_header(source, destination, message.len()), message]) != 0 {
        return None;
    }
    echo(message, ICMPV6_REPLY, source.into(), destination.into())
}

fn echo(message: &[u8], kind: u8, source: IpAddr, destination: IpAddr) -> Option<Reply<'_>> {
    let (header, payload) = message.split_at_checked(ECHO_HEADER)?;
    // Type and code.
    if header[..2] != [kind, 0] {
        return None;
    }
    Some(Reply { source, destination, identifier: u16_at(header, 4)?, sequence: u16_at(header, 6)?, payload })
}

/// The message with its checksum still zero.
fn message(kind: u8, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let [identifier, sequence] = [identifier.to_be_bytes(), sequence.to_be_bytes()];
    [&[kind, 0, 0, 0], &identifier[..], &sequence, payload].concat()
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> [u8; IPV4_HEADER] {
    let mut header = [0; IPV4_HEADER];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((IPV4_HEADER + payload) as u16).to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = HOP_LIMIT;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    let checksum = checksum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, payload: usize) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    header[6] = ICMPV6;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
    header
}

/// The part of an `ICMPv6` checksum outside the message (RFC 8200 section 8.1).
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[..16].copy_from_slice(&source.octets());
    header[16..32].copy_from_slice(&destination.octets());
    header[32..36].copy_from_slice(&(length as u32).to_be_bytes());
    header[39] = ICMPV6;
    header
}

/// The Internet checksum (RFC 1071) of the concatenated parts, all but the last of even length; zero for data that
/// contains its valid checksum.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;

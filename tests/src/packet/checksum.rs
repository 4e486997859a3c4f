//! The Internet checksum (RFC 1071), computed in full: the hub's incremental updates are checked against this.

use std::net::IpAddr;

use super::number::{ICMP, ICMPV6, TCP, UDP};
use super::view::View;

/// The checksum of these bytes, one part after the other, in host byte order. A part of odd length is padded with a
/// zero byte, so only the last may have one.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// The pseudo header that TCP, UDP and `ICMPv6` checksums cover: RFC 768, RFC 8200 section 8.1.
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    // Both versions' layouts sum up alike: the length and the protocol as 32-bit numbers.
    header.extend(u32::try_from(length).expect("a packet's length").to_be_bytes());
    header.extend(u32::from(protocol).to_be_bytes());
    header
}

/// Recomputes the IPv4 header checksum and the TCP, UDP, ICMP or `ICMPv6` checksum of an Ethernet frame, tagged or not.
/// A fragment's transport checksum covers missing bytes, and the checksums of other protocols are not known here: these
/// count as correct.
///
/// # Errors
/// The wrong checksum with its correct value, or why the frame cannot be read.
pub fn verify_checksums(frame: &[u8]) -> Result<(), String> {
    verify(&View::ethernet(frame)?)
}

/// The same for a raw IP packet.
///
/// # Errors
/// As [`verify_checksums`].
pub fn verify_ip_checksums(packet: &[u8]) -> Result<(), String> {
    verify(&View::ip(packet)?)
}

fn verify(view: &View<'_>) -> Result<(), String> {
    if let Some(header) = view.ipv4_header()
        && internet_checksum(&[header]) != 0
    {
        let mut zeroed = header.to_vec();
        zeroed[10..12].fill(0);
        return Err(wrong("IPv4 header", &header[10..12], internet_checksum(&[&zeroed])));
    }
    if view.fragment {
        return Ok(());
    }
    let (name, at, pseudo) = match (view.protocol, view.source) {
        (TCP, _) => ("TCP", 16, true),
        // RFC 768: zero means no checksum. Not over IPv6 (RFC 8200 section 8.1).
        (UDP, IpAddr::V4(_)) if view.transport.get(6..8) == Some(&[0, 0]) => return Ok(()),
        (UDP, _) => ("UDP", 6, true),
        (ICMP, IpAddr::V4(_)) => ("ICMP", 2, false),
        (ICMPV6, IpAddr::V6(_)) => ("ICMPv6", 2, true),
        _ => return Ok(()),
    };
    let Some(field) = view.transport.get(at..at + 2) else {
        return Err(format!("the {name} header is cut off after {} bytes", view.transport.len()));
    };
    let length = view.transport.len();
    let prefix = if pseudo { pseudo_header(view.source, view.destination, view.protocol, length) } else { Vec::new() };
    let mut zeroed = view.transport.to_vec();
    zeroed[at..at + 2].fill(0);
    let mut right = internet_checksum(&[&prefix, &zeroed]);
    if view.protocol == UDP && right == 0 {
        right = 0xffff;
    }
    // Not merely a sum of zero: 0x0000 and 0xffff sum up alike, and only one of them is correct.
    if field == right.to_be_bytes() { Ok(()) } else { Err(wrong(name, field, right)) }
}

fn wrong(name: &str, is: &[u8], right: u16) -> String {
    format!("the {name} checksum is {:02x}{:02x} and should be {right:04x}", is[0], is[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_1071_example_is_correct() {
        // Section 3: the sum of these is ddf2.
        assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(internet_checksum(&[&[0x01]]), !0x0100);
        assert_eq!(internet_checksum(&[]), 0xffff);
    }

    /// The IPv4 header with which Wikipedia explains the checksum (b861), with a UDP datagram without checksum.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];

    #[test]
    fn changed_header_fails_checksum_with_expected_value() {
        let mut packet = HEADER.to_vec();
        packet.resize(0x73, 0);
        verify_ip_checksums(&packet).unwrap();
        packet[8] -= 1;
        let error = verify_ip_checksums(&packet).unwrap_err();
        assert_eq!(error, "the IPv4 header checksum is b861 and should be b961");
    }

    #[test]
    fn changed_echo_request_fails_checksum_with_expected_value() {
        // A ping of 2 data bytes: type 8, id 1, sequence 9.
        let mut packet = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        // 4500+001e+4001+0a00+0001+0a00+0002 = 9922
        packet[10..12].copy_from_slice(&[0x66, 0xdd]);
        // 0800+0001+0009+6162 = 696c
        packet.extend([8, 0, 0x96, 0x93, 0, 1, 0, 9, 0x61, 0x62]);
        verify_ip_checksums(&packet).unwrap();
        packet[22] ^= 0x80;
        assert_eq!(verify_ip_checksums(&packet).unwrap_err(), "the ICMP checksum is 1693 and should be 9693");
    }
}

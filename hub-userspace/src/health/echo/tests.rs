//! Packets byte by byte.

use std::net::IpAddr;

use super::{Reply, reply, request};

/// A request and its reply, checksums computed independently: identifier 0x1234, sequence 1, payload "abcdefg".
const V4_REQUEST: [u8; 35] = [
    0x45, 0x00, 0x00, 0x23, 0x00, 0x00, 0x40, 0x00, 0x40, 0x01, 0x26, 0xd8, 10, 0, 0, 1, 10, 0, 0, 2, //
    0x08, 0x00, 0x54, 0x9d, 0x12, 0x34, 0x00, 0x01, b'a', b'b', b'c', b'd', b'e', b'f', b'g',
];
const V4_REPLY: [u8; 35] = [
    0x45, 0x00, 0x00, 0x23, 0x00, 0x00, 0x40, 0x00, 0x40, 0x01, 0x26, 0xd8, 10, 0, 0, 2, 10, 0, 0, 1, //
    0x00, 0x00, 0x5c, 0x9d, 0x12, 0x34, 0x00, 0x01, b'a', b'b', b'c', b'd', b'e', b'f', b'g',
];
const V6_REQUEST: [u8; 55] = [
    0x60, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x3a, 0x40, //
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, //
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, //
    0x80, 0x00, 0x80, 0xde, 0x12, 0x34, 0x00, 0x01, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, //
];
const V6_REPLY: [u8; 55] = [
    0x60, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x3a, 0x40, //
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, //
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, //
    0x81, 0x00, 0x7f, 0xde, 0x12, 0x34, 0x00, 0x01, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, //
];

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn patched<const N: usize>(packet: [u8; N], offset: usize, value: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[offset] = value;
    packet
}

#[test]
fn echo_requests_have_exact_bytes() {
    let built = request(addr("10.0.0.1"), addr("10.0.0.2"), 0x1234, 1, b"abcdefg");
    assert_eq!(built.as_deref(), Some(&V4_REQUEST[..]));
    let built = request(addr("2001:db8::1"), addr("2001:db8::2"), 0x1234, 1, b"abcdefg");
    assert_eq!(built.as_deref(), Some(&V6_REQUEST[..]));
    assert_eq!(request(addr("10.0.0.1"), addr("2001:db8::2"), 1, 1, b""), None, "two IP versions");
}

#[test]
fn echo_reply_with_padding_is_parsed_without_it() {
    for (packet, source, destination) in
        [(&V4_REPLY[..], "10.0.0.2", "10.0.0.1"), (&V6_REPLY[..], "2001:db8::2", "2001:db8::1")]
    {
        let expected = Reply {
            source: addr(source),
            destination: addr(destination),
            identifier: 0x1234,
            sequence: 1,
            payload: b"abcdefg",
        };
        assert_eq!(reply(packet), Some(expected));
        let padded = [packet, &[0xee; 11]].concat();
        assert_eq!(reply(&padded), reply(packet));
    }
}

#[test]
fn echo_reply_with_ipv4_options_is_parsed() {
    // Four no-operations; the header's checksum covers them.
    let mut packet = V4_REPLY.to_vec();
    packet.splice(20..20, [1, 1, 1, 1]);
    packet[0] = 0x46;
    packet[3] += 4;
    // 0x0100 + 4 + 0x0101 * 2 more in the sum.
    packet[10..12].copy_from_slice(&(0x26d8_u16 - 0x0100 - 4 - 0x0202).to_be_bytes());
    assert_eq!(reply(&packet), reply(&V4_REPLY));
    assert!(reply(&packet).is_some());
}

#[test]
fn malformed_or_other_packet_is_no_echo_reply() {
    let cases = [
        ("empty", Vec::new()),
        ("a request", V4_REQUEST.to_vec()),
        ("an IPv6 request", V6_REQUEST.to_vec()),
        ("version 5", patched(V4_REPLY, 0, 0x55)),
        ("IPv4 header length of 16", patched(V4_REPLY, 0, 0x44)),
        ("IPv4 header length beyond the packet", patched(V4_REPLY, 0, 0x4f)),
        ("total length beyond the frame", patched(V4_REPLY, 3, 36)),
        ("total length within the header", patched(V4_REPLY, 3, 12)),
        ("a fragment", patched(V4_REPLY, 6, 0x20)),
        ("another protocol", patched(V4_REPLY, 9, 17)),
        ("wrong header checksum", patched(V4_REPLY, 11, 0)),
        ("wrong source", patched(V4_REPLY, 15, 3)),
        ("another code", patched(V4_REPLY, 21, 1)),
        ("wrong checksum", patched(V4_REPLY, 34, b'x')),
        ("payload length beyond the frame", patched(V6_REPLY, 5, 16)),
        ("an extension header", patched(V6_REPLY, 6, 0)),
        ("wrong IPv6 source", patched(V6_REPLY, 23, 3)),
        ("wrong IPv6 checksum", patched(V6_REPLY, 54, b'x')),
    ];
    for (what, packet) in cases {
        assert_eq!(reply(&packet), None, "{what}");
    }
}

#[test]
fn truncated_or_bit_flipped_echo_reply_is_rejected() {
    for packet in [&V4_REPLY[..], &V6_REPLY] {
        for length in 0..packet.len() {
            assert_eq!(reply(&packet[..length]), None, "{length} bytes");
        }
        // No checksum covers traffic class, flow label and hop limit, and the decoder ignores them.
        let uncovered = |bit: usize| packet[0] >> 4 == 6 && (bit / 8 == 7 || (4..32).contains(&bit) && bit / 8 < 4);
        for bit in (0..packet.len() * 8).filter(|bit| !uncovered(*bit)) {
            let mut flipped = packet.to_vec();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(reply(&flipped), None, "bit {bit}");
        }
    }
}

use std::net::IpAddr;

use super::{
    build::{BuildError, MOST, build},
    changes::changes,
    hex,
    packet::{Frame, Transport},
    pcap::{Captured, PcapError, read},
};
use crate::api_types::trace::PacketRequest;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn request(source: &str, destination: &str, protocol: Option<u8>) -> PacketRequest {
    PacketRequest {
        source: address(source),
        destination: address(destination),
        protocol,
        source_port: None,
        destination_port: None,
        length: None,
        ttl: None,
        tcp_flags: None,
    }
}

/// RFC 1071: over data with its checksum the sum is all ones.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn built_packet_has_its_fields_and_valid_checksums() {
    let v4 = ["10.1.0.1", "10.2.0.2"];
    let v6 = ["fd00:1::1", "fd00:2::2"];
    let rows = [
        (v4, None, "10.1.0.1 > 10.2.0.2, icmp type 8 code 0, 28 bytes, ttl 64"),
        (v4, Some(6), "10.1.0.1 port 40000 > 10.2.0.2 port 80, tcp syn, mss 1460, 44 bytes, ttl 64"),
        (v4, Some(17), "10.1.0.1 port 40000 > 10.2.0.2 port 80, udp, 28 bytes, ttl 64"),
        (v4, Some(89), "10.1.0.1 > 10.2.0.2, protocol 89, 20 bytes, ttl 64"),
        (v6, None, "fd00:1::1 > fd00:2::2, icmpv6 type 128 code 0, 48 bytes, ttl 64"),
        (v6, Some(6), "fd00:1::1 port 40000 > fd00:2::2 port 80, tcp syn, mss 1460, 64 bytes, ttl 64"),
    ];
    for ([source, destination], protocol, summary) in rows {
        let packet = build(&request(source, destination, protocol)).expect("it can be built");
        let parsed = Frame::parse(&packet, false);
        assert_eq!(parsed.summary(), summary);
        let (header, addresses) = if packet[0] >> 4 == 4 { (20, 12..20) } else { (40, 8..40) };
        if header == 20 {
            assert_eq!(sum(&packet[..20]), 0xffff, "header of {summary}");
        }
        let protocol = parsed.ip.expect("an IP packet").protocol;
        if protocol == 89 {
            continue;
        }
        let mut summed = packet[header..].to_vec();
        if protocol != 1 {
            summed.splice(0..0, packet[addresses].iter().copied());
            let pseudo = u32::from(protocol) + (packet.len() - header) as u32;
            summed.splice(0..0, pseudo.to_be_bytes());
        }
        assert_eq!(sum(&summed), 0xffff, "transport of {summary}");
    }
}

#[test]
fn length_ttl_and_flags_are_in_the_packet() {
    let asked = PacketRequest {
        length: Some(1501),
        ttl: Some(1),
        tcp_flags: Some(0x12),
        source_port: Some(443),
        ..request("10.1.0.1", "10.2.0.2", Some(6))
    };
    let packet = build(&asked).expect("it can be built");
    assert_eq!(packet.len(), 1501);
    let summary = "10.1.0.1 port 443 > 10.2.0.2 port 80, tcp syn,ack, mss 1460, 1501 bytes, ttl 1";
    assert_eq!(Frame::parse(&packet, false).summary(), summary);
}

#[test]
fn impossible_packet_is_refused_with_a_reason() {
    let tcp = request("10.1.0.1", "10.2.0.2", Some(6));
    let rows = [
        (request("10.1.0.1", "fd00::1", None), BuildError::Families),
        (PacketRequest { protocol: None, source_port: Some(1), ..tcp.clone() }, BuildError::Ports { protocol: 1 }),
        (PacketRequest { protocol: Some(17), tcp_flags: Some(2), ..tcp.clone() }, BuildError::Flags),
        (PacketRequest { length: Some(43), ..tcp.clone() }, BuildError::Short { length: 43, least: 44 }),
        (PacketRequest { length: Some(MOST + 1), ..tcp }, BuildError::Long { length: MOST + 1 }),
    ];
    for (request, error) in rows {
        assert_eq!(build(&request), Err(error), "{request:?}");
    }
}

#[test]
fn changed_fields_are_named() {
    let before = build(&request("10.1.0.1", "10.2.0.2", Some(6))).expect("it can be built");
    let frame =
        |destination: u8, packet: &[u8]| [&[2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, 9, 8, 0][..], packet].concat();
    let mut after = before.clone();
    after[8] = 63;
    after[19] = 3;
    // The MSS.
    after[42..44].copy_from_slice(&1300_u16.to_be_bytes());
    let parse = |frame: &[u8]| Frame::parse(frame, true);
    let found = changes(&parse(&frame(1, &before)), &parse(&frame(2, &after)));
    let found: Vec<_> =
        found.iter().map(|change| format!("{} {} {}", change.field, change.before, change.after)).collect();
    assert_eq!(
        found,
        [
            "destination_mac 02:00:00:00:00:01 02:00:00:00:00:02",
            "destination 10.2.0.2 10.2.0.3",
            "ttl 64 63",
            "mss 1460 1300",
        ]
    );
}

#[test]
fn tagged_fragmented_and_broken_frames_are_read() {
    let packet = build(&request("10.1.0.1", "10.2.0.2", Some(17))).expect("it can be built");
    let link = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let tagged = [&link[..], &[0x81, 0, 0x20, 100, 0x08, 0], &packet].concat();
    let parsed = Frame::parse(&tagged, true);
    assert_eq!(parsed.tags, [100]);
    assert!(parsed.summary().starts_with("VLAN 100, 10.1.0.1 port 40000 > "), "{}", parsed.summary());
    let mut fragment = packet.clone();
    fragment[6] = 0x20;
    let ip = Frame::parse(&fragment, false).ip.expect("an IP packet");
    assert_eq!((ip.is_fragment, ip.transport()), (true, Transport { protocol: 17, ports: None }));
    for length in 0..packet.len() {
        assert_eq!(Frame::parse(&packet[..length], false).ip, None, "{length} bytes");
    }
    for length in 0..tagged.len() {
        assert_eq!(Frame::parse(&tagged[..length], true).ip, None, "{length} bytes");
    }
}

#[test]
fn hexadecimal_digits_are_bytes() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(hex::decode(&hex::encode(&bytes)), Some(bytes));
    for wrong in ["0", "0g", "é", " 00"] {
        assert_eq!(hex::decode(wrong), None, "{wrong:?}");
    }
}

/// A pcap file with two packets; of the second, the last 40 bytes are missing.
fn pcap(is_big: bool) -> Vec<u8> {
    let word = |word: u32| if is_big { word.to_be_bytes() } else { word.to_le_bytes() };
    let mut file = word(0xa1b2_c3d4).to_vec();
    // Version 2.4 as one word is only right in one byte order, and nobody reads it.
    file.extend([2, 0, 0, 65_535, 101].map(word).concat());
    file.extend([[1, 2, 3, 3].map(word).concat(), vec![1, 2, 3]].concat());
    file.extend([[1, 2, 2, 42].map(word).concat(), vec![4, 5]].concat());
    file
}

/// The same as pcapng, with a block of an unknown type, and Ethernet.
fn pcapng(is_big: bool) -> Vec<u8> {
    let word = |word: u32| if is_big { word.to_be_bytes() } else { word.to_le_bytes() };
    let half = |half: u16| if is_big { half.to_be_bytes() } else { half.to_le_bytes() };
    let block = |kind: u32, body: &[u8]| {
        let length = word(12 + body.len() as u32);
        [&word(kind)[..], &length, body, &length].concat()
    };
    let words = |words: &[u32]| words.iter().flat_map(|one| word(*one)).collect::<Vec<u8>>();
    let packet = |captured: u32, length: u32, bytes: &[u8]| {
        block(6, &[&words(&[0, 7, 8, captured, length])[..], bytes].concat())
    };
    [
        block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, 0, 0])),
        block(1, &[&half(1)[..], &half(0), &word(0)].concat()),
        block(5, &words(&[0, 0, 0])),
        packet(3, 3, &[1, 2, 3, 0]),
        packet(2, 42, &[4, 5, 0, 0]),
    ]
    .concat()
}

#[test]
fn captures_of_all_kinds_are_read() {
    let captured = |is_ethernet| {
        vec![
            Captured { number: 1, is_ethernet, bytes: vec![1, 2, 3], length: 3 },
            Captured { number: 2, is_ethernet, bytes: vec![4, 5], length: 42 },
        ]
    };
    for is_big in [false, true] {
        assert_eq!(read(&pcap(is_big)), Ok(captured(false)), "{is_big}");
        assert_eq!(read(&pcapng(is_big)), Ok(captured(true)), "{is_big}");
    }
}

#[test]
fn damaged_capture_is_refused() {
    assert_eq!(read(b"GIF89a"), Err(PcapError::Kind));
    assert_eq!(read(b""), Err(PcapError::Kind));
    for file in [pcap(false), pcapng(true)] {
        let packets = read(&file).expect("it is right").len();
        for length in 4..file.len() {
            match read(&file[..length]) {
                Ok(read) => assert!(read.len() < packets, "{length} bytes"),
                Err(PcapError::Damaged { at }) => assert!(at <= length, "{length} bytes"),
                Err(error) => panic!("{length} bytes: {error}"),
            }
        }
    }
    let mut other = pcap(false);
    other[20] = 113;
    assert_eq!(read(&other), Err(PcapError::LinkType { number: 1, link_type: 113 }));
}

//! The packet builder against bytes from other sources, and its reader against the builder.

use hub_tests::lab::Mac;
use hub_tests::packet::number::{ACK, FRAGMENT, ICMPV6, IPV6, NO_NEXT_HEADER, SYN, TCP, UDP};
use hub_tests::packet::{Packet, View, verify_checksums, verify_ip_checksums};

const A: &str = "02:00:00:00:00:01";
const B: &str = "02:00:00:00:00:02";

/// The bytes of a hex string.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

#[test]
fn packet_builder_matches_published_examples() {
    // An ARP request as in RFC 826.
    assert_eq!(
        Packet::arp_request(A, "10.0.0.1", "10.0.0.2").build(),
        bytes("ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002")
    );
    // The IPv4 header with which Wikipedia explains the checksum.
    let packet = Packet::ipv4("192.168.0.1", "192.168.0.199").dont_fragment().udp(53, 53).payload(0x73 - 28).build();
    assert_eq!(packet[..20], bytes("45000073 00004000 4011b861 c0a80001 c0a800c7"));
    // A neighbour solicitation with its source link-layer address: RFC 4861 section 4.3.
    let mut target = "fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    target.extend(bytes("0101 020000000001"));
    let solicitation = Packet::ipv6("fd00::1", "ff02::1:ff00:2").ttl(255).icmp(135, 0, [0; 4]).bytes(target).build();
    assert_eq!(solicitation[..8], bytes("60000000 0020 3a ff"));
    assert_eq!(solicitation.len(), 40 + 32);
    verify_ip_checksums(&solicitation).unwrap();
}

#[test]
fn packets_of_every_kind_have_valid_lengths_and_checksums() {
    let bases = [
        Packet::ipv4("10.10.10.1", "10.10.20.1"),
        Packet::ipv4("10.10.10.1", "10.10.20.1").ip_options(&[7, 7, 4, 0, 0, 0, 0]),
        Packet::ipv6("fd00::1", "fd00::2"),
        Packet::ipv6("fd00::1", "fd00::2").hop_by_hop(&[5, 2, 0, 0]).routing(4, 0, &[0; 4]).destination_options(&[]),
        Packet::ipv6("fd00::1", "fd00::2").flow_label(0xabcde).tos(0xb8),
    ];
    for base in bases {
        // Odd and even lengths: the last byte of an odd one is padded for the sum.
        for length in [0, 1, 2, 99, 1200] {
            for packet in [
                base.clone().udp(1000, 2000),
                base.clone().tcp(1000, 2000).flags(ACK),
                base.clone().tcp(1000, 2000).mss(1460).tcp_options(&[1, 3, 3, 7]),
                base.clone().echo(7, 8),
            ] {
                let raw = packet.clone().payload(length).build();
                verify_ip_checksums(&raw).unwrap();
                let view = View::ip(&raw).unwrap();
                assert_eq!(view.packet.len(), raw.len());
                assert_eq!(view.payload().len(), length);
                let frame = packet.payload(length).ethernet(A, B).qinq(5, 6).padding(3).build();
                assert_eq!(frame.len(), 14 + 8 + raw.len() + 3);
                verify_checksums(&frame).unwrap();
                assert_eq!(View::ethernet(&frame).unwrap().packet, raw);
                // One flipped bit in any byte that a checksum covers is detected.
                for at in [0, view.transport.len() - 1] {
                    let mut flipped = raw.clone();
                    let at = raw.len() - view.transport.len() + at;
                    flipped[at] ^= 0x10;
                    assert!(verify_ip_checksums(&flipped).is_err(), "byte {at}");
                }
            }
        }
    }
}

#[test]
fn view_reads_back_every_field() {
    let frame = Packet::ipv4("10.10.10.1", "10.10.20.1")
        .ttl(17)
        .tos(0x2e)
        .identification(0xbeef)
        .dont_fragment()
        .tcp(40_000, 443)
        .flags(SYN)
        .mss(1360)
        .ethernet(A, [2, 0, 0, 0, 0, 9])
        .vlan(100)
        .tag(0x8100, 0x6064)
        .build();
    let view = View::ethernet(&frame).unwrap();
    assert_eq!(view.macs, Some((A.parse().unwrap(), Mac([2, 0, 0, 0, 0, 9]))));
    assert_eq!(view.tags, [(0x8100, 100), (0x8100, 0x6064)]);
    assert_eq!((view.source.to_string(), view.destination.to_string()), ("10.10.10.1".into(), "10.10.20.1".into()));
    assert_eq!((view.hops, view.traffic_class, view.identification), (17, 0x2e, Some(0xbeef)));
    assert!(view.dont_fragment && !view.fragment && view.first);
    assert_eq!((view.protocol, view.ports(), view.mss()), (TCP, Some((40_000, 443)), Some(1360)));

    let error = Packet::ipv6("fd00::1", "fd00::2").icmp(2, 0, 1280_u32.to_be_bytes()).bytes([0; 40]).build();
    let view = View::ip(&error).unwrap();
    assert_eq!((view.protocol, view.icmp(), view.reported_mtu()), (ICMPV6, Some((2, 0)), Some(1280)));
    let error = Packet::ipv4("10.0.0.1", "10.0.0.2").icmp(3, 4, [0, 0, 0x05, 0x14]).bytes([0; 28]).build();
    assert_eq!(View::ip(&error).unwrap().reported_mtu(), Some(1300));
}

#[test]
fn fragments_have_ports_in_first_only() {
    let first = Packet::ipv4("10.0.0.1", "10.0.0.2").fragment(0, true, 9).udp(1, 2).payload(16);
    let view_of = |packet: &Packet| {
        let raw = packet.build();
        verify_ip_checksums(&raw).unwrap();
        let view = View::ip(&raw).unwrap();
        (view.fragment, view.first, view.ports(), view.protocol)
    };
    assert_eq!(view_of(&first), (true, true, Some((1, 2)), UDP));
    let later = Packet::ipv4("10.0.0.1", "10.0.0.2").fragment(3, false, 9).protocol(UDP).payload(16);
    assert_eq!(view_of(&later), (true, false, None, UDP));
    assert_eq!(later.build()[4..8], [0, 9, 0, 3]);

    let first = Packet::ipv6("fd00::1", "fd00::2").fragment(0, true, 9).udp(1, 2).payload(16);
    assert_eq!(view_of(&first), (true, true, Some((1, 2)), UDP));
    let later = Packet::ipv6("fd00::1", "fd00::2").fragment(3, false, 9).protocol(UDP).payload(16);
    assert_eq!(view_of(&later), (true, false, None, UDP));
    let raw = later.build();
    assert_eq!(raw[6], FRAGMENT);
    // RFC 8200 section 4.5: next header, reserved, offset and flag, identification.
    assert_eq!(raw[40..48], [UDP, 0, 0, 3 << 3, 0, 0, 0, 9]);
}

#[test]
fn extension_headers_are_chained_and_padded() {
    let raw = Packet::ipv6("fd00::1", "fd00::2").hop_by_hop(&[5, 2, 0, 0]).destination_options(&[]).build();
    assert_eq!(raw[6], 0);
    // A router alert fills the first; PadN of 4 the second.
    assert_eq!(raw[40..], [60, 0, 5, 2, 0, 0, 1, 0, NO_NEXT_HEADER, 0, 1, 4, 0, 0, 0, 0]);
    assert_eq!(raw[4..6], [0, 16]);
}

#[test]
fn field_override_changes_that_field_only() {
    let base = || Packet::ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).payload(8);
    let right = base().build();
    // Packet, offset of the field, its bytes.
    let cases = [
        (base().version(5), 0, vec![0x55]),
        (base().header_words(4), 0, vec![0x44]),
        (base().ip_length(19), 2, vec![0, 19]),
        (base().ip_checksum(0x1234), 10, vec![0x12, 0x34]),
        (base().protocol(99), 9, vec![99]),
        (base().udp_length(7), 24, vec![0, 7]),
        (base().transport_checksum(0), 26, vec![0, 0]),
    ];
    for (packet, at, field) in cases {
        let falsified = packet.build();
        assert_eq!(falsified.len(), right.len());
        assert_eq!(falsified[at..at + field.len()], field, "{packet:?}");
    }
    verify_ip_checksums(&base().transport_checksum(0).build()).unwrap();
    assert!(verify_ip_checksums(&base().transport_checksum(1).build()).is_err());
    assert!(verify_ip_checksums(&base().ip_checksum(1).build()).is_err());
    assert_eq!(base().cut(13).build(), right[..13]);
    assert_eq!(base().tcp(1, 2).data_offset(15).build()[32], 0xf0);
    assert_eq!(base().ethernet(A, B).ether_type(IPV6).build()[12..14], [0x86, 0xdd]);
    assert_eq!(Packet::ipv6("::1", "::2").ip_length(9).build()[4..6], [0, 9]);
    assert!(View::ethernet(&base().ethernet(A, B).ether_type(IPV6).build()).is_err());
}

#[test]
fn truncated_frame_is_error_and_never_panics() {
    let packets = [
        Packet::ipv4("10.0.0.1", "10.0.0.2").ip_options(&[1; 8]).tcp(1, 2).mss(1460).payload(3),
        Packet::ipv6("::1", "::2").hop_by_hop(&[]).fragment(0, true, 1).udp(1, 2).payload(3),
        Packet::ipv6("::1", "::2").routing(4, 1, &[0; 20]).echo(1, 1),
    ];
    for packet in packets {
        let whole = packet.ethernet(A, B).qinq(1, 2).build();
        for length in 0..whole.len() {
            assert!(View::ethernet(&whole[..length]).is_err(), "{length}");
        }
        // Nor may arbitrary bytes panic: each is changed in turn.
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Ok(view) = View::ethernet(&changed) {
                    let _ = (view.ports(), view.mss(), view.payload(), view.icmp(), view.reported_mtu());
                }
                let _ = verify_checksums(&changed);
            }
        }
    }
}

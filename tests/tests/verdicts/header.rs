//! IP headers: truncated, contradictory, unusual.

use hub_tests::packet::{
    Packet,
    number::{TCP, UDP},
};
use hub_userspace::datapath::Hook;

use crate::{
    gateway::{HZ, RAW, SH, V4, V6, gateway, into, out_of, own, peer, udp4, udp6},
    row::{Expected, row},
    table,
};

fn v4() -> Packet {
    udp4("10.10.10.1", "10.10.20.1")
}

fn v6() -> Packet {
    udp6("fd00:10::1", "fd00:20::1")
}

/// A packet from "shanghai" to "hangzhou", unchanged except for its TTL.
fn forwarded(name: &str, packet: &Packet, bytes: u64) -> Expected {
    row(name, SH, into(SH, packet)).forwarded("shanghai", ("hangzhou", HZ), out_of(HZ, packet, 63), bytes)
}

fn dropped(name: &str, packet: &Packet) -> Expected {
    row(name, SH, into(SH, packet)).dropped("malformed", "shanghai")
}

#[test]
fn truncated_packets_are_dropped() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let packets = [
        ("UDP", v4()),
        ("TCP", Packet::ipv4("10.10.10.1", "10.10.20.1").tcp(1, 2).mss(1460)),
        ("IPv4 options", v4().ip_options(&[7; 40])),
        ("a fragment", v4().fragment(0, true, 7)),
        ("IPv6 UDP", v6()),
        ("IPv6 hop-by-hop", v6().hop_by_hop(&[5, 2, 0, 0])),
        ("an IPv6 fragment", v6().fragment(0, true, 7)),
    ];
    for (name, packet) in packets {
        for (tags, packet) in [packet.clone(), packet.clone().vlan(5), packet.clone().qinq(5, 6)].iter().enumerate() {
            // A test run requires at least an Ethernet header.
            for length in 14..into(SH, packet).len() {
                let name = format!("{name}, {tags} tags, cut off after {length} bytes");
                rows.push(row(name, SH, into(SH, &packet.clone().cut(length))).dropped("malformed", "shanghai"));
            }
        }
    }
    for (name, packet) in [("IPv4", udp4("10.10.50.1", "10.10.20.1")), ("IPv6", udp6("fd00:50::1", "fd00:20::1"))] {
        for length in 14..packet.build().len() {
            let name = format!("raw {name}, cut off after {length} bytes");
            rows.push(row(name, RAW, packet.clone().cut(length).build()).dropped("malformed", "kunming"));
        }
    }
    table(&gateway(), &rows)
}

#[test]
fn contradictory_headers_are_dropped() -> anyhow::Result<()> {
    let raw = |packet: Packet| packet.build();
    table(
        &gateway(),
        &[
            dropped("total length 0", &v4().ip_length(0)),
            dropped("total length below the header's", &v4().ip_length(19)),
            dropped("total length below the header's, with options", &v4().ip_options(&[1; 4]).ip_length(23)),
            dropped("total length one above the frame's", &v4().ip_length(129)),
            dropped("total length 65535", &v4().ip_length(65_535)),
            dropped("padding does not make a packet longer than it is", &v4().ip_length(129 + 18).padding(18)),
            dropped("header length 0", &v4().header_words(0)),
            dropped("header length 16", &v4().header_words(4)),
            dropped(
                "header length 60, the packet shorter",
                &Packet::ipv4("10.10.10.1", "10.10.20.1").udp(1, 2).header_words(15),
            ),
            dropped("version 5 under IPv4's EtherType", &v4().version(5)),
            dropped("version 6 under IPv4's EtherType", &v4().version(6)),
            dropped("version 0 under IPv4's EtherType", &v4().version(0)),
            dropped("IPv6 under IPv4's EtherType", &v6().ether_type(0x0800)),
            dropped("IPv4 under IPv6's EtherType", &v4().ether_type(0x86dd)),
            dropped("version 4 under IPv6's EtherType", &v6().version(4)),
            dropped("payload length one above the frame's", &v6().ip_length(109)),
            dropped("payload length 65535", &v6().ip_length(65_535)),
            // TC's verdict on them depends on the kernel's protocol.
            row("version 5, raw", RAW, raw(udp4("10.10.50.1", "10.10.20.1").version(5)))
                .dropped("malformed", "kunming")
                .only_at(Hook::Xdp),
            row("version 0, raw", RAW, raw(udp6("fd00:50::1", "fd00:20::1").version(0)))
                .dropped("malformed", "kunming")
                .only_at(Hook::Xdp),
            row("an Ethernet frame where raw IP is due", RAW, into(RAW, &v4()))
                .dropped("malformed", "kunming")
                .only_at(Hook::Xdp),
            row("contradictory from a spoofed source", SH, into(SH, &udp4("10.99.0.1", "10.10.20.1").ip_length(0)))
                .dropped("malformed", "shanghai"),
            row("contradictory, to a multicast group", SH, into(SH, &udp4("10.10.10.1", "224.0.0.1").ip_length(0)))
                .dropped("malformed", "shanghai"),
        ],
    )
}

#[test]
fn packet_length_comes_from_ip_header() -> anyhow::Result<()> {
    let header_alone = v4().ip_length(20);
    let header_alone6 = v6().ip_length(0);
    let out4 = Packet::ipv4("10.10.10.1", "10.10.20.1").protocol(UDP);
    let out6 = Packet::ipv6("fd00:10::1", "fd00:20::1").protocol(UDP);
    let out = |packet: &Packet| packet.clone().ttl(63).ethernet(own(HZ), peer(HZ)).build();
    // Transport checksums do not cover bare headers.
    let mut rows = vec![
        row("total length 20: a header alone", SH, into(SH, &header_alone))
            .forwarded("shanghai", ("hangzhou", HZ), out(&out4), 20)
            .broken(),
        row("payload length 0: a header alone", SH, into(SH, &header_alone6))
            .forwarded("shanghai", ("hangzhou", HZ), out(&out6), 40)
            .broken(),
    ];
    let three = Packet::ipv4("10.10.10.1", "10.10.20.1").protocol(TCP).payload(3);
    rows.push(forwarded("three bytes of a TCP header", &three, 23).broken());
    let four = Packet::ipv4("10.10.10.1", "10.10.20.1").protocol(TCP).payload(4);
    rows.push(forwarded("four bytes of a TCP header", &four, 24).broken());
    let three6 = Packet::ipv6("fd00:10::1", "fd00:20::1").protocol(UDP).payload(3);
    rows.push(forwarded("three bytes of a UDP header, IPv6", &three6, 43).broken());
    let unknown = Packet::ipv4("10.10.10.1", "10.10.20.1").protocol(253).payload(9);
    rows.push(forwarded("an unknown protocol", &unknown, 29));
    rows.push(forwarded(
        "a data offset beyond the segment",
        &Packet::ipv4("10.10.10.1", "10.10.20.1").tcp(1, 2).data_offset(15),
        40,
    ));
    rows.push(forwarded("a UDP length beyond the packet", &v4().udp_length(9000), V4));
    rows.push(forwarded("a UDP length of 0", &v4().udp_length(0), V4));
    rows.push(forwarded("ICMP", &Packet::ipv4("10.10.10.1", "10.10.20.1").echo(1, 2).payload(56), 84));
    rows.push(forwarded("ICMPv6", &Packet::ipv6("fd00:10::1", "fd00:20::1").echo(1, 2).payload(56), 104));
    rows.push(forwarded("traffic class and flow label", &v6().tos(0xb8).flow_label(0xf_ffff), V6));
    rows.push(forwarded("TOS and DF", &v4().tos(0xb8).dont_fragment(), V4));
    table(&gateway(), &rows)
}

/// XDP leaves them to TC, which forwards them like others.
#[test]
fn packets_with_options_are_forwarded_by_tc() -> anyhow::Result<()> {
    let options = |name: &str, packet: Packet, bytes| {
        let xdp = row(name, SH, into(SH, &packet)).passed("ip_options", "shanghai").admitted(bytes);
        [xdp.toward("hangzhou").only_at(Hook::Xdp), forwarded(name, &packet, bytes).only_at(Hook::Tc)]
    };
    let from_raw = udp4("10.10.50.1", "10.10.20.1").ip_options(&[1; 8]);
    let to_raw = udp6("fd00:10::1", "fd00:50::1").hop_by_hop(&[5, 2, 0, 0]);
    let [xdp, tc] = options("header length 60 within the packet", v4().header_words(15), V4);
    let mut rows = vec![xdp, tc.broken()];
    rows.extend(options("one word of options", v4().ip_options(&[1]), V4 + 4));
    rows.extend(options("40 bytes of options", v4().ip_options(&[1; 40]), V4 + 40));
    rows.extend(options("router alert", v4().ip_options(&[148, 4, 0, 0]), V4 + 4));
    rows.extend(options("a record of the route", v4().ip_options(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0]), V4 + 12));
    rows.extend(options("hop-by-hop options", v6().hop_by_hop(&[5, 2, 0, 0]), V6 + 8));
    rows.extend([
        row("options from raw IP", RAW, from_raw.clone().build())
            .forwarded("kunming", ("hangzhou", HZ), out_of(HZ, &from_raw, 63), V4 + 8)
            .only_at(Hook::Tc),
        row("hop-by-hop options to raw IP", SH, into(SH, &to_raw))
            .forwarded("shanghai", ("kunming", RAW), to_raw.clone().ttl(63).build(), V6 + 8)
            .only_at(Hook::Tc),
        // RFC 2675: payload length 0, the real one in the option.
        row("a jumbogram", SH, into(SH, &v6().hop_by_hop(&[0xc2, 4, 0, 1, 0, 0]).ip_length(0)))
            .dropped("malformed", "shanghai"),
        forwarded("destination options", &v6().destination_options(&[]), V6 + 8),
        forwarded("a routing header with nothing left", &v6().routing(4, 0, &[0; 4]), V6 + 8),
        forwarded("a routing header with a segment left", &v6().routing(4, 1, &[0; 20]), V6 + 24),
        row("options from a spoofed source", SH, into(SH, &udp4("10.99.0.1", "10.10.20.1").ip_options(&[1])))
            .dropped("spoofed_source", "shanghai"),
        row(
            "hop-by-hop options from a spoofed source",
            SH,
            into(SH, &udp6("fd00:99::1", "fd00:20::1").hop_by_hop(&[])),
        )
        .dropped("spoofed_source", "shanghai"),
        row("options and no TTL", SH, into(SH, &v4().ip_options(&[1]).ttl(1)))
            .passed("ttl_expired", "shanghai")
            .admitted(V4 + 4)
            .toward("hangzhou"),
        row("options that no egress admits", SH, into(SH, &udp4("10.10.10.1", "10.10.90.1").ip_options(&[1])))
            .dropped("selector_mismatch", "shanghai")
            .admitted(V4 + 4),
        row("options without a route", SH, into(SH, &udp4("10.10.10.1", "10.99.0.1").ip_options(&[1])))
            .passed("no_route", "shanghai")
            .admitted(V4 + 4),
        row("options to the hub", SH, into(SH, &udp4("10.10.10.1", "192.168.0.1").ip_options(&[1])))
            .passed("to_hub", "shanghai"),
    ]);
    table(&gateway(), &rows)
}

#[test]
fn fragments_are_forwarded() -> anyhow::Result<()> {
    let middle4 = Packet::ipv4("10.10.10.1", "10.10.20.1").protocol(UDP).payload(104);
    let middle6 = Packet::ipv6("fd00:10::1", "fd00:20::1").protocol(UDP).payload(104);
    table(
        &gateway(),
        &[
            forwarded("the first fragment", &v4().fragment(0, true, 9), V4),
            forwarded("a middle fragment", &middle4.clone().fragment(13, true, 9), 124),
            forwarded("the last fragment", &middle4.clone().fragment(26, false, 9), 124),
            forwarded("the last possible offset", &middle4.fragment(8191, false, 9), 124),
            forwarded("the first fragment, IPv6", &v6().fragment(0, true, 9), V6 + 8),
            forwarded("a middle fragment, IPv6", &middle6.clone().fragment(13, true, 9), 152),
            forwarded("the last fragment, IPv6", &middle6.fragment(26, false, 9), 152),
            forwarded("an atomic fragment, IPv6", &v6().fragment(0, false, 9), V6 + 8),
        ],
    )
}

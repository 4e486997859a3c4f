//! The kernel's protocol of a frame: too many nested tags, contradictory numbers, unknown numbers.

use hub_tests::packet::{
    Packet,
    number::{ARP, IPV4, IPV6, SERVICE_VLAN, VLAN},
};
use hub_userspace::datapath::Hook;

use crate::{
    gateway::{HZ, RAW, SH, TUN, V4, V6, VPC, gateway, into, out_of, own, peer, udp4, udp6},
    row::row,
    table,
};

/// A vendor-specific tag from before IEEE 802.1ad, which the kernel does not support.
const OLD_SERVICE_VLAN: u16 = 0x9100;
/// The largest control word without a VLAN: only a priority.
const PRIORITY: u16 = 7 << 13;

fn tagged(packet: &Packet, tags: &[(u16, u16)]) -> Packet {
    tags.iter().fold(packet.clone(), |packet, (protocol, control)| packet.tag(*protocol, *control))
}

/// The kernel removes any number of tags of VLAN 0, and so would see another packet than the program.
#[test]
fn frames_with_more_than_two_tags_are_dropped() -> anyhow::Result<()> {
    let many: [(&str, &[(u16, u16)]); 8] = [
        ("three tags", &[(VLAN, 5), (VLAN, 6), (VLAN, 7)]),
        ("three priority tags", &[(VLAN, 0); 3]),
        ("three priority tags with a priority", &[(VLAN, PRIORITY); 3]),
        ("three tags of 802.1ad", &[(SERVICE_VLAN, 0); 3]),
        ("802.1Q around 802.1ad around 802.1Q", &[(VLAN, 0), (SERVICE_VLAN, 0), (VLAN, 0)]),
        ("four tags", &[(VLAN, 0); 4]),
        ("ten tags", &[(VLAN, 0); 10]),
        // The third tag's VLAN is ignored.
        ("three tags, the third of a VLAN with an interface", &[(VLAN, 0), (VLAN, 0), (VLAN, 100)]),
    ];
    let pairs = [
        ("from a site", "10.10.10.1", "10.10.20.1"),
        ("spoofed", "10.10.20.77", "192.168.0.10"),
        ("from outside", "8.8.8.8", "10.10.20.1"),
        ("to the hub", "10.10.10.1", "192.168.0.1"),
        ("to a group", "10.10.10.1", "224.0.0.1"),
    ];
    let pairs6 = [
        ("from a site, IPv6", "fd00:10::1", "fd00:20::1"),
        ("spoofed, IPv6", "fd00:20::77", "fd00:c::10"),
        ("to a group, IPv6", "fd00:10::1", "ff02::1"),
    ];
    let mut packets = pairs.map(|(name, source, destination)| (name, udp4(source, destination))).to_vec();
    packets.extend(pairs6.map(|(name, source, destination)| (name, udp6(source, destination))));
    let mut rows = Vec::new();
    for (tags_name, tags) in many {
        for (name, packet) in &packets {
            let name = format!("{tags_name}, {name}");
            rows.push(row(name, SH, into(SH, &tagged(packet, tags))).dropped("too_many_tags", "shanghai"));
        }
        let from_vpc = udp4("192.168.0.10", "10.10.20.1");
        rows.push(
            row(format!("{tags_name}, from the VPC"), VPC, into(VPC, &tagged(&from_vpc, tags)))
                .dropped("too_many_tags", "vpc"),
        );
        let arp = tagged(&Packet::other(ARP).payload(28).ethernet(peer(SH), own(SH)), tags);
        rows.push(row(format!("{tags_name} around ARP"), SH, arp.build()).dropped("too_many_tags", "shanghai"));
        let elsewhere = tagged(&udp4("10.10.10.1", "10.10.20.1"), tags);
        let to = |mac: [u8; 6]| elsewhere.clone().ethernet(peer(SH), mac).build();
        rows.push(
            row(format!("{tags_name}, to another MAC"), SH, to([2, 0, 0, 0, 0, 99]))
                .dropped("too_many_tags", "shanghai"),
        );
        rows.push(
            row(format!("{tags_name}, to the broadcast MAC"), SH, to([0xff; 6])).dropped("too_many_tags", "shanghai"),
        );
    }
    // The protocol number of the third tag is enough.
    for length in 14 + 8..14 + 12 {
        let cut = tagged(&udp4("10.10.10.1", "10.10.20.1"), &[(VLAN, 0); 3]).cut(length);
        let name = format!("three tags, cut off after {length} bytes");
        rows.push(row(name, SH, into(SH, &cut)).dropped("too_many_tags", "shanghai"));
    }
    table(&gateway(), &rows)
}

#[test]
fn tag_unknown_to_kernel_is_not_stripped() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (family, packet) in [("IPv4", udp4("10.10.10.1", "10.10.20.1")), ("IPv6", udp6("fd00:10::1", "fd00:20::1"))] {
        let tags: [(&str, &[(u16, u16)]); 4] = [
            ("outside", &[(OLD_SERVICE_VLAN, 5)]),
            ("around 802.1Q", &[(OLD_SERVICE_VLAN, 5), (VLAN, 6)]),
            ("inside 802.1Q", &[(VLAN, 5), (OLD_SERVICE_VLAN, 6)]),
            ("inside two", &[(VLAN, 5), (VLAN, 6), (OLD_SERVICE_VLAN, 7)]),
        ];
        for (name, tags) in tags {
            let frame = into(SH, &tagged(&packet, tags));
            rows.push(row(format!("0x9100 {name}, {family}"), SH, frame).passed("not_ip", "shanghai"));
        }
    }
    table(&gateway(), &rows)
}

/// The kernel uses `skb->protocol`, which a tunnel's sender chooses, whatever is in the packet.
#[test]
fn raw_ip_packet_must_match_skb_protocol() -> anyhow::Result<()> {
    let v4 = udp4("10.10.50.1", "10.10.20.1");
    let v6 = udp6("fd00:50::1", "fd00:20::1");
    let forwarded = |name, packet: &Packet, number, bytes| {
        row(name, RAW, packet.build()).taken_for(number).forwarded(
            "kunming",
            ("hangzhou", HZ),
            out_of(HZ, packet, 63),
            bytes,
        )
    };
    let mismatch = |name, packet: &Packet, number| {
        row(name, RAW, packet.build()).taken_for(number).dropped("protocol_mismatch", "kunming")
    };
    let mut rows = vec![
        forwarded("IPv4", &v4, IPV4, V4),
        forwarded("IPv6", &v6, IPV6, V6),
        mismatch("IPv4, taken for IPv6", &v4, IPV6),
        mismatch("IPv6, taken for IPv4", &v6, IPV4),
        mismatch("version 5, taken for IPv4", &v4.clone().version(5), IPV4),
        mismatch("version 0, taken for IPv6", &v6.clone().version(0), IPV6),
        mismatch("an Ethernet frame, taken for IPv4", &v4.clone().ethernet(peer(RAW), peer(RAW)), IPV4),
        mismatch("a spoofed source, taken for IPv6", &udp4("10.10.20.77", "192.168.0.10"), IPV6),
        mismatch("to a group, taken for IPv4", &udp6("fd00:50::1", "ff02::1"), IPV4),
        mismatch("malformed, taken for IPv6", &v4.clone().ip_length(0), IPV6),
        row("taken for IPv6, on a shared interface", TUN, udp4("10.10.41.1", "10.10.20.1").build())
            .taken_for(IPV6)
            .dropped("protocol_mismatch", "nobody"),
        row("malformed, taken for what it is", RAW, v4.clone().ip_length(0).build())
            .taken_for(IPV4)
            .dropped("malformed", "kunming"),
    ];
    for number in [ARP, VLAN, SERVICE_VLAN, OLD_SERVICE_VLAN, 0x88b5, 0x86de, 0x0801, 0x6558] {
        let packets = [
            ("IPv4", v4.clone()),
            ("IPv6", v6.clone()),
            ("version 5", v4.clone().version(5)),
            ("malformed", v6.clone().ip_length(2000)),
            ("spoofed", udp4("10.10.20.77", "192.168.0.10")),
            ("to a group", udp6("fd00:50::1", "ff02::1")),
            ("cut off after 20 bytes", v6.clone().cut(20)),
        ];
        for (name, packet) in packets {
            let name = format!("{name}, taken for {number:#06x}");
            rows.push(row(name, RAW, packet.build()).taken_for(number).passed("not_ip", "kunming"));
        }
    }
    for length in [1, 14, 19] {
        let cut = v4.clone().cut(length).build();
        let name = format!("cut off after {length} bytes, taken for ARP");
        rows.push(row(name, RAW, cut).taken_for(ARP).dropped("malformed", "kunming"));
    }
    rows.push(row("no version, taken for nothing", RAW, vec![0; 40]).passed("not_ip", "kunming").only_at(Hook::Tc));
    table(&gateway(), &rows)
}

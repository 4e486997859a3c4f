//! Link headers: Ethernet and raw IP, tags, and frames for other hosts.

use hub_tests::packet::{
    Packet,
    number::{SERVICE_VLAN, VLAN},
};

use crate::{
    gateway::{ETH, HZ, NB, RAW, SH, SH_100, TUN, V4, V6, VPC, gateway, host, into, out_of, own, peer, udp4, udp6},
    row::{Expected, row},
    table,
};

#[test]
fn packets_are_forwarded_between_all_attachment_kinds() -> anyhow::Result<()> {
    let sh_hz = udp4("10.10.10.1", "10.10.20.1");
    let sh_hz6 = udp6("fd00:10::1", "fd00:20::1");
    let sh_nb = udp4("10.10.10.1", "10.10.30.1");
    let sh_nb6 = udp6("fd00:10::1", "fd00:30::1");
    let sh_raw = udp4("10.10.10.1", "10.10.50.1");
    let sh_raw6 = udp6("fd00:10::1", "fd00:50::1");
    let raw_hz = udp4("10.10.50.1", "10.10.20.1");
    let raw_hz6 = udp6("fd00:50::1", "fd00:20::1");
    let raw_tun = udp4("10.10.50.1", "10.10.40.1");
    let hairpin = udp4("10.10.10.1", "10.10.10.2");
    let ethernet = |packet: &Packet, interface, to| packet.clone().ttl(63).ethernet(own(interface), to).build();
    let raw = |packet: &Packet| packet.clone().ttl(63).build();
    table(
        &gateway(),
        &[
            row("Ethernet to Ethernet", SH, into(SH, &sh_hz)).forwarded(
                "shanghai",
                ("hangzhou", HZ),
                out_of(HZ, &sh_hz, 63),
                V4,
            ),
            row("the same, IPv6", SH, into(SH, &sh_hz6)).forwarded(
                "shanghai",
                ("hangzhou", HZ),
                out_of(HZ, &sh_hz6, 63),
                V6,
            ),
            row("to a host on the link", SH, into(SH, &sh_nb)).forwarded(
                "shanghai",
                ("ningbo", NB),
                ethernet(&sh_nb, NB, host(NB, 1)),
                V4,
            ),
            row("the same, IPv6", SH, into(SH, &sh_nb6)).forwarded(
                "shanghai",
                ("ningbo", NB),
                ethernet(&sh_nb6, NB, host(NB, 2)),
                V6,
            ),
            row("Ethernet to raw IP", SH, into(SH, &sh_raw)).forwarded("shanghai", ("kunming", RAW), raw(&sh_raw), V4),
            row("the same, IPv6", SH, into(SH, &sh_raw6)).forwarded("shanghai", ("kunming", RAW), raw(&sh_raw6), V6),
            row("raw IP to Ethernet", RAW, raw_hz.build()).forwarded(
                "kunming",
                ("hangzhou", HZ),
                out_of(HZ, &raw_hz, 63),
                V4,
            ),
            row("the same, IPv6", RAW, raw_hz6.build()).forwarded(
                "kunming",
                ("hangzhou", HZ),
                out_of(HZ, &raw_hz6, 63),
                V6,
            ),
            row("raw IP to raw IP", RAW, raw_tun.build()).forwarded("kunming", ("beijing", TUN), raw(&raw_tun), V4),
            row("back to where it came from", SH, into(SH, &hairpin)).forwarded(
                "shanghai",
                ("shanghai", SH),
                out_of(SH, &hairpin, 63),
                V4,
            ),
        ],
    )
}

#[test]
fn packets_are_forwarded_to_and_from_vpc() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let cases = [
        ("a host of the VPC", udp4("10.10.10.1", "192.168.0.10"), 10, V4),
        ("a host of the VPC, IPv6", udp6("fd00:10::1", "fd00:c::10"), 11, V6),
        ("behind a router of the VPC", udp4("10.10.10.1", "192.168.8.77"), 254, V4),
        ("behind a router of the VPC, IPv6", udp6("fd00:10::1", "fd00:c:0:8::77"), 253, V6),
    ];
    for (name, packet, number, bytes) in cases {
        let out = packet.clone().ttl(63).ethernet(own(VPC), host(VPC, number)).build();
        rows.push(row(name, SH, into(SH, &packet)).forwarded("shanghai", ("vpc", VPC), out, bytes));
    }
    let from = udp4("192.168.77.1", "10.10.20.1");
    let from6 = udp6("fd00:c::10", "fd00:20::1");
    rows.push(row("from the VPC", VPC, into(VPC, &from)).forwarded("vpc", ("hangzhou", HZ), out_of(HZ, &from, 63), V4));
    rows.push(row("the same, IPv6", VPC, into(VPC, &from6)).forwarded(
        "vpc",
        ("hangzhou", HZ),
        out_of(HZ, &from6, 63),
        V6,
    ));
    let inside = udp4("192.168.0.10", "192.168.8.1");
    let out = inside.clone().ttl(63).ethernet(own(VPC), host(VPC, 254)).build();
    rows.push(row("from the VPC to the VPC", VPC, into(VPC, &inside)).forwarded("vpc", ("vpc", VPC), out, V4));
    table(&gateway(), &rows)
}

#[test]
fn frames_with_up_to_two_tags_are_forwarded_untagged() -> anyhow::Result<()> {
    let priority = 7 << 13;
    let forwarded: [(&str, &[(u16, u16)]); 10] = [
        ("one 802.1Q tag", &[(VLAN, 5)]),
        ("one 802.1ad tag", &[(SERVICE_VLAN, 5)]),
        ("a priority tag, VLAN 0", &[(VLAN, priority)]),
        ("a priority tag, 802.1ad", &[(SERVICE_VLAN, priority)]),
        ("a tag with priority and drop bit", &[(VLAN, priority | 1 << 12 | 0x005)]),
        ("the largest VLAN", &[(VLAN, 4094)]),
        ("802.1ad around 802.1Q", &[(SERVICE_VLAN, 5), (VLAN, 6)]),
        ("two 802.1Q tags", &[(VLAN, 5), (VLAN, 5)]),
        ("a VLAN with an interface, but inside another", &[(VLAN, 5), (VLAN, 100)]),
        ("two priority tags", &[(VLAN, 0), (VLAN, priority)]),
    ];
    let other_vlan: [(&str, &[(u16, u16)]); 5] = [
        ("a VLAN with an interface of its own", &[(VLAN, 100)]),
        ("the same, with priority", &[(VLAN, priority | 0x064)]),
        ("the same, around another tag", &[(VLAN, 100), (VLAN, 6)]),
        // Like the kernel: a tag of VLAN 0 is removed and the next one decides (__netif_receive_skb_core()).
        ("the same, behind a priority tag", &[(VLAN, priority), (VLAN, 100)]),
        ("the same, around three more", &[(VLAN, 100), (VLAN, 6), (VLAN, 7), (VLAN, 8)]),
    ];
    let tagged = |packet: &Packet, tags: &[(u16, u16)]| {
        tags.iter().fold(packet.clone(), |packet, (protocol, control)| packet.tag(*protocol, *control))
    };
    let mut rows: Vec<Expected> = Vec::new();
    for (packet, bytes) in [(udp4("10.10.10.1", "10.10.20.1"), V4), (udp6("fd00:10::1", "fd00:20::1"), V6)] {
        for (name, tags) in forwarded {
            let frame = into(SH, &tagged(&packet, tags));
            rows.push(row(name, SH, frame).forwarded("shanghai", ("hangzhou", HZ), out_of(HZ, &packet, 63), bytes));
        }
        for (name, tags) in other_vlan {
            rows.push(row(name, SH, into(SH, &tagged(&packet, tags))).passed("other_vlan", "shanghai"));
        }
    }
    let elsewhere = udp4("10.10.20.1", "10.10.10.1");
    let frame = into(HZ, &elsewhere.clone().vlan(100));
    rows.push(row("a VLAN that has an interface above another device", HZ, frame).forwarded(
        "hangzhou",
        ("shanghai", SH),
        out_of(SH, &elsewhere, 63),
        V4,
    ));
    table(&gateway(), &rows)
}

#[test]
fn frames_for_others_are_passed_to_kernel() -> anyhow::Result<()> {
    let v4 = udp4("10.10.10.1", "10.10.20.1");
    let v6 = udp6("fd00:10::1", "fd00:20::1");
    let to = |packet: &Packet, mac: [u8; 6]| packet.clone().ethernet(peer(SH), mac).build();
    let arp = Packet::arp_request(peer(SH), "169.254.0.2", "169.254.0.1").build();
    let arp_reply = Packet::other(0x0806).payload(28).ethernet(peer(SH), own(SH)).build();
    table(
        &gateway(),
        &[
            row("not an attachment", ETH, v4.clone().ethernet(peer(ETH), own(ETH)).build())
                .passed("not_attached", "nobody"),
            row("not an attachment, raw bytes", ETH, vec![0; 14]).passed("not_attached", "nobody"),
            row("above an attachment, but none", SH_100, into(SH_100, &v4)).passed("not_attached", "nobody"),
            row("an ARP request", SH, arp).passed("not_ip", "shanghai"),
            row("an ARP reply", SH, arp_reply).passed("not_ip", "shanghai"),
            row(
                "a tagged ARP reply",
                SH,
                Packet::other(0x0806).payload(28).ethernet(peer(SH), own(SH)).vlan(5).build(),
            )
            .passed("not_ip", "shanghai"),
            row("LLDP", SH, Packet::other(0x88cc).payload(46).ethernet(peer(SH), [1, 0x80, 0xc2, 0, 0, 0xe]).build())
                .passed("not_ip", "shanghai"),
            row("an 802.3 length instead of an EtherType", SH, to(&v4.clone().ether_type(46), own(SH)))
                .passed("not_ip", "shanghai"),
            row("a bare header of an unknown EtherType", SH, Packet::other(0x88b5).ethernet(peer(SH), own(SH)).build())
                .passed("not_ip", "shanghai"),
            row("to the broadcast MAC", SH, to(&v4, [0xff; 6])).dropped("malformed", "shanghai"),
            row("to a multicast MAC", SH, to(&v6, [0x33, 0x33, 0, 0, 0, 1])).dropped("malformed", "shanghai"),
            row("to another MAC", SH, to(&v4, [2, 0, 0, 0, 0, 99])).passed("other_host", "shanghai"),
            row("to another MAC, IPv6", SH, to(&v6, [2, 0, 0, 0, 0, 99])).passed("other_host", "shanghai"),
            row("to the MAC of another of our interfaces", SH, to(&v4, own(HZ))).passed("other_host", "shanghai"),
            row("to another MAC, truncated", SH, to(&v4.clone().cut(30), [2, 0, 0, 0, 0, 99]))
                .passed("other_host", "shanghai"),
            row("from the VPC, to another MAC", VPC, to(&v4, own(SH))).passed("other_host", "vpc"),
        ],
    )
}

#[test]
fn unroutable_addresses_are_not_forwarded() -> anyhow::Result<()> {
    use crate::gateway::WIDE;
    let good4 = "10.10.20.1";
    let good6 = "fd00:20::1";
    let mut rows = Vec::new();
    // A link-local IPv6 source is a neighbour's; the others are martians, as the link has no address.
    let from = |address: &str, device, frame: Vec<u8>| {
        let row = row(format!("from {address}"), device, frame);
        let link_local = address.starts_with("fe80:") || address.starts_with("febf:");
        if link_local { row.dropped("selector_mismatch", "macau") } else { row.dropped("spoofed_source", "macau") }
    };
    let cases4 = [
        ("multicast", "224.0.0.1"),
        ("multicast", "239.255.255.255"),
        ("multicast", "255.255.255.255"),
        ("link_local", "169.254.0.0"),
        ("link_local", "169.254.255.255"),
        // RFC 1812 section 5.3.7.
        ("link_local", "127.0.0.1"),
        ("link_local", "127.255.255.255"),
        ("link_local", "0.0.0.0"),
        ("link_local", "0.255.255.255"),
    ];
    for (reason, address) in cases4 {
        let name = format!("to {address}: {reason}");
        rows.push(row(name, WIDE, into(WIDE, &udp4(good4, address))).dropped("spoofed_source", "macau"));
        rows.push(from(address, WIDE, into(WIDE, &udp4(address, good4))));
    }
    let cases6 = [
        ("multicast", "ff02::1"),
        ("multicast", "ff0e::1"),
        ("link_local", "fe80::1"),
        ("link_local", "febf:ffff::1"),
        // RFC 4291 sections 2.5.2 and 2.5.3: must never be forwarded.
        ("link_local", "::1"),
        ("link_local", "::"),
    ];
    for (reason, address) in cases6 {
        let from_neighbour = row(format!("to {address}"), WIDE, into(WIDE, &udp6("fe80::77", address)));
        // The hub has none of the others as its address.
        rows.push(match reason {
            "multicast" => from_neighbour.passed(reason, "macau"),
            _ => from_neighbour.dropped("selector_mismatch", "macau"),
        });
        let name = format!("to {address}, from elsewhere");
        rows.push(row(name, WIDE, into(WIDE, &udp6(good6, address))).dropped("spoofed_source", "macau"));
        rows.push(from(address, WIDE, into(WIDE, &udp6(address, good6))));
    }
    // Just outside these ranges.
    for address in
        ["1.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "223.255.255.255", "240.0.0.1"]
    {
        let packet = udp4(address, good4);
        let out = out_of(HZ, &packet, 63);
        rows.push(row(format!("from {address}"), WIDE, into(WIDE, &packet)).forwarded(
            "macau",
            ("hangzhou", HZ),
            out,
            V4,
        ));
    }
    for address in ["::2", "fe7f::1", "fec0::1", "feff::1"] {
        let packet = udp6(address, good6);
        let out = out_of(HZ, &packet, 63);
        rows.push(row(format!("from {address}"), WIDE, into(WIDE, &packet)).forwarded(
            "macau",
            ("hangzhou", HZ),
            out,
            V6,
        ));
    }
    // A missing link header does not limit the packet's destination.
    rows.push(row("multicast, raw IP", RAW, udp4("0.0.0.0", "224.0.0.5").build()).passed("multicast", "kunming"));
    rows.push(
        row("limited broadcast from nobody", TUN, udp4("0.0.0.0", "255.255.255.255").build())
            .passed("multicast", "nobody"),
    );
    table(&gateway(), &rows)
}

/// XDP cannot send to Kunming's interface: it passes the packets uncounted, like all that it passes, and TC decides
/// again.
#[test]
fn packets_to_tc_only_interface_are_passed_by_xdp() -> anyhow::Result<()> {
    let mut world = gateway();
    for interface in world.interfaces.iter_mut().filter(|interface| interface.index == RAW) {
        interface.tc_only = true;
    }
    let raw = |packet: &Packet| packet.clone().ttl(63).build();
    let to_raw = udp4("10.10.10.1", "10.10.50.1");
    let to_hz = udp4("10.10.10.1", "10.10.20.1");
    let from_raw = udp4("10.10.50.1", "10.10.20.1");
    let ended = |packet: &Packet| into(SH, &packet.clone().ttl(1));
    table(
        &world,
        &[
            row("to raw IP", SH, into(SH, &to_raw)).forwarded("shanghai", ("kunming", RAW), raw(&to_raw), V4),
            row("to Ethernet", SH, into(SH, &to_hz)).forwarded(
                "shanghai",
                ("hangzhou", HZ),
                out_of(HZ, &to_hz, 63),
                V4,
            ),
            row("from raw IP", RAW, from_raw.build()).forwarded(
                "kunming",
                ("hangzhou", HZ),
                out_of(HZ, &from_raw, 63),
                V4,
            ),
            row("to raw IP, TTL 1", SH, ended(&to_raw))
                .passed("ttl_expired", "shanghai")
                .admitted(V4)
                .toward("kunming"),
            row("to Ethernet, TTL 1", SH, ended(&to_hz))
                .passed("ttl_expired", "shanghai")
                .admitted(V4)
                .toward("hangzhou"),
            row("spoofed", SH, into(SH, &udp4("10.10.20.1", "10.10.50.1"))).dropped("spoofed_source", "shanghai"),
        ],
    )
}

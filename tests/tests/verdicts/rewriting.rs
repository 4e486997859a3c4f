//! TTL, MTU, checksum, and bytes behind the packet in its frame.

use hub_tests::packet::{Packet, internet_checksum};

use crate::{
    gateway::{HZ, RAW, SH, SH_MTU, V4, V6, gateway, into, out_of, own, peer, udp4, udp6},
    row::{Expected, row},
    table,
};

fn v4() -> Packet {
    udp4("10.10.10.1", "10.10.20.1")
}

fn v6() -> Packet {
    udp6("fd00:10::1", "fd00:20::1")
}

#[test]
fn ttl_is_decremented_or_expires() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (packet, bytes) in [(v4(), V4), (v6(), V6)] {
        for ttl in 0..=1 {
            let frame = into(SH, &packet.clone().ttl(ttl));
            rows.push(
                row(format!("TTL {ttl}"), SH, frame)
                    .passed("ttl_expired", "shanghai")
                    .admitted(bytes)
                    .toward("hangzhou"),
            );
        }
        for ttl in 2..=255 {
            let frame = into(SH, &packet.clone().ttl(ttl));
            let out = out_of(HZ, &packet, ttl - 1);
            rows.push(row(format!("TTL {ttl}"), SH, frame).forwarded("shanghai", ("hangzhou", HZ), out, bytes));
        }
    }
    table(&gateway(), &rows)
}

#[test]
fn packet_of_mtu_size_is_forwarded_and_larger_passed() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let empty = [
        Packet::ipv4("10.10.20.1", "10.10.10.1").udp(1, 2),
        Packet::ipv6("fd00:20::1", "fd00:10::1").udp(1, 2),
        Packet::ipv4("10.10.20.1", "10.10.10.1").tcp(1, 2).dont_fragment(),
    ];
    for packet in empty {
        let of = |bytes: usize| packet.clone().payload(bytes - packet.build().len());
        let full = of(SH_MTU);
        let bytes = SH_MTU as u64;
        let to = ("shanghai", SH);
        let out = out_of(SH, &full, 63);
        rows.push(row("the MTU", HZ, into(HZ, &full)).forwarded("hangzhou", to, out.clone(), bytes));
        rows.push(row("the MTU, tagged", HZ, into(HZ, &full.clone().qinq(5, 6))).forwarded(
            "hangzhou",
            to,
            out.clone(),
            bytes,
        ));
        rows.push(row("the MTU, with a trailer", HZ, into(HZ, &full.padding(9))).forwarded("hangzhou", to, out, bytes));
        let above = of(SH_MTU + 1);
        let too_big =
            |row: crate::row::Row, bytes| row.passed("too_big", "hangzhou").admitted(bytes).toward("shanghai");
        rows.push(too_big(row("one above the MTU", HZ, into(HZ, &above)), bytes + 1));
        rows.push(too_big(row("one above the MTU, tagged", HZ, into(HZ, &above.clone().vlan(5))), bytes + 1));
        // Like a router: an expired packet is not fragmented.
        let expired = into(HZ, &above.ttl(1));
        rows.push(
            row("too big and expired", HZ, expired)
                .passed("ttl_expired", "hangzhou")
                .admitted(bytes + 1)
                .toward("shanghai"),
        );
    }
    let options = Packet::ipv4("10.10.20.1", "10.10.10.1").ip_options(&[1]).udp(1, 2).payload(SH_MTU);
    let bytes = SH_MTU as u64 + 32;
    let expected = row("too big, with options", HZ, into(HZ, &options)).passed("too_big", "hangzhou");
    rows.push(expected.admitted(bytes).toward("shanghai"));
    table(&gateway(), &rows)
}

#[test]
fn checksum_edge_values_are_updated_and_wrong_ones_stay_wrong() -> anyhow::Result<()> {
    let mut rows: Vec<Expected> = Vec::new();
    let forwarded = |name: String, packet: &Packet, out: Vec<u8>| {
        row(name, SH, into(SH, packet)).forwarded("shanghai", ("hangzhou", HZ), out, V4)
    };
    for target in [0x0000, 0x0001, 0x00ff, 0x0100, 0xfdff, 0xfe00, 0xfeff, 0xff00, 0xfffe_u16] {
        for ttl in [2, 64, 255] {
            // One identification in 65536 gives the header the required sum.
            let packet = (0..=u16::MAX)
                .map(|id| v4().ttl(ttl).identification(id))
                .find(|packet| {
                    let header = &packet.build()[..20];
                    header[10..12] == target.to_be_bytes() && internet_checksum(&[header]) == 0
                })
                .expect("identifications reach every checksum");
            let out = out_of(HZ, &packet, ttl - 1);
            rows.push(forwarded(format!("checksum {target:#06x}, TTL {ttl}"), &packet, out));
        }
    }
    // Every increment is 0x0100 in one's complement, RFC 1624.
    let wrong =
        [(0x1234, 0x1334), (0x0000, 0x0100), (0xfe00, 0xff00), (0xfeff, 0x0000), (0xff00, 0x0001), (0xffff, 0x0100)];
    for (before, after) in wrong {
        let packet = v4().ip_checksum(before);
        let out = out_of(HZ, &v4().ip_checksum(after), 63);
        rows.push(forwarded(format!("wrong checksum {before:#06x}"), &packet, out).broken());
    }
    table(&gateway(), &rows)
}

#[test]
fn trailer_is_removed_except_padding_of_minimal_frame() -> anyhow::Result<()> {
    // 28 bytes, 46 with 18 bytes of padding: a frame of 60 bytes, the shortest without its check sequence.
    let small = Packet::ipv4("10.10.10.1", "10.10.20.1").udp(1, 2);
    let small6 = Packet::ipv6("fd00:10::1", "fd00:20::1").protocol(59);
    let to_raw = Packet::ipv4("10.10.10.1", "10.10.50.1").udp(1, 2);
    let from_raw = Packet::ipv4("10.10.50.1", "10.10.20.1").udp(1, 2);
    let mut rows = Vec::new();
    let keeps = |name: &str, packet: &Packet, padding: usize, bytes| {
        let packet = packet.clone().padding(padding);
        row(name, SH, into(SH, &packet)).forwarded("shanghai", ("hangzhou", HZ), out_of(HZ, &packet, 63), bytes)
    };
    let loses = |name: &str, packet: &Packet, padding: usize, bytes| {
        let frame = into(SH, &packet.clone().padding(padding));
        row(name, SH, frame).forwarded("shanghai", ("hangzhou", HZ), out_of(HZ, packet, 63), bytes)
    };
    for padding in 0..=18 {
        rows.push(keeps("padding of a minimal frame", &small, padding, 28));
    }
    for padding in [19, 20, 100, 1000] {
        rows.push(loses("more than a minimal frame", &small, padding, 28));
    }
    rows.push(keeps("padding of a minimal frame, IPv6", &small6, 6, 40));
    rows.push(loses("more than a minimal frame, IPv6", &small6, 7, 40));
    rows.push(loses("one byte after a longer packet", &v4(), 1, V4));
    rows.push(loses("a long trailer", &v4(), 1400, V4));
    rows.push(loses("a trailer after IPv6", &v6(), 3, V6));

    // Tags do not count: 60 bytes with a tag carry 42, and the device pads the sent frame again.
    let tagged = into(SH, &small.clone().padding(14).vlan(5));
    assert_eq!(tagged.len(), 60);
    let out = out_of(HZ, &small.clone().padding(14), 63);
    rows.push(row("a minimal frame with a tag", SH, tagged).forwarded("shanghai", ("hangzhou", HZ), out, 28));

    let raw = to_raw.clone().ttl(63).build();
    for padding in [0, 1, 18, 19, 500] {
        let frame = into(SH, &to_raw.clone().padding(padding));
        let expected = row(format!("{padding} bytes of padding, to raw IP"), SH, frame);
        rows.push(expected.forwarded("shanghai", ("kunming", RAW), raw.clone(), 28));
        let frame = from_raw.clone().padding(padding).build();
        let padded = from_raw.clone().padding(if padding <= 18 { padding } else { 0 });
        let out = padded.ttl(63).ethernet(own(HZ), peer(HZ)).build();
        let expected = row(format!("{padding} bytes of padding, from raw IP"), RAW, frame);
        rows.push(expected.forwarded("kunming", ("hangzhou", HZ), out, 28));
    }
    table(&gateway(), &rows)
}

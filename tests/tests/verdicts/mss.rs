//! The MSS clamp: which SYNs, which option, to which limit.

use hub_tests::{
    model::{MssClamp, World},
    packet::{
        Packet,
        number::{ACK, RST, SYN},
    },
};
use hub_userspace::datapath::Hook;

use crate::{
    gateway::{DEVICES, HZ, RAW, SH, SH_MTU, VPC, gateway, host, into, out_of, own, peer},
    hub::connection,
    program::with_program,
    row::{Expected, Row, agree, check, row},
    table,
};

/// Limits by the MTU of [`SH`], and by the others' of 1500: IPv4, IPv6.
const SMALL: [u16; 2] = [1360, 1340];
const LARGE: [u16; 2] = [1460, 1440];

/// SYNs from "shanghai" to "hangzhou", of both families.
fn syns() -> [Packet; 2] {
    [Packet::ipv4("10.10.10.1", "10.10.20.1").tcp(1000, 443), Packet::ipv6("fd00:10::1", "fd00:20::1").tcp(1000, 443)]
}

fn bytes(packet: &Packet) -> u64 {
    packet.clone().build().len() as u64
}

/// A packet from "shanghai" that leaves to "hangzhou" as another.
fn becomes(name: impl Into<String>, packet: &Packet, out: &Packet) -> Expected {
    let frame = out_of(HZ, out, 63);
    row(name, SH, into(SH, packet)).forwarded("shanghai", ("hangzhou", HZ), frame, bytes(out))
}

fn unchanged(name: impl Into<String>, packet: &Packet) -> Expected {
    becomes(name, packet, packet)
}

#[test]
fn mss_is_lowered_to_smaller_limit_of_both_sides() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut add = |name: &str, from: (&str, u32), to: (&str, u32), addresses: [[&str; 2]; 2], limits: [u16; 2]| {
        let packets = [
            Packet::ipv4(addresses[0][0], addresses[0][1]).tcp(1000, 443),
            Packet::ipv6(addresses[1][0], addresses[1][1]).tcp(1000, 443),
        ];
        for (packet, limit) in packets.iter().zip(limits) {
            for announced in [0, 1, limit - 1, limit, limit + 1, limit + 256, 8960, u16::MAX] {
                let (frame, out) = (packet.clone().mss(announced), packet.clone().mss(announced.min(limit)).ttl(63));
                let frame = if from.1 == RAW { frame.build() } else { into(from.1, &frame) };
                let out = match to.1 {
                    RAW => out.build(),
                    VPC => {
                        let number = if out.build()[0] >> 4 == 4 { 10 } else { 11 };
                        out.ethernet(own(VPC), host(VPC, number)).build()
                    }
                    other => out.ethernet(own(other), peer(other)).build(),
                };
                let row = row(format!("{name}, MSS {announced}"), from.1, frame);
                rows.push(row.forwarded(from.0, to, out, bytes(packet) + 4));
            }
        }
    };
    let (shanghai, hangzhou, kunming, vpc) = (("shanghai", SH), ("hangzhou", HZ), ("kunming", RAW), ("vpc", VPC));
    add("small to large", shanghai, hangzhou, [["10.10.10.1", "10.10.20.1"], ["fd00:10::1", "fd00:20::1"]], SMALL);
    add("large to small", hangzhou, shanghai, [["10.10.20.1", "10.10.10.1"], ["fd00:20::1", "fd00:10::1"]], SMALL);
    add("to raw IP", hangzhou, kunming, [["10.10.20.1", "10.10.50.1"], ["fd00:20::1", "fd00:50::1"]], LARGE);
    add("from raw IP", kunming, shanghai, [["10.10.50.1", "10.10.10.1"], ["fd00:50::1", "fd00:10::1"]], SMALL);
    add("to the VPC", hangzhou, vpc, [["10.10.20.1", "192.168.0.10"], ["fd00:20::1", "fd00:c::10"]], LARGE);
    add("from the VPC", vpc, shanghai, [["192.168.0.10", "10.10.10.1"], ["fd00:c::10", "fd00:10::1"]], SMALL);
    table(&gateway(), &rows)
}

#[test]
fn mss_is_found_among_other_options() -> anyhow::Result<()> {
    let options: [(&str, &[u8], &[u8]); 8] = [
        ("alone", &[], &[]),
        ("after a no-operation, at an odd offset", &[1], &[]),
        ("after two", &[1, 1], &[1, 3, 3, 7]),
        ("as Linux sends it", &[], &[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7]),
        ("last", &[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7], &[]),
        ("after an unknown option of odd length", &[254, 5, 2, 4, 9], &[0]),
        ("after the longest option", &[[253, 36].as_slice(), &[2; 34]].concat(), &[]),
        ("after the most options", &[1; 36], &[]),
    ];
    let mut rows = Vec::new();
    for (packet, [small, large]) in syns().into_iter().zip([[SMALL[0], LARGE[0]], [SMALL[1], LARGE[1]]]) {
        for (name, before, after) in options {
            let with = |mss: u16| packet.clone().tcp_options(before).mss(mss).tcp_options(after);
            rows.push(becomes(name, &with(large), &with(small)));
            rows.push(unchanged(format!("{name}, within the limit"), &with(small)));
            rows.push(becomes(format!("{name}, tagged"), &with(large).qinq(5, 6), &with(small)));
            rows.push(becomes(format!("{name}, with a trailer"), &with(large).padding(70), &with(small)));
            let data = |packet: Packet| packet.payload(77);
            rows.push(becomes(format!("{name}, with data"), &data(with(large)), &data(with(small))));
        }
    }
    table(&gateway(), &rows)
}

#[test]
fn mss_of_syn_ack_is_lowered_and_of_other_segments_not() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (packet, small) in syns().into_iter().zip(SMALL) {
        for flags in [SYN, SYN | ACK, SYN | 0xc0] {
            let with = |mss| packet.clone().flags(flags).mss(mss);
            rows.push(becomes(format!("flags {flags:#x}"), &with(9000), &with(small)));
        }
        for flags in [0, ACK, RST, RST | ACK, 0xfd] {
            rows.push(unchanged(format!("flags {flags:#x}"), &packet.clone().flags(flags).mss(9000)));
        }
        rows.push(unchanged("SYN without options", &packet));
        rows.push(unchanged("SYN without an MSS", &packet.clone().tcp_options(&[1, 3, 3, 7])));
        // A receiver takes the first or the last; nobody sends two.
        let two = |mss| packet.clone().mss(mss).mss(8000);
        rows.push(becomes("the first of two", &two(9000), &two(small)));
    }
    // The byte with the flags of TCP, in UDP's payload.
    let udp = Packet::ipv4("10.10.10.1", "10.10.20.1").udp(1000, 443);
    rows.push(unchanged("UDP", &udp.bytes([0, 0, 0, 0, 0x60, 2, 0, 0, 0, 0, 0, 0, 2, 4, 0x23, 0x28])));
    table(&gateway(), &rows)
}

#[test]
fn mss_behind_wrong_lengths_is_unchanged() -> anyhow::Result<()> {
    let options: [(&str, &[u8]); 9] = [
        ("an option of length 0", &[3, 0, 2, 4, 35, 40]),
        ("an option of length 1", &[3, 1, 2, 4, 35, 40]),
        ("an option longer than the header", &[3, 255, 2, 4, 35, 40]),
        ("an MSS of length 0", &[2, 0, 35, 40]),
        ("an MSS of length 3", &[2, 3, 35, 40]),
        ("an MSS of length 5", &[2, 5, 35, 40, 0]),
        ("an MSS that is cut off", &[1, 1, 1, 1, 1, 2, 4, 35]),
        ("only a kind at the end", &[1, 1, 1, 2]),
        ("the end before it", &[0, 2, 4, 35, 40]),
    ];
    let mut rows = Vec::new();
    for packet in syns() {
        for (name, options) in options {
            rows.push(unchanged(name, &packet.clone().tcp_options(options)));
        }
        // The data offset: below the header, and above the packet.
        for words in [0, 4, 5, 7, 15] {
            rows.push(unchanged(format!("data offset {words}"), &packet.clone().mss(9000).data_offset(words)));
        }
        // A header that the IP length cuts off; the frame has more bytes.
        let length = bytes(&packet.clone().mss(9000));
        let is_v4 = packet.clone().build()[0] >> 4 == 4;
        for cut in [1, 4, 11] {
            let ip_length = length - cut - if is_v4 { 0 } else { 40 };
            let short = packet.clone().mss(9000).ip_length(u16::try_from(ip_length).expect("a small number"));
            let frame = into(SH, &short);
            let mut out = out_of(HZ, &short, 63);
            // Behind a short packet, a minimal frame keeps its padding.
            if frame.len() - 14 > 46 {
                out.truncate(out.len() - usize::try_from(cut).expect("a small number"));
            }
            let row = row(format!("cut off by {cut}"), SH, frame);
            rows.push(row.forwarded("shanghai", ("hangzhou", HZ), out, length - cut).broken());
        }
    }
    table(&gateway(), &rows)
}

#[test]
fn mss_in_fragment_or_behind_extension_header_is_unchanged() -> anyhow::Result<()> {
    let [v4, v6] = syns().map(|packet| packet.mss(9000).payload(40));
    let mut rows = Vec::new();
    for packet in [&v4, &v6] {
        for (offset, more) in [(0, true), (1, true), (1, false), (100, false)] {
            rows.push(unchanged(format!("fragment {offset} {more}"), &packet.clone().fragment(offset, more, 7)));
        }
    }
    rows.push(unchanged("destination options", &v6.clone().destination_options(&[1, 2, 0, 0])));
    rows.push(becomes(
        "don't fragment",
        &v4.clone().dont_fragment(),
        &syns()[0].clone().mss(SMALL[0]).payload(40).dont_fragment(),
    ));
    table(&gateway(), &rows)
}

#[test]
fn wrong_checksum_of_syn_stays_wrong_by_same_amount() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    // 1500 - 1360 = 140 and 1500 - 1340 = 160: the checksum grows by as much as the MSS is lowered. At an odd offset
    // the bytes swap: 0xdc05 - 0x5005 = 0x8c00, and 0xdc05 - 0x3c05 = 0xa000.
    for (number, packet) in syns().into_iter().enumerate() {
        for (before, [even, odd]) in [
            (0x1234, [[0x12c0, 0x12d4][number], [0x9e34, 0xb234][number]]),
            (0x0000, [[0x008c, 0x00a0][number], [0x8c00, 0xa000][number]]),
            (0xffff, [[0x008c, 0x00a0][number], [0x8c00, 0xa000][number]]),
            (0xff80, [[0x000d, 0x0021][number], [0x8b81, 0x9f81][number]]),
        ] {
            let with = |mss, checksum| packet.clone().mss(mss).transport_checksum(checksum);
            rows.push(becomes("even", &with(1500, before), &with(SMALL[number], even)).broken());
            let with = |mss, checksum| packet.clone().tcp_options(&[1]).mss(mss).transport_checksum(checksum);
            rows.push(becomes("odd", &with(1500, before), &with(SMALL[number], odd)).broken());
        }
    }
    table(&gateway(), &rows)
}

/// Right checksums at both ends of their range.
#[test]
fn checksum_edge_values_of_syn_stay_right() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (packet, small) in syns().into_iter().zip(SMALL) {
        for before in [&[][..], &[1]] {
            for target in [0x0000, 0x0001, 0xff73, 0xff74, 0xfffe_u16] {
                let with = |mss, sequence| packet.clone().sequence(sequence, 0).tcp_options(before).mss(mss);
                let is_it = |packet: &Packet| {
                    let bytes = packet.clone().build();
                    let tcp = if bytes[0] >> 4 == 4 { 20 } else { 40 };
                    bytes[tcp + 16..tcp + 18] == target.to_be_bytes()
                };
                let sequence = (0..=u32::from(u16::MAX)).find(|sequence| is_it(&with(1500, *sequence)));
                let sequence = sequence.expect("sequence numbers reach every checksum");
                rows.push(becomes(format!("{target:#06x}"), &with(1500, sequence), &with(small, sequence)));
            }
        }
    }
    table(&gateway(), &rows)
}

/// SYNs of both families whose MSS is lowered to these limits.
fn lowered_to(limits: [u16; 2]) -> Vec<Expected> {
    let lowered = |(packet, limit): (Packet, u16)| {
        becomes(format!("to {limit}"), &packet.clone().mss(9000), &packet.clone().mss(limit))
    };
    syns().into_iter().zip(limits).map(lowered).collect()
}

/// Checks several tables, each with a world of its own.
fn tables(tables: &[(World, Vec<Expected>)]) -> anyhow::Result<()> {
    for (world, rows) in tables {
        agree(world, rows)?;
    }
    with_program(&DEVICES, |_, program| tables.iter().try_for_each(|(world, rows)| check(program, world, rows)))
}

#[test]
fn off_and_bytes_replace_limit_of_connection() -> anyhow::Result<()> {
    use MssClamp::{Auto, Bytes, Off};
    let cases = [
        (Off, Auto, LARGE),
        (Auto, Off, SMALL),
        (Off, Off, [9000; 2]),
        (Bytes(1200), Off, [1200; 2]),
        (Off, Bytes(1200), [1200; 2]),
        (Bytes(1200), Bytes(1100), [1100; 2]),
        (Bytes(1100), Bytes(1200), [1100; 2]),
        (Bytes(8000), Auto, LARGE),
        (Bytes(8000), Off, [8000; 2]),
        (Bytes(88), Auto, [88; 2]),
    ];
    tables(&cases.map(|(shanghai, hangzhou, limits)| {
        let mut world = gateway();
        connection(&mut world, "shanghai").mss_clamp = shanghai;
        connection(&mut world, "hangzhou").mss_clamp = hangzhou;
        (world, lowered_to(limits))
    }))
}

#[test]
fn limit_follows_mtu_and_is_at_least_88() -> anyhow::Result<()> {
    let cases = [(1280, [1240, 1220]), (576, [536, 516]), (129, [89, 88]), (68, [88, 88]), (0, [88, 88])];
    tables(&cases.map(|(mtu, limits)| {
        let mut world = gateway();
        let interface = world.interfaces.iter_mut().find(|interface| interface.index == SH).expect("it is there");
        interface.mtu = mtu;
        (world, lowered_to(limits))
    }))
}

/// The kernel forwards what TC passes. XDP leaves the MSS to TC, which runs behind it.
#[test]
fn mss_of_passed_syn_is_lowered_by_tc() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let to_silent =
        [Packet::ipv4("10.10.10.1", "10.10.80.1").tcp(1, 2), Packet::ipv6("fd00:10::1", "fd00:80::1").tcp(1, 2)];
    let passed = |name: &str, packet: &Packet, clamped: &Packet, reason, next_hop: &str| {
        let row: Row = row(name, SH, into(SH, packet));
        row.passed(reason, "shanghai").admitted(bytes(packet)).toward(next_hop).changed(into(SH, clamped))
    };
    for ((packet, silent), small) in syns().into_iter().zip(to_silent).zip(SMALL) {
        let with = |packet: &Packet, mss| packet.clone().tcp_options(&[1]).mss(mss);
        let expiring = packet.clone().ttl(1);
        rows.push(passed("expired", &with(&expiring, 9000), &with(&expiring, small), "ttl_expired", "hangzhou"));
        rows.push(passed("no neighbour", &with(&silent, 9000), &with(&silent, small), "no_neighbour", "lhasa"));
        let long = packet.clone().payload(SH_MTU + 101);
        rows.push(passed("too big", &with(&long, 9000), &with(&long, small), "too_big", "hangzhou"));
        let low = row("nothing to lower", SH, into(SH, &with(&expiring, 88)));
        rows.push(low.passed("ttl_expired", "shanghai").admitted(bytes(&with(&packet, 88))).toward("hangzhou"));
    }
    let [v4, v6] = syns();
    let options = [
        (v4.clone().ip_options(&[1; 40]).mss(9000), v4.ip_options(&[1; 40]).mss(SMALL[0])),
        (v6.clone().hop_by_hop(&[1, 2, 0, 0]).mss(9000), v6.hop_by_hop(&[1, 2, 0, 0]).mss(9000)),
    ];
    for (packet, clamped) in options {
        rows.push(becomes("IP options", &packet, &clamped).only_at(Hook::Tc));
        let at_xdp = row("IP options", SH, into(SH, &packet)).passed("ip_options", "shanghai");
        let at_xdp = at_xdp.admitted(bytes(&packet)).toward("hangzhou").only_at(Hook::Xdp);
        let frame = into(SH, &clamped);
        rows.push(if clamped.build() == packet.build() { at_xdp } else { at_xdp.changed(frame) });
    }
    table(&gateway(), &rows)
}

/// A SYN that is not forwarded stays as it is.
#[test]
fn mss_of_syn_without_next_hop_is_unchanged() -> anyhow::Result<()> {
    let syn = |destination| Packet::ipv4("10.10.10.1", destination).tcp(1, 2).mss(9000);
    let length = bytes(&syn("10.10.20.1"));
    let passed = |destination, reason| row(destination, SH, into(SH, &syn(destination))).passed(reason, "shanghai");
    let rows = [
        passed("192.168.0.1", "to_hub"),
        passed("172.16.0.1", "no_route").admitted(length),
        passed("10.10.60.1", "next_hop_down").admitted(length).toward("dalian"),
    ];
    table(&gateway(), &rows)
}

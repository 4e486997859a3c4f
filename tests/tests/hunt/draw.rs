//! Random packets, each determined by the seed and its id.

use std::net::IpAddr;

use hub_tests::packet::Packet;
use hub_tests::packet::number::{ACK, IPV4, IPV6, RST, SERVICE_VLAN, SYN, VLAN};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::addresses::{destination, of_learned, source};
use crate::arena::Variant;
use crate::dual::Tunnel;
use crate::places::{ALL, Place, TRANSLATED};
use crate::reading::WCCP;
use crate::wires::{Macs, informed, payload, raw, tcp_mark};

/// The share of packets that enter at each place, in percent.
const ENTRIES: [(Place, u32); 8] = [
    (Place::Alpha, 25),
    (Place::Beta, 10),
    (Place::Gamma, 12),
    (Place::Delta, 15),
    (Place::Epsilon, 15),
    (Place::Vpc, 11),
    (Place::Mgmt, 6),
    (Place::Wan, 6),
];
const OLD_VLAN: u16 = 0x9100;
/// An Ethernet frame in GRE (RFC 7637 section 3.2).
const BRIDGED: u16 = 0x6558;
/// `EtherType`s other than IP, and some of IP where the bytes are not.
const ODD: [u16; 11] = [0x0806, 0x8847, 0x8864, 0x88e5, 0x88f7, IPV4, IPV6, 0x0600, 3, WCCP, BRIDGED];

/// The packet with this id: its place of entry and its bytes.
/// With translation two sites mostly send from addresses of their own, and else from those that the hub knows.
pub fn draw(seed: u64, id: u64, macs: &[Option<Macs>], variant: Variant) -> (Place, Vec<u8>) {
    let mut rng = SmallRng::seed_from_u64(seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut at = rng.random_range(0..100);
    let entry = ENTRIES.iter().find(|(_, share)| {
        let found = at < *share;
        at = at.saturating_sub(*share);
        found
    });
    let entry = entry.expect("the shares are 100 together").0;
    let packet = network(&mut rng, entry, id, variant);
    let bytes = link(&mut rng, entry, packet, macs);
    (entry, bytes)
}

pub fn percent(rng: &mut SmallRng, times: u32) -> bool {
    rng.random_range(0..100) < times
}

pub fn one_of<T: Copy>(rng: &mut SmallRng, choices: &[T]) -> T {
    *choices.choose(rng).expect("something to choose from")
}

struct Drawn {
    packet: Packet,
    v6: bool,
}

fn network(rng: &mut SmallRng, entry: Place, id: u64, variant: Variant) -> Drawn {
    let v6 = percent(rng, 40);
    let (mut from, mut to) = (source(rng, entry, v6), destination(rng, entry, v6));
    if variant.learned {
        let announces = matches!(entry, Place::Delta | Place::Epsilon);
        if percent(rng, if announces { 40 } else { 5 }) {
            from = of_learned(rng, v6);
        }
        if percent(rng, 25) {
            to = of_learned(rng, v6);
        }
    }
    if let Some(dual) = variant.dual.filter(|_| !v6) {
        // Both ends of the second tunnel's link.
        let [hub, far] = dual.site.tunnel_link4(Tunnel::Second).1;
        if percent(rng, 3) {
            from = one_of(rng, &[hub, far]).into();
        }
        if percent(rng, 3) {
            to = one_of(rng, &[hub, far]).into();
        }
    }
    if variant.translated && TRANSLATED.contains(&entry) && percent(rng, 90) {
        from = entry.own(from);
    }
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Packet::ipv4(from, to),
        (IpAddr::V6(from), IpAddr::V6(to)) => Packet::ipv6(from, to),
        _ => unreachable!("both are of the family asked for"),
    };
    if percent(rng, 25) {
        packet = packet.ttl(one_of(rng, &[0, 1, 1, 1, 2, 255]));
    }
    let length = match rng.random_range(0..10) {
        0..5 => rng.random_range(16..64),
        5..8 => rng.random_range(64..600),
        _ => rng.random_range(1100..1900),
    };
    packet = transport(rng, packet, id, length);
    if percent(rng, 30) {
        packet = if v6 { unusual6(rng, packet) } else { unusual4(rng, packet) };
    }
    if percent(rng, 3) {
        let length = rng.random_range(0..2000);
        packet = packet.ip_length(length);
    }
    if percent(rng, 2) {
        let version = rng.random_range(0..16);
        packet = packet.version(version);
    }
    if percent(rng, 5) {
        let padding = rng.random_range(1..40);
        packet = packet.padding(padding);
    }
    Drawn { packet, v6 }
}

fn transport(rng: &mut SmallRng, packet: Packet, id: u64, length: usize) -> Packet {
    let ports: (u16, u16) = (rng.random_range(1024..=u16::MAX), one_of(rng, &[7, 53, 179, 443, 500, 4500, 33_434]));
    let mut packet = match rng.random_range(0..20) {
        0..8 => packet.udp(ports.0, ports.1).bytes(payload(id, length)),
        8..10 => packet.tcp(ports.0, ports.1).flags(RST).bytes(payload(id, length)),
        10..13 => {
            // A reset in answer to a segment repeats these numbers, whatever they are.
            let (flags, carried) = one_of(rng, &[(SYN, true), (SYN, false), (ACK, true), (ACK, false)]);
            let used = if carried { u32::try_from(length.max(16)).expect("a packet's length") } else { 0 };
            let first = tcp_mark(id).wrapping_sub(used + u32::from(flags == SYN));
            let body = if carried { payload(id, length) } else { Vec::new() };
            packet.tcp(ports.0, ports.1).flags(flags).sequence(first, tcp_mark(id)).bytes(body)
        }
        13..16 => packet.echo(ports.0, ports.1).bytes(payload(id, length)),
        16 => {
            let (kind, code) = (rng.random_range(0..=255), rng.random_range(0..16));
            packet.icmp(kind, code, [0; 4]).bytes(payload(id, length))
        }
        _ => {
            let protocol = one_of(rng, &[0, 2, 4, 41, 43, 44, 47, 50, 51, 59, 60, 88, 89, 103, 132, 135, 136, 253]);
            packet.protocol(protocol).bytes(payload(id, length))
        }
    };
    if percent(rng, 3) {
        let checksum = rng.random();
        packet = packet.transport_checksum(checksum);
    }
    packet
}

fn unusual4(rng: &mut SmallRng, packet: Packet) -> Packet {
    match rng.random_range(0..8) {
        0 => packet.dont_fragment(),
        1 => packet.fragment(0, true, rng.random_range(0..=u16::MAX.into())),
        2 => {
            let (offset, more) = (rng.random_range(1..0x1fff), percent(rng, 50));
            packet.fragment(offset, more, rng.random_range(0..=u16::MAX.into()))
        }
        3 => packet.header_words(rng.random_range(0..16)),
        4 => packet.ip_checksum(rng.random()),
        5 => {
            // A source route (loose 131, strict 137) through any address.
            let entry = one_of(rng, &ALL);
            let IpAddr::V4(hop) = destination(rng, entry, false) else { unreachable!("of IPv4") };
            let mut option = vec![one_of(rng, &[131, 137]), 7, 4];
            option.extend(hop.octets());
            packet.ip_options(&option)
        }
        6 => packet.ip_options(&[148, 4, 0, 0]),
        _ => {
            let options =
                one_of(rng, &[&[1, 1, 1, 1][..], &[7, 7, 4, 0, 0, 0, 0], &[68, 4, 5, 0], &[130, 3, 9], &[255]]);
            packet.ip_options(options)
        }
    }
}

fn unusual6(rng: &mut SmallRng, mut packet: Packet) -> Packet {
    for _ in 0..rng.random_range(1..4) {
        packet = match rng.random_range(0..8) {
            0 | 1 => {
                packet.hop_by_hop(one_of(rng, &[&[5, 2, 0, 0][..], &[1, 2, 0, 0], &[0xc2, 4, 0, 1, 0, 0], &[0x80, 0]]))
            }
            2 => packet.destination_options(one_of(rng, &[&[1, 2, 0, 0][..], &[0x80, 0], &[4, 1, 1]])),
            3 => {
                let entry = one_of(rng, &ALL);
                let IpAddr::V6(hop) = destination(rng, entry, true) else { unreachable!("of IPv6") };
                let mut data = vec![0; 4];
                data.extend(hop.octets());
                packet.routing(one_of(rng, &[0, 2, 3, 4]), 1, &data)
            }
            4 => packet.fragment(0, percent(rng, 50), rng.random()),
            5 => {
                let (offset, more) = (rng.random_range(1..0x1fff), percent(rng, 50));
                packet.fragment(offset, more, rng.random())
            }
            6 => packet.extension(one_of(rng, &[51, 135, 139, 140, 253]), &[0; 6]),
            _ => packet.flow_label(rng.random_range(0..1 << 20)),
        };
    }
    packet
}

/// The link header, or its substitute on a raw link.
fn link(rng: &mut SmallRng, entry: Place, drawn: Drawn, macs: &[Option<Macs>]) -> Vec<u8> {
    let Drawn { mut packet, v6 } = drawn;
    let ether_type = if v6 { IPV6 } else { IPV4 };
    let tags = tags(rng);
    let odd_type = percent(rng, 4).then(|| if percent(rng, 20) { rng.random() } else { one_of(rng, &ODD) });
    let cut = percent(rng, 2).then(|| rng.random_range(14..100));
    let Some([hub, far]) = macs[entry as usize] else {
        let bytes = packet.build();
        if entry == Place::Delta {
            return bytes;
        }
        let mut types = tags.iter().map(|(protocol, _)| *protocol).chain([odd_type.unwrap_or(ether_type)]);
        let first = types.next().expect("one at least");
        let mut inside = Vec::new();
        for ((_, control), next) in tags.iter().zip(types) {
            inside.extend(control.to_be_bytes());
            inside.extend(next.to_be_bytes());
        }
        match odd_type {
            Some(BRIDGED) if percent(rng, 70) => {
                inside.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
                inside.extend(ether_type.to_be_bytes());
            }
            Some(WCCP) if percent(rng, 50) => inside.extend([0; 4]),
            _ => {}
        }
        inside.extend(bytes);
        return if tags.is_empty() && odd_type.is_none() { raw(entry, inside) } else { informed(first, &inside) };
    };
    let to = match rng.random_range(0..100) {
        0..3 => [0xff; 6],
        3 => [1, 0, 0x5e, 0, 0, 1],
        4..6 => [2, 0, 0, 0, 99, 99],
        _ => hub,
    };
    let from = if percent(rng, 5) { one_of(rng, &[hub, [2, 0, 0, 0, 98, 98], [0; 6]]) } else { far };
    packet = packet.ethernet(from, to);
    for (protocol, control) in tags {
        packet = packet.tag(protocol, control);
    }
    if let Some(odd) = odd_type {
        packet = packet.ether_type(odd);
    }
    if let Some(length) = cut {
        packet = packet.cut(length);
    }
    packet.build()
}

/// Protocol and control information of each, outermost first.
fn tags(rng: &mut SmallRng) -> Vec<(u16, u16)> {
    let count = match rng.random_range(0..100) {
        0..60 => 0,
        60..68 => 1,
        68..76 => 2,
        _ => rng.random_range(3..=10),
    };
    let with_id = percent(rng, 15);
    let mut tag = || {
        let protocol =
            one_of(rng, &[VLAN, VLAN, VLAN, VLAN, VLAN, VLAN, SERVICE_VLAN, SERVICE_VLAN, SERVICE_VLAN, OLD_VLAN]);
        // Priorities that look like the version of an IP header.
        let control = one_of(rng, &[0, 0, 0, 0x6000, 0x4000, 0xe000]);
        (protocol, if with_id { control | one_of(rng, &[0, 1, 0x500, 0xfff]) } else { control })
    };
    (0..count).map(|_| tag()).collect()
}

#[test]
fn packet_is_determined_by_seed_and_id() {
    let macs = ALL.map(|place| place.is_ethernet().then_some([[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]]));
    let translated = Variant { translated: true, learned: true, ..Variant::PLAIN };
    for id in 1..2000 {
        assert_eq!(draw(7, id, &macs, translated), draw(7, id, &macs, translated));
    }
    assert_ne!(draw(7, 1, &macs, Variant::PLAIN), draw(8, 1, &macs, Variant::PLAIN));
}

//! Translation: a site's own addresses become those at the hub, and back.

use hub_tests::{lab::Mac, model::World, packet::Packet};
use hub_userspace::datapath::Hook;

use crate::{
    gateway::{DEVICES, HZ, NB, RAW, SH, SH_MTU, VPC, gateway, host, into, nets, out_of, own},
    hub::connection,
    program::with_program,
    row::{Expected, agree, check, row},
    table,
};

/// "shanghai", "hangzhou" and "kunming" have the same LANs.
const LAN: &str = "192.168.1.0/24";
const LAN_V6: &str = "fd99:1::/64";

fn equal_sites() -> World {
    let mut world = gateway();
    for (name, more, hub) in [
        ("shanghai", "10.10.100.0/24 fd00:100::/64", ["10.10.10.0/24", "fd00:10::/64"]),
        ("hangzhou", "10.10.100.0/24 fd00:100::/64", ["10.10.20.0/24", "fd00:20::/64"]),
        ("kunming", "", ["10.10.50.0/24", "fd00:50::/64"]),
    ] {
        let connection = connection(&mut world, name);
        connection.remotes = nets(&format!("{LAN} {LAN_V6} {more}"));
        let hub = hub.map(|net| net.parse().expect(net));
        connection.translations = [LAN, LAN_V6].map(|net| net.parse().expect(net)).into_iter().zip(hub).collect();
    }
    world
}

fn bytes(packet: &Packet) -> u64 {
    packet.clone().build().len() as u64
}

/// What makes a packet of two addresses.
type Kind = fn(&str, &str) -> Packet;

fn ip(source: &str, destination: &str) -> Packet {
    if source.contains(':') { Packet::ipv6(source, destination) } else { Packet::ipv4(source, destination) }
}

/// Packets whose checksums cover the addresses, or do not.
const KINDS: [(&str, Kind); 11] = [
    ("UDP", |from, to| ip(from, to).udp(1000, 2000).payload(100)),
    ("UDP, odd", |from, to| ip(from, to).udp(1000, 2000).payload(33)),
    ("TCP", |from, to| ip(from, to).tcp(1000, 2000).payload(77)),
    ("a SYN", |from, to| ip(from, to).tcp(1000, 2000).flags(2).mss(500)),
    ("an echo", |from, to| ip(from, to).echo(1, 1).payload(56)),
    ("SCTP", |from, to| ip(from, to).protocol(132).bytes([7; 40])),
    ("ESP", |from, to| ip(from, to).protocol(50).bytes([7; 40])),
    ("nothing", |from, to| ip(from, to).protocol(59)),
    ("of a full MTU", |from, to| ip(from, to).udp(1, 2).payload(SH_MTU - 48)),
    ("the first fragment", |from, to| ip(from, to).udp(1, 2).payload(64).fragment(0, true, 9)),
    ("another fragment", |from, to| ip(from, to).protocol(17).payload(64).fragment(8, false, 9)),
];

/// A packet through the hub: at each side as its addresses are there.
struct Way {
    from: (&'static str, u32),
    to: (&'static str, u32),
    own: [&'static str; 2],
    at_hub: [&'static str; 2],
    at_far_end: [&'static str; 2],
}

const WAYS: [Way; 8] = [
    Way {
        from: ("shanghai", SH),
        to: ("hangzhou", HZ),
        own: ["192.168.1.5", "10.10.20.7"],
        at_hub: ["10.10.10.5", "10.10.20.7"],
        at_far_end: ["10.10.10.5", "192.168.1.7"],
    },
    Way {
        from: ("shanghai", SH),
        to: ("hangzhou", HZ),
        own: ["fd99:1::5", "fd00:20::ff:7"],
        at_hub: ["fd00:10::5", "fd00:20::ff:7"],
        at_far_end: ["fd00:10::5", "fd99:1::ff:7"],
    },
    Way {
        from: ("shanghai", SH),
        to: ("vpc", VPC),
        own: ["192.168.1.255", "192.168.0.10"],
        at_hub: ["10.10.10.255", "192.168.0.10"],
        at_far_end: ["10.10.10.255", "192.168.0.10"],
    },
    Way {
        from: ("vpc", VPC),
        to: ("hangzhou", HZ),
        own: ["192.168.0.10", "10.10.20.255"],
        at_hub: ["192.168.0.10", "10.10.20.255"],
        at_far_end: ["192.168.0.10", "192.168.1.255"],
    },
    Way {
        from: ("vpc", VPC),
        to: ("hangzhou", HZ),
        own: ["fd00:c::10", "fd00:20::1"],
        at_hub: ["fd00:c::10", "fd00:20::1"],
        at_far_end: ["fd00:c::10", "fd99:1::1"],
    },
    Way {
        from: ("kunming", RAW),
        to: ("shanghai", SH),
        own: ["192.168.1.0", "10.10.10.9"],
        at_hub: ["10.10.50.0", "10.10.10.9"],
        at_far_end: ["10.10.50.0", "192.168.1.9"],
    },
    Way {
        from: ("shanghai", SH),
        to: ("kunming", RAW),
        own: ["fd99:1::ffff", "fd00:50::1"],
        at_hub: ["fd00:10::ffff", "fd00:50::1"],
        at_far_end: ["fd00:10::ffff", "fd99:1::1"],
    },
    // To a site without translations.
    Way {
        from: ("hangzhou", HZ),
        to: ("ningbo", NB),
        own: ["192.168.1.5", "10.10.30.1"],
        at_hub: ["10.10.20.5", "10.10.30.1"],
        at_far_end: ["10.10.20.5", "10.10.30.1"],
    },
];

impl Way {
    fn arriving(&self, packet: &Packet) -> Vec<u8> {
        if self.from.1 == RAW { packet.build() } else { into(self.from.1, packet) }
    }

    fn leaving(&self, packet: &Packet) -> Vec<u8> {
        let packet = packet.clone().ttl(63);
        match self.to.1 {
            RAW => packet.build(),
            VPC => {
                packet.clone().ethernet(own(VPC), host(VPC, if packet.build()[0] >> 4 == 4 { 10 } else { 11 })).build()
            }
            NB => packet.ethernet(own(NB), host(NB, 1)).build(),
            other => out_of(other, &packet, 63),
        }
    }

    /// XDP translates both addresses, TC the source.
    fn rows(&self, name: &str, [own, at_hub, at_far_end]: [&Packet; 3]) -> [Expected; 2] {
        let forwarded = |out: &Packet| {
            let row = row(format!("{name}, {:?} to {:?}", self.own, self.from), self.from.1, self.arriving(own));
            row.forwarded(self.from.0, self.to, self.leaving(out), bytes(own))
        };
        [forwarded(at_far_end).only_at(Hook::Xdp), forwarded(at_hub).only_at(Hook::Tc)]
    }
}

/// Builds the same packet for each part of a way.
fn each(way: &Way, kind: Kind) -> [Packet; 3] {
    [way.own, way.at_hub, way.at_far_end].map(|[source, destination]| kind(source, destination))
}

#[test]
fn addresses_are_translated_and_checksums_stay_right() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for way in &WAYS {
        for (name, kind) in KINDS {
            rows.extend(way.rows(name, each(way, kind).each_ref()));
        }
    }
    table(&equal_sites(), &rows)
}

/// An error about a packet, of which it contains some bytes.
fn error(source: &str, destination: &str, about: &Packet, length: usize) -> Packet {
    let mut inside = about.build();
    inside.truncate(length);
    let kind = if source.contains(':') { 1 } else { 3 };
    ip(source, destination).icmp(kind, 1, [0; 4]).bytes(inside)
}

#[test]
fn packet_inside_error_is_translated() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for way in WAYS.iter().filter(|way| way.from.1 != RAW && way.to.1 != RAW) {
        for (name, kind) in KINDS {
            // Of an opposite packet, which has only whole headers of IP.
            for length in [40, 48, 70, 600] {
                let [own, at_hub, at_far_end] = [way.own, way.at_hub, way.at_far_end]
                    .map(|[source, destination]| error(source, destination, &kind(destination, source), length));
                let header = if way.own[0].contains(':') { 40 } else { 20 };
                if length > header {
                    rows.extend(way.rows(&format!("{name}, {length} bytes"), [&own, &at_hub, &at_far_end]));
                }
            }
        }
    }
    table(&equal_sites(), &rows)
}

#[test]
fn source_that_is_another_one_at_the_hub_is_spoofed() -> anyhow::Result<()> {
    let spoofed = |source: &str, destination: &str| {
        let packet = ip(source, destination).udp(1, 2).payload(10);
        row(format!("{source} to {destination}"), SH, into(SH, &packet)).dropped("spoofed_source", "shanghai")
    };
    let mut world = equal_sites();
    // Even where the selectors have both.
    connection(&mut world, "shanghai").remotes.extend(nets("10.10.10.0/24 fd00:10::/64"));
    let v4 = ["10.10.20.7", "192.168.0.10", "192.168.0.1", "10.77.0.1", "224.0.0.1", "169.254.0.1"];
    let v6 = ["fd00:20::7", "fd00:c::10", "fd00:c::1", "fd00:77::1", "ff02::1", "fe80::1"];
    let rows: Vec<Expected> =
        v4.iter().map(|to| spoofed("10.10.10.5", to)).chain(v6.iter().map(|to| spoofed("fd00:10::5", to))).collect();
    table(&world, &rows)
}

#[test]
fn selectors_hold_the_own_addresses_of_both_sites() -> anyhow::Result<()> {
    let mut world = equal_sites();
    // A half of each LAN.
    connection(&mut world, "shanghai").remotes = nets("192.168.1.0/25");
    connection(&mut world, "hangzhou").remotes = nets("192.168.1.128/25");
    let sent = |own: &str, to: &str| (ip(own, to).udp(1, 2).payload(20), own.to_owned() + " to " + to);
    let refused = |own, to, reason| {
        let (packet, name) = sent(own, to);
        row(name, SH, into(SH, &packet)).dropped(reason, "shanghai")
    };
    table(
        &world,
        &[
            refused("192.168.1.200", "10.10.20.200", "spoofed_source"),
            refused("192.168.2.5", "10.10.20.200", "spoofed_source"),
            refused("192.168.1.5", "10.10.20.7", "selector_mismatch").admitted(48),
        ],
    )
}

#[test]
fn kernel_gets_the_source_as_the_hub_knows_it() -> anyhow::Result<()> {
    let passed = |from: &str, to: &str, at_hub: &str, reason: &'static str, ttl: u8| {
        let packet = |source: &str| ip(source, to).udp(1, 2).payload(20).ttl(ttl);
        let bytes = bytes(&packet(from));
        let row = row(format!("{from} to {to}, {reason}"), SH, into(SH, &packet(from))).passed(reason, "shanghai");
        let row = row.changed(into(SH, &packet(at_hub)));
        if reason == "to_hub" { row } else { row.admitted(bytes) }
    };
    table(
        &equal_sites(),
        &[
            passed("192.168.1.5", "192.168.0.1", "10.10.10.5", "to_hub", 64),
            passed("fd99:1::5", "fd00:c::1", "fd00:10::5", "to_hub", 1),
            passed("192.168.1.5", "10.10.20.7", "10.10.10.5", "ttl_expired", 1).toward("hangzhou"),
            passed("fd99:1::5", "fd00:20::7", "fd00:10::5", "ttl_expired", 1).toward("hangzhou"),
            passed("192.168.1.5", "10.77.0.1", "10.10.10.5", "no_route", 64),
            passed("192.168.1.5", "192.168.0.11", "10.10.10.5", "no_neighbour", 64).toward("vpc"),
        ],
    )
}

#[test]
fn translations_follow_changes() -> anyhow::Result<()> {
    let before = equal_sites();
    let mut after = equal_sites();
    connection(&mut after, "hangzhou").translations[0].0 = "172.20.0.0/24".parse()?;
    connection(&mut after, "hangzhou").remotes.extend(nets("172.20.0.0/24"));
    let way = &WAYS[0];
    let new = Way { at_far_end: ["10.10.10.5", "172.20.0.7"], ..WAYS[0] };
    let kind = KINDS[0].1;
    let rows = |way: &Way| way.rows("UDP", each(way, kind).each_ref());
    let none = gateway();
    with_program(&DEVICES, |_, program| {
        for (world, rows) in [(&before, rows(way)), (&after, rows(&new)), (&before, rows(way))] {
            agree(world, &rows)?;
            check(program, world, &rows)?;
        }
        agree(&none, &[])?;
        check(program, &none, &[])
    })
}

/// The program at egress, for packets that TC, the kernel and the hub itself send.
#[test]
fn destination_is_translated_at_the_egress() -> anyhow::Result<()> {
    let world = equal_sites();
    with_program(&DEVICES, |_, program| {
        program.install(&world)?;
        for way in WAYS.iter().filter(|way| !matches!(way.to.1, RAW)) {
            for (name, kind) in KINDS {
                let [_, at_hub, at_far_end] = each(way, kind);
                let (sent, expected) = (way.leaving(&at_hub), way.leaving(&at_far_end));
                anyhow::ensure!(
                    program.leave(way.to.1, &sent)? == expected,
                    "{name}, {:?} to {:?}",
                    way.at_hub,
                    way.to
                );
                // An error about a packet of the opposite direction.
                let [_, at_hub, at_far_end] = [way.own, way.at_hub, way.at_far_end]
                    .map(|[source, destination]| error(source, destination, &kind(destination, source), 500));
                let (sent, expected) = (way.leaving(&at_hub), way.leaving(&at_far_end));
                anyhow::ensure!(program.leave(way.to.1, &sent)? == expected, "error about {name}, {:?}", way.at_hub);
            }
        }
        // Neither ARP nor an interface without translations.
        let arp = Packet::arp_request(Mac(own(HZ)), "10.10.20.1", "10.10.20.7").build();
        anyhow::ensure!(program.leave(HZ, &arp)? == arp);
        let other = out_of(VPC, &KINDS[0].1("10.10.10.5", "10.10.20.7"), 63);
        anyhow::ensure!(program.leave(VPC, &other)? == other);
        Ok(())
    })
}

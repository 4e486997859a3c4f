//! Random packets, mostly derived from the world's prefixes, addresses and interfaces.

use std::net::IpAddr;

use hub_tests::{
    model::{Interface, Route, World, connection_of},
    packet::{
        Packet,
        number::{ACK, DESTINATION_OPTIONS, HOP_BY_HOP, SYN},
    },
};
use ipnet::IpNet;
use rand::{
    Rng, RngCore,
    rngs::SmallRng,
    seq::{IndexedRandom, IteratorRandom},
};

use crate::{
    agreements::{MESSAGES, port},
    draw::{address_around, one_of, percent},
    icmp_errors,
    program::Arrival,
};

/// The shortest frame that a test run accepts.
const SHORTEST: usize = 14;

/// `EtherTypes` that a tunnel's sender may have chosen.
const TAKEN_FOR: [u16; 8] = [0x0800, 0x0800, 0x86dd, 0x86dd, 0x8100, 0x88a8, 0x0806, 0x88b5];

/// Group MAC addresses: broadcast, and those of IPv4 and IPv6 multicast (RFC 1112, RFC 2464).
const GROUPS: [[u8; 6]; 4] = [[0xff; 6], [1, 0, 0x5e, 0, 0, 5], [0x33, 0x33, 0, 0, 0, 1], [1, 0x80, 0xc2, 0, 0, 0xe]];

/// A random arriving frame.
pub fn draw(rng: &mut SmallRng, world: &World) -> Arrival {
    let interface = ingress(rng, world);
    let source = source(rng, world, interface);
    let v6 = !source.is_ipv4();
    let destination = destination(rng, world, interface, source);
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Packet::ipv4(source, destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Packet::ipv6(source, destination),
        _ => unreachable!("the destination is of the source's family"),
    };
    packet = network(rng, packet, v6);
    let mut at_hub = world.connections.iter().flat_map(|site| &site.translations).map(|(_, hub)| hub);
    let errors = if at_hub.any(|hub| hub.contains(&destination)) { 40 } else { 12 };
    let error = percent(rng, errors).then(|| icmp_errors::inside(rng, world, interface, (source, destination)));
    packet = if error.is_some() { icmp_errors::outside(rng, packet, v6) } else { transport(rng, packet) };
    let length = match rng.random_range(0..10) {
        // The builder's headers are at most this long.
        0 => (one_of(rng, &[576_usize, 1280, 1400, 1500]) + 3).saturating_sub(rng.random_range(0..120)),
        1..4 => 0,
        _ => rng.random_range(0..120),
    };
    packet = match error {
        Some(inside) => packet.bytes(inside),
        None => packet.payload(length),
    };
    if interface.ethernet {
        packet = link(rng, packet, interface, destination);
    }
    if percent(rng, 20) {
        packet = packet.padding(rng.random_range(0..30));
    } else if percent(rng, 5) {
        packet = packet.padding(rng.random_range(0..400));
    }
    let mut frame = packet.build();
    spoil(rng, &mut frame);
    if frame.len() < SHORTEST {
        frame.resize(SHORTEST, 0);
    }
    let mark = if percent(rng, 60) { rng.random() } else { one_of(rng, &[0, u32::MAX, 0x1fff_0000]) };
    let taken_for = (!interface.ethernet && percent(rng, 8)).then(|| one_of(rng, &TAKEN_FOR));
    Arrival { taken_for, mark, ..Arrival::new(interface.index, frame) }
}

fn ingress<'a>(rng: &mut SmallRng, world: &'a World) -> &'a Interface {
    let devices = || world.interfaces.iter().filter(|interface| interface.vlan.is_none());
    let chosen = if percent(rng, 3) {
        None
    } else if percent(rng, 25) {
        world.vpc.as_ref().map(|vpc| vpc.interface.as_str())
    } else {
        world.connections.choose(rng).map(|connection| connection.interface.as_str())
    };
    let found = chosen.and_then(|name| devices().find(|interface| interface.name == name));
    found.unwrap_or_else(|| devices().choose(rng).expect("there is a device"))
}

pub fn source(rng: &mut SmallRng, world: &World, interface: &Interface) -> IpAddr {
    if percent(rng, 6) {
        let v6 = percent(rng, 50);
        return any(rng, world, v6);
    }
    let sites = || world.connections.iter().filter(|connection| connection.interface == interface.name);
    let to_them = |route: &&Route| sites().any(|site| connection_of(site) == route.next_hop);
    match rng.random_range(0..40) {
        0 => {
            let own = world.interfaces.iter().flat_map(|interface| &interface.addresses).choose(rng);
            if let Some(own) = own {
                return if percent(rng, 80) { own.addr() } else { address_around(rng, *own) };
            }
        }
        1 | 2 => {
            let peers = sites().filter_map(|site| site.peer).map(IpNet::from);
            let own = interface.addresses.iter().copied().chain(peers);
            // The VPC's side may not use sources on a site's link.
            let is_vpc = world.vpc.as_ref().is_some_and(|vpc| vpc.interface == interface.name);
            let on_link = if is_vpc && percent(rng, 80) { links_of_sites(world).choose(rng) } else { own.choose(rng) };
            if let Some(on_link) = on_link {
                return address_around(rng, on_link);
            }
        }
        3 => {
            if let Some(route) = world.routes.choose(rng) {
                return address_around(rng, route.destination);
            }
        }
        // Sources routed to a site mostly arrive from there.
        4..25 => {
            if let Some(route) = world.routes.iter().filter(to_them).choose(rng) {
                return address_around(rng, route.destination);
            }
        }
        _ => {}
    }
    if percent(rng, 40)
        && let Some((site, hub)) = sites().flat_map(|site| &site.translations).choose(rng)
    {
        let side = if percent(rng, 85) { site } else { hub };
        return address_around(rng, *side);
    }
    let sites = sites();
    let vpc = world.vpc.iter().filter(|vpc| vpc.interface == interface.name);
    let prefix = sites.flat_map(|site| &site.remotes).chain(vpc.flat_map(|vpc| &vpc.cidrs)).choose(rng);
    match prefix {
        Some(prefix) => address_around(rng, *prefix),
        None => any(rng, world, false),
    }
}

fn destination(rng: &mut SmallRng, world: &World, interface: &Interface, source: IpAddr) -> IpAddr {
    let v6 = !source.is_ipv4();
    if percent(rng, 6) {
        return link_scope(rng, interface, v6);
    }
    let peer = world.connections.iter().any(|site| site.interface == interface.name && site.peer == Some(source));
    let on_link = peer || interface.addresses.iter().any(|own| own.trunc().contains(&source));
    // Sources refused for transit are mostly sent to the hub itself.
    let of_site = links_of_sites(world).any(|net| net.trunc().contains(&source));
    if (on_link || of_site) && percent(rng, 60) {
        let near_end = interface.addresses.iter().filter(|own| own.addr().is_ipv6() == v6).choose(rng);
        if let Some(near_end) = near_end {
            return if percent(rng, 80) { near_end.addr() } else { near_end.broadcast() };
        }
    }
    let family = |prefix: &&IpNet| prefix.addr().is_ipv6() == v6;
    if percent(rng, 15) {
        let at_hub = world.connections.iter().flat_map(|site| &site.translations).map(|(_, hub)| hub);
        if let Some(hub) = at_hub.filter(family).choose(rng) {
            return address_around(rng, *hub);
        }
    }
    let prefix = match rng.random_range(0..20) {
        0..10 => world.routes.iter().map(|route| &route.destination).filter(family).choose(rng),
        10..13 => world.vpc.iter().flat_map(|vpc| &vpc.cidrs).filter(family).choose(rng),
        13..16 => {
            let known = world.interfaces.iter().flat_map(|interface| interface.neighbours.keys());
            let known = known.filter(|address| address.is_ipv6() == v6).choose(rng);
            return known.copied().unwrap_or_else(|| any(rng, world, v6));
        }
        16 | 17 => world.interfaces.iter().flat_map(|interface| &interface.addresses).filter(family).choose(rng),
        _ => None,
    };
    match prefix {
        // The address itself, or another on its link.
        Some(prefix) if prefix.addr() != prefix.network() && percent(rng, 50) => prefix.addr(),
        Some(prefix) => address_around(rng, *prefix),
        None => any(rng, world, v6),
    }
}

/// Own addresses on the sites' links with their prefixes, and the sites' link neighbours.
fn links_of_sites(world: &World) -> impl Iterator<Item = IpNet> {
    world.connections.iter().flat_map(|site| {
        let interface = world.interfaces.iter().filter(|interface| interface.name == site.interface);
        interface.flat_map(|interface| interface.addresses.iter().copied()).chain(site.peer.map(IpNet::from))
    })
}

/// An address that no router forwards to: multicast or link-local.
fn link_scope(rng: &mut SmallRng, interface: &Interface, v6: bool) -> IpAddr {
    let own = interface.addresses.iter().map(IpNet::addr);
    let own = own.filter(|own| match own {
        IpAddr::V4(own) => !v6 && own.is_link_local(),
        IpAddr::V6(own) => v6 && own.is_unicast_link_local(),
    });
    match own.choose(rng) {
        Some(own) if percent(rng, 40) => own,
        _ if v6 => one_of(rng, &["ff02::1", "ff02::2", "ff0e::1", "fe80::1", "febf::9"]).parse().expect("an address"),
        _ => one_of(rng, &["224.0.0.5", "239.1.1.1", "255.255.255.255", "169.254.1.1"]).parse().expect("an address"),
    }
}

/// Any address, most likely a special one.
pub fn any(rng: &mut SmallRng, world: &World, v6: bool) -> IpAddr {
    let text = if v6 {
        one_of(
            rng,
            &[
                "::",
                "::1",
                "::2",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff02::1",
                "fe00::1",
                "2001:db8::1",
                "fd00::1",
                "fd00:0:9::1",
            ],
        )
    } else {
        one_of(
            rng,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "1.0.0.0",
                "10.0.0.1",
                "10.9.9.9",
                "126.0.0.1",
                "127.0.0.1",
                "128.0.0.1",
                "169.253.9.9",
                "169.254.1.1",
                "169.255.1.1",
                "172.16.31.3",
                "192.168.4.4",
                "223.255.255.255",
                "224.0.0.1",
                "239.1.1.1",
                "240.0.0.1",
                "255.255.255.255",
            ],
        )
    };
    let other = world.connections.choose(rng).and_then(|connection| connection.remotes.choose(rng).copied());
    match other.filter(|prefix| prefix.addr().is_ipv6() == v6) {
        Some(prefix) if percent(rng, 40) => address_around(rng, prefix),
        _ => text.parse().expect(text),
    }
}

pub fn network(rng: &mut SmallRng, mut packet: Packet, v6: bool) -> Packet {
    packet = packet.ttl(if percent(rng, 85) { 64 } else { one_of(rng, &[0, 1, 1, 2, 3, 255]) });
    if percent(rng, 10) {
        packet = packet.tos(rng.random());
    }
    if !v6 {
        packet = packet.identification(rng.random());
        if percent(rng, 4) {
            let size = rng.random_range(1..=40);
            packet = packet.ip_options(&[1; 40][..size]);
        }
        if percent(rng, 5) {
            packet = packet.ip_checksum(one_of(rng, &[0, 0xffff, 0xfeff, 0xff00, 0x1234]));
        }
    } else if percent(rng, 8) {
        packet = packet.extension(one_of(rng, &[HOP_BY_HOP, DESTINATION_OPTIONS]), &[]);
    }
    if percent(rng, 6) {
        packet = packet.fragment(one_of(rng, &[0, 1, 100, 8191]), percent(rng, 50), rng.random());
    }
    packet
}

pub fn transport(rng: &mut SmallRng, packet: Packet) -> Packet {
    match rng.random_range(0..10) {
        0..4 => packet.udp(port(rng), port(rng)),
        4..6 => {
            let packet = packet.tcp(port(rng), port(rng));
            if percent(rng, 75) { syn(rng, packet) } else { packet.flags(rng.random()) }
        }
        6 => {
            let [kind, code] = one_of(rng, &MESSAGES).to_be_bytes();
            packet.icmp(kind, code, [0; 4])
        }
        7 => packet.echo(rng.random(), 1),
        // The payload may contain ports or not.
        _ => packet.protocol(one_of(rng, &[0, 6, 17, 33, 44, 47, 50, 59, 132, 136, 255])),
    }
}

/// A TCP SYN with random options, most of them with right lengths.
fn syn(rng: &mut SmallRng, mut packet: Packet) -> Packet {
    packet = packet.flags(one_of(rng, &[SYN, SYN, SYN | ACK, SYN | 0xc0]));
    let mut options = Vec::new();
    let mss = one_of(rng, &[0_u16, 48, 87, 89, 536, 1220, 1240, 1340, 1360, 1361, 1440, 1460, 8960, 0xffff]);
    for _ in 0..rng.random_range(1..8) {
        match rng.random_range(0..14) {
            0..4 => options.extend([&[2, 4], &mss.to_be_bytes()[..]].concat()),
            4..7 => options.push(1),
            7 => options.extend([3, 3, 7]),
            8 => options.extend([4, 2]),
            9 => options.extend([8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
            10 => options.extend([254, 5, 2, 4, 9]),
            11 if percent(rng, 50) => options.push(0),
            12 if percent(rng, 50) => options.extend([rng.random::<u8>(), rng.random()]),
            13 if percent(rng, 50) => options.extend([2, one_of(rng, &[0, 1, 2, 3, 5, 255]), 5, 180]),
            _ => options.extend([2, 4, rng.random::<u8>(), rng.random()]),
        }
    }
    options.truncate(if percent(rng, 90) { 40 } else { rng.random_range(0..=40) });
    packet = packet.tcp_options(&options);
    if percent(rng, 5) {
        packet = packet.data_offset(rng.random_range(0..16));
    }
    if percent(rng, 10) { packet.transport_checksum(one_of(rng, &[0, 1, 0xfffe, 0xffff, 0x1234])) } else { packet }
}

fn link(rng: &mut SmallRng, packet: Packet, interface: &Interface, destination: IpAddr) -> Packet {
    let mut to = interface.mac;
    match rng.random_range(0..50) {
        0 | 1 => to[rng.random_range(0..6)] ^= 1 << rng.random_range(0..8),
        2..5 => to = one_of(rng, &GROUPS),
        5..30 if destination.is_multicast() => to = one_of(rng, &GROUPS),
        _ => {}
    }
    let mut packet = packet.ethernet([2, 9, 9, 9, 9, 9], to);
    let tags = match rng.random_range(0..50) {
        0..32 => 0,
        32..41 => 1,
        41..48 => 2,
        48 => 3,
        _ => rng.random_range(3..8),
    };
    for _ in 0..tags {
        let protocol = if percent(rng, 3) { 0x9100 } else { one_of(rng, &[0x8100, 0x8100, 0x88a8]) };
        packet = packet.tag(protocol, one_of(rng, &[0, 0xe000]) | rng.random_range(0..5));
    }
    if percent(rng, 2) {
        packet = packet.ether_type(one_of(rng, &[0x0806, 0x88cc, 0x8100, 0x0800, 0x86dd, 46]));
    }
    packet
}

/// Truncates a frame, or overwrites some of its bytes.
fn spoil(rng: &mut SmallRng, frame: &mut Vec<u8>) {
    match rng.random_range(0..20) {
        0 => frame.truncate(rng.random_range(0..frame.len())),
        1 => {
            for _ in 0..rng.random_range(1..4) {
                // Mostly in the headers.
                let end = if percent(rng, 80) { frame.len().min(48) } else { frame.len() };
                let at = rng.random_range(0..end);
                frame[at] = if percent(rng, 50) { frame[at] ^ 1 << rng.random_range(0..8) } else { rng.random() };
            }
        }
        2 if percent(rng, 5) => rng.fill_bytes(frame),
        _ => {}
    }
}

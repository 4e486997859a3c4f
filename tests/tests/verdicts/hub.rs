//! Packets to the hub itself, and their allowed sources.

use std::net::IpAddr;

use hub_tests::{
    model::{Connection, Interface, Route, World},
    packet::Packet,
};

use crate::{
    gateway::{HZ, NARROW, RAW, SH, TUN, V4, VPC, WIDE, gateway, into, nets, udp4, udp6},
    row::{Expected, row},
    table,
};

/// A packet of either family.
pub fn packet(source: &str, destination: &str) -> Packet {
    if source.contains(':') { udp6(source, destination) } else { udp4(source, destination) }
}

/// A frame for an interface of any kind.
pub fn frame(interface: u32, packet: &Packet) -> Vec<u8> {
    if matches!(interface, TUN | RAW) { packet.build() } else { into(interface, packet) }
}

fn to_hub(interface: u32, source: &str, destination: &str, account: &str) -> Expected {
    let frame = frame(interface, &packet(source, destination));
    row(format!("{source} to {destination}"), interface, frame).passed("to_hub", account)
}

fn spoofed(interface: u32, source: &str, destination: &str, account: &str) -> Expected {
    let frame = frame(interface, &packet(source, destination));
    row(format!("{source} to {destination}"), interface, frame).dropped("spoofed_source", account)
}

pub fn connection<'a>(world: &'a mut World, name: &str) -> &'a mut Connection {
    world.connections.iter_mut().find(|connection| connection.name == name).expect(name)
}

pub fn interface(world: &mut World, index: u32) -> &mut Interface {
    world.interfaces.iter_mut().find(|interface| interface.index == index).expect("it is there")
}

pub fn add_routes(world: &mut World, destinations: &str, next_hop: &str, weight: u8) {
    let routes = nets(destinations).into_iter();
    world.routes.extend(routes.map(|destination| Route { destination, next_hop: next_hop.into(), weight }));
}

#[test]
fn site_reaches_every_hub_address() -> anyhow::Result<()> {
    let from_sh = |destination| to_hub(SH, "10.10.10.1", destination, "shanghai");
    let none = |name, destination| {
        row(name, SH, into(SH, &udp4("10.10.10.1", destination))).passed("no_route", "shanghai").admitted(V4)
    };
    table(
        &gateway(),
        &[
            from_sh("192.168.0.1"),
            // An address of an interface that is no attachment.
            from_sh("203.0.113.1"),
            // Directed broadcasts.
            from_sh("192.168.0.255"),
            from_sh("203.0.113.255"),
            // On a link of two.
            from_sh("10.255.0.0"),
            to_hub(SH, "fd00:10::1", "fd00:c::1", "shanghai"),
            to_hub(RAW, "10.10.50.1", "192.168.0.1", "kunming"),
            to_hub(RAW, "fd00:50::1", "fd00:c::1", "kunming"),
            // The local selector does not apply.
            to_hub(NARROW, "10.10.90.1", "203.0.113.1", "xian"),
            to_hub(TUN, "10.10.40.1", "203.0.113.1", "beijing"),
            to_hub(TUN, "10.10.41.1", "203.0.113.1", "chengdu"),
            // The longest remote prefix wins, regardless of the other connection's selectors.
            to_hub(TUN, "10.10.40.200", "10.255.0.0", "chengdu"),
            to_hub(TUN, "fd00:40::1", "fd00:c::1", "beijing"),
            // Its sources need not be routed to it.
            to_hub(WIDE, "8.8.8.8", "192.168.0.1", "macau"),
            row("TTL 1 suffices", SH, into(SH, &udp4("10.10.10.1", "192.168.0.1").ttl(1))).passed("to_hub", "shanghai"),
            row("the link-local address of the hub", SH, into(SH, &udp4("10.10.10.1", "169.254.0.1")))
                .passed("link_local", "shanghai"),
            // RFC 3021: no broadcast on a link of two.
            none("the other address on a link of two", "10.255.0.1"),
            none("a network's address", "203.0.113.0"),
            none("a neighbour on a link that is no attachment", "203.0.113.2"),
            row("a network's address in the VPC", SH, into(SH, &udp4("10.10.10.1", "192.168.0.0")))
                .passed("no_neighbour", "shanghai")
                .admitted(V4)
                .toward("vpc"),
        ],
    )
}

#[test]
fn source_outside_selectors_does_not_reach_hub() -> anyhow::Result<()> {
    let echo = Packet::ipv4("10.10.20.1", "192.168.0.1").echo(1, 1);
    let mut rows = vec![
        row("an echo request whose reply another site would get", SH, into(SH, &echo))
            .dropped("spoofed_source", "shanghai"),
        spoofed(SH, "192.168.0.10", "192.168.0.1", "shanghai"),
        spoofed(SH, "fd00:c::10", "fd00:c::1", "shanghai"),
        spoofed(SH, "10.10.11.0", "192.168.0.1", "shanghai"),
        // On the link of another interface.
        spoofed(SH, "203.0.113.2", "203.0.113.1", "shanghai"),
        spoofed(SH, "fd00:20::1", "fd00:c::1", "shanghai"),
        spoofed(RAW, "10.10.10.1", "192.168.0.1", "kunming"),
        spoofed(NARROW, "10.10.20.1", "192.168.0.1", "xian"),
        spoofed(TUN, "10.10.42.1", "192.168.0.1", "nobody"),
        spoofed(TUN, "fd00:41::1", "fd00:c::1", "nobody"),
    ];
    for destination in ["192.168.0.1", "203.0.113.1", "192.168.0.255", "203.0.113.255", "10.255.0.0"] {
        rows.push(spoofed(SH, "10.99.0.1", destination, "shanghai"));
        rows.push(spoofed(SH, "10.10.20.1", destination, "shanghai"));
    }
    table(&gateway(), &rows)
}

#[test]
fn martian_sources_are_dropped_everywhere() -> anyhow::Result<()> {
    let attachments = [(SH, "shanghai"), (WIDE, "macau"), (TUN, "nobody"), (RAW, "kunming"), (VPC, "vpc")];
    let mut rows = Vec::new();
    for (interface, account) in attachments {
        for source in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "255.255.255.255"] {
            for destination in ["192.168.0.1", "203.0.113.255", "10.10.20.1", "10.99.0.1"] {
                rows.push(spoofed(interface, source, destination, account));
            }
        }
        for source in ["::1", "::", "ff02::1", "ff0e::1"] {
            for destination in ["fd00:c::1", "fd00:20::1", "fd00:99::1"] {
                rows.push(spoofed(interface, source, destination, account));
            }
        }
    }
    table(&gateway(), &rows)
}

/// Even if the selectors allow every source and the reverse path is not checked, and in the VPC's own prefix.
#[test]
fn hub_addresses_as_source_are_dropped() -> anyhow::Result<()> {
    let attachments = [(SH, "shanghai"), (WIDE, "macau"), (TUN, "nobody"), (RAW, "kunming"), (VPC, "vpc")];
    let mut rows = Vec::new();
    for (interface, account) in attachments {
        // The last ones are broadcast addresses of the hub's links.
        for source in ["192.168.0.1", "203.0.113.1", "10.255.0.0", "192.168.0.255", "203.0.113.255"] {
            for destination in ["192.168.0.1", "203.0.113.1", "192.168.0.10", "10.10.20.1", "10.99.0.1"] {
                rows.push(spoofed(interface, source, destination, account));
            }
        }
        for destination in ["fd00:c::1", "fd00:c::10", "fd00:20::1", "fd00:99::1"] {
            rows.push(spoofed(interface, "fd00:c::1", destination, account));
        }
    }
    let to_group = into(SH, &udp4("192.168.0.1", "224.0.0.1"));
    rows.push(row("to a group", SH, to_group).dropped("spoofed_source", "shanghai"));
    table(&gateway(), &rows)
}

/// The gateway with addresses on its links: a /30 and a /126, and links without a prefix.
pub fn with_links() -> World {
    let address = |text: &str| -> IpAddr { text.parse().expect(text) };
    let mut world = gateway();
    interface(&mut world, SH).addresses =
        ["10.255.1.1/29", "fd00:255:1::1/126", "fe80::1/64"].map(|own| own.parse().expect(own)).into();
    interface(&mut world, HZ).addresses =
        ["10.255.2.1/32", "fd00:255:2::1/128"].map(|own| own.parse().expect(own)).into();
    interface(&mut world, TUN).addresses =
        ["10.255.3.1/30", "fd00:255:3::1/128"].map(|own| own.parse().expect(own)).into();
    connection(&mut world, "hangzhou").peer = Some(address("10.77.2.2"));
    connection(&mut world, "beijing").peer = Some(address("10.77.3.2"));
    connection(&mut world, "chengdu").peer = Some(address("fd00:77:3::2"));
    world
}

#[test]
fn link_neighbour_reaches_hub_end_of_link() -> anyhow::Result<()> {
    let mut rows = vec![
        // The prefix of the link.
        to_hub(SH, "10.255.1.2", "10.255.1.1", "shanghai"),
        to_hub(SH, "10.255.1.6", "10.255.1.1", "shanghai"),
        to_hub(SH, "10.255.1.2", "10.255.1.7", "shanghai"),
        to_hub(SH, "fd00:255:1::2", "fd00:255:1::1", "shanghai"),
        to_hub(TUN, "10.255.3.2", "10.255.3.1", "nobody"),
        // A selector takes precedence.
        to_hub(SH, "10.10.10.1", "10.255.1.1", "shanghai"),
        to_hub(TUN, "10.10.41.1", "10.255.3.1", "chengdu"),
        // A peer outside any prefix of the link.
        to_hub(HZ, "10.77.2.2", "10.255.2.1", "hangzhou"),
        to_hub(TUN, "10.77.3.2", "10.255.3.1", "nobody"),
        to_hub(TUN, "10.77.3.2", "10.255.3.3", "nobody"),
        to_hub(TUN, "fd00:77:3::2", "fd00:255:3::1", "nobody"),
        // To other addresses of the hub they have no special rights.
        spoofed(SH, "10.255.1.2", "192.168.0.1", "shanghai"),
        spoofed(SH, "10.255.1.2", "10.255.2.1", "shanghai"),
        spoofed(SH, "fd00:255:1::2", "fd00:c::1", "shanghai"),
        spoofed(HZ, "10.77.2.2", "10.255.1.1", "hangzhou"),
        spoofed(TUN, "10.77.3.2", "203.0.113.1", "nobody"),
        // Just outside the prefix; another link; another link's peer.
        spoofed(SH, "10.255.1.8", "10.255.1.1", "shanghai"),
        spoofed(SH, "fd00:255:1::4", "fd00:255:1::1", "shanghai"),
        spoofed(HZ, "10.255.1.2", "10.255.1.1", "hangzhou"),
        spoofed(HZ, "10.255.2.2", "10.255.2.1", "hangzhou"),
        spoofed(HZ, "fd00:255:2::2", "fd00:255:2::1", "hangzhou"),
        spoofed(SH, "10.77.2.2", "10.255.1.1", "shanghai"),
        spoofed(HZ, "10.77.3.2", "10.255.2.1", "hangzhou"),
        // From the near end itself.
        spoofed(SH, "10.255.1.1", "10.255.1.1", "shanghai"),
        spoofed(HZ, "10.255.2.1", "10.255.2.1", "hangzhou"),
    ];
    // To other destinations nothing is forwarded.
    for destination in ["10.10.20.1", "192.168.0.10", "10.99.0.1"] {
        rows.push(spoofed(SH, "10.255.1.2", destination, "shanghai"));
        rows.push(spoofed(HZ, "10.77.2.2", destination, "hangzhou"));
    }
    table(&with_links(), &rows)?;

    // Its selectors allow the link's prefix, and the reverse path is another connection's: the link suffices.
    let mut world = with_links();
    connection(&mut world, "shanghai").remotes.extend(nets("10.255.1.0/29 fd00:255:1::/64"));
    add_routes(&mut world, "10.255.1.0/29 fd00:255:1::/64", "hangzhou", 100);
    table(
        &world,
        &[
            to_hub(SH, "10.255.1.2", "10.255.1.1", "shanghai"),
            to_hub(SH, "fd00:255:1::2", "fd00:255:1::1", "shanghai"),
            spoofed(SH, "10.255.1.2", "192.168.0.1", "shanghai"),
            spoofed(SH, "fd00:255:1::2", "fd00:c::1", "shanghai"),
        ],
    )?;
    // The same where it changes the counters.
    let mut world = with_links();
    connection(&mut world, "beijing").remotes.extend(nets("10.255.3.0/30"));
    add_routes(&mut world, "10.255.3.0/30", "hangzhou", 100);
    table(
        &world,
        &[to_hub(TUN, "10.255.3.2", "10.255.3.1", "nobody"), spoofed(TUN, "10.255.3.2", "192.168.0.1", "nobody")],
    )
}

/// Nested prefixes, one address with two lengths, and a link whose prefix is also the site's.
#[test]
fn link_with_several_prefixes_admits_neighbours_of_each() -> anyhow::Result<()> {
    let with = |addresses: &str| {
        let mut world = gateway();
        interface(&mut world, SH).addresses = addresses.split_whitespace().map(|own| own.parse().expect(own)).collect();
        world
    };
    table(
        &with("10.255.1.1/24 10.255.1.5/30 fd00:255::1/64 fd00:255::5/126"),
        &[
            to_hub(SH, "10.255.1.6", "10.255.1.1", "shanghai"),
            to_hub(SH, "10.255.1.6", "10.255.1.5", "shanghai"),
            to_hub(SH, "10.255.1.9", "10.255.1.1", "shanghai"),
            to_hub(SH, "10.255.1.9", "10.255.1.5", "shanghai"),
            to_hub(SH, "10.255.1.9", "10.255.1.255", "shanghai"),
            to_hub(SH, "10.255.1.9", "10.255.1.7", "shanghai"),
            to_hub(SH, "fd00:255::6", "fd00:255::1", "shanghai"),
            to_hub(SH, "fd00:255::9", "fd00:255::5", "shanghai"),
            spoofed(SH, "10.255.2.1", "10.255.1.1", "shanghai"),
            spoofed(SH, "10.255.1.9", "192.168.0.1", "shanghai"),
            // A broadcast address is no source (RFC 1122 section 3.2.1.3).
            spoofed(SH, "10.255.1.255", "10.255.1.1", "shanghai"),
            spoofed(SH, "10.255.1.7", "10.255.1.1", "shanghai"),
        ],
    )?;
    table(
        &with("10.255.1.2/24 10.255.1.2/31 fd00:255::2/64 fd00:255::2/127"),
        &[
            to_hub(SH, "10.255.1.3", "10.255.1.2", "shanghai"),
            to_hub(SH, "10.255.1.9", "10.255.1.2", "shanghai"),
            to_hub(SH, "fd00:255::3", "fd00:255::2", "shanghai"),
            to_hub(SH, "fd00:255::9", "fd00:255::2", "shanghai"),
        ],
    )?;
    // RFC 3021: on a link of two, the other end has its last address.
    table(
        &with("10.255.1.2/31 fd00:255::2/127"),
        &[
            to_hub(SH, "10.255.1.3", "10.255.1.2", "shanghai"),
            to_hub(SH, "fd00:255::3", "fd00:255::2", "shanghai"),
            spoofed(SH, "10.255.1.3", "10.255.1.3", "shanghai"),
            spoofed(SH, "10.255.1.3", "192.168.0.1", "shanghai"),
            spoofed(SH, "10.255.1.1", "10.255.1.2", "shanghai"),
        ],
    )?;
    table(
        &with("10.10.10.254/24 fd00:10::fe/64"),
        &[
            to_hub(SH, "10.10.10.1", "10.10.10.254", "shanghai"),
            to_hub(SH, "10.10.10.1", "192.168.0.1", "shanghai"),
            to_hub(SH, "fd00:10::1", "fd00:10::fe", "shanghai"),
            to_hub(SH, "fd00:10::1", "fd00:c::1", "shanghai"),
        ],
    )
}

/// Management and IKE may arrive there, from anywhere except a site's source.
#[test]
fn vpc_side_reaches_hub_except_with_site_source() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for source in ["192.168.0.10", "192.168.77.1", "8.8.8.8", "10.99.0.1", "203.0.113.77", "10.255.0.1", "10.10.9.255"]
    {
        for destination in ["192.168.0.1", "203.0.113.1", "192.168.0.255"] {
            rows.push(to_hub(VPC, source, destination, "vpc"));
        }
    }
    for source in ["10.10.10.1", "10.10.100.7", "10.10.40.200", "10.10.60.1", "10.10.70.1", "10.10.20.255"] {
        for destination in ["192.168.0.1", "203.0.113.1", "192.168.0.255"] {
            rows.push(spoofed(VPC, source, destination, "vpc"));
        }
    }
    for source in ["fd00:c::10", "fd00:c:0:8::1", "2001:db8::1", "fd00:99::1"] {
        rows.push(to_hub(VPC, source, "fd00:c::1", "vpc"));
    }
    for source in ["fd00:10::1", "fd00:100::1", "fd00:60::1"] {
        rows.push(spoofed(VPC, source, "fd00:c::1", "vpc"));
    }
    // To destinations other than the hub, as before.
    rows.push(spoofed(VPC, "8.8.8.8", "10.10.20.1", "vpc"));
    rows.push(spoofed(VPC, "2001:db8::1", "fd00:20::1", "vpc"));
    table(&gateway(), &rows)?;

    let mut world = gateway();
    add_routes(&mut world, "0.0.0.0/0 ::/0 192.168.0.0/16 192.168.77.0/24 fd00:c::/48 fd00:c:0:7::/64", "macau", 100);
    let rows = [
        // A default route does not identify a source's owner.
        to_hub(VPC, "8.8.8.8", "192.168.0.1", "vpc"),
        to_hub(VPC, "2001:db8::1", "fd00:c::1", "vpc"),
        spoofed(VPC, "10.10.10.1", "192.168.0.1", "vpc"),
        spoofed(VPC, "fd00:10::1", "fd00:c::1", "vpc"),
        // Of equal prefixes the VPC's wins; a longer one is the site's.
        to_hub(VPC, "192.168.5.5", "192.168.0.1", "vpc"),
        to_hub(VPC, "fd00:c:0:5::1", "fd00:c::1", "vpc"),
        spoofed(VPC, "192.168.77.1", "192.168.0.1", "vpc"),
        spoofed(VPC, "fd00:c:0:7::1", "fd00:c::1", "vpc"),
    ];
    table(&world, &rows)?;
    // Half of all addresses is no default route.
    add_routes(&mut world, "8.0.0.0/5 2000::/3", "macau", 0);
    table(
        &world,
        &[
            spoofed(VPC, "8.8.8.8", "192.168.0.1", "vpc"),
            spoofed(VPC, "2001:db8::1", "fd00:c::1", "vpc"),
            to_hub(VPC, "4.4.4.4", "192.168.0.1", "vpc"),
        ],
    )
}

//! Policy routes: by priority, before destination routes, under all checks that destination routes are under.

use hub_tests::{
    model::{PolicyRoute, World},
    packet::Packet,
};

use crate::{
    gateway::{HZ, NARROW, RAW, SH, V4, V6, VPC, WIDE, gateway, into, out_of, udp4, udp6},
    row::{Expected, row},
    table,
};

/// The gateway with policy routes: priority, source, destination, next hop, weight.
fn by_source(routes: &[(u8, &str, &str, &str, u8)]) -> World {
    let mut world = gateway();
    world.policy_routes = routes
        .iter()
        .map(|&(priority, source, destination, next_hop, weight)| PolicyRoute {
            source: source.parse().expect(source),
            destination: destination.parse().expect(destination),
            next_hop: next_hop.into(),
            priority,
            weight,
        })
        .collect();
    world
}

fn to_macau(name: &str, interface: u32, packet: &Packet, from: &str, bytes: u64) -> Expected {
    row(name, interface, into(interface, packet)).forwarded(from, ("macau", WIDE), out_of(WIDE, packet, 63), bytes)
}

/// The selectors of "macau" admit everything.
#[test]
fn policy_route_comes_before_longer_destination_and_obeys_its_source() -> anyhow::Result<()> {
    let world = by_source(&[
        (10, "10.10.10.0/24", "10.10.0.0/16", "macau", 100),
        (10, "10.10.10.0/24", "10.99.0.0/16", "macau", 100),
        (10, "fd00:10::/64", "::/0", "macau", 100),
        (10, "192.168.0.0/28", "10.10.20.0/24", "macau", 100),
    ]);
    let other_source = udp4("10.10.30.1", "10.10.20.1");
    let other_vpc = udp4("192.168.0.99", "10.10.20.1");
    table(
        &world,
        &[
            to_macau("instead of a longer prefix", SH, &udp4("10.10.10.1", "10.10.20.1"), "shanghai", V4),
            to_macau("without any other route", SH, &udp4("10.10.10.1", "10.99.0.1"), "shanghai", V4),
            to_macau("IPv6", SH, &udp6("fd00:10::1", "fd00:20::1"), "shanghai", V6),
            to_macau("IPv6, instead of the VPC", SH, &udp6("fd00:10::1", "fd00:c::10"), "shanghai", V6),
            to_macau("from the VPC", VPC, &udp4("192.168.0.10", "10.10.20.1"), "vpc", V4),
            row("another source of the VPC", VPC, into(VPC, &other_vpc)).forwarded(
                "vpc",
                ("hangzhou", HZ),
                out_of(HZ, &other_vpc, 63),
                V4,
            ),
            row("another source", crate::gateway::NB, into(crate::gateway::NB, &other_source)).forwarded(
                "ningbo",
                ("hangzhou", HZ),
                out_of(HZ, &other_source, 63),
                V4,
            ),
            row("no policy route", SH, into(SH, &udp4("10.10.10.1", "10.98.0.1")))
                .passed("no_route", "shanghai")
                .admitted(V4),
        ],
    )
}

#[test]
fn smallest_priority_decides_then_longest_source_then_longest_destination() -> anyhow::Result<()> {
    let to_raw = udp4("10.10.10.1", "10.10.50.1");
    let to_hz = udp4("10.10.10.200", "10.10.20.1");
    let world = by_source(&[
        (5, "10.10.0.0/16", "10.10.50.0/24", "kunming", 100),
        (6, "10.10.10.0/24", "10.10.50.1/32", "macau", 100),
        (10, "0.0.0.0/0", "10.10.0.0/16", "macau", 100),
        (10, "10.10.10.128/25", "10.10.0.0/16", "hangzhou", 100),
        (10, "10.10.10.0/24", "10.10.20.0/24", "macau", 100),
    ]);
    table(
        &world,
        &[
            row("priority, not prefix", SH, into(SH, &to_raw)).forwarded(
                "shanghai",
                ("kunming", RAW),
                to_raw.clone().ttl(63).build(),
                V4,
            ),
            row("the longest source of a priority", SH, into(SH, &to_hz)).forwarded(
                "shanghai",
                ("hangzhou", HZ),
                out_of(HZ, &to_hz, 63),
                V4,
            ),
            to_macau("the longest source that matches", SH, &udp4("10.10.10.1", "10.10.20.1"), "shanghai", V4),
            to_macau("any source", VPC, &udp4("192.168.0.10", "10.10.20.1"), "vpc", V4),
        ],
    )
}

/// "dalian" and "xian" do not admit what the policy routes send to them.
#[test]
fn policy_route_bypasses_no_check() -> anyhow::Result<()> {
    let mut world = by_source(&[
        (1, "0.0.0.0/0", "0.0.0.0/0", "macau", 100),
        (1, "10.10.10.0/24", "10.10.20.0/24", "xian", 100),
        (1, "10.10.20.0/24", "10.10.30.0/24", "kunming", 100),
        (1, "::/0", "::/0", "shanghai", 100),
    ]);
    let to = |from, to| into(SH, &udp4(from, to));
    let rows = [
        row("to the hub", SH, to("10.10.10.1", "192.168.0.1")).passed("to_hub", "shanghai"),
        row("another site's source", SH, to("10.10.20.1", "10.10.30.1")).dropped("spoofed_source", "shanghai"),
        row("a source of nobody", SH, to("8.8.8.8", "10.10.30.1")).dropped("spoofed_source", "shanghai"),
        row("the hub's source", SH, to("192.168.0.1", "10.10.30.1")).dropped("spoofed_source", "shanghai"),
        row("egress admits neither", SH, to("10.10.10.1", "10.10.20.1"))
            .dropped("selector_mismatch", "shanghai")
            .admitted(V4),
        row("egress does not admit the destination", HZ, into(HZ, &udp4("10.10.20.1", "10.10.30.1")))
            .dropped("selector_mismatch", "hangzhou")
            .admitted(V4),
        row("ingress does not admit the destination", NARROW, into(NARROW, &udp4("10.10.90.1", "10.10.20.1")))
            .dropped("selector_mismatch", "xian"),
        row("egress does not admit it, IPv6", HZ, into(HZ, &udp6("fd00:20::1", "fd00:30::1")))
            .dropped("selector_mismatch", "hangzhou")
            .admitted(V6),
        row("expired", SH, into(SH, &udp4("10.10.10.1", "10.10.30.1").ttl(1)))
            .passed("ttl_expired", "shanghai")
            .admitted(V4)
            .toward("macau"),
    ];
    table(&world, &rows)?;
    world.spoke_to_spoke = false;
    let to_vpc = udp4("192.168.0.10", "10.10.30.1");
    table(
        &world,
        &[
            row("isolated", SH, to("10.10.10.1", "10.10.30.1")).dropped("isolated", "shanghai").admitted(V4),
            to_macau("from the VPC", VPC, &to_vpc, "vpc", V4),
        ],
    )
}

/// The interface of "dalian" is down, that of "guilin" does not exist.
#[test]
fn policy_route_uses_standby_and_never_falls_through_while_all_are_down() -> anyhow::Result<()> {
    let routes =
        [(10, "10.10.10.0/24", "10.10.30.0/24", "dalian", 100), (10, "10.10.10.0/24", "10.10.30.0/24", "macau", 0)];
    let mut world = by_source(&routes);
    let packet = udp4("10.10.10.1", "10.10.30.1");
    for connection in world.connections.iter_mut().filter(|found| found.name == "dalian") {
        connection.up = false;
        connection.remotes.push("10.10.30.0/24".parse()?);
    }
    table(&world, &[to_macau("the standby", SH, &packet, "shanghai", V4)])?;
    for connection in world.connections.iter_mut().filter(|found| found.name == "macau") {
        connection.up = false;
    }
    let passed = row("the active one, although it is down", SH, into(SH, &packet)).passed("next_hop_down", "shanghai");
    table(&world, &[passed.admitted(V4).toward("dalian")])
}

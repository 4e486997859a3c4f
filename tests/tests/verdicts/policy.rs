//! Selectors, the hub's own addresses, isolation.

use hub_tests::model::{Segment, World};

use crate::{
    gateway::{HZ, NARROW, NB, RAW, SH, TUN, V4, V6, VPC, WIDE, gateway, host, into, out_of, own, udp4, udp6},
    hub::connection,
    row::{Expected, row},
    table,
};

#[test]
fn packets_outside_selectors_are_dropped() -> anyhow::Result<()> {
    let spoofed = |name, source, destination| {
        row(name, SH, into(SH, &udp4(source, destination))).dropped("spoofed_source", "shanghai")
    };
    let narrow = udp4("10.10.90.1", "192.168.0.10");
    let narrow_out = narrow.clone().ttl(63).ethernet(own(VPC), host(VPC, 10)).build();
    let from_vpc = udp4("192.168.0.10", "10.10.90.1");
    table(
        &gateway(),
        &[
            spoofed("another site's source", "10.10.20.1", "10.10.20.2"),
            spoofed("a source of the VPC", "192.168.0.10", "10.10.20.2"),
            spoofed("just below the prefix", "10.10.9.255", "10.10.20.1"),
            spoofed("just above the prefix", "10.10.11.0", "10.10.20.1"),
            spoofed("a spoofed source without a route is dropped all the same", "10.99.0.1", "10.99.0.2"),
            row("another site's source, IPv6", SH, into(SH, &udp6("fd00:20::1", "fd00:20::2")))
                .dropped("spoofed_source", "shanghai"),
            row("just above the prefix, IPv6", SH, into(SH, &udp6("fd00:10:0:1::", "fd00:20::2")))
                .dropped("spoofed_source", "shanghai"),
            row("the VPC's own, outside of its prefixes", VPC, into(VPC, &udp4("10.10.10.1", "10.10.20.1")))
                .dropped("spoofed_source", "vpc"),
            row("the same, IPv6", VPC, into(VPC, &udp6("fd00:d::1", "fd00:20::1"))).dropped("spoofed_source", "vpc"),
            row(
                "the destination is not in the local selector",
                NARROW,
                into(NARROW, &udp4("10.10.90.1", "10.10.20.1")),
            )
            .dropped("selector_mismatch", "xian"),
            row("the same, IPv6", NARROW, into(NARROW, &udp6("fd00:90::1", "fd00:20::1")))
                .dropped("selector_mismatch", "xian"),
            row("mismatch before no route", NARROW, into(NARROW, &udp4("10.10.90.1", "10.99.0.1")))
                .dropped("selector_mismatch", "xian"),
            row("the destination is in the local selector", NARROW, into(NARROW, &narrow)).forwarded(
                "xian",
                ("vpc", VPC),
                narrow_out,
                V4,
            ),
            row("egress does not admit the source", SH, into(SH, &udp4("10.10.10.1", "10.10.90.1")))
                .dropped("selector_mismatch", "shanghai")
                .admitted(V4),
            row("the same, IPv6", SH, into(SH, &udp6("fd00:10::1", "fd00:90::1")))
                .dropped("selector_mismatch", "shanghai")
                .admitted(V6),
            row("egress mismatch before TTL", SH, into(SH, &udp4("10.10.10.1", "10.10.90.1").ttl(1)))
                .dropped("selector_mismatch", "shanghai")
                .admitted(V4),
            row("egress admits the source", VPC, into(VPC, &from_vpc)).forwarded(
                "vpc",
                ("xian", NARROW),
                out_of(NARROW, &from_vpc, 63),
                V4,
            ),
        ],
    )
}

/// "beijing" is 10.10.40.0/24 and may reach 10.10.0.0/16; "chengdu" is 10.10.40.128/25 and 10.10.41.0/24 and may reach
/// 10.10.20.0/24 and 192.168.0.0/24.
#[test]
fn selectors_pick_connection_on_shared_interface() -> anyhow::Result<()> {
    let forwarded = |name, source, destination, from| {
        let packet = udp4(source, destination);
        row(name, TUN, packet.build()).forwarded(from, ("hangzhou", HZ), out_of(HZ, &packet, 63), V4)
    };
    let mismatch = |name, source, destination, account| {
        row(name, TUN, udp4(source, destination).build()).dropped("selector_mismatch", account)
    };
    let to_vpc = udp4("10.10.40.200", "192.168.0.10");
    let vpc_out = to_vpc.clone().ttl(63).ethernet(own(VPC), host(VPC, 10)).build();
    let across = udp4("10.10.41.1", "10.10.20.1");
    let raw = udp4("10.10.40.200", "10.10.50.1");
    table(
        &gateway(),
        &[
            forwarded("one source prefix", "10.10.40.1", "10.10.20.1", "beijing"),
            forwarded("another source prefix", "10.10.41.1", "10.10.20.1", "chengdu"),
            forwarded("the longer source prefix has the first say", "10.10.40.200", "10.10.20.1", "chengdu"),
            row("where the longer does not admit the destination, the shorter does", TUN, raw.build()).forwarded(
                "beijing",
                ("kunming", RAW),
                raw.clone().ttl(63).build(),
                V4,
            ),
            row("the destination of the longer one alone", TUN, to_vpc.build()).forwarded(
                "chengdu",
                ("vpc", VPC),
                vpc_out,
                V4,
            ),
            mismatch("nobody's destination, the shorter prefix pays", "10.10.40.1", "192.168.0.10", "beijing"),
            mismatch("nobody's destination, the longer prefix pays", "10.10.40.200", "172.16.0.1", "chengdu"),
            mismatch("the other's destination", "10.10.41.1", "10.10.50.1", "chengdu"),
            row("nobody's source", TUN, udp4("10.10.42.1", "10.10.20.1").build()).dropped("spoofed_source", "nobody"),
            row("nobody's source, IPv6", TUN, udp6("fd00:41::1", "fd00:20::1").build())
                .dropped("spoofed_source", "nobody"),
            row("malformed", TUN, across.clone().ip_length(0).build()).dropped("malformed", "nobody"),
            row("expired", TUN, across.ttl(1).build()).passed("ttl_expired", "chengdu").admitted(V4).toward("hangzhou"),
            row("to the interface it came from", TUN, udp4("10.10.41.1", "10.10.40.1").build())
                .dropped("selector_mismatch", "chengdu"),
            row("to a connection that does not admit the source", SH, into(SH, &udp4("10.10.10.1", "10.10.41.1")))
                .dropped("selector_mismatch", "shanghai")
                .admitted(V4),
        ],
    )
}

#[test]
fn packets_without_route_are_passed_to_kernel() -> anyhow::Result<()> {
    table(
        &gateway(),
        &[
            row("no route", SH, into(SH, &udp4("10.10.10.1", "10.99.0.1"))).passed("no_route", "shanghai").admitted(V4),
            row("no route, IPv6", SH, into(SH, &udp6("fd00:10::1", "fd00:99::1")))
                .passed("no_route", "shanghai")
                .admitted(V6),
            row("no route from the VPC", VPC, into(VPC, &udp4("192.168.0.10", "10.99.0.1")))
                .passed("no_route", "vpc")
                .admitted(V4),
            row("no route from a wide site", WIDE, into(WIDE, &udp4("8.8.8.8", "9.9.9.9")))
                .passed("no_route", "macau")
                .admitted(V4),
            row("no route before TTL", SH, into(SH, &udp4("10.10.10.1", "10.99.0.1").ttl(0)))
                .passed("no_route", "shanghai")
                .admitted(V4),
        ],
    )
}

#[test]
fn isolated_sites_reach_vpc_only() -> anyhow::Result<()> {
    let isolated = |name, interface, frame, from| -> Expected { row(name, interface, frame).dropped("isolated", from) };
    let to_vpc = udp4("10.10.10.1", "192.168.0.10");
    let vpc_out = to_vpc.clone().ttl(63).ethernet(own(VPC), host(VPC, 10)).build();
    let from_vpc = udp4("192.168.0.10", "10.10.20.1");
    let from_vpc6 = udp6("fd00:c::10", "fd00:20::1");
    let world = World { spoke_to_spoke: false, ..gateway() };
    table(
        &world,
        &[
            isolated("site to site", SH, into(SH, &udp4("10.10.10.1", "10.10.20.1")), "shanghai").admitted(V4),
            isolated("site to site, IPv6", SH, into(SH, &udp6("fd00:10::1", "fd00:20::1")), "shanghai").admitted(V6),
            isolated("site to itself", SH, into(SH, &udp4("10.10.10.1", "10.10.10.2")), "shanghai").admitted(V4),
            isolated("on a shared interface", TUN, udp4("10.10.41.1", "10.10.20.1").build(), "chengdu").admitted(V4),
            isolated("to a site that is down", SH, into(SH, &udp4("10.10.10.1", "10.10.60.1")), "shanghai")
                .admitted(V4),
            isolated("before TTL", SH, into(SH, &udp4("10.10.10.1", "10.10.20.1").ttl(1)), "shanghai").admitted(V4),
            row("spoofed first", SH, into(SH, &udp4("10.10.20.2", "10.10.20.1"))).dropped("spoofed_source", "shanghai"),
            row("site to VPC", SH, into(SH, &to_vpc)).forwarded("shanghai", ("vpc", VPC), vpc_out, V4),
            row("VPC to site", VPC, into(VPC, &from_vpc)).forwarded(
                "vpc",
                ("hangzhou", HZ),
                out_of(HZ, &from_vpc, 63),
                V4,
            ),
            row("VPC to site, IPv6", VPC, into(VPC, &from_vpc6)).forwarded(
                "vpc",
                ("hangzhou", HZ),
                out_of(HZ, &from_vpc6, 63),
                V6,
            ),
            row("site to hub", SH, into(SH, &udp4("10.10.10.1", "192.168.0.1"))).passed("to_hub", "shanghai"),
            row("site to nowhere", SH, into(SH, &udp4("10.10.10.1", "10.99.0.1")))
                .passed("no_route", "shanghai")
                .admitted(V4),
        ],
    )
}

/// "chengdu" and "beijing" share an interface; "shanghai" and "hangzhou" both lead to 10.10.100.0/24.
#[test]
fn segments_reach_what_both_list() -> anyhow::Result<()> {
    let segment = |name: &str, reaches: &[&str]| Segment {
        name: name.into(),
        reaches: reaches.iter().map(|reached| (*reached).to_owned()).collect(),
    };
    let mut world = gateway();
    world.segments = vec![
        segment("partners", &["vpc", "plants"]),
        segment("plants", &["partners", "default"]),
        segment("club", &["club", "partners"]),
    ];
    for (name, of) in [("shanghai", "partners"), ("kunming", "partners"), ("beijing", "plants"), ("hangzhou", "club")] {
        connection(&mut world, name).segment = Some(of.into());
    }
    let isolated = |name, interface, frame, from| -> Expected { row(name, interface, frame).dropped("isolated", from) };
    let to_vpc = udp4("10.10.10.1", "192.168.0.10");
    let vpc_out = to_vpc.clone().ttl(63).ethernet(own(VPC), host(VPC, 10)).build();
    let from_vpc = udp4("192.168.0.10", "10.10.10.1");
    let to_plant = udp4("10.10.10.1", "10.10.40.1");
    let to_default = udp4("10.10.40.1", "10.10.30.1");
    let from_default = udp4("10.10.30.1", "10.10.40.1");
    let within_club = udp4("10.10.20.1", "10.10.20.2");
    table(
        &world,
        &[
            row("listed by both", SH, into(SH, &to_plant)).forwarded(
                "shanghai",
                ("beijing", TUN),
                to_plant.clone().ttl(63).build(),
                V4,
            ),
            row("to the VPC", SH, into(SH, &to_vpc)).forwarded("shanghai", ("vpc", VPC), vpc_out, V4),
            row("from the VPC", VPC, into(VPC, &from_vpc)).forwarded(
                "vpc",
                ("shanghai", SH),
                out_of(SH, &from_vpc, 63),
                V4,
            ),
            row("to the default segment", TUN, to_default.clone().build()).forwarded(
                "beijing",
                ("ningbo", NB),
                to_default.clone().ttl(63).ethernet(own(NB), host(NB, 1)).build(),
                V4,
            ),
            row("from the default segment", NB, into(NB, &from_default)).forwarded(
                "ningbo",
                ("beijing", TUN),
                from_default.clone().ttl(63).build(),
                V4,
            ),
            row("to itself, which it lists", HZ, into(HZ, &within_club)).forwarded(
                "hangzhou",
                ("hangzhou", HZ),
                out_of(HZ, &within_club, 63),
                V4,
            ),
            isolated("to itself, which it does not list", SH, into(SH, &udp4("10.10.10.1", "10.10.50.1")), "shanghai")
                .admitted(V4),
            isolated("listed by one side alone", HZ, into(HZ, &udp4("10.10.20.1", "10.10.10.1")), "hangzhou")
                .admitted(V4),
            isolated("the other way", SH, into(SH, &udp4("10.10.10.1", "10.10.20.1")), "shanghai").admitted(V4),
            isolated("the default segment is not listed", SH, into(SH, &udp4("10.10.10.1", "10.10.30.1")), "shanghai")
                .admitted(V4),
            isolated("the default segment lists nothing", NB, into(NB, &udp4("10.10.30.1", "10.10.10.1")), "ningbo")
                .admitted(V4),
            isolated("the VPC is not listed", HZ, into(HZ, &udp4("10.10.20.1", "192.168.0.10")), "hangzhou")
                .admitted(V4),
            isolated("from the VPC, which is not listed", VPC, into(VPC, &udp4("192.168.0.10", "10.10.20.1")), "vpc")
                .admitted(V4),
            isolated("from the VPC, IPv6", VPC, into(VPC, &udp6("fd00:c::10", "fd00:20::1")), "vpc").admitted(V6),
            isolated(
                "another connection of the interface",
                SH,
                into(SH, &udp4("10.10.10.1", "10.10.41.1")),
                "shanghai",
            )
            .admitted(V4),
            row("another sender of the interface", TUN, udp4("10.10.41.1", "10.10.20.1").build())
                .dropped("isolated", "chengdu")
                .admitted(V4),
        ],
    )
}

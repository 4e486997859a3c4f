//! Reverse path: a site's source must be routed to the site (`reverse_path = "strict"`).

use hub_tests::model::{Agreement, Pair, ReversePath, World};

use crate::{
    gateway::{HZ, NARROW, RAW, SH, TUN, V4, V6, VPC, WIDE, gateway, into, nets, out_of, udp4},
    hub::{add_routes, connection, frame, packet},
    row::{Expected, row},
    table,
};

/// The gateway; "shanghai" also allows these prefixes.
fn admitting(prefixes: &str) -> World {
    let mut world = gateway();
    connection(&mut world, "shanghai").remotes.extend(nets(prefixes));
    world
}

fn spoofed(interface: u32, source: &str, destination: &str, account: &str) -> Expected {
    let frame = frame(interface, &packet(source, destination));
    row(format!("{source} to {destination}"), interface, frame).dropped("spoofed_source", account)
}

/// From "shanghai": to a site, to the VPC, without a route, to a site that would have refused it, and to the hub
/// itself.
fn all_spoofed(source: &str) -> Vec<Expected> {
    let destinations = if source.contains(':') {
        ["fd00:20::1", "fd00:c::10", "fd00:99::1", "fd00:90::1", "fd00:c::1"]
    } else {
        ["10.10.20.1", "192.168.0.10", "10.99.0.1", "10.10.90.1", "192.168.0.1"]
    };
    destinations.map(|destination| spoofed(SH, source, destination, "shanghai")).into()
}

/// From "shanghai" to "hangzhou", and to the hub itself.
fn admitted(source: &str) -> [Expected; 2] {
    let (site, hub, bytes) =
        if source.contains(':') { ("fd00:20::1", "fd00:c::1", V6) } else { ("10.10.20.1", "192.168.0.1", V4) };
    let through = packet(source, site);
    [
        row(format!("{source} to a site"), SH, into(SH, &through)).forwarded(
            "shanghai",
            ("hangzhou", HZ),
            out_of(HZ, &through, 63),
            bytes,
        ),
        row(format!("{source} to the hub"), SH, into(SH, &packet(source, hub))).passed("to_hub", "shanghai"),
    ]
}

const MORE: &str = "10.77.0.0/16 fd00:77::/48";

#[test]
fn source_without_route_is_dropped() -> anyhow::Result<()> {
    let world = admitting(MORE);
    table(&world, &[all_spoofed("10.77.1.1"), all_spoofed("fd00:77::1")].concat_rows())
}

#[test]
fn source_routed_to_other_site_is_dropped() -> anyhow::Result<()> {
    let mut world = admitting(MORE);
    add_routes(&mut world, MORE, "hangzhou", 100);
    add_routes(&mut world, MORE, "ningbo", 0);
    // A shorter prefix of its own does not help.
    add_routes(&mut world, "10.64.0.0/10 fd00::/16 0.0.0.0/0 ::/0", "shanghai", 100);
    table(&world, &[all_spoofed("10.77.1.1"), all_spoofed("fd00:77::1")].concat_rows())?;
    // A site's own prefix, which another's selectors of everything also allow.
    let mut world = gateway();
    connection(&mut world, "macau").reverse_path = ReversePath::Strict;
    table(
        &world,
        &[
            spoofed(WIDE, "10.10.10.1", "192.168.0.10", "macau"),
            spoofed(WIDE, "10.10.10.1", "10.10.20.1", "macau"),
            spoofed(WIDE, "fd00:10::1", "fd00:c::10", "macau"),
            spoofed(WIDE, "192.168.0.10", "10.10.20.1", "macau"),
            spoofed(WIDE, "8.8.8.8", "10.10.20.1", "macau"),
            spoofed(WIDE, "10.10.10.1", "192.168.0.1", "macau"),
        ],
    )
}

#[test]
fn source_routed_to_sender_is_admitted() -> anyhow::Result<()> {
    let mut world = admitting(MORE);
    add_routes(&mut world, MORE, "shanghai", 100);
    add_routes(&mut world, "10.77.1.0/24 fd00:77:0:1::/64", "hangzhou", 100);
    let rows = [
        all_spoofed("10.77.1.1"),
        all_spoofed("fd00:77:0:1::1"),
        admitted("10.77.2.1").into(),
        admitted("fd00:77:0:2::1").into(),
    ];
    table(&world, &rows.concat_rows())?;
    // The default route counts as a route.
    let mut world = admitting(MORE);
    add_routes(&mut world, "0.0.0.0/0 ::/0", "shanghai", 100);
    table(&world, &[admitted("10.77.1.1"), admitted("fd00:77::1")].concat_rows())
}

/// The active next hop does not matter: packets sent before a change may still arrive.
#[test]
fn source_routed_to_any_member_is_admitted() -> anyhow::Result<()> {
    for (weight, other, up) in [(0, 100, true), (0, 100, false), (100, 100, false), (1, 100, true), (0, 0, false)] {
        let mut world = admitting(MORE);
        add_routes(&mut world, MORE, "hangzhou", other);
        add_routes(&mut world, MORE, "shanghai", weight);
        connection(&mut world, "shanghai").up = up;
        table(&world, &[admitted("10.77.1.1"), admitted("fd00:77::1")].concat_rows())?;
    }
    Ok(())
}

#[test]
fn source_of_vpc_or_hub_is_dropped_from_site() -> anyhow::Result<()> {
    let theirs = "192.168.0.0/16 fd00:c::/48 203.0.113.0/24";
    let mut world = admitting(theirs);
    add_routes(&mut world, theirs, "shanghai", 100);
    add_routes(&mut world, "192.168.77.0/24 fd00:c:0:7::/64 203.0.113.255/32", "shanghai", 100);
    let rows = [
        // Of equal length, the VPC's.
        all_spoofed("192.168.5.5"),
        all_spoofed("fd00:c:0:5::1"),
        // A broadcast address of one of the hub's links.
        all_spoofed("203.0.113.255"),
        // Other addresses of the link have no owner but the link.
        admitted("203.0.113.9").into(),
        admitted("192.168.77.1").into(),
        admitted("fd00:c:0:7::1").into(),
        // A part of the VPC that the kernel has a route to is as long.
        all_spoofed("192.168.8.8"),
    ];
    add_routes(&mut world, "192.168.8.0/24", "shanghai", 100);
    table(&world, &rows.concat_rows())
}

/// After the selectors, before everything else.
#[test]
fn reverse_path_check_follows_selectors() -> anyhow::Result<()> {
    let mut world = gateway();
    connection(&mut world, "xian").remotes.extend(nets(MORE));
    let mismatch = |source: &str, destination: &str| {
        row(format!("{source} to {destination}"), NARROW, into(NARROW, &packet(source, destination)))
            .dropped("selector_mismatch", "xian")
    };
    table(
        &world,
        &[
            mismatch("10.77.1.1", "10.10.20.1"),
            mismatch("fd00:77::1", "fd00:20::1"),
            spoofed(NARROW, "10.77.1.1", "192.168.0.10", "xian"),
            spoofed(NARROW, "fd00:77::1", "fd00:c::10", "xian"),
            // For the hub itself the local selector does not apply.
            spoofed(NARROW, "10.77.1.1", "203.0.113.1", "xian"),
        ],
    )?;
    let mut world = World { spoke_to_spoke: false, ..admitting(MORE) };
    table(&world, &all_spoofed("10.77.1.1"))?;
    world.spoke_to_spoke = true;
    let expired = udp4("10.77.1.1", "10.10.20.1").ttl(1).ip_options(&[1]);
    table(&world, &[row("expired, with options", SH, into(SH, &expired)).dropped("spoofed_source", "shanghai")])
}

#[test]
fn reverse_path_off_admits_source_without_route() -> anyhow::Result<()> {
    let mut world = admitting(MORE);
    connection(&mut world, "shanghai").reverse_path = ReversePath::Off;
    // Without a route, and then with one to another site.
    table(&world, &[admitted("10.77.1.1"), admitted("fd00:77::1")].concat_rows())?;
    add_routes(&mut world, MORE, "hangzhou", 100);
    table(&world, &[admitted("10.77.1.1"), admitted("fd00:77::1")].concat_rows())?;
    // The selectors still apply.
    let still = [
        spoofed(SH, "10.78.0.1", "10.10.20.1", "shanghai"),
        spoofed(SH, "fd00:78::1", "fd00:20::1", "shanghai"),
        spoofed(SH, "10.78.0.1", "192.168.0.1", "shanghai"),
    ];
    table(&world, &still)
}

/// The VPC's sources are its prefixes: a site's route within them does not exclude any.
#[test]
fn vpc_source_is_exempt_from_reverse_path_check() -> anyhow::Result<()> {
    let mut world = gateway();
    add_routes(&mut world, "192.168.77.0/24 fd00:c:0:7::/64", "shanghai", 100);
    let forwarded = |source: &str, destination: &str, bytes| {
        let packet = packet(source, destination);
        let out = out_of(HZ, &packet, 63);
        row(format!("{source} from the VPC"), VPC, into(VPC, &packet)).forwarded("vpc", ("hangzhou", HZ), out, bytes)
    };
    table(&world, &[forwarded("192.168.77.1", "10.10.20.1", V4), forwarded("fd00:c:0:7::1", "fd00:20::1", V6)])
}

/// "beijing" and "chengdu" share one interface: see the gateway.
#[test]
fn reverse_path_on_shared_interface_uses_matched_connection() -> anyhow::Result<()> {
    let without = |next_hops: &[&str]| {
        let mut world = gateway();
        let part = nets("10.10.40.128/25")[0];
        world.routes.retain(|route| route.destination != part || !next_hops.contains(&route.next_hop.as_str()));
        world
    };
    let to_hz = udp4("10.10.40.200", "10.10.20.1");
    let to_raw = udp4("10.10.40.200", "10.10.50.1");
    let by_chengdu =
        || row("chengdu's", TUN, to_hz.build()).forwarded("chengdu", ("hangzhou", HZ), out_of(HZ, &to_hz, 63), V4);
    let by_beijing = || {
        let out = to_raw.clone().ttl(63).build();
        row("beijing's", TUN, to_raw.build()).forwarded("beijing", ("kunming", RAW), out, V4)
    };
    let to_hub = |source: &str, account| {
        row(format!("{source} to the hub"), TUN, udp4(source, "203.0.113.1").build()).passed("to_hub", account)
    };
    table(&gateway(), &[by_chengdu(), by_beijing(), to_hub("10.10.40.200", "chengdu")])?;
    table(
        &without(&["beijing"]),
        &[by_chengdu(), spoofed(TUN, "10.10.40.200", "10.10.50.1", "beijing"), to_hub("10.10.40.200", "chengdu")],
    )?;
    // "beijing" would pass the reverse-path check, but the longer prefix attributes the packet to "chengdu".
    let beijing_alone = [
        spoofed(TUN, "10.10.40.200", "10.10.20.1", "chengdu"),
        by_beijing(),
        spoofed(TUN, "10.10.40.200", "203.0.113.1", "nobody"),
        to_hub("10.10.40.1", "beijing"),
        to_hub("10.10.41.1", "chengdu"),
    ];
    table(&without(&["beijing", "chengdu"]), &beijing_alone)?;
    table(&without(&["chengdu"]), &beijing_alone)?;
    let mut world = without(&["beijing", "chengdu"]);
    connection(&mut world, "chengdu").reverse_path = ReversePath::Off;
    table(&world, &[by_chengdu(), by_beijing(), to_hub("10.10.40.200", "chengdu")])?;
    // Ties go to the first name.
    let mut world = gateway();
    connection(&mut world, "chengdu").remotes = nets("10.10.40.0/24 10.10.41.0/24");
    table(&world, &[to_hub("10.10.40.1", "beijing"), to_hub("10.10.41.1", "chengdu")])?;
    let whole = nets("10.10.40.0/24")[0];
    for route in world.routes.iter_mut().filter(|route| route.destination == whole) {
        route.next_hop = "chengdu".into();
    }
    table(&world, &[spoofed(TUN, "10.10.40.1", "203.0.113.1", "nobody"), to_hub("10.10.41.1", "chengdu")])
}

/// The check is the same with known SAs.
#[test]
fn reverse_path_check_applies_to_negotiated_selectors() -> anyhow::Result<()> {
    let mut world = gateway();
    let any = |remote: &str, local: &str| Pair {
        remote: nets(remote)[0],
        local: nets(local)[0],
        protocol: None,
        remote_ports: 0..=65535,
        local_ports: 0..=65535,
    };
    let pairs = vec![any("0.0.0.0/0", "0.0.0.0/0"), any("::/0", "::/0")];
    connection(&mut world, "shanghai").agreement = Some(Agreement { pairs, on_demand: false });
    let rows = [
        admitted("10.10.10.1").into(),
        admitted("fd00:10::1").into(),
        all_spoofed("10.10.30.1"),
        all_spoofed("8.8.8.8"),
        all_spoofed("fd00:30::1"),
    ];
    table(&world, &rows.concat_rows())
}

/// Rows of several kinds as one table.
trait ConcatRows {
    fn concat_rows(self) -> Vec<Expected>;
}

impl<T: IntoIterator<Item = Expected>, const N: usize> ConcatRows for [T; N] {
    fn concat_rows(self) -> Vec<Expected> {
        self.into_iter().flatten().collect()
    }
}

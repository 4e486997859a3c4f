//! Negotiated selectors: known or not, limited to a protocol and ports, and packets that show no ports.

use std::ops::RangeInclusive;

use hub_tests::{
    model::{Agreement, Connection, Pair, World},
    packet::{Packet, number::TCP},
};

use crate::{
    gateway::{HZ, SH, V4, VPC, gateway, host, into, out_of, own, udp4, udp6},
    row::{Expected, Row, row},
    table,
};

const ANY: RangeInclusive<u16> = 0..=65535;

fn pair(remote: &str, local: &str, protocol: Option<u8>, ports: [RangeInclusive<u16>; 2]) -> Pair {
    let [remote_ports, local_ports] = ports;
    let [remote, local] = [remote, local].map(|prefix| prefix.parse().expect(prefix));
    Pair { remote, local, protocol, remote_ports, local_ports }
}

/// The gateway; "shanghai" has these SAs.
fn with_sas(pairs: &[Pair], on_demand: bool) -> World {
    let mut world = gateway();
    shanghai(&mut world).agreement = Some(Agreement { pairs: pairs.to_vec(), on_demand });
    world
}

fn shanghai(world: &mut World) -> &mut Connection {
    world.connections.iter_mut().find(|connection| connection.name == "shanghai").expect("it is there")
}

fn spoofed(row: Row) -> Expected {
    row.dropped("spoofed_source", "shanghai")
}

fn mismatch(row: Row) -> Expected {
    row.dropped("selector_mismatch", "shanghai")
}

/// An arrival from Shanghai.
fn from(name: &str, packet: &Packet) -> Row {
    row(name, SH, into(SH, packet))
}

/// A packet from Shanghai to Hangzhou.
fn through(name: &str, packet: &Packet, bytes: u64) -> Expected {
    from(name, packet).forwarded("shanghai", ("hangzhou", HZ), out_of(HZ, packet, 63), bytes)
}

/// A packet from the VPC to Shanghai.
fn to(name: &str, packet: &Packet, bytes: u64) -> Expected {
    row(name, VPC, into(VPC, packet)).forwarded("vpc", ("shanghai", SH), out_of(SH, packet, 63), bytes)
}

#[test]
fn connection_without_sa_drops_inbound_and_passes_outbound() -> anyhow::Result<()> {
    let out = udp4("192.168.0.10", "10.10.10.1");
    table(
        &with_sas(&[], false),
        &[
            spoofed(from("no SA", &udp4("10.10.10.1", "10.10.20.1"))),
            spoofed(from("no SA, IPv6", &udp6("fd00:10::1", "fd00:20::1"))),
            to("what may have one negotiated", &out, V4),
            spoofed(from("no SA, for the hub itself", &udp4("10.10.10.1", "192.168.0.1"))),
            spoofed(from("no SA, for the hub itself, IPv6", &udp6("fd00:10::1", "fd00:c::1"))),
        ],
    )
}

#[test]
fn negotiated_selectors_override_configured_ones() -> anyhow::Result<()> {
    let sas = [pair("10.10.10.0/25", "192.168.0.0/16", None, [ANY, ANY])];
    let hub = |source| udp4(source, "203.0.113.1");
    let (within, beyond) = (udp4("192.168.0.10", "10.10.10.1"), udp4("192.168.0.10", "10.10.10.200"));
    let to_vpc = udp4("10.10.10.1", "192.168.0.10");
    let vpc_out = to_vpc.clone().ttl(63).ethernet(own(VPC), host(VPC, 10)).build();
    table(
        &with_sas(&sas, false),
        &[
            from("within the SA", &to_vpc).forwarded("shanghai", ("vpc", VPC), vpc_out, V4),
            spoofed(from("a source that the file alone has", &udp4("10.10.10.200", "192.168.0.10"))),
            mismatch(from("a destination that the file alone has", &udp4("10.10.10.1", "10.10.20.1"))),
            to("out, within the SA", &within, V4),
            row("out, where the file alone leads", VPC, into(VPC, &beyond))
                .dropped("selector_mismatch", "vpc")
                .admitted(V4),
            // Outside the SA's local prefix: for the hub itself only the source matters.
            from("to the hub, within the SA", &hub("10.10.10.1")).passed("to_hub", "shanghai"),
            spoofed(from("to the hub, a source that the file alone has", &hub("10.10.10.200"))),
        ],
    )?;
    table(
        &with_sas(&sas, true),
        &[
            to("out, where another SA may be negotiated", &beyond, V4),
            spoofed(from("to the hub, which none has been yet for", &hub("10.10.10.200"))),
        ],
    )
}

#[test]
fn protocol_and_port_limits_apply_both_ways() -> anyhow::Result<()> {
    let any = "0.0.0.0/0";
    let world = with_sas(
        &[
            pair("10.10.10.0/24", any, Some(6), [ANY, 22..=22]),
            pair("10.10.10.0/24", any, Some(17), [1024..=2047, ANY]),
            pair("10.10.10.0/24", "10.10.20.0/25", Some(132), [ANY, ANY]),
            pair("fd00:10::/64", "::/0", Some(6), [ANY, 22..=22]),
        ],
        false,
    );
    let tcp = |source, destination| Packet::ipv4("10.10.10.1", "10.10.20.1").tcp(source, destination);
    let udp = |source, destination| Packet::ipv4("10.10.10.1", "10.10.20.1").udp(source, destination);
    let back = |source, destination| Packet::ipv4("192.168.0.10", "10.10.10.1").tcp(source, destination);
    let tcp6 = |port| Packet::ipv6("fd00:10::1", "fd00:20::1").tcp(40_000, port);
    let sctp = |destination: &str| Packet::ipv4("10.10.10.1", destination).protocol(132).payload(8);
    table(
        &world,
        &[
            through("the port of the hub's side", &tcp(40_000, 22), 40),
            mismatch(from("the port on the wrong side", &tcp(22, 40_000))),
            mismatch(from("another protocol with this port", &udp(40_000, 22))),
            through("the first port of a range", &udp(1024, 9), 28),
            through("the last port of a range", &udp(2047, 9), 28),
            mismatch(from("just below the range", &udp(1023, 9))),
            mismatch(from("just above the range", &udp(2048, 9))),
            mismatch(from("a protocol that no SA is for", &Packet::ipv4("10.10.10.1", "10.10.20.1").echo(1, 1))),
            through("a protocol alone", &sctp("10.10.20.1"), 28),
            mismatch(from("a protocol for another destination", &sctp("10.10.20.200"))),
            to("back, source and destination swapped", &back(22, 40_000), 40),
            row("back, the port on the wrong side", VPC, into(VPC, &back(40_000, 22)))
                .dropped("selector_mismatch", "vpc")
                .admitted(40),
            through("IPv6", &tcp6(22), 60),
            mismatch(from("IPv6, another port", &tcp6(23))),
            from("to the hub, a protocol that no SA is for", &Packet::ipv4("10.10.10.1", "192.168.0.1").echo(1, 1))
                .passed("to_hub", "shanghai"),
            from("the same, IPv6", &Packet::ipv6("fd00:10::1", "fd00:c::1").echo(1, 1)).passed("to_hub", "shanghai"),
        ],
    )
}

#[test]
fn packet_without_ports_is_matched_by_protocol_only() -> anyhow::Result<()> {
    let fragment = |offset| Packet::ipv4("10.10.10.1", "10.10.20.1").tcp(22, 22).payload(8).fragment(offset, true, 7);
    let fragment6 = || Packet::ipv6("fd00:10::1", "fd00:20::1").tcp(22, 22).payload(8).fragment(0, true, 7);
    let sas = |ports: RangeInclusive<u16>| {
        let pairs = [
            pair("10.10.10.0/24", "0.0.0.0/0", Some(TCP), [ports.clone(), ANY]),
            pair("fd00:10::/64", "::/0", Some(TCP), [ports, ANY]),
        ];
        with_sas(&pairs, false)
    };
    table(
        &sas(22..=22),
        &[
            mismatch(from("the first fragment", &fragment(0))),
            mismatch(from("a later fragment", &fragment(10))),
            mismatch(from("a fragment, IPv6", &fragment6())),
        ],
    )?;
    table(
        &sas(ANY),
        &[
            through("the first fragment", &fragment(0), 48),
            through("a later fragment", &fragment(10), 48),
            through("a fragment, IPv6", &fragment6(), 76),
            mismatch(from("of another protocol", &udp4("10.10.10.1", "10.10.20.1").fragment(10, false, 7))),
        ],
    )
}

#[test]
fn icmp_type_and_code_are_matched_as_ports() -> anyhow::Result<()> {
    let sas = [
        pair("10.10.10.0/24", "0.0.0.0/0", Some(1), [0x0800..=0x0800, ANY]),
        pair("10.10.10.0/24", "0.0.0.0/0", Some(1), [ANY, 0x0300..=0x03ff]),
        pair("fd00:10::/64", "::/0", Some(58), [0x8000..=0x8000, ANY]),
    ];
    let message = |kind, code| Packet::ipv4("10.10.10.1", "10.10.20.1").icmp(kind, code, [0; 4]);
    let message6 = |kind, code| Packet::ipv6("fd00:10::1", "fd00:20::1").icmp(kind, code, [0; 4]);
    table(
        &with_sas(&sas, false),
        &[
            through("an echo request", &message(8, 0), 28),
            mismatch(from("another code", &message(8, 1))),
            mismatch(from("an echo reply", &message(0, 0))),
            through("unreachable, any code", &message(3, 13), 28),
            to("the same the other way", &Packet::ipv4("192.168.0.10", "10.10.10.1").echo(1, 1), 28),
            mismatch(from("a fragment", &message(8, 0).fragment(0, true, 7))),
            through("an echo request, IPv6", &message6(128, 0), 48),
            mismatch(from("an echo reply, IPv6", &message6(129, 0))),
        ],
    )?;
    let reply = [pair("10.10.10.0/24", "0.0.0.0/0", Some(1), [0..=0, ANY])];
    table(&with_sas(&reply, false), &[through("an echo reply is type 0, which is a number, too", &message(0, 0), 28)])
}

/// "beijing" and "chengdu" share one interface: see the gateway.
#[test]
fn port_limit_selects_connection_on_shared_interface() -> anyhow::Result<()> {
    use crate::gateway::TUN;
    let mut world = gateway();
    for connection in &mut world.connections {
        let pairs = match connection.name.as_str() {
            "chengdu" => vec![pair("10.10.40.128/25", "10.10.20.0/24", Some(6), [ANY, ANY])],
            "beijing" => vec![pair("10.10.40.0/24", "10.10.20.0/24", None, [ANY, ANY])],
            _ => continue,
        };
        connection.agreement = Some(Agreement { pairs, on_demand: false });
    }
    let tcp = Packet::ipv4("10.10.40.200", "10.10.20.1").tcp(1, 2);
    let udp = Packet::ipv4("10.10.40.200", "10.10.20.1").udp(1, 2);
    let forwarded = |name, packet: &Packet, account, bytes| {
        row(name, TUN, packet.clone().build()).forwarded(account, ("hangzhou", HZ), out_of(HZ, packet, 63), bytes)
    };
    table(
        &world,
        &[
            forwarded("what the longer one is for", &tcp, "chengdu", 40),
            forwarded("what it is not for is the shorter one's", &udp, "beijing", 28),
        ],
    )?;
    for connection in world.connections.iter_mut().filter(|connection| connection.name == "beijing") {
        connection.agreement = Some(Agreement::default());
    }
    table(
        &world,
        &[
            forwarded("the other has no SA", &tcp, "chengdu", 40),
            row("which would have taken it", TUN, udp.build()).dropped("selector_mismatch", "chengdu"),
            row("a source of the other's alone", TUN, udp4("10.10.40.1", "10.10.20.1").build())
                .dropped("spoofed_source", "nobody"),
        ],
    )
}

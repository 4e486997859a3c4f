//! The gateway for the tables, with one attachment of every kind.

use std::net::IpAddr;

use hub_tests::{
    model::{Connection, Interface, ReversePath, Route, Vpc, World},
    packet::Packet,
};
use ipnet::IpNet;

/// Interfaces, by index; all MTUs are 1500 except that of [`SH`].
pub const SH: u32 = 11;
/// MTU of [`SH`].
pub const SH_MTU: usize = 1400;
pub const HZ: u32 = 12;
/// Ethernet without a `peer`: each host is a neighbour. Its index is high, as on a host with frequently changing
/// interfaces.
pub const NB: u32 = 20_013;
/// Raw IP, shared by "beijing" and "chengdu".
pub const TUN: u32 = 20_014;
pub const VPC: u32 = 15;
/// Raw IP, used only by "kunming".
pub const RAW: u32 = 16;
/// Not an attachment.
pub const ETH: u32 = 17;
/// An interface that is down.
pub const DOWN: u32 = 18;
/// Its peer's link address is unknown.
pub const SILENT: u32 = 19;
/// Its connection allows only the VPC.
pub const NARROW: u32 = 20;
/// The remote prefix of its connection is everything.
pub const WIDE: u32 = 21;
/// VLAN 100 of [`SH`].
pub const SH_100: u32 = 22;
/// All of them, as devices for the namespace.
pub const DEVICES: [u32; 12] = [SH, HZ, NB, TUN, VPC, RAW, ETH, DOWN, SILENT, NARROW, WIDE, SH_100];

/// Bytes of the IP packets that [`udp4`] and [`udp6`] build.
pub const V4: u64 = 20 + 8 + 100;
pub const V6: u64 = 40 + 8 + 100;

/// Link address of the hub on an interface.
pub fn own(interface: u32) -> [u8; 6] {
    // Begins like an IPv4 packet, as those of some clouds do: a link header must not be taken for one.
    [0x42, 0, 0, 0, 0, low(interface)]
}

/// Link address of the neighbour on an interface.
pub fn peer(interface: u32) -> [u8; 6] {
    [2, 0, 0, 0, 1, low(interface)]
}

/// Link address of host `number` on an interface.
pub fn host(interface: u32, number: u8) -> [u8; 6] {
    [2, 0, 0, 2, number, low(interface)]
}

/// A low byte that is unique per interface.
fn low(interface: u32) -> u8 {
    interface.to_le_bytes()[0]
}

/// A UDP packet of [`V4`] bytes.
pub fn udp4(source: &str, destination: &str) -> Packet {
    Packet::ipv4(source, destination).udp(1000, 2000).payload(100)
}

/// A UDP packet of [`V6`] bytes.
pub fn udp6(source: &str, destination: &str) -> Packet {
    Packet::ipv6(source, destination).udp(1000, 2000).payload(100)
}

/// The frame in which a packet arrives on an Ethernet interface.
pub fn into(interface: u32, packet: &Packet) -> Vec<u8> {
    packet.clone().ethernet(peer(interface), own(interface)).build()
}

/// The frame in which a packet with this TTL leaves an Ethernet interface.
pub fn out_of(interface: u32, packet: &Packet, ttl: u8) -> Vec<u8> {
    packet.clone().ttl(ttl).ethernet(own(interface), peer(interface)).build()
}

pub fn nets(list: &str) -> Vec<IpNet> {
    list.split_whitespace().map(|net| net.parse().expect(net)).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn interface(index: u32, name: &str) -> Interface {
    Interface { index, name: name.into(), ethernet: true, mac: own(index), mtu: 1500, up: true, ..Interface::default() }
}

/// An interface with a resolved peer.
fn with_peer(index: u32, name: &str) -> Interface {
    Interface { neighbours: [(address(PEER), peer(index))].into(), ..interface(index, name) }
}

/// The far end of every link with a peer.
const PEER: &str = "169.254.0.2";

fn connection(name: &str, interface: &str, remotes: &str, locals: &str) -> Connection {
    let (remotes, locals) = (nets(remotes), nets(locals));
    let (name, interface) = (name.into(), interface.into());
    let peer = Some(address(PEER));
    Connection { name, interface, peer, up: true, remotes, locals, ..Connection::default() }
}

fn interfaces() -> Vec<Interface> {
    let mut sh = with_peer(SH, "sh");
    sh.mtu = SH_MTU.try_into().expect("a small number");
    sh.addresses = vec!["169.254.0.1/30".parse().expect("a prefix")];
    let mut nb = interface(NB, "nb");
    nb.neighbours = [(address("10.10.30.1"), host(NB, 1)), (address("fd00:30::1"), host(NB, 2))].into();
    let mut vpc = interface(VPC, "vpc0");
    vpc.addresses = ["192.168.0.1/24", "10.255.0.0/31", "fd00:c::1/64"].map(|own| own.parse().expect(own)).into();
    vpc.gateways = [("192.168.8.0/24", "192.168.0.254"), ("fd00:c:0:8::/64", "fd00:c::fe")]
        .map(|(prefix, router)| (prefix.parse().expect(prefix), address(router)))
        .into();
    vpc.neighbours = [("192.168.0.10", 10), ("fd00:c::10", 11), ("192.168.0.254", 254), ("fd00:c::fe", 253)]
        .map(|(neighbour, number)| (address(neighbour), host(VPC, number)))
        .into();
    let mut eth = interface(ETH, "eth0");
    eth.addresses = vec!["203.0.113.1/24".parse().expect("a prefix")];
    let raw = |index, name| Interface { ethernet: false, mac: [0; 6], ..interface(index, name) };
    vec![
        sh,
        with_peer(HZ, "hz"),
        nb,
        raw(TUN, "tun"),
        vpc,
        raw(RAW, "raw"),
        eth,
        Interface { up: false, ..with_peer(DOWN, "down") },
        interface(SILENT, "silent"),
        with_peer(NARROW, "narrow"),
        with_peer(WIDE, "wide"),
        Interface { vlan: Some((SH, 100)), ..interface(SH_100, "sh.100") },
    ]
}

const ANY: &str = "0.0.0.0/0 ::/0";

/// Every site has a /24 and a /64 of its number and a route for each. "shanghai" and "hangzhou" both also lead to
/// `10.10.100.0/24` and `fd00:100::/64`, "beijing" and "chengdu" to `10.10.40.128/25`. Only "macau" may send from
/// sources that are routed elsewhere.
pub fn gateway() -> World {
    let connections = vec![
        connection("shanghai", "sh", "10.10.10.0/24 10.10.100.0/24 fd00:10::/64 fd00:100::/64", ANY),
        connection("hangzhou", "hz", "10.10.20.0/24 10.10.100.0/24 fd00:20::/64 fd00:100::/64", ANY),
        Connection { peer: None, ..connection("ningbo", "nb", "10.10.30.0/24 fd00:30::/64", ANY) },
        connection("beijing", "tun", "10.10.40.0/24 fd00:40::/64", "10.10.0.0/16 fd00::/16"),
        connection("chengdu", "tun", "10.10.40.128/25 10.10.41.0/24", "10.10.20.0/24 192.168.0.0/24"),
        connection("kunming", "raw", "10.10.50.0/24 fd00:50::/64", ANY),
        connection("dalian", "down", "10.10.60.0/24 fd00:60::/64", ANY),
        connection("guilin", "gone", "10.10.70.0/24", ANY),
        connection("lhasa", "silent", "10.10.80.0/24 fd00:80::/64", ANY),
        connection("xian", "narrow", "10.10.90.0/24 fd00:90::/64", "192.168.0.0/16 fd00:c::/48"),
        Connection { reverse_path: ReversePath::Off, ..connection("macau", "wide", ANY, ANY) },
    ];
    let routes = [
        ("10.10.10.0/24 fd00:10::/64 10.10.100.0/24 fd00:100::/64", "shanghai"),
        ("10.10.20.0/24 fd00:20::/64 10.10.100.0/24 fd00:100::/64", "hangzhou"),
        ("10.10.30.0/24 fd00:30::/64", "ningbo"),
        ("10.10.40.0/24 fd00:40::/64", "beijing"),
        ("10.10.41.0/24 10.10.40.128/25", "chengdu"),
        // The reverse path for sources that only "beijing" allows.
        ("10.10.40.128/25", "beijing"),
        ("10.10.50.0/24 fd00:50::/64", "kunming"),
        ("10.10.60.0/24 fd00:60::/64", "dalian"),
        ("10.10.70.0/24", "guilin"),
        ("10.10.80.0/24 fd00:80::/64", "lhasa"),
        ("10.10.90.0/24 fd00:90::/64", "xian"),
        // Addresses that no router forwards to, with routes nevertheless.
        ("127.0.0.0/8 0.0.0.0/8 ::/64 fe80::/10 ff00::/8 169.254.0.0/16 224.0.0.0/3", "macau"),
    ];
    let routes = routes.iter().flat_map(|(destinations, next_hop)| {
        nets(destinations).into_iter().map(|destination| Route {
            destination,
            next_hop: (*next_hop).into(),
            weight: 100,
        })
    });
    World {
        interfaces: interfaces(),
        connections,
        vpc: Some(Vpc { interface: "vpc0".into(), cidrs: nets("192.168.0.0/16 fd00:c::/48") }),
        routes: routes.collect(),
        spoke_to_spoke: true,
        segments: Vec::new(),
        policy_routes: Vec::new(),
    }
}

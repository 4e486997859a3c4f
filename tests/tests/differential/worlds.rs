//! Random worlds.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use hub_tests::model::{Connection, Interface, MssClamp, ReversePath, Route, Segment, Vpc, World};
use ipnet::IpNet;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::{
    agreements,
    draw::{address_within, one_of, percent, prefix, prefix_within},
    policies, translations, tunnels,
};

/// Interfaces available to a world; the first is the VPC's, if there is one.
pub const DEVICES: RangeInclusive<u32> = 31..=46;
/// Stacked interfaces, which are in the tables but are not devices.
const VLAN_DEVICES: u32 = 900;

/// The size of a world.
struct Size {
    interfaces: u32,
    connections: usize,
    /// Number of routes in addition to those to the sites.
    routes: usize,
    /// Maximum number of next hops of a destination.
    next_hops: usize,
    /// Percentage of destinations with several next hops; each costs 256 entries of a map.
    shared: u32,
    /// Number of subnets for prefixes.
    spread: u8,
}

pub fn draw(rng: &mut SmallRng) -> World {
    let size = match rng.random_range(0..10) {
        0..4 => {
            Size { interfaces: 4, connections: rng.random_range(1..=3), routes: 2, next_hops: 2, shared: 50, spread: 3 }
        }
        4..8 => Size {
            interfaces: 10,
            connections: rng.random_range(3..=12),
            routes: 20,
            next_hops: 4,
            shared: 40,
            spread: 8,
        },
        8 => Size { interfaces: 16, connections: 64, routes: 30, next_hops: 64, shared: 10, spread: 6 },
        _ => Size { interfaces: 16, connections: 40, routes: 600, next_hops: 8, shared: 6, spread: 250 },
    };
    let mut world = World { spoke_to_spoke: percent(rng, 80), ..World::default() };
    add_interfaces(rng, &size, &mut world);
    if percent(rng, 75) {
        add_vpc(rng, &size, &mut world);
    }
    for number in 0..size.connections {
        add_connection(rng, &size, &mut world, number);
    }
    add_segments(rng, &mut world);
    add_routes(rng, &size, &mut world);
    policies::draw(rng, &mut world, size.spread);
    tunnels::draw(rng, &mut world, DEVICES.take(size.interfaces as usize).skip(1));
    translations::draw(rng, &mut world);
    agreements::draw(rng, &mut world);
    add_neighbours(rng, &mut world);
    world
}

/// In a third of the worlds, segments that reach some of the others.
fn add_segments(rng: &mut SmallRng, world: &mut World) {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    if !percent(rng, 33) {
        return;
    }
    let listed = one_of(rng, &[30, 60, 90]);
    world.segments = NAMES
        .iter()
        .map(|name| {
            let all = ["vpc", "default"].into_iter().chain(NAMES);
            let reaches = all.filter(|_| percent(rng, listed)).map(str::to_owned).collect();
            Segment { name: (*name).to_owned(), reaches }
        })
        .collect();
    for connection in &mut world.connections {
        connection.segment = percent(rng, 70).then(|| one_of(rng, &NAMES).to_owned());
    }
}

fn add_interfaces(rng: &mut SmallRng, size: &Size, world: &mut World) {
    // In most worlds XDP reaches every interface.
    let tc_only = one_of(rng, &[0, 0, 0, 10, 50]);
    for index in DEVICES.take(size.interfaces as usize) {
        let ethernet = percent(rng, 75);
        let mut interface = Interface {
            index,
            name: format!("if{index}"),
            ethernet,
            tc_only: percent(rng, tc_only),
            mac: if ethernet { mac(0, index, 0) } else { [0; 6] },
            mtu: if percent(rng, 4) {
                one_of(rng, &[0, 68, 130, 9000, 70_000])
            } else {
                one_of(rng, &[576, 1280, 1400, 1400, 1500])
            },
            up: percent(rng, 90),
            ..Interface::default()
        };
        for _ in 0..one_of(rng, &[0, 0, 1, 1, 2]) {
            let net = own_net(rng, index);
            interface.addresses.push(net);
        }
        world.interfaces.push(interface);
        if percent(rng, 20) {
            world.interfaces.push(Interface {
                index: VLAN_DEVICES + index,
                name: format!("if{index}.v"),
                ethernet: true,
                mac: mac(0, index, 0),
                mtu: 1500,
                up: true,
                vlan: Some((index, rng.random_range(1..5))),
                ..Interface::default()
            });
        }
    }
}

/// An own address with its prefix length.
fn own_net(rng: &mut SmallRng, index: u32) -> IpNet {
    let (text, lengths): (String, &[u8]) = match rng.random_range(0..5) {
        0 => (format!("fd00:0:0:1::{index}"), &[64, 127, 128]),
        1 => (format!("fe80::{index}"), &[64]),
        2 => (format!("10.0.1.{index}"), &[8, 24, 28, 32]),
        _ => (format!("172.16.{index}.2"), &[24, 30, 31, 32]),
    };
    IpNet::new_assert(text.parse().expect("an address"), one_of(rng, lengths))
}

/// A link address that identifies its owner: 0 for the hub's own.
fn mac(kind: u8, interface: u32, number: usize) -> [u8; 6] {
    let [high, low] = u16::try_from(number).expect("a small number").to_be_bytes();
    [2, kind, high, low, 0, u8::try_from(interface).expect("a small index")]
}

fn add_vpc(rng: &mut SmallRng, size: &Size, world: &mut World) {
    let mut cidrs = BTreeSet::new();
    for _ in 0..rng.random_range(1..=3) {
        cidrs.insert(one_of(
            rng,
            &["192.168.0.0/16", "192.168.4.0/22", "192.168.4.0/24", "fd00:0:c::/48", "fd00:0:c:4::/64"],
        ));
    }
    let cidrs: Vec<IpNet> = cidrs.into_iter().map(|net| net.parse().expect(net)).collect();
    let interface = &mut world.interfaces[0];
    for number in 0..rng.random_range(0..6) {
        let within = cidrs.choose(rng).copied().expect("there is a prefix");
        let part = match rng.random_range(0..4) {
            0 => within,
            1 => within.supernet().expect("no default route"),
            2 => prefix(rng, !within.addr().is_ipv4(), size.spread),
            _ => prefix_within(rng, within),
        };
        if percent(rng, 40) {
            interface.addresses.push(IpNet::new_assert(address_within(rng, part), part.prefix_len()));
        } else if interface.gateways.iter().all(|(other, _)| *other != part) {
            let router = address_within(rng, within);
            interface.gateways.push((part, router));
            if interface.ethernet && percent(rng, 80) {
                interface.neighbours.insert(router, mac(1, interface.index, number));
            }
        }
    }
    let name = if percent(rng, 95) { interface.name.clone() } else { "gone".into() };
    world.vpc = Some(Vpc { interface: name, cidrs });
}

fn add_connection(rng: &mut SmallRng, size: &Size, world: &mut World, number: usize) {
    // Never the VPC's.
    let carriers: Vec<&str> =
        world.interfaces.iter().filter(|link| link.vlan.is_none()).skip(1).map(|link| link.name.as_str()).collect();
    let interface = if percent(rng, 4) { "gone" } else { one_of(rng, &carriers) };
    let mut remotes: Vec<IpNet> = (0..rng.random_range(1..=4))
        .map(|_| {
            let v6 = percent(rng, 50);
            prefix(rng, v6, size.spread)
        })
        .collect();
    if percent(rng, 20) {
        // The VPC's prefixes, or larger ones.
        let theirs = one_of(rng, &["192.168.0.0/16", "192.168.4.0/23", "fd00:0:c::/48", "fd00:0:c::/47"]);
        remotes.push(theirs.parse().expect(theirs));
    }
    let any = || ["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>().expect(net));
    if percent(rng, 5) {
        remotes.extend(any());
    }
    let mut locals = Vec::new();
    if percent(rng, 60) {
        locals.extend(any());
    } else {
        for _ in 0..rng.random_range(1..=5) {
            let v6 = percent(rng, 50);
            locals.push(match rng.random_range(0..4) {
                0 => IpNet::new_assert(any()[usize::from(v6)].addr(), one_of(rng, &[0, 1, 4, 5])).trunc(),
                1 => if v6 { "fd00:0:c::/48" } else { "192.168.0.0/16" }.parse().expect("a prefix"),
                _ => prefix(rng, v6, size.spread),
            });
        }
    }
    // Names in random order: ties are broken by name.
    let name = format!("{}{number}", one_of(rng, &['a', 'm', 'z']));
    // Link-local, or an address allowed to reach the hub.
    let link = one_of(rng, &[[169, 254, 0], [172, 17, 0], [10, 0, 1]]);
    let peer = percent(rng, 60).then(|| {
        let [a, b, c] = link;
        IpAddr::from([a, b, c, 100 + u8::try_from(number).expect("a small number")])
    });
    // An operator's mistake: an address of the hub as the site's peer.
    let own = world
        .interfaces
        .iter()
        .find(|link| link.name == interface)
        .map(|link| link.addresses.clone())
        .unwrap_or_default();
    let peer = match own.choose(rng) {
        Some(own) if percent(rng, 10) => Some(if percent(rng, 50) { own.addr() } else { own.broadcast() }),
        _ => peer,
    };
    let reverse_path = if percent(rng, 15) { ReversePath::Off } else { ReversePath::Strict };
    world.connections.push(Connection {
        name,
        segment: None,
        interface: interface.into(),
        tunnel_weight: None,
        peer,
        up: percent(rng, 75),
        remotes,
        locals,
        agreement: None,
        reverse_path,
        mss_clamp: match rng.random_range(0..10) {
            0..5 => MssClamp::Auto,
            5..8 => MssClamp::Off,
            _ => MssClamp::Bytes(one_of(rng, &[88, 536, 1220, 1360, 65_495])),
        },
        translations: Vec::new(),
    });
}

fn add_routes(rng: &mut SmallRng, size: &Size, world: &mut World) {
    let mut taken = BTreeSet::new();
    for index in 0..world.connections.len() {
        for remote in world.connections[index].remotes.clone() {
            // A site's sources are mostly routed to it.
            if percent(rng, 90) {
                let destination = if percent(rng, 75) { remote } else { prefix_within(rng, remote) };
                let others = if percent(rng, size.shared) { rng.random_range(1..=size.next_hops) } else { 0 };
                add_route(rng, world, &mut taken, destination, index, others);
            }
        }
    }
    for _ in 0..size.routes {
        let v6 = percent(rng, 50);
        let destination = match rng.random_range(0..40) {
            0 => if v6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a prefix"),
            1 => if v6 { "fd00:0:c::/49" } else { "192.168.4.0/23" }.parse().expect("a prefix"),
            _ => prefix(rng, v6, size.spread),
        };
        let index = rng.random_range(0..world.connections.len());
        add_route(rng, world, &mut taken, destination, index, 0);
    }
}

/// A destination with a next hop and `others` additional ones.
fn add_route(
    rng: &mut SmallRng,
    world: &mut World,
    taken: &mut BTreeSet<(IpNet, usize)>,
    destination: IpNet,
    index: usize,
    others: usize,
) {
    for number in 0..=others {
        let index = if number == 0 { index } else { rng.random_range(0..world.connections.len()) };
        if !taken.insert((destination, index)) {
            continue;
        }
        let weight = match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(1..=100),
            _ => 100,
        };
        let connection = &mut world.connections[index];
        let next_hop = connection.name.clone();
        // The other next hops mostly lead to the same site.
        if percent(rng, 80) {
            connection.remotes.push(destination);
        }
        world.routes.push(Route { destination, next_hop, weight });
    }
}

/// Link addresses of peers, and of hosts on links without a peer.
fn add_neighbours(rng: &mut SmallRng, world: &mut World) {
    let World { interfaces, connections, vpc, .. } = world;
    for (number, connection) in connections.iter().enumerate() {
        let Some(interface) = interfaces.iter_mut().find(|link| link.name == connection.interface && link.ethernet)
        else {
            continue;
        };
        match connection.peer {
            Some(peer) if percent(rng, 85) => {
                interface.neighbours.insert(peer, mac(2, interface.index, number));
            }
            Some(_) => {}
            None => {
                for host in 0..40 {
                    let remote = connection.remotes.choose(rng).copied().expect("every site has a prefix");
                    interface
                        .neighbours
                        .insert(address_within(rng, remote), mac(3, interface.index, number * 100 + host));
                }
            }
        }
    }
    for (number, cidr) in vpc.iter().flat_map(|vpc| &vpc.cidrs).cycle().take(60).enumerate() {
        let interface = &mut interfaces[0];
        if interface.ethernet {
            interface.neighbours.insert(address_within(rng, *cidr), mac(4, interface.index, number));
        }
    }
}

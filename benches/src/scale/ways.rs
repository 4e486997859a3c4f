//! Hubs with many interfaces towards `b`.

use std::net::Ipv4Addr;

use hub_tests::lab::ConnectionConfig;
use ipnet::IpNet;

use super::subjects::{MANY_FLOWS, Plan, connection, names, route, sender, text};
use crate::{
    forward::routes::{self, FIRST, Family, SLOT},
    testbed::B,
};

/// Interface `number` of the hub towards `b`; number 0 is what the site has anyway.
pub fn device(number: u32) -> String {
    if number == 0 { B.hub_device(0) } else { format!("way{number}") }
}

/// Addresses of the hub and of its neighbour on interface `number`, from 1 on: a /31 of 100.64.0.0/10 (RFC 6598).
pub fn ends(number: u32) -> [Ipv4Addr; 2] {
    let first = Ipv4Addr::new(100, 64, 0, 0).to_bits() + 2 * number;
    [first, first + 1].map(Ipv4Addr::from_bits)
}

/// One route to one network by `count` members, that many connections to one site. Each has an interface: on a shared
/// one the source address alone tells connections apart, and these have the same network behind them.
pub(super) fn next_hops(family: Family, count: u32) -> Plan {
    let destination = routes::network(family, FIRST, 24);
    let mut config = sender(family);
    for number in 0..count {
        config.connections.push(on_way(number, &[destination]));
        config.routes.push(route(destination, number));
    }
    let used = names(count);
    Plan {
        devices: count,
        arguments: vec![],
        config: text(&config),
        routes: 1,
        destinations: 1,
        flows: MANY_FLOWS,
        used,
        translated: None,
        listeners: None,
    }
}

/// `most` routes to as many networks, in turn by `count` connections, each with an interface.
pub(super) fn interfaces(family: Family, count: u32, most: u32) -> Plan {
    let mut config = sender(family);
    let network = |slot: u32| routes::network(family, FIRST + slot * SLOT, 24);
    for number in 0..count {
        let slots = (number..most).step_by(count as usize);
        config.connections.push(on_way(number, &slots.clone().map(network).collect::<Vec<_>>()));
        config.routes.extend(slots.map(|slot| route(network(slot), number)));
    }
    Plan {
        devices: count,
        arguments: vec![],
        config: text(&config),
        routes: most,
        destinations: most,
        // The floor chooses an interface by the source port.
        flows: MANY_FLOWS,
        used: names(count),
        translated: None,
        listeners: None,
    }
}

/// Connection `number` on the interface of the same number.
fn on_way(number: u32, remote: &[IpNet]) -> ConnectionConfig {
    let peer = match number {
        0 => B.peer4(0),
        _ => ends(number)[1],
    };
    ConnectionConfig { interface: device(number), peer: Some(peer.into()), ..connection(&B, number, remote) }
}

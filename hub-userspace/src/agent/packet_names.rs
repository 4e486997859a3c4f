//! Names for the numbers in records of packets.

use std::collections::BTreeMap;

use hub_common::maps::VPC;

use super::world::World;
use crate::{
    config::tunnels::{connection_of, tunnel_of},
    kernel::netlink::Links,
};

/// The connections and interfaces of one moment.
pub struct PacketNames {
    /// By `COUNTERS` slot.
    connections: BTreeMap<u32, String>,
    links: Links,
}

impl PacketNames {
    pub(super) fn of(world: &World) -> Self {
        let slots = &world.ids.policy.connections;
        let connections = world.config.connections.keys().filter_map(|name| Some((slots.get(name)?, name.clone())));
        let connections = connections.chain([(VPC, "vpc".to_owned())]).collect();
        Self { connections, links: world.host.links.clone() }
    }

    /// The name of a connection by `COUNTERS` slot.
    pub fn connection(&self, slot: u32) -> Option<&str> {
        self.connections.get(&slot).map(String::as_str)
    }

    /// The `COUNTERS` slot of a connection; of the VPC's side if no connection has that name.
    pub fn slot(&self, name: &str) -> Option<u32> {
        self.connections.iter().rev().find(|(_, connection)| *connection == name).map(|(slot, _)| *slot)
    }

    /// The names of a connection's tunnels, for a message; empty if it has none.
    pub fn tunnels(&self, connection: &str) -> String {
        let names = self.connections.values().map(String::as_str);
        let tunnels = names.filter(|name| tunnel_of(name).is_some() && connection_of(name) == connection);
        tunnels.collect::<Vec<_>>().join(", ")
    }

    /// The name of an interface, and whether its frames have an Ethernet header.
    pub fn interface(&self, ifindex: u32) -> Option<(&str, bool)> {
        self.links.get(&ifindex).map(|link| (&*link.name, link.ethernet))
    }
}

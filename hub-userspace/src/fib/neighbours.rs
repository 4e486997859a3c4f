//! Link addresses of directly reached hosts: the VPC's, and those of Ethernet links without a `peer`.
//!
//! Separate from the policy, so that an ARP or NDP event recompiles no selector.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use hub_common::maps::{LinkAddress, Neighbour};

use super::{inputs::Inputs, tables::NeighbourTable};

/// Compiles the neighbour table.
pub fn neighbour_table(inputs: Inputs<'_>) -> NeighbourTable {
    let Inputs { config, host, .. } = inputs;
    let without_peer = config.connections.values().filter(|connection| connection.peer.is_none());
    let names: BTreeSet<&str> = without_peer
        .map(|connection| connection.interface.as_str())
        .chain(config.vpc.iter().map(|vpc| vpc.interface.as_str()))
        .collect();
    let indices = names.into_iter().filter_map(|name| host.link(name)).map(|link| link.index);
    let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let of_interface =
        |ifindex| host.neighbours.range((ifindex, lowest)..).take_while(move |((other, _), _)| *other == ifindex);
    indices
        .flat_map(of_interface)
        .map(|((ifindex, address), mac)| (key(*ifindex, *address), *mac))
        .map(|(key, mac)| (key, LinkAddress { mac, padding: [0; 2] }))
        .collect()
}

fn key(ifindex: u32, address: IpAddr) -> Neighbour {
    let (address, family) = match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), 4),
        IpAddr::V6(address) => (address, 6),
    };
    let address = u128::from(address);
    Neighbour { address: [(address >> 64) as u64, address as u64].map(u64::to_be), ifindex, family }
}

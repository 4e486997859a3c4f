//! Prefixes on the links themselves: sources that are allowed there, and the hub's own addresses.

use std::{collections::BTreeSet, net::IpAddr};

use hub_common::maps::{Scoped, link};
use ipnet::IpNet;

use super::{Carried, PolicyCompiler, by_interface, scoped, uses::of_scope};
use crate::fib::{
    inputs::Inputs,
    tables::{PolicyTables, Prefix},
};

impl PolicyCompiler<'_> {
    /// Recompiles the prefixes on the links of these interfaces, and of the VPC's, which depend on the sites'. Returns
    /// the keys of the present ones.
    pub(super) fn some_links(
        &mut self,
        interfaces: &BTreeSet<u32>,
        before: &PolicyTables,
    ) -> Vec<Prefix<Scoped<[u8; 16]>>> {
        let Inputs { config, host, .. } = self.inputs;
        let names: BTreeSet<&str> =
            interfaces.iter().filter_map(|index| Some(host.links.get(index)?.name.as_str())).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let mut compiled = BTreeSet::new();
        for (interface, carried) in by_interface(self.carried(|_, connection| names.contains(&*connection.interface))) {
            if let Some(link) = host.link(interface) {
                self.links(link.index, &carried);
                compiled.insert(link.index);
            }
        }
        if let Some(vpc) = config.vpc.as_ref().and_then(|vpc| host.link(&vpc.interface))
            && (!compiled.is_empty() || interfaces.contains(&vpc.index))
        {
            self.links(vpc.index, &[]);
            self.links_to_sites(vpc.index);
            compiled.insert(vpc.index);
        }
        let of_interface = |ifindex| of_scope(&before.links, ifindex).map(|(key, _)| *key);
        compiled.into_iter().flat_map(of_interface).collect()
    }

    /// Prefixes that are not allowed on the VPC's link: the neighbours on the sites' links.
    pub(super) fn links_to_sites(&mut self, vpc: u32) {
        let Inputs { config, host, .. } = self.inputs;
        let mut add = |prefix: IpNet| {
            let (address, length) = mapped(prefix);
            self.entries.tables.links.entry(scoped(vpc, address, length)).or_insert(link::SITE);
        };
        for connection in config.connections.values() {
            let link = host.link(&connection.interface).into_iter();
            link.flat_map(|link| host.addresses_of(link.index)).for_each(|address| add(address.trunc()));
            connection.peer.into_iter().for_each(|peer| add(peer.into()));
        }
    }

    /// Source prefixes and hub addresses that are allowed on an interface's own link.
    pub(super) fn links(&mut self, ifindex: u32, connections: &[Carried<'_>]) {
        // An own address that is configured as a `peer` remains the hub's.
        let mut add = |prefix: IpNet, what: u32| {
            let (address, length) = mapped(prefix);
            self.entries.tables.links.entry(scoped(ifindex, address, length)).or_insert(what);
        };
        for address in self.inputs.host.addresses_of(ifindex) {
            if address.prefix_len() < address.max_prefix_len() {
                add(address.trunc(), link::SOURCE);
            }
            add(address.addr().into(), link::HUB);
            if let IpNet::V4(net) = address
                && net.prefix_len() < 31
            {
                add(IpAddr::V4(net.broadcast()).into(), link::HUB);
            }
        }
        for peer in connections.iter().filter_map(|carried| carried.connection.peer) {
            add(peer.into(), link::SOURCE);
        }
    }
}

/// A prefix in IPv6 form: IPv4 as IPv4-mapped (RFC 4291 section 2.5.5.2).
fn mapped(prefix: IpNet) -> ([u8; 16], u8) {
    match prefix {
        IpNet::V4(net) => (net.network().to_ipv6_mapped().octets(), 96 + net.prefix_len()),
        IpNet::V6(net) => (net.network().octets(), net.prefix_len()),
    }
}

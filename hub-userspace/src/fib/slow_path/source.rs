//! The source address of the hub's own packets to sites, such as ICMP errors.
//!
//! Without it the kernel takes any address of the hub. If an SA does not admit that one, the packet is lost: a site then
//! never learns the MTU of its path.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::family;
use crate::{
    config::model::Connection,
    fib::Inputs,
    kernel::netlink::{Family, Link},
    policy::ports::ProtoPorts,
};

/// Addresses of the hub that are not on a connection's interface, those of the VPC's interface first. Read once for all
/// connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<IpAddr>);

/// The source of the hub's packets to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// The connection has no selectors of this family, or they admit any address of the hub.
    Any,
    Address(IpAddr),
    /// Its selectors admit no address of the hub.
    Missing,
}

impl Sources {
    pub fn of(inputs: Inputs<'_>) -> Self {
        let Inputs { config, host, .. } = inputs;
        let of_sites: BTreeSet<&str> = config.connections.values().map(|connection| &*connection.interface).collect();
        let vpc = config.vpc.as_ref().map(|vpc| vpc.interface.as_str());
        let links = host.links.values().filter(|link| link.admin_up && !of_sites.contains(link.name.as_str()));
        let (first, rest): (Vec<&Link>, Vec<&Link>) = links.partition(|link| vpc == Some(link.name.as_str()));
        Self(first.into_iter().chain(rest).flat_map(|link| addresses(inputs, link)).collect())
    }

    /// The source of packets to any of these connections; `None` leaves the choice to the kernel.
    pub fn of_members<'a>(
        &self,
        inputs: Inputs<'_>,
        members: impl Iterator<Item = &'a str>,
        family: Family,
    ) -> Option<IpAddr> {
        let rest: Vec<Locals> = members
            .filter_map(|name| Some(Locals::of(inputs, name, inputs.config.connections.get(name)?, family)))
            .filter(|locals| !locals.admit_any())
            .collect();
        let first = rest.first()?;
        let candidates: Vec<IpAddr> = self.candidates(first).collect();
        let for_all = |address: &&IpAddr| rest.iter().all(|locals| locals.admit(**address));
        candidates.iter().find(for_all).or(candidates.first()).copied()
    }

    /// The source of packets to a connection.
    pub fn of_connection(&self, inputs: Inputs<'_>, name: &str, family: Family) -> Preferred {
        let Some(connection) = inputs.config.connections.get(name) else { return Preferred::Any };
        let locals = Locals::of(inputs, name, connection, family);
        match self.candidates(&locals).next() {
            _ if locals.admit_any() => Preferred::Any,
            Some(address) => Preferred::Address(address),
            None => Preferred::Missing,
        }
    }

    /// The hub's addresses that a connection admits: first those that it admits towards all of its remote prefixes.
    fn candidates<'a>(&'a self, locals: &'a Locals) -> impl Iterator<Item = IpAddr> + 'a {
        let all = || locals.own.iter().chain(&self.0).copied();
        let everywhere = all().filter(|address| locals.admit_everywhere(*address));
        everywhere.chain(all().filter(|address| locals.admit(*address)))
    }
}

/// The local prefixes of a connection, by remote prefix.
struct Locals {
    by_remote: BTreeMap<IpNet, Vec<IpNet>>,
    /// Addresses of the connection's interface.
    own: Vec<IpAddr>,
}

impl Locals {
    /// Those of the SAs, or of the file while there are none. Pairs for some protocols do not admit all packets.
    fn of(inputs: Inputs<'_>, name: &str, connection: &Connection, family: Family) -> Self {
        let mut by_remote = BTreeMap::<IpNet, Vec<IpNet>>::new();
        let mut add = |remote: IpNet, local: IpNet| {
            if self::family(remote) == family && self::family(local) == family {
                by_remote.entry(remote).or_default().push(local);
            }
        };
        let negotiated = inputs.negotiated.get(name).map(|negotiated| &negotiated.pairs);
        if let Some(pairs) = negotiated.filter(|pairs| !pairs.is_empty()) {
            let pairs = pairs.iter().filter(|pair| pair.limit == ProtoPorts::NONE);
            pairs.for_each(|pair| add(pair.remote, pair.local));
        } else {
            let remotes = connection.remote_cidrs.iter();
            let pairs = remotes.flat_map(|remote| connection.local_cidrs.iter().map(|local| (*remote, *local)));
            pairs.for_each(|(remote, local)| add(remote, local));
        }
        let link = inputs.host.link(&connection.interface);
        Self { by_remote, own: link.into_iter().flat_map(|link| addresses(inputs, link)).collect() }
    }

    fn admit_any(&self) -> bool {
        self.by_remote.values().all(|locals| locals.iter().any(|local| local.prefix_len() == 0))
    }

    fn admit(&self, address: IpAddr) -> bool {
        self.by_remote.values().any(|locals| contain(locals, address))
    }

    fn admit_everywhere(&self, address: IpAddr) -> bool {
        self.by_remote.values().all(|locals| contain(locals, address))
    }
}

fn contain(locals: &[IpNet], address: IpAddr) -> bool {
    locals.iter().any(|local| local.contains(&address))
}

/// Addresses of an interface that packets to other networks can have. A link's 169.254.0.0/16 is no exception: selectors
/// may contain it.
fn addresses<'a>(inputs: Inputs<'a>, link: &Link) -> impl Iterator<Item = IpAddr> + use<'a> {
    let (host, index) = (inputs.host, link.index);
    let usable = host.addresses_of(index).filter(move |address| host.is_usable(index, *address));
    usable.map(|address| address.addr()).filter(|address| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, connection::state::States, kernel::netlink::HostState, policy::selectors::Negotiated};

    /// The source for "a", whose interface has 169.254.1.1, with these selectors of the file: local, remote.
    fn source(locals: &str, remotes: &str, addresses: &[(u32, &str)]) -> Preferred {
        let text = format!(
            "[gateway]\nname = \"hub\"\n[vpc]\ninterface = \"vpc0\"\ncidrs = [\"172.30.0.0/24\", \"fd30::/64\"]\n\
             [customer_gateway.site]\naddress = \"198.51.100.10\"\n[connection.a]\ncustomer_gateway = \"site\"\n\
             interface = \"tun-a\"\nlocal_cidrs = [{locals}]\nremote_cidrs = [{remotes}]\n"
        );
        let config = config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
        let mut host = HostState::default();
        for (index, name) in [(1, "lo"), (2, "eth0"), (3, "tun-a"), (4, "vpc0")] {
            host.links.insert(link(index, name));
        }
        for (index, address) in addresses {
            let address = address.parse().expect("an address");
            host.addresses.entry(*index).or_default().insert(address);
        }
        let inputs = Inputs {
            config: &config,
            host: &host,
            states: &States::new(),
            negotiated: &Negotiated::new(),
            tc_only: &BTreeSet::new(),
        };
        let family = if locals.contains("::") { Family::V6 } else { Family::V4 };
        Sources::of(inputs).of_connection(inputs, "a", family)
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ethernet: true,
            mtu: 1500,
            admin_up: true,
            running: true,
            ..Link::default()
        }
    }

    fn address(text: &str) -> Preferred {
        Preferred::Address(text.parse().expect("an address"))
    }

    #[test]
    fn source_is_an_address_of_the_hub_that_the_selectors_admit() {
        let hub = [(1, "127.0.0.1/8"), (2, "203.0.113.1/24"), (3, "169.254.1.1/30"), (4, "172.30.0.1/24")];
        let to = "\"10.61.0.0/16\"";
        assert_eq!(source("\"0.0.0.0/0\"", to, &hub), Preferred::Any);
        assert_eq!(source("\"172.30.0.0/24\"", to, &hub), address("172.30.0.1"));
        assert_eq!(source("\"203.0.113.0/24\", \"172.30.0.0/24\"", to, &hub), address("172.30.0.1"), "the VPC's first");
        assert_eq!(source("\"203.0.113.0/24\"", to, &hub), address("203.0.113.1"));
        assert_eq!(source("\"10.62.0.0/16\"", to, &hub), Preferred::Missing);
        assert_eq!(source("\"10.62.0.0/16\"", to, &[(3, "10.62.0.1/32")]), address("10.62.0.1"), "of its interface");
        assert_eq!(source("\"169.254.0.0/16\"", to, &hub), address("169.254.1.1"));
        assert_eq!(
            source("\"fd30::/64\"", "\"fd61::/48\"", &[(4, "fe80::1/64"), (4, "fd30::1/64")]),
            address("fd30::1")
        );
        assert_eq!(source("\"fd30::/64\"", "\"fd61::/48\"", &hub), Preferred::Missing);
    }
}

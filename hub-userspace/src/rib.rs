//! The routing information base: every destination the hub knows, and what leads to it.
//!
//! Built from the configuration and from what netlink tells of the host; says which members of a route are to carry
//! its traffic now. Knows nothing of maps or kernel routes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use prefix_trie::joint::JointPrefixMap;

use crate::{
    config::model::{Config, Vpc},
    netlink::HostState,
    state::{State, States},
};

/// What leads to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The hub itself.
    Hub,
    /// The VPC side: through a router there, or each host a link neighbour.
    Vpc { gateway: Option<IpAddr> },
    /// Connections, by name, with their weights.
    Connections(BTreeMap<String, u8>),
}

/// Destinations and what leads to them.
#[derive(Default)]
pub struct Rib {
    destinations: JointPrefixMap<IpNet, Target>,
}

impl Rib {
    /// Of equal prefixes the hub's own addresses win over the VPC, and the VPC over routes: a site cannot take away
    /// what is ours.
    pub fn build(config: &Config, host: &HostState) -> Self {
        let mut rib = Self::default();
        for route in &config.routes {
            let entry = rib.destinations.entry(route.destination);
            if let Target::Connections(members) = entry.or_insert_with(|| Target::Connections(BTreeMap::new())) {
                members.insert(route.next_hop.clone(), route.weight);
            }
        }
        if let Some(vpc) = &config.vpc {
            rib.add_vpc(vpc, host);
        }
        rib.add_hub(host);
        rib
    }

    /// In order of the prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Target)> {
        self.destinations.iter()
    }

    /// The VPC's prefixes go where the kernel's own routes of the VPC interface lead: parts of a prefix may lie behind
    /// different routers.
    fn add_vpc(&mut self, vpc: &Vpc, host: &HostState) {
        let ifindex = host.link(&vpc.interface).map(|link| link.index);
        let routed = ifindex
            .into_iter()
            .flat_map(|index| host.gateways_of(index))
            .map(|(prefix, gateway)| (prefix, Some(gateway)));
        let on_link =
            ifindex.into_iter().flat_map(|index| host.addresses_of(index)).map(|address| (address.trunc(), None));
        let kernel: JointPrefixMap<IpNet, Option<IpAddr>> = routed.chain(on_link).collect();
        for cidr in &vpc.cidrs {
            let gateway = kernel.get_lpm(cidr).and_then(|(_, gateway)| *gateway);
            self.destinations.insert(*cidr, Target::Vpc { gateway });
            for (prefix, gateway) in kernel.children(cidr) {
                self.destinations.insert(prefix, Target::Vpc { gateway: *gateway });
            }
        }
    }

    fn add_hub(&mut self, host: &HostState) {
        for address in host.addresses.values().flatten() {
            self.destinations.insert(IpNet::from(address.addr()), Target::Hub);
            if let IpNet::V4(net) = *address
                && let Some(broadcast) = directed_broadcast(net)
            {
                self.destinations.insert(IpNet::from(IpAddr::V4(broadcast)), Target::Hub);
            }
        }
    }
}

/// The address that reaches every host of a link; a link of one or two hosts has none (RFC 3021).
fn directed_broadcast(net: Ipv4Net) -> Option<Ipv4Addr> {
    (net.prefix_len() < 31).then(|| net.broadcast())
}

/// The members that carry the traffic of a destination now, with their parts of it, in order of their names.
///
/// Those with a weight above 0 that are up share it in proportion; if none is, those of weight 0 that are up share it
/// evenly; if none at all is up, the ones with a weight above 0 do, because traffic must still reach the tunnel for it
/// to negotiate. Never falls through to a shorter prefix.
pub fn active<'a>(members: &'a BTreeMap<String, u8>, states: &States) -> Vec<(&'a str, u32)> {
    let up = |name: &str| states.get(name) == Some(&State::Up);
    let pick = |weighted: bool, only_up: bool| {
        members
            .iter()
            .filter(|(name, weight)| (**weight > 0) == weighted && (!only_up || up(name)))
            .map(|(name, weight)| (name.as_str(), if weighted { u32::from(*weight) } else { 1 }))
            .collect::<Vec<_>>()
    };
    [(true, true), (false, true), (true, false), (false, false)]
        .into_iter()
        .map(|(weighted, only_up)| pick(weighted, only_up))
        .find(|members| !members.is_empty())
        .unwrap_or_default()
}

/// The part of a destination's flows that takes the route through `next_hop` now, 0..=1.
pub fn share(rib: &Rib, destination: IpNet, next_hop: &str, states: &States) -> f64 {
    let Some(Target::Connections(members)) = rib.destinations.get(&destination) else {
        return 0.0;
    };
    let active = active(members, states);
    let total: u32 = active.iter().map(|(_, part)| part).sum();
    let own: u32 = active.iter().filter(|(name, _)| *name == next_hop).map(|(_, part)| part).sum();
    f64::from(own) / f64::from(total.max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::active;
    use crate::state::{State, States};

    #[test]
    fn standby_steps_in_when_no_active_member_is_up() {
        let members: BTreeMap<String, u8> =
            [("a", 100), ("b", 50), ("s", 0), ("t", 0)].map(|(n, w)| (n.into(), w)).into();
        let table: [(&str, &[(&str, u32)]); 6] = [
            ("a b s t", &[("a", 100), ("b", 50)]),
            ("b s", &[("b", 50)]),
            ("s t", &[("s", 1), ("t", 1)]),
            ("t", &[("t", 1)]),
            ("", &[("a", 100), ("b", 50)]),
            ("a", &[("a", 100)]),
        ];
        for (up, expected) in table {
            let states: States = members
                .keys()
                .map(|name| (name.clone(), if up.contains(name.as_str()) { State::Up } else { State::Down }))
                .collect();
            assert_eq!(active(&members, &states), expected, "up: {up:?}");
        }
    }

    #[test]
    fn with_standby_alone_and_down_standby_still_gets_the_traffic() {
        let members = BTreeMap::from([("s".to_owned(), 0)]);
        assert_eq!(active(&members, &States::from([("s".to_owned(), State::Down)])), [("s", 1)]);
    }

    #[test]
    fn a_drained_connection_carries_nothing_while_another_is_up() {
        let members = BTreeMap::from([("a".to_owned(), 100), ("b".to_owned(), 1)]);
        let states = States::from([("a".to_owned(), State::AdminDown), ("b".to_owned(), State::Up)]);
        assert_eq!(active(&members, &states), [("b", 1)]);
    }
}

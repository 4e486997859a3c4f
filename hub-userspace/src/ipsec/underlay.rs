//! The links that outer packets of tunnels leave by. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    config::Config,
    kernel::netlink::{HostState, Link},
};

/// Where nothing is known: Ethernet's.
const USUAL_MTU: u32 = 1500;
/// `LOOPBACK_IFINDEX`, include/net/flow.h. Packets from its addresses leave by other interfaces.
const LOOPBACK: u32 = 1;
/// Kinds of interfaces by which no outer packet leaves: `dummy` only has addresses, `xfrm` carries what is inside. The
/// MTU of an xfrm interface must not depend on that of one.
const NO_UNDERLAY: [&str; 2] = ["dummy", "xfrm"];

/// MTUs of the host's links, by the addresses and destinations that lead to them. A look-up does not depend on their
/// number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay {
    by_address: HashMap<IpAddr, u32>,
    /// Networks on the links, and destinations of routes through a gateway.
    by_destination: HashMap<IpNet, u32>,
    /// Lengths of these prefixes, IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
    /// The smallest of the links that the configuration names as underlays.
    of_config: Option<u32>,
}

impl Underlay {
    /// Of several links with one address or destination, the one with the smallest MTU counts.
    pub fn of(config: &Config, host: &HostState) -> Self {
        let mut underlay = Self::default();
        let mtu_of = |index: &u32| host.links.get(index).filter(|link| may_be_underlay(link)).map(|link| link.mtu);
        for (index, addresses) in &host.addresses {
            let Some(mtu) = mtu_of(index) else { continue };
            for address in addresses {
                note(&mut underlay.by_address, address.addr(), mtu);
                underlay.note_destination(address.trunc(), mtu);
            }
        }
        for (index, destination) in host.gateways.keys() {
            if let Some(mtu) = mtu_of(index) {
                underlay.note_destination(*destination, mtu);
            }
        }
        let named = config.underlays.keys().filter_map(|name| host.links.named(name));
        underlay.of_config = named.map(|link| link.mtu).min();
        underlay
    }

    fn note_destination(&mut self, destination: IpNet, mtu: u32) {
        note(&mut self.by_destination, destination, mtu);
        self.lengths[usize::from(destination.addr().is_ipv6())].insert(destination.prefix_len());
    }

    /// The MTU of the link by which packets from `local` to `remote` leave, as far as known: the link with the local
    /// address, or the one of the route to the remote address, or the smallest of the configured underlays or of the
    /// default routes. The kernel's routing rules are not considered.
    pub fn mtu(&self, local: Option<IpAddr>, remote: Option<IpAddr>) -> u32 {
        let by_address = local.and_then(|local| self.by_address.get(&local)).copied();
        by_address
            .or_else(|| self.route(remote?))
            .or(self.of_config)
            .or_else(|| self.default_routes())
            .unwrap_or(USUAL_MTU)
    }

    fn route(&self, remote: IpAddr) -> Option<u32> {
        let lengths = self.lengths[usize::from(remote.is_ipv6())].iter().rev();
        let mut prefixes = lengths.filter_map(|length| Some(IpNet::new(remote, *length).ok()?.trunc()));
        prefixes.find_map(|prefix| self.by_destination.get(&prefix)).copied()
    }

    fn default_routes(&self) -> Option<u32> {
        let defaults = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
        defaults.iter().filter_map(|default| self.by_destination.get(default)).min().copied()
    }
}

/// Whether outer packets may leave by this link.
pub fn may_be_underlay(link: &Link) -> bool {
    link.index != LOOPBACK && link.kind.as_deref().is_none_or(|kind| !NO_UNDERLAY.contains(&kind))
}

/// Whether a changed link may change an [`Underlay`].
pub fn is_other_underlay(old: Option<&Link>, new: Option<&Link>) -> bool {
    let facts =
        |link: Option<&Link>| link.filter(|link| may_be_underlay(link)).map(|link| (link.name.clone(), link.mtu));
    facts(old) != facts(new)
}

fn note<K: std::hash::Hash + Eq>(mtus: &mut HashMap<K, u32>, key: K, mtu: u32) {
    let smallest = mtus.entry(key).or_insert(mtu);
    *smallest = mtu.min(*smallest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(underlays: &[&str]) -> Config {
        let underlays: Vec<String> = underlays.iter().map(|name| format!("[underlay.{name}]\n")).collect();
        parse(&format!("[gateway]\nname = \"hub\"\n{}", underlays.concat())).expect("valid").0
    }

    fn link(index: u32, name: &str, kind: Option<&str>, mtu: u32) -> Link {
        Link { index, name: name.to_owned(), kind: kind.map(str::to_owned), mtu, ..Link::default() }
    }

    fn address(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    fn host() -> HostState {
        let mut host = HostState::default();
        for link in [
            link(1, "lo", None, 65536),
            link(2, "eth0", None, 1500),
            link(3, "eth1", None, 9000),
            link(4, "ppp0", Some("ppp"), 1492),
            link(5, "dum0", Some("dummy"), 1300),
            link(6, "xf0", Some("xfrm"), 1281),
        ] {
            host.links.insert(link);
        }
        for (index, text) in [
            (1, "203.0.113.9/32"),
            (2, "203.0.113.1/24"),
            (3, "10.0.0.1/8"),
            (3, "2001:db8::1/64"),
            (4, "192.0.2.1/32"),
            (5, "203.0.113.8/32"),
            (6, "169.254.0.1/30"),
        ] {
            host.addresses.entry(index).or_default().insert(text.parse().expect("an address"));
        }
        host
    }

    #[test]
    fn link_with_local_address_precedes_route() {
        let mut host = host();
        let gateway = "203.0.113.254".parse().expect("an address");
        host.gateways.insert((2, "0.0.0.0/0".parse().expect("a prefix")), gateway);
        host.gateways.insert((4, "198.51.100.0/24".parse().expect("a prefix")), gateway);
        let underlay = Underlay::of(&config(&[]), &host);
        for (what, local, remote, expected) in [
            ("its address", address("203.0.113.1"), address("198.51.100.1"), 1500),
            ("its address, IPv6", address("2001:db8::1"), None, 9000),
            ("on the loopback: by route", address("203.0.113.9"), address("198.51.100.1"), 1492),
            ("on a dummy: by route", address("203.0.113.8"), address("198.51.100.1"), 1492),
            ("behind NAT: by route", address("203.0.113.77"), address("10.9.9.9"), 9000),
            ("the default route", None, address("192.0.2.200"), 1500),
            ("an unknown site: the default route", None, None, 1500),
            ("IPv6, no route: any default route", None, address("2001:db8:1::1"), 1500),
            ("its own network", None, address("2001:db8::2"), 9000),
            ("of an xfrm interface: not by it", address("169.254.0.1"), address("169.254.0.2"), 1500),
        ] {
            assert_eq!(underlay.mtu(local, remote), expected, "{what}");
        }
    }

    #[test]
    fn smallest_configured_underlay_applies_without_route() {
        assert_eq!(Underlay::of(&config(&["eth1", "ppp0", "gone"]), &host()).mtu(None, None), 1492);
        assert_eq!(Underlay::of(&config(&[]), &host()).mtu(None, None), 1500);
        assert_eq!(Underlay::of(&config(&[]), &HostState::default()).mtu(None, address("10.0.0.1")), 1500);
    }

    #[test]
    fn smallest_of_two_default_routes_applies() {
        let mut host = host();
        for index in [3, 4] {
            host.gateways.insert((index, "0.0.0.0/0".parse().expect("a prefix")), "10.0.0.2".parse().expect("one"));
        }
        assert_eq!(Underlay::of(&config(&[]), &host).mtu(None, address("198.51.100.1")), 1492);
    }

    #[test]
    fn own_interfaces_and_carrier_are_no_change() {
        let eth0 = link(2, "eth0", None, 1500);
        let down = Link { running: !eth0.running, ..eth0.clone() };
        let narrow = Link { mtu: 1400, ..eth0.clone() };
        let (xfrm, other) = (link(6, "xf0", Some("xfrm"), 1281), link(6, "xf0", Some("xfrm"), 1400));
        for (old, new, expected) in [
            (Some(&eth0), Some(&down), false),
            (Some(&eth0), Some(&narrow), true),
            (Some(&eth0), None, true),
            (None, Some(&eth0), true),
            (Some(&xfrm), Some(&other), false),
            (None, Some(&xfrm), false),
        ] {
            assert_eq!(is_other_underlay(old, new), expected, "{old:?} {new:?}");
        }
    }
}

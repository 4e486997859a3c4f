//! Selectors of the configuration that no SA admits. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    desired::{ChildSelectors, child_selectors},
    table::Tunnel,
};
use crate::{
    config::ipsec::TunnelParameters,
    ipsec::effective::most_pairs,
    policy::{
        ports::ProtoPorts,
        selectors::{Pair, same_family},
    },
};

/// A pair of the configuration that is not completely admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingSelectors {
    /// charon's name of the child that should have it.
    pub child: String,
    /// The site's side.
    pub remote: IpNet,
    /// The hub's side.
    pub local: IpNet,
    /// This child has an SA, but the site has admitted less.
    pub is_narrowed: bool,
}

/// The missing pairs of a tunnel, in the order of the configuration.
pub fn missing(tunnel: &TunnelParameters<'_>, state: &Tunnel) -> Vec<MissingSelectors> {
    let pairs = state.pairs(most_pairs(tunnel.connection));
    let mut missing = Vec::new();
    for ChildSelectors { name: child, local: locals, remote: remotes } in child_selectors(tunnel) {
        let is_narrowed = state.children.iter().any(|live| live.name == child);
        for local in &locals {
            for remote in remotes.iter().filter(|remote| same_family(**remote, *local)) {
                if !is_admitted(&pairs, *remote, *local) {
                    let child = child.clone();
                    missing.push(MissingSelectors { child, remote: *remote, local: *local, is_narrowed });
                }
            }
        }
    }
    missing
}

/// A prefix of length 0 allows any address: the site decides which part it needs, so that any part is enough.
fn is_admitted(pairs: &BTreeSet<Pair>, remote: IpNet, local: IpNet) -> bool {
    let admits = |admitted: IpNet, prefix: IpNet| {
        same_family(admitted, prefix) && (prefix.prefix_len() == 0 || admitted.contains(&prefix))
    };
    if pairs.contains(&Pair { remote, local, limit: ProtoPorts::NONE }) {
        return true;
    }
    let unlimited = || pairs.iter().filter(|pair| pair.limit.is_none());
    let is_covered = |parts: Vec<IpNet>, whole: IpNet| IpNet::aggregate(&parts).iter().any(|all| all.contains(&whole));
    if unlimited().any(|pair| admits(pair.remote, remote) && admits(pair.local, local)) {
        return true;
    }
    let remotes = unlimited().filter(|pair| admits(pair.local, local)).map(|pair| pair.remote).collect();
    let locals = unlimited().filter(|pair| admits(pair.remote, remote)).map(|pair| pair.local).collect();
    is_covered(remotes, remote) || is_covered(locals, local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, parse},
        ipsec::vici::{event::ChildSa, selector::TrafficSelector},
    };

    fn config(version: u8) -> Config {
        let text = format!(
            r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[customer_gateway.a]
address = "198.51.100.1"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24", "fd00:1::/64"]
remote_cidrs = ["10.1.0.0/24", "10.1.1.0/24", "fd61::/64"]
[connection.a.ipsec]
psk_file = "/nowhere/psk"
allow_weak = true
ike = {{ version = {version} }}
"#
        );
        parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
    }

    /// A live child SA of that name: the hub's side, and the site's.
    fn sa(name: &str, local: &str, remote: &str) -> ChildSa {
        let selectors =
            |text: &str| text.split(' ').map(|text| TrafficSelector::parse(text).expect("a selector")).collect();
        ChildSa {
            id: 1,
            name: name.into(),
            state: "INSTALLED".into(),
            local: selectors(local),
            remote: selectors(remote),
            ..ChildSa::default()
        }
    }

    #[test]
    fn missing_selectors_are_those_that_no_sa_admits() {
        let (v4, v6) = ("192.168.0.0/24", "fd00:1::/64");
        let all = ["10.1.0.0/24", "10.1.1.0/24", "fd61::/64"];
        let whole = sa("vpnhub-a", "192.168.0.0/24 fd00:1::/64", "10.1.0.0/24 10.1.1.0/24 fd61::/64");
        let one = |local, remote| sa("vpnhub-a", local, remote);
        for (what, version, children, expected) in [
            ("no SA", 2, vec![], &all[..]),
            ("all", 2, vec![whole.clone()], &[]),
            ("narrowed", 2, vec![one(v4, "10.1.0.0/24")], &all[1..]),
            ("more than the file has", 2, vec![one("0.0.0.0/0", "0.0.0.0/0")], &all[2..]),
            ("in parts", 2, vec![one(v4, "10.1.0.0/25 10.1.0.128/25"), one(v4, "10.1.1.0/24")], &all[2..]),
            ("half of one", 2, vec![one(v4, "10.1.0.0/23"), one(v6, "fd61::/65")], &all[2..]),
            ("a protocol alone", 2, vec![one(v4, "10.1.0.0/24[tcp]"), one(v6, "fd61::/64")], &all[..2]),
            ("one of three children", 1, vec![sa("vpnhub-a-1", v4, "10.1.0.0/24")], &all[1..]),
            ("two families", 1, vec![sa("vpnhub-a-3", v6, "fd61::/64")], &all[..2]),
        ] {
            let config = config(version);
            let tunnel = config.tunnel("a").expect("it has one");
            let found = missing(&tunnel, &Tunnel { children, ..Tunnel::default() });
            let remotes: Vec<String> = found.iter().map(|missing| missing.remote.to_string()).collect();
            assert_eq!(remotes, expected, "{what}");
        }
    }

    #[test]
    fn default_prefix_narrowed_to_a_part_is_complete() {
        let mut config = config(2);
        let connection = config.connections.get_mut("a").expect("it is there");
        connection.local_cidrs = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().expect("a prefix")).into();
        let tunnel = config.tunnel("a").expect("it has one");
        let children = vec![sa("vpnhub-a", "192.168.0.0/24 192.168.9.0/24", "10.1.0.0/24 10.1.1.0/24")];
        let found = missing(&tunnel, &Tunnel { children, ..Tunnel::default() });
        let shown: Vec<_> =
            found.iter().map(|missing| (missing.remote.to_string(), missing.local.to_string())).collect();
        assert_eq!(shown, [("fd61::/64".to_owned(), "::/0".to_owned())], "the other family");
    }

    #[test]
    fn missing_child_with_sa_is_narrowed() {
        let config = config(1);
        let tunnel = config.tunnel("a").expect("it has one");
        let children = vec![sa("vpnhub-a-1", "192.168.0.0/24", "10.1.0.0/25")];
        let found = missing(&tunnel, &Tunnel { children, ..Tunnel::default() });
        let shown: Vec<_> = found.iter().map(|missing| (missing.child.as_str(), missing.is_narrowed)).collect();
        assert_eq!(shown, [("vpnhub-a-1", true), ("vpnhub-a-2", false), ("vpnhub-a-3", false)]);
    }
}

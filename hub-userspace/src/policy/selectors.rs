//! Compiles SA selectors: for each remote prefix of a scope, the local prefixes that it is paired with.
//!
//! A connection admits a packet if one of its (remote, local) pairs matches. The program looks up the longest remote
//! prefix of one address, then the other address in that prefix's policy. The policy of a prefix therefore holds the
//! locals of every pair whose remote contains it. Each local names its owner, as connections may share an interface:
//! the connection with the longest remote prefix takes precedence.
//!
//! Pairs with a protocol or port limit become a list of rules of a local. It holds the limits of all pairs whose
//! prefixes contain both, in order of precedence, up to the first pair without a limit.

use std::collections::{BTreeMap, BTreeSet};

use hub_common::maps::RULES_PER_ENTRY;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::policy::ports::ProtoPorts;

/// One traffic selector pair of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The site's side.
    pub remote: IpNet,
    /// The hub's side, and the networks behind it.
    pub local: IpNet,
    pub limit: ProtoPorts,
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { remote, local, limit } = self;
        write!(f, "{remote}{} === {local}{}", limit.text(limit.remote), limit.text(limit.local))
    }
}

/// Negotiated selectors of a connection's SAs, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NegotiatedSelectors {
    /// Of all SAs; empty without an SA.
    pub pairs: BTreeSet<Pair>,
    /// A packet that matches the file's selectors, but no SA, may trigger the negotiation of another SA.
    pub on_demand: bool,
    /// There are further pairs, which are left out because they are too many.
    pub is_cut: bool,
}

/// By name: connections whose SAs are known. For all others the file's selectors apply.
pub type Negotiated = BTreeMap<String, NegotiatedSelectors>;

/// A pair of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// `COUNTERS` slot of the connection.
    pub connection: u32,
    pub pair: Pair,
}

/// The connections that admit a local prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `COUNTERS` slot of the connection that takes precedence.
    pub connection: u32,
    /// Empty: every protocol and port is admitted. Otherwise the first match determines the connection.
    pub limits: Vec<(ProtoPorts, u32)>,
}

/// Local prefixes and their owners.
pub type Policy = BTreeMap<IpNet, Owner>;

/// A remote prefix of a scope and its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledRemote {
    pub remote: IpNet,
    /// The first connection that has this prefix.
    pub connection: u32,
    /// Never empty; all of the remote's family.
    pub policy: Policy,
    /// Connections with more limits than the kernel program has room for. Packets that match only the rest are dropped.
    pub truncated: BTreeSet<u32>,
}

impl CompiledRemote {
    /// Whether every local address, protocol and port is admitted. The first connection then owns them all.
    pub fn admits_any_local(&self) -> bool {
        self.policy.iter().all(|(local, owner)| local.prefix_len() == 0 && owner.limits.is_empty())
    }
}

type Pairs = BTreeSet<(u32, IpNet, ProtoPorts)>;

/// Compiles the selectors of one scope, of both families. Pairs of mixed families are ignored.
pub fn compile(selectors: &[Selector]) -> Vec<CompiledRemote> {
    let mut remotes = JointPrefixMap::<IpNet, Pairs>::default();
    for Selector { connection, pair } in selectors.iter().filter(|s| same_family(s.pair.remote, s.pair.local)) {
        let paired = (*connection, pair.local, pair.limit);
        match remotes.get_mut(&pair.remote) {
            Some(locals) => {
                locals.insert(paired);
            }
            None => {
                remotes.insert(pair.remote, BTreeSet::from([paired]));
            }
        }
    }
    remotes.iter().map(|(remote, pairs)| compiled(remote, pairs, &remotes)).collect()
}

fn compiled(remote: IpNet, pairs: &Pairs, remotes: &JointPrefixMap<IpNet, Pairs>) -> CompiledRemote {
    let connection = pairs.first().expect("a remote is there because a pair has it").0;
    // The longest remote first: it takes precedence.
    let mut around: Vec<_> = remotes.cover(&remote).collect();
    around.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    let pairs: Vec<(u32, IpNet, ProtoPorts)> =
        around.into_iter().flat_map(|(_, pairs)| pairs.iter().copied()).collect();
    let mut truncated = BTreeSet::new();
    let mut policy = Policy::new();
    for (_, local, _) in &pairs {
        if policy.contains_key(local) {
            continue;
        }
        let around = pairs.iter().filter(|(_, other, _)| other.contains(local));
        let owner = owner(around.map(|(connection, _, limit)| (*limit, *connection)), &mut truncated);
        policy.insert(*local, owner);
    }
    CompiledRemote { remote, connection, policy, truncated }
}

/// The owner of packets by the first match among the candidates; at least one is required.
fn owner(candidates: impl Iterator<Item = (ProtoPorts, u32)>, truncated: &mut BTreeSet<u32>) -> Owner {
    let mut rules: Vec<(ProtoPorts, u32)> = Vec::new();
    for (limit, connection) in candidates {
        if rules.iter().any(|(earlier, _)| earlier.covers(&limit)) {
            continue;
        }
        // Narrower limits of the same connection directly before this one are redundant.
        let others = rules.iter().rposition(|(_, other)| *other != connection).map_or(0, |last| last + 1);
        let mut place = 0;
        rules.retain(|(earlier, _)| {
            place += 1;
            place <= others || !limit.covers(earlier)
        });
        rules.push((limit, connection));
        if limit.is_none() {
            break;
        }
    }
    let connection = rules.first().expect("a local is there because a pair has it").1;
    if let [(only, _)] = rules.as_slice()
        && only.is_none()
    {
        return Owner { connection, limits: Vec::new() };
    }
    // Fail closed: packets that match only the rules without room are dropped.
    truncated.extend(rules.drain(RULES_PER_ENTRY.min(rules.len())..).map(|(_, connection)| connection));
    Owner { connection, limits: rules }
}

pub fn same_family(a: IpNet, b: IpNet) -> bool {
    matches!((a, b), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::{Owner, Pair, RULES_PER_ENTRY, Selector, compile};
    use crate::policy::ports::{Ports, ProtoPorts};

    fn selectors(rows: &[(u32, &str, &str)]) -> Vec<Selector> {
        let parse = |text: &str| text.parse::<IpNet>().unwrap();
        rows.iter()
            .map(|(connection, remote, local)| Selector {
                connection: *connection,
                pair: Pair { remote: parse(remote), local: parse(local), limit: ProtoPorts::NONE },
            })
            .collect()
    }

    /// Pairs from 10.0.0.0/8 to 192.168.0.0/16: connection, protocol, port on the site's side.
    fn limited(rows: &[(u32, u8, u16)]) -> Vec<Selector> {
        let limit = |protocol: u8, port: u16| ProtoPorts {
            protocol: (protocol != 0).then_some(protocol),
            remote: if port == 0 { Ports::ANY } else { Ports::one(port) },
            local: Ports::ANY,
        };
        let selector = |(connection, protocol, port): &(u32, u8, u16)| {
            let mut selector = selectors(&[(*connection, "10.0.0.0/8", "192.168.0.0/16")])[0];
            selector.pair.limit = limit(*protocol, *port);
            selector
        };
        rows.iter().map(selector).collect()
    }

    fn rows(selectors: &[Selector]) -> Vec<String> {
        compile(selectors)
            .into_iter()
            .map(|c| {
                let rule =
                    |(limit, connection): &(ProtoPorts, u32)| format!("{}{connection}", limit.text(limit.remote));
                let owner = |owner: &Owner| match owner.limits.as_slice() {
                    [] => owner.connection.to_string(),
                    rules => rules.iter().map(rule).collect::<Vec<_>>().join(","),
                };
                let locals: Vec<String> = c.policy.iter().map(|(local, of)| format!("{local}={}", owner(of))).collect();
                let any = if c.admits_any_local() { " any" } else { "" };
                format!("{} {} [{}]{any}", c.remote, c.connection, locals.join(" "))
            })
            .collect()
    }

    #[test]
    fn selector_with_any_local_is_marked_any() {
        let rows = rows(&selectors(&[(2, "10.1.0.0/16", "0.0.0.0/0"), (2, "fd00::/64", "::/0")]));
        assert_eq!(rows, ["10.1.0.0/16 2 [0.0.0.0/0=2] any", "fd00::/64 2 [::/0=2] any"]);
    }

    #[test]
    fn nested_remote_inherits_locals_of_outer() {
        let rows = rows(&selectors(&[(2, "10.0.0.0/8", "192.168.0.0/24"), (3, "10.1.0.0/16", "192.168.0.128/25")]));
        assert_eq!(rows, ["10.0.0.0/8 2 [192.168.0.0/24=2]", "10.1.0.0/16 3 [192.168.0.0/24=2 192.168.0.128/25=3]",]);
    }

    #[test]
    fn longest_remote_wins_for_nested_locals() {
        let rows = rows(&selectors(&[(2, "10.0.0.0/8", "192.168.0.128/25"), (3, "10.1.0.0/16", "192.168.0.0/24")]));
        assert_eq!(rows[1], "10.1.0.0/16 3 [192.168.0.0/24=3 192.168.0.128/25=3]");
    }

    #[test]
    fn pair_of_mixed_families_compiles_to_nothing() {
        assert!(compile(&selectors(&[(2, "10.0.0.0/8", "::/0")])).is_empty());
    }

    #[test]
    fn unlimited_pair_replaces_limits_of_same_connection() {
        for limits in [&[(2, 6, 22), (2, 0, 0)][..], &[(2, 0, 0), (2, 6, 22)], &[(2, 6, 22), (2, 6, 0), (2, 0, 0)]] {
            assert_eq!(rows(&limited(limits)), ["10.0.0.0/8 2 [192.168.0.0/16=2]"], "{limits:?}");
        }
    }

    #[test]
    fn limits_become_rules_in_order_of_precedence() {
        let rows = |limits| rows(&limited(limits));
        assert_eq!(rows(&[(2, 17, 53), (2, 6, 22)]), ["10.0.0.0/8 2 [192.168.0.0/16=[tcp/22]2,[udp/53]2]"]);
        // Limits that a wider rule of the same connection covers are left out.
        assert_eq!(rows(&[(2, 6, 22), (2, 6, 0), (2, 6, 80)]), ["10.0.0.0/8 2 [192.168.0.0/16=[tcp]2]"]);
        // A packet that the first connection does not admit belongs to the second one.
        assert_eq!(rows(&[(2, 6, 22), (3, 0, 0)]), ["10.0.0.0/8 2 [192.168.0.0/16=[tcp/22]2,3]"]);
        assert_eq!(rows(&[(2, 6, 22), (3, 6, 22), (3, 6, 80)]), ["10.0.0.0/8 2 [192.168.0.0/16=[tcp/22]2,[tcp/80]3]"]);
    }

    #[test]
    fn nested_local_inherits_limits_of_outer() {
        let mut selectors = limited(&[(2, 6, 22), (2, 17, 53)]);
        selectors[1].pair.local = "192.168.1.0/24".parse().unwrap();
        assert_eq!(rows(&selectors), ["10.0.0.0/8 2 [192.168.0.0/16=[tcp/22]2 192.168.1.0/24=[tcp/22]2,[udp/53]2]"]);
        selectors[1].pair.limit = ProtoPorts::NONE;
        assert_eq!(rows(&selectors), ["10.0.0.0/8 2 [192.168.0.0/16=[tcp/22]2 192.168.1.0/24=2]"]);
    }

    #[test]
    fn limited_pair_with_any_local_is_not_marked_any() {
        let mut selectors = limited(&[(2, 6, 22)]);
        selectors[0].pair.local = "0.0.0.0/0".parse().unwrap();
        assert_eq!(rows(&selectors), ["10.0.0.0/8 2 [0.0.0.0/0=[tcp/22]2]"]);
    }

    #[test]
    fn limits_over_capacity_are_truncated_and_reported() {
        let ports: Vec<(u32, u8, u16)> = (1..=10).map(|port| (2, 6, port)).collect();
        let compiled = compile(&limited(&ports));
        let owner = compiled[0].policy.values().next().unwrap();
        assert_eq!(owner.limits.len(), RULES_PER_ENTRY);
        assert_eq!(compiled[0].truncated.iter().copied().collect::<Vec<_>>(), [2]);
        assert!(compile(&limited(&ports[..8]))[0].truncated.is_empty());
    }
}

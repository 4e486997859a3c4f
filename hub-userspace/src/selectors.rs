//! SA selectors, compiled: which remote prefix of a scope is paired with which local prefixes.
//!
//! A connection admits a packet when one of its (remote, local) pairs does. The program finds the longest remote prefix
//! around an address and asks for the other address in that prefix's policy; so the policy of a prefix has the locals
//! of every pair whose remote contains it, and where several connections share an interface each local says whose it is:
//! the connection with the longest remote prefix has the first say.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

/// A (remote, local) pair of a connection's SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// `COUNTERS` slot of the connection.
    pub connection: u32,
    /// The site's side.
    pub remote: IpNet,
    /// The hub's side and all behind it.
    pub local: IpNet,
}

/// Local prefixes and the connection each belongs to.
pub type Policy = BTreeMap<IpNet, u32>;

/// What a remote prefix of a scope is paired with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    pub remote: IpNet,
    /// The first connection that has this prefix.
    pub connection: u32,
    /// Never empty; all of the remote's family.
    pub policy: Policy,
}

impl Compiled {
    /// Every local address; it is the first connection's then, nobody having said anything longer.
    pub fn admits_any_local(&self) -> bool {
        self.policy.keys().all(|local| local.prefix_len() == 0)
    }
}

/// Compiles the selectors of one scope, of both families. Pairs of mixed families are pairs of nothing.
pub fn compile(selectors: &[Selector]) -> Vec<Compiled> {
    let mut remotes = JointPrefixMap::<IpNet, BTreeSet<(u32, IpNet)>>::default();
    for selector in selectors.iter().filter(|selector| same_family(selector.remote, selector.local)) {
        let pairs = (selector.connection, selector.local);
        match remotes.get_mut(&selector.remote) {
            Some(locals) => {
                locals.insert(pairs);
            }
            None => {
                remotes.insert(selector.remote, BTreeSet::from([pairs]));
            }
        }
    }
    remotes.iter().map(|(remote, pairs)| compiled(remote, pairs, &remotes)).collect()
}

fn compiled(
    remote: IpNet,
    pairs: &BTreeSet<(u32, IpNet)>,
    remotes: &JointPrefixMap<IpNet, BTreeSet<(u32, IpNet)>>,
) -> Compiled {
    let connection = pairs.first().expect("a remote is there because a pair has it").0;
    // The longest remote first: what it says about a local stands.
    let mut around: Vec<_> = remotes.cover(&remote).collect();
    around.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    let pairs: Vec<(u32, IpNet)> = around.into_iter().flat_map(|(_, pairs)| pairs.iter().copied()).collect();
    let owner =
        |local: IpNet| pairs.iter().find(|(_, other)| other.contains(&local)).map(|(connection, _)| *connection);
    let policy = pairs.iter().filter_map(|(_, local)| Some((*local, owner(*local)?))).collect();
    Compiled { remote, connection, policy }
}

pub fn same_family(a: IpNet, b: IpNet) -> bool {
    matches!((a, b), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::{Selector, compile};

    fn selectors(rows: &[(u32, &str, &str)]) -> Vec<Selector> {
        let parse = |text: &str| text.parse::<IpNet>().unwrap();
        rows.iter()
            .map(|(connection, remote, local)| Selector {
                connection: *connection,
                remote: parse(remote),
                local: parse(local),
            })
            .collect()
    }

    fn rows(selectors: &[Selector]) -> Vec<String> {
        compile(selectors)
            .into_iter()
            .map(|c| {
                let locals: Vec<String> = c.policy.iter().map(|(local, owner)| format!("{local}={owner}")).collect();
                let any = if c.admits_any_local() { " any" } else { "" };
                format!("{} {} [{}]{any}", c.remote, c.connection, locals.join(" "))
            })
            .collect()
    }

    #[test]
    fn the_common_case_admits_any_local() {
        let rows = rows(&selectors(&[(2, "10.1.0.0/16", "0.0.0.0/0"), (2, "fd00::/64", "::/0")]));
        assert_eq!(rows, ["10.1.0.0/16 2 [0.0.0.0/0=2] any", "fd00::/64 2 [::/0=2] any"]);
    }

    #[test]
    fn a_prefix_within_another_has_the_locals_of_both() {
        let rows = rows(&selectors(&[(2, "10.0.0.0/8", "192.168.0.0/24"), (3, "10.1.0.0/16", "192.168.0.128/25")]));
        assert_eq!(rows, ["10.0.0.0/8 2 [192.168.0.0/24=2]", "10.1.0.0/16 3 [192.168.0.0/24=2 192.168.0.128/25=3]",]);
    }

    #[test]
    fn the_longer_remote_has_the_first_say() {
        let rows = rows(&selectors(&[(2, "10.0.0.0/8", "192.168.0.128/25"), (3, "10.1.0.0/16", "192.168.0.0/24")]));
        assert_eq!(rows[1], "10.1.0.0/16 3 [192.168.0.0/24=3 192.168.0.128/25=3]");
    }

    #[test]
    fn mixed_families_are_pairs_of_nothing() {
        assert!(compile(&selectors(&[(2, "10.0.0.0/8", "::/0")])).is_empty());
    }
}

//! Matches the kernel's policies and SAs to connections, and derives selectors from them. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::wire::{Direction, Sa, SelectorSide, Template, XfrmPolicy};
use crate::policy::{
    ports::{Ports, ProtoPorts},
    selectors::{Pair, same_family},
};

/// All policies and SAs, indexed: what one connection needs does not depend on the number of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "XfrmLists", into = "XfrmLists")]
pub struct XfrmTable {
    lists: XfrmLists,
    /// Inbound and forward policies, by interface id.
    by_interface: HashMap<u32, Vec<usize>>,
    /// Those without interface id, by the remote tunnel end.
    by_site: HashMap<IpAddr, Vec<usize>>,
    /// SAs by interface id and source.
    sas: HashMap<(u32, IpAddr), Vec<usize>>,
}

/// Policies and SAs as the kernel lists them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmLists {
    pub policies: Vec<XfrmPolicy>,
    pub sas: Vec<Sa>,
}

impl From<XfrmLists> for XfrmTable {
    fn from(lists: XfrmLists) -> Self {
        let mut table = Self::default();
        let inbound = lists.policies.iter().enumerate().filter(|(_, policy)| policy.direction != Direction::Out);
        for (index, policy) in inbound {
            table.by_interface.entry(policy.if_id).or_default().push(index);
            if policy.if_id == 0 {
                let sites: BTreeSet<IpAddr> = policy.templates.iter().map(|template| template.source).collect();
                for site in sites {
                    table.by_site.entry(site).or_default().push(index);
                }
            }
        }
        for (index, sa) in lists.sas.iter().enumerate() {
            table.sas.entry((sa.if_id, sa.source)).or_default().push(index);
        }
        Self { lists, ..table }
    }
}

impl From<XfrmTable> for XfrmLists {
    fn from(table: XfrmTable) -> Self {
        table.lists
    }
}

/// Identifies a connection's policies and SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaMatch {
    /// Interface id of its xfrm interface, if it has one.
    pub if_id: Option<u32>,
    /// The customer gateway's address: the remote tunnel end, used if there is no xfrm interface. Without either,
    /// nothing matches.
    pub site: Option<IpAddr>,
}

impl XfrmTable {
    pub fn lists(&self) -> &XfrmLists {
        &self.lists
    }

    /// Inbound selectors of the connection, from policies that have an SA.
    pub fn pairs(&self, mark: &SaMatch) -> BTreeSet<Pair> {
        self.policies(mark).filter(|policy| self.is_live(policy)).filter_map(pair).collect()
    }

    /// Its inbound SAs from the site.
    pub fn inbound(&self, mark: &SaMatch) -> Vec<&Sa> {
        let templates =
            self.policies(mark).flat_map(|policy| policy.templates.iter().map(|template| (template, policy.if_id)));
        let indices: BTreeSet<usize> = templates.flat_map(|(template, if_id)| self.suiting(template, if_id)).collect();
        indices.into_iter().map(|index| &self.lists.sas[index]).collect()
    }

    /// The newest SA in the opposite direction.
    pub fn outbound(&self, inbound: &Sa) -> Option<&Sa> {
        let back =
            |sa: &&Sa| (sa.destination, sa.reqid, sa.protocol) == (inbound.source, inbound.reqid, inbound.protocol);
        let from_there = self.sas.get(&(inbound.if_id, inbound.destination)).into_iter().flatten();
        from_there.map(|index| &self.lists.sas[*index]).filter(back).max_by_key(|sa| sa.added)
    }

    /// The connection's inbound and forward policies.
    fn policies(&self, mark: &SaMatch) -> impl Iterator<Item = &XfrmPolicy> {
        let indices = match mark.if_id {
            Some(if_id) => self.by_interface.get(&if_id),
            None => mark.site.and_then(|site| self.by_site.get(&site)),
        };
        indices.into_iter().flatten().map(|index| &self.lists.policies[*index])
    }

    /// Whether each of its templates has an SA.
    fn is_live(&self, policy: &XfrmPolicy) -> bool {
        policy.templates.iter().all(|template| self.suiting(template, policy.if_id).next().is_some())
    }

    /// Indices of the SAs that match a template.
    fn suiting(&self, template: &Template, if_id: u32) -> impl Iterator<Item = usize> {
        // Templates of tunnels name their ends.
        let (from_there, all) = match template.source.is_unspecified() {
            true => (None, 0..self.lists.sas.len()),
            false => (self.sas.get(&(if_id, template.source)), 0..0),
        };
        let indices = from_there.into_iter().flatten().copied().chain(all);
        indices.filter(move |index| suits(template, if_id, &self.lists.sas[*index]))
    }
}

/// Follows the kernel's match of an SA to a template (`xfrm_state_ok`, `net/xfrm/xfrm_policy.c`).
fn suits(template: &Template, if_id: u32, sa: &Sa) -> bool {
    let end = |desired: IpAddr, is: IpAddr| desired.is_unspecified() || desired == is;
    template.protocol == sa.protocol
        && template.mode == sa.mode
        && (template.reqid == 0 || template.reqid == sa.reqid)
        && sa.if_id == if_id
        && end(template.source, sa.source)
        && end(template.destination, sa.destination)
}

/// `None` if the ports are not a range: such a policy admits nothing.
fn pair(policy: &XfrmPolicy) -> Option<Pair> {
    let (remote, local) = (policy.source, policy.destination);
    if !same_family(remote.prefix, local.prefix) {
        return None;
    }
    let protocol = (policy.protocol != 0).then_some(policy.protocol);
    let limit = match policy.protocol {
        // For ICMP, the kernel stores type and code in the port fields (`xfrm_flowi_sport`, include/net/xfrm.h).
        1 | 58 => ProtoPorts { protocol, remote: message(&remote, &local)?, local: Ports::ANY },
        _ => ProtoPorts { protocol, remote: ports(&remote)?, local: ports(&local)? },
    };
    Some(Pair { remote: remote.prefix, local: local.prefix, limit })
}

/// The ports that match under the mask, if they form a range.
fn ports(side: &SelectorSide) -> Option<Ports> {
    let SelectorSide { port, port_mask: mask, .. } = *side;
    let is_range = mask.leading_ones() + mask.trailing_zeros() >= 16;
    is_range.then_some(Ports { first: port & mask, last: port & mask | !mask })
}

fn message(kind: &SelectorSide, code: &SelectorSide) -> Option<Ports> {
    let number = |side: &SelectorSide| u8::try_from(side.port).ok();
    match (kind.port_mask, code.port_mask) {
        (0, 0) => Some(Ports::ANY),
        (0xffff, 0) => {
            let kind = number(kind)?;
            Some(Ports { first: u16::from_be_bytes([kind, 0]), last: u16::from_be_bytes([kind, 255]) })
        }
        (0xffff, 0xffff) => Some(Ports::one(u16::from_be_bytes([number(kind)?, number(code)?]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::xfrm::wire::tests::{example_policy, example_sa};

    const SITE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 10));

    fn shown(table: &XfrmTable, if_id: Option<u32>) -> Vec<String> {
        table.pairs(&SaMatch { if_id, site: Some(SITE) }).iter().map(Pair::to_string).collect()
    }

    #[test]
    fn policy_yields_pair_only_with_matching_sa() {
        let (policy, sa) = (example_policy(), example_sa());
        let table = |policy: &XfrmPolicy, sa| XfrmLists { policies: vec![policy.clone()], sas: vec![sa] }.into();
        assert_eq!(shown(&table(&policy, sa.clone()), None), ["10.10.10.0/24[tcp/22] === 192.168.0.0/24[tcp]"]);
        for (what, other) in [
            ("another site", Sa { source: "198.51.100.11".parse().unwrap(), ..sa.clone() }),
            ("another reqid", Sa { reqid: 2, ..sa.clone() }),
            ("another interface", Sa { if_id: 7, ..sa.clone() }),
            ("AH", Sa { protocol: 51, ..sa.clone() }),
            ("transport mode", Sa { mode: 0, ..sa.clone() }),
        ] {
            assert!(shown(&table(&policy, other), None).is_empty(), "{what}");
        }
        let out = XfrmPolicy { direction: Direction::Out, ..policy };
        assert!(shown(&table(&out, sa), None).is_empty(), "a policy of the other direction");
    }

    #[test]
    fn template_without_ends_matches_any_sa() {
        let (mut policy, any) = (example_policy(), IpAddr::from([0, 0, 0, 0]));
        for template in &mut policy.templates {
            (template.source, template.destination) = (any, any);
        }
        let table: XfrmTable = XfrmLists { policies: vec![policy], sas: vec![example_sa()] }.into();
        let mark = SaMatch { if_id: Some(0), site: Some(SITE) };
        assert_eq!((table.pairs(&mark).len(), table.inbound(&mark)), (1, vec![&example_sa()]));
    }

    #[test]
    fn sa_matches_by_interface_id_or_site_address() {
        let (mut policy, mut sa) = (example_policy(), example_sa());
        (policy.if_id, sa.if_id) = (7, 7);
        let table: XfrmTable = XfrmLists { policies: vec![policy], sas: vec![sa] }.into();
        assert_eq!([Some(7), Some(8), None].map(|if_id| shown(&table, if_id).len()), [1, 0, 0]);
        let table: XfrmTable = XfrmLists { policies: vec![example_policy()], sas: vec![example_sa()] }.into();
        let elsewhere = SaMatch { if_id: None, site: "198.51.100.11".parse().ok() };
        assert!(table.pairs(&elsewhere).is_empty() && shown(&table, Some(7)).is_empty());
        assert_eq!(table.inbound(&SaMatch { if_id: None, site: Some(SITE) }).len(), 1);
        assert!(table.pairs(&SaMatch { if_id: None, site: None }).is_empty(), "neither is known");
    }

    #[test]
    fn port_mask_becomes_range_or_none() {
        let with = |port, mask| {
            let mut policy = example_policy();
            (policy.source.port, policy.source.port_mask) = (port, mask);
            pair(&policy).map(|pair| (pair.limit.remote.first, pair.limit.remote.last))
        };
        assert_eq!(with(22, 0xffff), Some((22, 22)));
        assert_eq!(with(0, 0), Some((0, 65535)));
        assert_eq!(with(1024, 0xfc00), Some((1024, 2047)));
        assert_eq!(with(22, 0xfff0), Some((16, 31)));
        assert_eq!(with(22, 0x00ff), None);
        let icmp = |kind: (u16, u16), code: (u16, u16)| {
            let mut policy = XfrmPolicy { protocol: 1, ..example_policy() };
            (policy.source.port, policy.source.port_mask) = kind;
            (policy.destination.port, policy.destination.port_mask) = code;
            pair(&policy).map(|pair| pair.limit.to_string())
        };
        assert_eq!(icmp((8, 0xffff), (0, 0)).as_deref(), Some("[icmp/8(0)-8(255)] === [icmp]"));
        assert_eq!(icmp((3, 0xffff), (4, 0xffff)).as_deref(), Some("[icmp/3(4)] === [icmp]"));
        assert_eq!(icmp((0, 0), (4, 0xffff)), None);
    }
}

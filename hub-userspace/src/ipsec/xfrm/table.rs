//! Matches the kernel's policies and SAs to connections, and derives selectors from them. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::wire::{Direction, Sa, SelectorSide, Template, XfrmPolicy};
use crate::policy::{
    ports::{Ports, ProtoPorts},
    selectors::{Pair, same_family},
};

/// All policies and SAs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmTable {
    pub policies: Vec<XfrmPolicy>,
    pub sas: Vec<Sa>,
}

/// Identifies a connection's policies and SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaMatch {
    /// Interface id of its xfrm interface, if it has one.
    pub if_id: Option<u32>,
    /// The customer gateway's address: the remote tunnel end, used if there is no xfrm interface.
    pub site: IpAddr,
}

impl SaMatch {
    fn is_of(&self, policy: &XfrmPolicy) -> bool {
        match self.if_id {
            Some(if_id) => policy.if_id == if_id,
            None => policy.if_id == 0 && policy.templates.iter().any(|template| template.source == self.site),
        }
    }
}

impl XfrmTable {
    /// Inbound selectors of the connection, from policies that have an SA.
    pub fn pairs(&self, mark: &SaMatch) -> BTreeSet<Pair> {
        let policies = self.policies.iter().filter(|policy| policy.direction != Direction::Out && mark.is_of(policy));
        policies.filter(|policy| self.is_live(policy)).filter_map(pair).collect()
    }

    /// Its inbound SAs from the site.
    pub fn inbound(&self, mark: &SaMatch) -> Vec<&Sa> {
        let policies: Vec<&XfrmPolicy> =
            self.policies.iter().filter(|policy| policy.direction != Direction::Out && mark.is_of(policy)).collect();
        let is_one =
            |sa: &&Sa| policies.iter().any(|policy| policy.templates.iter().any(|t| suits(t, policy.if_id, sa)));
        self.sas.iter().filter(is_one).collect()
    }

    /// The newest SA in the opposite direction.
    pub fn outbound(&self, inbound: &Sa) -> Option<&Sa> {
        let back = |sa: &&Sa| {
            (sa.source, sa.destination) == (inbound.destination, inbound.source)
                && (sa.reqid, sa.if_id, sa.protocol) == (inbound.reqid, inbound.if_id, inbound.protocol)
        };
        self.sas.iter().filter(back).max_by_key(|sa| sa.added)
    }

    /// Whether each of its templates has an SA.
    fn is_live(&self, policy: &XfrmPolicy) -> bool {
        policy.templates.iter().all(|template| self.sas.iter().any(|sa| suits(template, policy.if_id, sa)))
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
        table.pairs(&SaMatch { if_id, site: SITE }).iter().map(Pair::to_string).collect()
    }

    #[test]
    fn policy_yields_pair_only_with_matching_sa() {
        let (policy, sa) = (example_policy(), example_sa());
        let mut table = XfrmTable { policies: vec![policy.clone()], sas: vec![sa.clone()] };
        assert_eq!(shown(&table, None), ["10.10.10.0/24[tcp/22] === 192.168.0.0/24[tcp]"]);
        for (what, other) in [
            ("another site", Sa { source: "198.51.100.11".parse().unwrap(), ..sa.clone() }),
            ("another reqid", Sa { reqid: 2, ..sa.clone() }),
            ("another interface", Sa { if_id: 7, ..sa.clone() }),
            ("AH", Sa { protocol: 51, ..sa.clone() }),
            ("transport mode", Sa { mode: 0, ..sa.clone() }),
        ] {
            table.sas = vec![other];
            assert!(shown(&table, None).is_empty(), "{what}");
        }
        table.sas = vec![sa];
        table.policies = vec![XfrmPolicy { direction: Direction::Out, ..policy }];
        assert!(shown(&table, None).is_empty(), "a policy of the other direction");
    }

    #[test]
    fn sa_matches_by_interface_id_or_site_address() {
        let (mut policy, mut sa) = (example_policy(), example_sa());
        (policy.if_id, sa.if_id) = (7, 7);
        let table = XfrmTable { policies: vec![policy], sas: vec![sa] };
        assert_eq!([Some(7), Some(8), None].map(|if_id| shown(&table, if_id).len()), [1, 0, 0]);
        let table = XfrmTable { policies: vec![example_policy()], sas: vec![example_sa()] };
        let elsewhere = SaMatch { if_id: None, site: "198.51.100.11".parse().unwrap() };
        assert!(table.pairs(&elsewhere).is_empty() && shown(&table, Some(7)).is_empty());
        assert_eq!(table.inbound(&SaMatch { if_id: None, site: SITE }).len(), 1);
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

//! Rules and tables for policy routes: the kernel sends a packet that the program passes to the connection in its mark.
//!
//! The kernel could not choose it by itself: policy routes are matched by priority and source, and their flows are
//! distributed. Each connection that is a next hop of a policy route has a table with a default route, and a rule for its
//! mark. So these rules also apply to packets that destination routes send there, with the same result.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hub_common::mark::Mark;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{BACKSTOP, via};
use crate::{
    fib::Inputs,
    kernel::netlink::{
        BACKSTOP_METRIC, Family, INTERNAL_METRIC, KernelNextHop, KernelRule, RouteAction, RouteKey, RuleKind,
    },
    routing::rib::Rib,
};

/// The table of a connection is this plus its slot.
const TABLES: u32 = 1_180_000;

/// The rules, and the routes of their tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRules {
    pub rules: BTreeSet<KernelRule>,
    pub routes: BTreeMap<RouteKey, Arc<RouteAction>>,
}

/// Those for the policy routes of the RIB. `slot`: a connection's `COUNTERS` slot.
pub fn policy_rules(inputs: Inputs<'_>, rib: &Rib, slot: impl Fn(&str) -> Option<u32>) -> PolicyRules {
    let mut all = PolicyRules::default();
    let mark: Mark = inputs.config.dataplane.mark;
    for (name, family) in rib.policies().next_hops() {
        let (Some(connection), Some(slot)) = (inputs.config.connections.get(name), slot(name)) else { continue };
        let table = TABLES + slot;
        let marked = RuleKind::Marked { mark: mark.numbered(slot), mask: mark.mask, table };
        all.rules.extend([RuleKind::Own, marked, RuleKind::End].map(|kind| KernelRule { family, kind }));
        let key = |metric| RouteKey { table, destination: any(family), metric };
        if let Some(link) = inputs.host.link(&connection.interface).filter(|link| link.is_up()) {
            let via = via(connection, link, family);
            let hop = KernelNextHop { ifindex: link.index, via, onlink: via.is_some(), weight: 1 };
            let action = RouteAction::Unicast { next_hops: vec![hop], source: None }.normalised();
            all.routes.insert(key(INTERNAL_METRIC), Arc::new(action));
        }
        all.routes.insert(key(BACKSTOP_METRIC), Arc::clone(&BACKSTOP));
    }
    all
}

const fn any(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

//! Policy routes in the RIB: their next hops by priority and prefixes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::rib::Members;
use crate::{
    config::policy_routes::{PolicyKey, PolicyRoute},
    kernel::netlink::Family,
};

/// The policy routes, in the order in which they match. Those with the same key share their flows.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    routes: Vec<PolicyRoute>,
    by_key: BTreeMap<PolicyKey, Arc<Members>>,
    /// Published destinations, with the members of the first policy route that publishes each.
    published: BTreeMap<IpNet, Arc<Members>>,
}

impl Policies {
    /// `share` returns the set that all users of these members share.
    pub fn of(routes: &[PolicyRoute], mut share: impl FnMut(PolicyKey, Members) -> Arc<Members>) -> Self {
        let mut all = BTreeMap::<PolicyKey, (Members, bool)>::new();
        for route in routes {
            let (members, is_published) = all.entry(route.key()).or_default();
            members.insert(route.next_hop.clone(), route.weight);
            *is_published |= route.publish;
        }
        let mut policies = Self { routes: routes.to_vec(), ..Self::default() };
        for (key, (members, is_published)) in all {
            let members = share(key, members);
            if is_published {
                policies.published.entry(key.destination).or_insert_with(|| Arc::clone(&members));
            }
            policies.by_key.insert(key, members);
        }
        policies
    }

    /// Whether they are made of these.
    pub fn are(&self, routes: &[PolicyRoute]) -> bool {
        self.routes == routes
    }

    /// The connections that are next hops, with the families of their policy routes.
    pub fn next_hops(&self) -> BTreeSet<(&str, Family)> {
        let next_hop = |route: &'_ PolicyRoute| match route.source {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        };
        self.routes.iter().map(|route| (route.next_hop.as_str(), next_hop(route))).collect()
    }

    pub fn families(&self) -> BTreeSet<Family> {
        self.next_hops().into_iter().map(|(_, family)| family).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub fn members(&self, key: &PolicyKey) -> Option<&Arc<Members>> {
        self.by_key.get(key)
    }

    /// In the order in which they match.
    pub fn iter(&self) -> impl Iterator<Item = (&PolicyKey, &Arc<Members>)> {
        self.by_key.iter()
    }

    /// By destination.
    pub fn published(&self) -> &BTreeMap<IpNet, Arc<Members>> {
        &self.published
    }
}

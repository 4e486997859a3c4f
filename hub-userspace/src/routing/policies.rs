//! Policy routes in the RIB: their next hops by priority and prefixes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::members::{Members, NextHops};
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
    /// `share` returns the set that all users of the members of these next hops share.
    pub fn of(routes: &[PolicyRoute], mut share: impl FnMut(PolicyKey, NextHops) -> Arc<Members>) -> Self {
        let mut all = BTreeMap::<PolicyKey, (NextHops, bool)>::new();
        for route in routes {
            let (next_hops, is_published) = all.entry(route.key()).or_default();
            next_hops.insert(route.next_hop.clone(), route.weight);
            *is_published |= route.publish;
        }
        let mut policies = Self { routes: routes.to_vec(), ..Self::default() };
        for (key, (next_hops, is_published)) in all {
            let members = share(key, next_hops);
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

    /// The members of all policy routes, with the families of these.
    pub fn next_hops(&self) -> BTreeSet<(&str, Family)> {
        let family = |key: &PolicyKey| match key.source {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        };
        let all = self.by_key.iter();
        all.flat_map(|(key, members)| members.keys().map(move |name| (name.as_str(), family(key)))).collect()
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

//! The routing information base: all destinations and their targets.
//!
//! Built from the configuration and the host's state from netlink. Determines which members of a route carry its
//! traffic now. Independent of maps and kernel routes.

mod own;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use self::own::own;
pub use super::members::{Members, NextHops, active, share_of};

use crate::{
    config::{
        difference::{ChangedRoute, Routes},
        model::{Config, Route},
        policy_routes::PolicyRoute,
    },
    connection::{affected::Affected, state::States},
    kernel::netlink::{Family, HostState},
    routing::{
        groups::{AffectedGroups, Groups},
        members::{Tunnels, next_hops, remove},
        policies::Policies,
    },
};

/// Where a destination's packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The hub itself.
    Hub,
    /// The VPC side: through a router there, or directly on the link.
    Vpc { gateway: Option<IpAddr> },
    /// Connections, or tunnels of them. Destinations with the same members share the set.
    Connections(Arc<Members>),
}

/// Destinations and their targets.
///
/// Of equal prefixes the hub's own addresses win over the VPC, and the VPC over routes: a site cannot take them over.
/// Tracks changed destinations, so that the cost of a change depends on its size, not on that of the table.
#[derive(Debug, Clone, Default)]
pub struct Rib {
    routes: JointPrefixMap<IpNet, Routed>,
    /// Next hops of learned routes, in use where a destination has no configured route.
    learned: HashMap<IpNet, NextHops>,
    /// As of the last [`Rib::follow`].
    tunnels: Tunnels,
    /// The hub's own addresses and the VPC's prefixes.
    own: BTreeMap<IpNet, Target>,
    policies: Policies,
    groups: Groups,
    /// Destinations that changed, and the members they had before.
    changed: BTreeMap<IpNet, Option<Arc<Members>>>,
    /// New member sets, and the set that each replaced.
    predecessors: HashMap<Arc<Members>, Arc<Members>>,
}

/// The routes of a destination: the configured ones, otherwise the learned ones.
#[derive(Debug, Clone)]
struct Routed {
    members: Arc<Members>,
    /// How many of its routes are published.
    published: usize,
    is_learned: bool,
}

impl Rib {
    pub fn build(config: &Config, host: &HostState) -> Self {
        let mut rib = Self { tunnels: Tunnels::of(config), ..Self::default() };
        config.routes.iter().for_each(|route| rib.add(route));
        rib.follow(config, host);
        rib
    }

    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Replaces all policy routes.
    fn set_policies(&mut self, routes: &[PolicyRoute]) {
        let Self { policies, groups, predecessors, tunnels, .. } = self;
        let new = Policies::of(routes, |key, next_hops| {
            let members = tunnels.expand(&next_hops);
            let members = groups.join_policy(members);
            if let Some(before) = policies.members(&key).filter(|before| **before != members) {
                predecessors.entry(Arc::clone(&members)).or_insert_with(|| Arc::clone(before));
            }
            members
        });
        for (_, members) in mem::replace(policies, new).iter() {
            groups.leave_policy(members);
        }
    }

    /// Applies a difference between two lists of routes.
    pub fn change(&mut self, routes: &Routes) {
        routes.removed.iter().for_each(|route| self.remove(route));
        for ChangedRoute { from, to } in &routes.changed {
            self.replace(from, to);
        }
        routes.added.iter().for_each(|route| self.add(route));
    }

    /// Whether [`Self::follow`] would change anything.
    pub fn is_behind(&self, config: &Config, host: &HostState) -> bool {
        self.own != own(config.vpc.as_ref(), host)
            || !self.policies.are(&config.policy_routes)
            || self.tunnels != Tunnels::of(config)
    }

    /// Updates the tunnels of connections, the policy routes and the hub's own destinations: its addresses, and the VPC's prefixes with the host's
    /// gateways to them.
    pub fn follow(&mut self, config: &Config, host: &HostState) {
        let tunnels = Tunnels::of(config);
        if tunnels != self.tunnels {
            self.set_tunnels(tunnels);
            self.set_policies(&config.policy_routes);
        }
        if !self.policies.are(&config.policy_routes) {
            self.set_policies(&config.policy_routes);
        }
        let own = own(config.vpc.as_ref(), host);
        let differs = |prefix: &&IpNet| own.get(*prefix) != self.own.get(*prefix);
        let changed: Vec<IpNet> = own.keys().chain(self.own.keys()).filter(differs).copied().collect();
        for destination in changed {
            self.touch(destination);
        }
        self.own = own;
    }

    /// Gives the routes to connections with other tunnels than before their new members.
    fn set_tunnels(&mut self, tunnels: Tunnels) {
        let before = mem::replace(&mut self.tunnels, tunnels);
        let changed: Vec<String> = before.differing(&self.tunnels).cloned().collect();
        let mut destinations = BTreeSet::new();
        for connection in &changed {
            // A new one may have routes already, as a connection without tunnels.
            for member in before.members(connection).chain([connection]) {
                destinations.extend(self.groups.of(member).flat_map(|members| self.groups.destinations(members)));
            }
        }
        for destination in destinations {
            self.alter(destination, |tunnels, members, _| *members = tunnels.expand(&next_hops(members)));
        }
    }

    /// The target of a destination; `None` if there is no route to exactly this prefix.
    pub fn target(&self, destination: IpNet) -> Option<Target> {
        let own = self.own.get(&destination).cloned();
        own.or_else(|| self.routes.get(&destination).map(|routed| Target::Connections(Arc::clone(&routed.members))))
    }

    /// Whether the destination is the hub's own or the VPC's, so that routes to exactly this prefix carry nothing.
    pub fn is_own(&self, destination: IpNet) -> bool {
        self.own.contains_key(&destination)
    }

    /// Whether a route to the destination is published, or a policy route.
    pub fn is_published(&self, destination: IpNet) -> bool {
        self.routes.get(&destination).is_some_and(|routed| routed.published > 0)
            || self.policies.published().contains_key(&destination)
    }

    /// Whether the destination's routes are learned.
    pub fn is_learned(&self, destination: IpNet) -> bool {
        self.routes.get(&destination).is_some_and(|routed| routed.is_learned)
    }

    /// The learned routes that carry traffic, by destination.
    pub fn learned(&self) -> Vec<(IpNet, &NextHops)> {
        let in_force = self.learned.iter().filter(|(destination, _)| self.is_learned(**destination));
        let mut learned: Vec<_> = in_force.map(|(destination, members)| (*destination, members)).collect();
        learned.sort_unstable_by_key(|(destination, _)| *destination);
        learned
    }

    /// Number of next hops of all learned routes that carry traffic.
    pub fn learned_count(&self) -> usize {
        self.learned.values().map(NextHops::len).sum()
    }

    /// The longest prefix with configured routes that contains this one or equals it, and its members.
    pub fn configured_around(&self, prefix: IpNet) -> Option<(IpNet, &Arc<Members>)> {
        let around = self.routes.cover(&prefix).filter(|(_, routed)| !routed.is_learned);
        around.last().map(|(prefix, routed)| (prefix, &routed.members))
    }

    /// Sets the next hops of a destination's learned routes; empty for none. Configured routes of the destination come
    /// first.
    pub fn set_learned(&mut self, destination: IpNet, next_hops: NextHops) {
        let old = self.routes.get(&destination);
        if old.is_some_and(|old| old.is_learned) && self.learned.get(&destination) == Some(&next_hops) {
            return;
        }
        let is_configured = old.is_some_and(|old| !old.is_learned);
        match next_hops.is_empty() {
            true => _ = self.learned.remove(&destination),
            false => _ = self.learned.insert(destination, next_hops),
        }
        if !is_configured && (old.is_some() || self.learned.contains_key(&destination)) {
            self.alter(destination, |_, _, _| ());
        }
    }

    /// Takes these connections out of all learned routes. Returns the next hops before, for [`Self::set_learned`].
    pub fn take_out_of_learned(&mut self, connections: &BTreeSet<String>) -> Vec<(IpNet, NextHops)> {
        let concerned = |members: &NextHops| connections.iter().any(|name| members.contains_key(name));
        let before: Vec<(IpNet, NextHops)> = self
            .learned
            .iter()
            .filter(|(_, members)| concerned(members))
            .map(|(destination, members)| (*destination, members.clone()))
            .collect();
        for (destination, members) in &before {
            let others = members.iter().filter(|(name, _)| !connections.contains(*name));
            self.set_learned(*destination, others.map(|(name, weight)| (name.clone(), *weight)).collect());
        }
        before
    }

    /// The distinct sets of members.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Members>> {
        self.groups.iter()
    }

    pub fn has_group(&self, members: &Members) -> bool {
        self.groups.contains(members)
    }

    /// The groups that a change of these connections affects, and with `destinations` those that changed destinations
    /// have or had.
    pub fn affected_groups(&self, connections: &Affected, destinations: bool) -> AffectedGroups {
        let Affected::Some(names) = connections else { return AffectedGroups::All };
        let (mut connections, mut groups, mut gone) = (names.clone(), BTreeSet::new(), BTreeSet::new());
        if destinations {
            for (destination, before) in &self.changed {
                groups.extend(self.routes.get(destination).map(|routed| Arc::clone(&routed.members)));
                gone.extend(before.iter().filter(|members| !self.groups.contains(members)).cloned());
            }
        }
        connections.extend(gone.iter().flat_map(|members| members.keys().cloned()));
        groups.extend(connections.iter().flat_map(|name| self.groups.of(name)).cloned());
        AffectedGroups::Some { connections, groups, gone }
    }

    /// The destinations that have these members.
    pub fn destinations(&self, members: &Members) -> impl Iterator<Item = IpNet> {
        self.groups.destinations(members)
    }

    /// The members that a destination with these had before the last call of [`Self::take_changed`], if they differ.
    /// Flows stay on their next hop as far as the new members allow.
    pub fn predecessor(&self, members: &Members) -> Option<&Arc<Members>> {
        self.predecessors.get(members)
    }

    /// All destinations, unordered. A destination that is both the hub's own and routed appears twice.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.own.keys().copied().chain(self.groups.all_destinations())
    }

    /// The families of the routed destinations and the policy routes.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let has_policies = |family| self.policies.families().contains(&family);
        let v4 = !self.routes.t1.is_empty() || has_policies(Family::V4);
        let v6 = !self.routes.t2.is_empty() || has_policies(Family::V6);
        v4.then_some(Family::V4).into_iter().chain(v6.then_some(Family::V6))
    }

    /// The distinct gateways to the VPC; `None` is the link itself.
    pub fn gateways(&self) -> BTreeSet<Option<IpAddr>> {
        let gateway = |target: &Target| match target {
            Target::Vpc { gateway } => Some(*gateway),
            _ => None,
        };
        self.own.values().filter_map(gateway).collect()
    }

    /// Whether [`Self::take_changed`] would clear anything.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty() || !self.predecessors.is_empty()
    }

    /// As [`Self::take_changed`], without clearing them.
    pub fn changed(&self) -> impl ExactSizeIterator<Item = IpNet> {
        self.changed.keys().copied()
    }

    /// The destinations that were added, removed, or changed their target since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<IpNet> {
        self.predecessors.clear();
        mem::take(&mut self.changed).into_keys().collect()
    }

    /// Marks destinations as changed again, after the change could not be applied.
    pub fn keep_changed(&mut self, changed: BTreeSet<IpNet>) {
        for destination in changed {
            self.touch(destination);
        }
    }

    fn add(&mut self, route: &Route) {
        self.alter(route.destination, |tunnels, members, published| {
            tunnels.insert(members, &route.next_hop, route.weight);
            *published += usize::from(route.publish);
        });
    }

    fn remove(&mut self, route: &Route) {
        self.alter(route.destination, |_, members, published| {
            remove(members, &route.next_hop);
            *published = published.saturating_sub(usize::from(route.publish));
        });
    }

    /// In one step: the destination is never without a route.
    fn replace(&mut self, from: &Route, to: &Route) {
        self.alter(to.destination, |tunnels, members, published| {
            remove(members, &from.next_hop);
            tunnels.insert(members, &to.next_hop, to.weight);
            *published = (*published + usize::from(to.publish)).saturating_sub(usize::from(from.publish));
        });
    }

    /// Changes the members of a destination's configured routes, and how many of them are published.
    fn alter(&mut self, destination: IpNet, change: impl FnOnce(&Tunnels, &mut Members, &mut usize)) {
        let before = self.touch(destination);
        let old = self.routes.remove(&destination);
        let configured = old.as_ref().filter(|routed| !routed.is_learned);
        let (mut members, mut published) =
            configured.map_or_else(Default::default, |routed| (Members::clone(&routed.members), routed.published));
        change(&self.tunnels, &mut members, &mut published);
        let learned = if members.is_empty() { self.learned.get(&destination) } else { None };
        let is_learned = learned.is_some();
        if let Some(learned) = learned {
            members = self.tunnels.expand(learned);
        }
        if let Some(old) = old.filter(|old| *old.members != members) {
            self.groups.leave(&old.members, destination);
        }
        if !members.is_empty() {
            let members = self.groups.join(members, destination);
            if let Some(before) = before.filter(|before| *before != members) {
                self.predecessors.entry(Arc::clone(&members)).or_insert(before);
            }
            self.routes.insert(destination, Routed { members, published, is_learned });
        }
    }

    /// Marks a destination as changed. Returns the members it had before its first change.
    fn touch(&mut self, destination: IpNet) -> Option<Arc<Members>> {
        let members = || self.routes.get(&destination).map(|routed| Arc::clone(&routed.members));
        self.changed.entry(destination).or_insert_with(members).clone()
    }
}

/// The fraction of a destination's flows that the route through `next_hop` carries now, 0..=1.
pub fn share(rib: &Rib, destination: IpNet, next_hop: &str, states: &States) -> f64 {
    match rib.target(destination) {
        Some(Target::Connections(members)) => share_of(&members, next_hop, states),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests;

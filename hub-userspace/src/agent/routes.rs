//! The kernel's own routes and neighbours, which follow the RIB: packets that the program passes to the kernel must
//! take the same path there.
//!
//! They are planned here in parts and written in the background by the
//! [`Reconciler`](crate::kernel::netlink::Reconciler). After a failure that affects a hundred thousand routes, the
//! kernel takes a second to update them; the loop must not block on that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use ipnet::IpNet;

use super::effect::Effect;
use crate::{
    config::Config,
    fib::{
        Inputs,
        slow_path::{self, GroupAction, KernelRoute, OwnPrefixes, PolicyRules, Sources, own_prefix_key},
    },
    kernel::netlink::Family,
    routing::{
        groups::AffectedGroups,
        rib::{Members, Rib},
    },
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Destinations planned in one batch: takes some tenths of a millisecond.
const AT_ONCE: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct RoutePlan {
    /// Current action of the routes of these members.
    actions: HashMap<(Arc<Members>, Family), GroupAction>,
    /// As last read from the host.
    sources: Sources,
    /// Destinations still to plan.
    todo: BTreeSet<IpNet>,
    /// Routes to sites' own prefixes, and their changes still to plan.
    own_prefixes: OwnPrefixes,
    changed_own: Vec<KernelRoute>,
    /// The kernel table that routes are published to, as last planned.
    publish_table: Option<u32>,
    /// The hub's role lets it publish none, as last planned.
    is_withdrawn: bool,
    /// Whether the kernel has the routing daemon's routes in its main table, as last planned.
    learns_from_main: bool,
    /// Destinations that policy routes publish, as last planned.
    published_policies: BTreeMap<IpNet, Arc<Members>>,
    /// Rules for policy routes, and their tables.
    policy_rules: PolicyRules,
    /// All tables that they were ever published to.
    publish_tables: BTreeSet<u32>,
    /// The desired state has changed since the last [`Effect::Settle`].
    unsettled: bool,
}

impl RoutePlan {
    /// Takes over changed destinations, and changes caused by states, links and neighbours of the affected groups.
    pub fn follow(&mut self, inputs: Inputs<'_>, rib: &Rib, affected: &AffectedGroups) {
        match affected {
            AffectedGroups::All => {
                self.sources = Sources::of(inputs);
                self.actions.retain(|(members, _), _| rib.has_group(members));
                rib.groups().for_each(|members| self.follow_group(inputs, rib, members));
            }
            AffectedGroups::Some { groups, gone, .. } => {
                for members in gone {
                    for family in FAMILIES {
                        self.actions.remove(&(Arc::clone(members), family));
                    }
                }
                for members in groups {
                    self.follow_group(inputs, rib, members);
                }
            }
        }
        if has_translations(inputs.config, affected) {
            self.follow_own_prefixes(inputs);
        }
        match self.todo.is_empty() {
            true => self.todo = rib.changed().collect(),
            // `append` would rebuild the whole set for each of many small changes.
            false => self.todo.extend(rib.changed()),
        }
        let published = rib.policies().published();
        if self.published_policies != *published {
            let differs = |prefix: &&IpNet| self.published_policies.get(*prefix) != published.get(*prefix);
            self.todo.extend(self.published_policies.keys().chain(published.keys()).filter(differs));
            self.published_policies.clone_from(published);
        }
        let publish_table = slow_path::publish_table(inputs.config);
        let is_other_table = self.publish_table.replace(publish_table) != Some(publish_table);
        let is_withdrawn = !inputs.config.role.publishes();
        let is_other_role = mem::replace(&mut self.is_withdrawn, is_withdrawn) != is_withdrawn;
        if is_other_table || is_other_role {
            self.publish_tables.insert(publish_table);
            self.todo.append(&mut rib.iter().collect());
            // To some only a policy route leads.
            self.todo.extend(published.keys());
        }
        let learns_from_main = slow_path::learns_from_main(inputs.config);
        if mem::replace(&mut self.learns_from_main, learns_from_main) != learns_from_main {
            self.todo.extend(rib.iter().filter(|destination| rib.is_learned(*destination)));
        }
        self.unsettled = true;
    }

    /// Whether addresses of the hub, other than those of sites' interfaces, have changed.
    pub fn has_other_sources(&self, inputs: Inputs<'_>) -> bool {
        self.sources != Sources::of(inputs)
    }

    /// Plans a group's destinations again if its action has changed.
    fn follow_group(&mut self, inputs: Inputs<'_>, rib: &Rib, members: &Arc<Members>) {
        let is_revoked = slow_path::is_revoked(inputs, members);
        for family in FAMILIES {
            let new = slow_path::action(inputs, &self.sources, members, family);
            let key = (Arc::clone(members), family);
            let is_same = |old: &GroupAction| old.action.as_deref() == new.as_ref() && old.is_revoked == is_revoked;
            if self.actions.get(&key).is_some_and(is_same) {
                continue;
            }
            self.actions.insert(key, GroupAction { action: new.map(Arc::new), is_revoked });
            let of_family = |destination: &IpNet| slow_path::family(*destination) == family;
            // `append` would rebuild the whole set for each group.
            self.todo.extend(rib.destinations(members).filter(of_family));
            let published = rib.policies().published().iter().filter(|(_, of_policy)| *of_policy == members);
            self.todo.extend(published.map(|(destination, _)| *destination).filter(of_family));
        }
    }

    /// Takes over the rules for policy routes. Call it once the program's tables are written: connections have their slots.
    pub fn follow_policy_rules(
        &mut self,
        inputs: Inputs<'_>,
        rib: &Rib,
        slot: impl Fn(&str) -> Option<u32>,
        effects: &mut Vec<Effect>,
    ) {
        if rib.policies().is_empty() && self.policy_rules.rules.is_empty() {
            return;
        }
        let new = slow_path::policy_rules(inputs, rib, slot);
        if new == self.policy_rules {
            return;
        }
        let old = mem::replace(&mut self.policy_rules, new.clone());
        let changed = new.routes.iter().filter(|(key, action)| old.routes.get(key) != Some(action));
        let gone = old.routes.keys().filter(|key| !new.routes.contains_key(key)).map(|key| (*key, None));
        effects
            .push(Effect::Routes(changed.map(|(key, action)| (*key, Some(Arc::clone(action)))).chain(gone).collect()));
        if new.rules != old.rules {
            effects.push(Effect::Rules(new.rules));
        }
        self.unsettled = true;
    }

    fn follow_own_prefixes(&mut self, inputs: Inputs<'_>) {
        let new = slow_path::own_prefixes(inputs);
        let changed = new.iter().filter(|(prefix, action)| self.own_prefixes.get(prefix) != Some(action));
        self.changed_own.extend(changed.map(|(prefix, action)| (own_prefix_key(*prefix), Some(Arc::clone(action)))));
        let gone = self.own_prefixes.keys().filter(|prefix| !new.contains_key(prefix));
        self.changed_own.extend(gone.map(|prefix| (own_prefix_key(*prefix), None)));
        self.own_prefixes = new;
    }

    fn is_planned(&self) -> bool {
        self.todo.is_empty() && self.changed_own.is_empty()
    }

    /// There are destinations to plan, or an [`Effect::Settle`] is due.
    pub fn has_work(&self) -> bool {
        !self.is_planned() || self.unsettled
    }

    /// Plans everything, so that the reconciler can begin.
    pub fn plan(&mut self, rib: &Rib, config: &Config, effects: &mut Vec<Effect>) {
        while !self.is_planned() {
            effects.push(Effect::Routes(self.next(rib, config)));
        }
    }

    /// Plans one batch.
    pub fn plan_some(&mut self, rib: &Rib, config: &Config, effects: &mut Vec<Effect>) {
        if !self.is_planned() {
            effects.push(Effect::Routes(self.next(rib, config)));
        }
        if self.is_planned() && mem::take(&mut self.unsettled) {
            effects.push(Effect::Settle);
        }
    }

    fn next(&mut self, rib: &Rib, config: &Config) -> Vec<KernelRoute> {
        let mut entries = mem::take(&mut self.changed_own);
        for destination in std::iter::from_fn(|| self.todo.pop_first()).take(AT_ONCE) {
            let family = slow_path::family(destination);
            let action =
                |members: &Arc<Members>| self.actions.get(&(Arc::clone(members), family)).cloned().unwrap_or_default();
            for table in &self.publish_tables {
                entries.extend(slow_path::entries_of(destination, rib, config, *table, action));
            }
        }
        entries
    }

    /// A requester waits until the kernel has the current desired state.
    pub fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// Re-reads the kernel's routes and neighbours and repairs them.
    pub fn audit(&mut self, effects: &mut Vec<Effect>) {
        effects.push(Effect::AuditRoutes);
        self.unsettled = true;
    }
}

/// Whether one of the affected connections may have translations.
fn has_translations(config: &Config, affected: &AffectedGroups) -> bool {
    let translates = |name: &String| config.connections.get(name).is_some_and(|found| !found.translate.is_empty());
    match affected {
        AffectedGroups::All => true,
        AffectedGroups::Some { connections, .. } => connections.iter().any(translates),
    }
}

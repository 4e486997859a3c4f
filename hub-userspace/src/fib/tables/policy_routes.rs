//! Policy routes in the program's maps: the generation in use, and others while they change.

use std::collections::{BTreeMap, BTreeSet};

use hub_common::maps::{Attachment, POLICY_GENERATIONS, PolicyPair, Remote, Route, Scoped, policy_sources};

use super::{PolicyEntries, PolicyTables, Prefix, Tables, Write};
use crate::fib::policy_routes::GENERATION_SHIFT;

/// Flags of attachments that have policy routes.
const POLICY_ROUTES: u16 = Attachment::POLICY_ROUTES_V4 | Attachment::POLICY_ROUTES_V6;

/// Policy routes. Those of each generation have their own scopes among the remote prefixes of selectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRouteTables {
    pub v4: BTreeMap<Prefix<Scoped<[u8; 4]>>, Remote>,
    pub v6: BTreeMap<Prefix<Scoped<[u8; 16]>>, Remote>,
    pub pairs: BTreeMap<PolicyPair, Route>,
}

impl PolicyTables {
    /// The generations of policy routes that attachments have.
    pub fn policy_generations(&self) -> BTreeSet<u32> {
        let flags = self.attachments.values().map(|attachment| attachment.flags);
        flags.filter(|flags| flags & POLICY_ROUTES != 0).map(Attachment::policy_generation).collect()
    }
}

impl PolicyEntries {
    /// Sets the generation of policy routes.
    pub fn set_policy_generation(&mut self, generation: u32) {
        for attachment in self.tables.attachments.values_mut().filter(|found| found.flags & POLICY_ROUTES != 0) {
            attachment.flags = Attachment::with_policy_generation(attachment.flags, generation);
        }
    }
}

impl PolicyRouteTables {
    fn of(&self, generation: u32) -> Self {
        self.filtered(|other| other == generation)
    }

    fn filtered(&self, keep: impl Fn(u32) -> bool) -> Self {
        let of_scope = |scope: [u8; 4]| (u32::from_be_bytes(scope) - policy_sources(0)) / 2;
        let v4 = self.v4.iter().filter(|(key, _)| keep(of_scope(key.data.scope)));
        let v6 = self.v6.iter().filter(|(key, _)| keep(of_scope(key.data.scope)));
        let pairs = self.pairs.iter().filter(|(pair, _)| keep(pair.source >> GENERATION_SHIFT));
        Self {
            v4: v4.map(|(key, value)| (*key, *value)).collect(),
            v6: v6.map(|(key, value)| (*key, *value)).collect(),
            pairs: pairs.map(|(key, value)| (*key, *value)).collect(),
        }
    }
}

impl Tables {
    /// Chooses a generation for the policy routes, and compiles it: the one in use if it has the same, otherwise one that no
    /// packet uses.
    ///
    /// # Errors
    /// Those of `compile`.
    pub fn next_policy_routes<E>(
        &self,
        compile: impl Fn(u32) -> Result<PolicyRouteTables, E>,
    ) -> Result<(u32, PolicyRouteTables), E> {
        let in_use = self.policy.policy_generations();
        let current = in_use.first().copied().unwrap_or_default();
        let compiled = compile(current)?;
        if in_use.len() <= 1 && self.policy_routes.of(current) == compiled {
            return Ok((current, compiled));
        }
        let free = (0..u32::from(POLICY_GENERATIONS)).find(|generation| !in_use.contains(generation));
        let free = free.unwrap_or(current);
        Ok((free, compile(free)?))
    }

    /// The writes that produce a generation of policy routes, which no packet uses yet.
    pub(super) fn writes_of_policy_routes(&self, generation: u32, new: &PolicyRouteTables) -> Vec<Write> {
        writes(&self.policy_routes.of(generation), new)
    }

    /// The writes that delete the generations that no attachment has. Call it once no packet in flight uses them.
    pub fn writes_of_unused_policy_routes(&self) -> Vec<Write> {
        let in_use = self.policy.policy_generations();
        writes(&self.policy_routes.filtered(|generation| !in_use.contains(&generation)), &PolicyRouteTables::default())
    }
}

/// From one to the other, in any order.
fn writes(old: &PolicyRouteTables, new: &PolicyRouteTables) -> Vec<Write> {
    let mut writes = vec![
        Write::PolicyPairs(changes(&old.pairs, &new.pairs)),
        Write::PolicyPrefixesV4(changes(&old.v4, &new.v4)),
        Write::PolicyPrefixesV6(changes(&old.v6, &new.v6)),
    ];
    writes.retain(|write| !write.is_empty());
    writes
}

fn changes<K: Ord + Copy, V: Eq + Copy>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<(K, Option<V>)> {
    let gone = old.keys().filter(|key| !new.contains_key(key)).map(|key| (*key, None));
    let differs = |(key, value): &(&K, &V)| old.get(key) != Some(value);
    let puts = new.iter().filter(differs).map(|(key, value)| (*key, Some(*value)));
    gone.chain(puts).collect()
}

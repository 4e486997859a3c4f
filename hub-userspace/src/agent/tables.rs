//! The program's tables: compiled, compared, written.

use std::{collections::BTreeSet, mem, sync::Arc};

use super::{
    effect::Effect,
    world::{Recompiled, World, Writing},
};
use crate::{
    connection::affected::Affected,
    fib::{
        self,
        id_allocator::Full,
        id_maps::IdMaps,
        tables::{PolicyEntries, Write},
    },
};

impl World {
    /// Reroutes next-hop groups around a failed next hop, or back. Returns whether there is anything to write.
    /// Modifies nothing else, so that it takes as long with a hundred thousand routes as with ten.
    pub(super) fn reroute(&mut self, effects: &mut Vec<Effect>) -> bool {
        let affected = self.rib.affected_groups(&self.pending.egress, false);
        let compiled = self.with_ids(|world, ids| fib::egress_tables(world.inputs(), &world.rib, ids, &affected));
        let writes = match compiled {
            // After an error an interface may be missing from the tables: all tables must be written, in order.
            Ok(compiled) if !self.tables.has_ports_of(&compiled.entries) => return false,
            Ok(compiled) => self.tables.reroutes_to(&compiled.entries),
            Err(full) => {
                effects.push(Effect::Fail(full.to_string()));
                return false;
            }
        };
        if writes.is_empty() {
            return false;
        }
        // Destinations with a pending change still use groups that are otherwise unused.
        let all = self.rib.changed().len() == 0;
        self.writing = Some(Writing { routes: BTreeSet::new(), recompiled: Recompiled::default(), all });
        effects.push(Effect::Write(writes));
        true
    }

    /// Writes the tables: next hops, routes and those of `recompiled`. Returns whether they have room.
    pub(super) fn write_tables(&mut self, recompiled: &Recompiled, effects: &mut Vec<Effect>) -> bool {
        let writes = self.with_ids(|world, ids| world.compile(recompiled, ids));
        match writes {
            Ok(writes) if writes.is_empty() => {
                self.written(&[], 0, false, effects);
                true
            }
            Ok(writes) => {
                effects.push(Effect::Write(writes));
                true
            }
            Err(full) => {
                effects.push(Effect::Fail(full.to_string()));
                self.pend_tables(recompiled);
                false
            }
        }
    }

    fn compile(&mut self, recompiled: &Recompiled, ids: &mut IdMaps) -> Result<Vec<Write>, Full> {
        let Recompiled { policy, addressed, neighbours, egress, attach: _ } = recompiled;
        let mut policy = match policy.is_empty() && addressed.is_empty() {
            true => None,
            false => Some(fib::policy_tables(self.inputs(), ids, policy, addressed, &self.tables.policy)?),
        };
        if *neighbours {
            self.neighbours = fib::neighbour_table(self.inputs());
        }
        // Next hops have indices of policy tables.
        let egress = if recompiled.policy.is_all() { &recompiled.policy } else { egress };
        let affected = self.rib.affected_groups(egress, true);
        let compiled = fib::egress_tables(self.inputs(), &self.rib, ids, &affected)?;
        // They depend on the configuration and the numbers of connections.
        let policy_routes = match recompiled.policy.is_all() {
            true => Some(self.tables.next_policy_routes(|number| fib::policy_route_tables(&self.rib, ids, number))?),
            false => None,
        };
        if let (Some(policy), Some((generation, _))) = (&mut policy, &policy_routes) {
            policy.set_policy_generation(*generation);
        }
        let policy_routes = policy_routes.as_ref().map(|(generation, tables)| (*generation, tables));
        let any = self.rib.has_changed();
        // `make_mut` copies the RIB while a snapshot uses it: avoided when nothing has changed.
        let routes = if any { Arc::make_mut(&mut self.rib).take_changed() } else { BTreeSet::new() };
        let neighbours = neighbours.then_some(&self.neighbours);
        let routes_to = compiled.routes(&self.rib, &routes);
        let writes = self.tables.writes_to(policy.as_ref(), neighbours, &compiled.entries, policy_routes, routes_to);
        if let Some(PolicyEntries { truncated, regions, obsolete, .. }) = policy {
            let is_compiled = |scope, remote| regions.iter().any(|region| region.contains(scope, remote));
            self.truncated.retain(|(scope, remote), _| obsolete.is_some() && !is_compiled(*scope, *remote));
            self.truncated.extend(truncated);
        }
        self.writing = Some(Writing { routes, recompiled: recompiled.clone(), all: true });
        Ok(writes)
    }

    /// These writes were made; if `failed`, only the first `count` entries of the last one.
    pub(super) fn written(&mut self, writes: &[Write], count: usize, failed: bool, effects: &mut Vec<Effect>) {
        let last = writes.len().wrapping_sub(1);
        for (index, write) in writes.iter().enumerate() {
            self.tables.note(write, if index == last && failed { count } else { write.len() });
        }
        let Some(Writing { routes, recompiled, all }) = self.writing.take() else { return };
        if failed {
            if !routes.is_empty() {
                Arc::make_mut(&mut self.rib).keep_changed(routes);
            }
            self.pend_tables(&recompiled);
        } else {
            let retired = self.ids.policy.segments.retiring();
            if !recompiled.policy.is_empty() {
                self.ids.policy.end();
            }
            if all {
                self.ids.egress.end();
            }
            self.follow_policy_rules(effects);
            if retired != 0 && self.ids.policy.segments.retiring() == 0 {
                // No sender has these numbers any more: next hops must not admit them, before they are reused.
                self.pending.egress = Affected::All;
                self.pending.retired = !self.reroute(effects);
            }
            // States, carriers, addresses, neighbours and selectors change neither the attachments nor what they need.
            if !self.pending.rerouted && (recompiled.attach || !routes.is_empty()) {
                self.attach(effects);
            }
        }
        // After a failure, a retry may need the memory of the entries replaced so far.
        self.begin_release(effects);
    }

    /// Updates the kernel's rules for policy routes.
    fn follow_policy_rules(&mut self, effects: &mut Vec<Effect>) {
        let mut routes = mem::take(&mut self.routes);
        let connections = &self.ids.policy.connections;
        routes.follow_policy_rules(self.inputs(), &self.rib, |name| connections.get(name), effects);
        self.routes = routes;
    }

    /// Schedules another write of the tables.
    fn pend_tables(&mut self, recompiled: &Recompiled) {
        if !recompiled.policy.is_empty() || !recompiled.addressed.is_empty() {
            self.pending.selectors = Affected::All;
        }
        self.pending.host.neighbours |= recompiled.neighbours;
        self.pending.egress = Affected::All;
        self.pending.attach |= recompiled.attach;
    }

    /// Starts a grace period, unless one is running: ends when no packet in flight uses the old tables.
    fn begin_release(&mut self, effects: &mut Vec<Effect>) {
        if !mem::replace(&mut self.is_releasing, true) {
            effects.push(Effect::AwaitGrace { ids: self.ids.begin_release() });
        }
    }

    /// The grace period is over.
    pub(super) fn release(&mut self, effects: &mut Vec<Effect>) {
        self.is_releasing = false;
        let frees_port_rules = self.ids.release();
        effects.push(Effect::Release);
        let unused = self.tables.writes_of_unused_policy_routes();
        if !unused.is_empty() {
            self.writing = Some(Writing { routes: BTreeSet::new(), recompiled: Recompiled::default(), all: false });
            effects.push(Effect::Write(unused));
        }
        self.begin_release(effects);
        if frees_port_rules {
            // The old rules needed the room of the new ones.
            let slots: BTreeSet<u32> = self.truncated.values().flatten().copied().collect();
            let names = self.config.connections.keys();
            let truncated = names.filter(|name| {
                !slots.is_empty() && self.ids.policy.connections.get(*name).is_some_and(|slot| slots.contains(&slot))
            });
            self.pending.selectors.add(truncated.cloned());
        }
    }

    fn with_ids<T>(&mut self, work: impl FnOnce(&mut Self, &mut IdMaps) -> T) -> T {
        let mut ids = mem::take(&mut self.ids);
        let result = work(self, &mut ids);
        self.ids = ids;
        result
    }
}

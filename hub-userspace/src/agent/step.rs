//! The agent's decisions. Pure: no I/O, and the time is an argument.

use std::{collections::BTreeSet, mem, sync::Arc, time::Instant};

use tracing::{info, warn};

use super::{
    effect::{Effect, Settled},
    event::{Done, Event},
    world::{LOOK_AGAIN, Pending, Recompiled, World},
};
use crate::{
    config::{
        difference::{Difference, NamedDifference},
        model::SelectorSource,
    },
    connection::affected::Affected,
    fib::slow_path,
    health,
    kernel::{netlink::Changes, spread::Underlays},
};

/// Handles an event and returns the effects to perform, in order. Some effects return a result as [`Event::Done`].
/// The effects of that event are performed before the remaining ones.
///
/// After each single effect, a packet finds at least the entries that it finds before the first or after the last
/// one, and no unfiltered path is open. Rerouting around a failure comes first.
pub fn step(world: &mut World, event: Event, now: Instant) -> Vec<Effect> {
    let mut effects = Vec::new();
    world.take(event, now, &mut effects);
    if mem::take(&mut world.pending.retired) {
        world.retry(now);
    }
    effects
}

impl World {
    fn take(&mut self, event: Event, now: Instant, effects: &mut Vec<Effect>) {
        // Events before `Start` are only recorded.
        let begins = matches!(event, Event::Start);
        match event {
            Event::Start => {}
            Event::Started => return self.is_starting = false,
            Event::Host { host, mut changes } => {
                changes.links &= self.follow_host(host);
                self.pending.host.add(changes);
            }
            Event::Health(reports) => {
                self.pending.affected.add(reports.keys().cloned());
                self.health.extend(reports);
            }
            Event::Tunnels(tunnels) => {
                let changed = tunnels.changed_since(&self.tunnels);
                self.tunnels = tunnels;
                match changed {
                    None => self.pending.affected = Affected::All,
                    // Counters alone.
                    Some(changed) if changed.is_empty() => return,
                    Some(changed) => self.pending.affected.add(changed),
                }
            }
            Event::Policies(policies) => {
                self.policies = policies;
                self.pending.affected = Affected::All;
            }
            Event::Interfaces(problems) => {
                self.problems = problems;
                self.pending.affected = Affected::All;
            }
            Event::Learned(changes) => self.take_learned(changes),
            Event::Change(transition) => {
                let difference = &transition.difference;
                match &transition.config {
                    Some(config) => self.config = Arc::clone(config),
                    None => Arc::make_mut(&mut self.config).apply(difference),
                }
                if difference.is_beyond_routes() {
                    effects.push(Effect::Ike(Arc::clone(&self.config)));
                }
                if !difference.is_empty() {
                    info!(name: "configuration_changed", "configuration: {difference}");
                }
                if !difference.routes.is_empty() {
                    Arc::make_mut(&mut self.rib).change(&difference.routes);
                }
                self.note_learned_change(difference, effects);
                self.pending.config |= difference.is_beyond_routes() || self.moves_xdp(difference);
                // The requester also waits for the kernel.
                self.routes.unsettle();
            }
            Event::Secrets => return,
            Event::Due => {
                self.pending.affected.add(self.liveness.expired(now).cloned());
                if self.next_look <= now {
                    self.next_look = now + LOOK_AGAIN;
                    self.routes.audit(effects);
                    effects.push(Effect::Sysctls { settings: self.settings.clone(), audit: true });
                    effects.extend(
                        self.translated.clone().filter(|found| !found.is_empty()).map(Effect::AcceptTranslated),
                    );
                    // The number of queues or CPUs may have changed: no event reports that.
                    effects.extend(self.underlays.clone().filter(|found| !found.is_empty()).map(Effect::Spread));
                    self.guard.repeat(effects);
                    self.pending.host.neighbours = true;
                    self.pending.attach |= !self.attachments.is_complete(&self.host);
                }
            }
            Event::GuardDisturbed => return self.guard.repeat(effects),
            Event::RoutesDisturbed => return self.routes.audit(effects),
            Event::SysctlsDisturbed => {
                return effects.push(Effect::Sysctls { settings: self.settings.clone(), audit: false });
            }
            Event::NeighbourMiss(ifindex, address) => return effects.push(Effect::Probe(ifindex, address)),
            Event::Idle if self.attachments.has_work() => return self.attachments.attach_some(&self.host, effects),
            Event::Idle => return self.routes.plan_some(&self.rib, &self.config, effects),
            Event::Settled(settled) => return self.settled(settled, now, effects),
            Event::GraceOver => {
                self.release(effects);
                if self.pending.selectors.is_empty() {
                    return;
                }
            }
            Event::Done(done) => return self.done(done, now, effects),
        }
        if begins || !self.is_starting {
            self.reconcile(now, effects);
        }
    }

    /// Reconciles the program with configuration and host where something is pending, and updates the kernel.
    ///
    /// If next hops must be rerouted around a failure, only that is done at first. The rest follows when it is
    /// written.
    fn reconcile(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Pending { ref host, config, .. } = self.pending;
        let (links, carrier, neighbours) = (host.links, host.carrier, host.neighbours);
        if links || config {
            self.pending.affected = Affected::All;
            self.pending.egress = Affected::All;
        }
        if !mem::take(&mut self.pending.rerouted) {
            if links || neighbours || config {
                self.check_health(effects);
            }
            let affected = mem::take(&mut self.pending.affected);
            if !affected.is_empty() {
                let selectors = self.refresh_selectors(&affected);
                self.pending.selectors.add(selectors.iter().cloned());
                self.pending.egress.add(selectors);
                let states = self.evaluate(&affected, now);
                self.pending.egress.add(states);
            }
            self.pending.affected = affected;
            let reroutes = links || carrier || !self.pending.egress.is_empty();
            if reroutes && !config && self.reroute(effects) {
                self.pending.rerouted = true;
                return;
            }
        }
        self.reconcile_rest(now, effects);
    }

    fn reconcile_rest(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Pending {
            host,
            config,
            mut affected,
            egress,
            selectors,
            addressed,
            guard,
            attach,
            underlay,
            rerouted: _,
            retired: _,
        } = mem::take(&mut self.pending);
        let Changes { links, carrier, addresses, neighbours, gateways, stale, gone, .. } = host;
        // The kernel does not detect a changed link address of a neighbour that only the program uses.
        let stale = stale.into_iter().filter(|(ifindex, _)| self.attachments.is_attached(*ifindex));
        effects.extend(stale.map(|(ifindex, address)| Effect::Probe(ifindex, address)));
        if !gone.is_empty() {
            self.attachments.forget(&gone);
            self.settings.forget(&gone);
            self.underlays.take_if(|underlays| underlays.has_any(&gone));
            // The kernel has emptied their ports.
            self.tables.policy.ports.retain(|_, ifindex| !gone.contains(ifindex));
            effects.push(Effect::Forget(gone));
        }
        self.follow_xfrm_links(config, underlay || gateways, &affected, effects);
        if config {
            effects.push(Effect::FollowPolicies(self.follows_policies()));
        }
        if links || config || guard {
            self.protect(effects);
        } else if addresses || !selectors.is_empty() {
            self.protect_selectors(&selectors, &addressed, effects);
        }
        let published = self.publish_states(&affected, effects);
        let own = links || addresses || gateways || config;
        if own && self.rib.is_behind(&self.config, &self.host) {
            Arc::make_mut(&mut self.rib).follow(&self.config, &self.host);
        }
        self.follow_learned(links || addresses, carrier, config, effects);
        let host = links || carrier || addresses || neighbours;
        if host || config || attach || !selectors.is_empty() || !egress.is_empty() || self.rib.changed().len() > 0 {
            self.follow_routes(&egress, host || config, effects);
            if links || config {
                self.tc_only = self.attachments.tc_only(&self.host, &self.interfaces());
            }
            let recompiled = Recompiled {
                policy: if links || config { Affected::All } else { selectors },
                addressed,
                neighbours: links || neighbours || config,
                egress,
                attach: links || config || attach,
            };
            if !self.write_tables(&recompiled, effects) {
                self.retry(now);
            }
        }
        if config {
            // Connections may have other slots now.
            affected = Affected::All;
        }
        self.remember_states(&affected, effects);
        self.publish_selectors(&published, effects);
        self.follow_underlays(effects);
        if (links || carrier || addresses) && !self.is_starting {
            // The kernel removes routes by itself when a link or an address is removed.
            self.routes.audit(effects);
        }
        if !self.refused.is_empty() {
            self.retry(now);
        }
    }

    /// Handles the result of an effect.
    fn done(&mut self, done: Done, now: Instant, effects: &mut Vec<Effect>) {
        match done {
            Done::Written { writes, count, failed } => {
                self.written(&writes, count, failed, effects);
                if failed {
                    self.retry(now);
                }
                if self.pending.rerouted {
                    self.reconcile(now, effects);
                }
            }
            Done::GuardFailed => {
                self.guard.failed();
                self.pending.guard = true;
                self.retry(now);
            }
            Done::GroupFailed => {
                self.guard.group_failed();
                self.pending.guard = true;
                self.retry(now);
            }
            Done::Attached { name, ifindex, result } => self.attachments.attached(name, ifindex, result),
            Done::Kept => {
                if !self.attachments.is_complete(&self.host) {
                    self.retry(now);
                }
                let tc_only = self.attachments.tc_only(&self.host, &self.interfaces());
                if tc_only != self.tc_only {
                    // Whether a driver supports native XDP is known only after an attempt.
                    self.tc_only = tc_only;
                    let all = Recompiled { policy: Affected::All, egress: Affected::All, ..Recompiled::default() };
                    if !self.write_tables(&all, effects) {
                        self.retry(now);
                    }
                }
            }
            Done::NothingRests => self.is_releasing = false,
        }
    }

    /// The reconciler has tried everything: logs new failures. All failures are retried.
    fn settled(&mut self, settled: Settled, now: Instant, effects: &mut Vec<Effect>) {
        let refused = match settled {
            Ok(refused) => refused,
            Err(error) => {
                effects.push(Effect::Fail(error));
                return self.retry(now);
            }
        };
        let refused = BTreeSet::from_iter(refused);
        for failure in refused.difference(&self.refused) {
            warn!(name: "kernel_route_refused", "{failure}");
        }
        self.refused = refused;
        if self.refused.is_empty() {
            self.guard.routes_are_settled(effects);
        } else {
            self.retry(now);
        }
    }

    /// Whether any connection takes its selectors from the kernel's policies.
    fn follows_policies(&self) -> bool {
        self.config.connections.values().any(|connection| connection.selectors == SelectorSource::Xfrm)
    }

    /// Updates the running health checks. Reports of a check whose target has changed are discarded.
    fn check_health(&mut self, effects: &mut Vec<Effect>) {
        let checks = health::targets(&self.config, &self.host);
        if checks == self.checks {
            return;
        }
        let goes_on = |name: &String| match (self.checks.get(name), checks.get(name)) {
            (Some(old), Some(new)) => old.is_same_path(new),
            _ => false,
        };
        self.health.retain(|name, _| goes_on(name));
        self.checks.clone_from(&checks);
        effects.push(Effect::Checks(checks));
    }

    /// Updates the xfrm interfaces. The agent's own changes of MTUs come back as events of these interfaces, on which
    /// no MTU depends.
    fn follow_xfrm_links(&mut self, config: bool, underlay: bool, affected: &Affected, effects: &mut Vec<Effect>) {
        let Self { links, host, tunnels, .. } = self;
        let is_changed = if config {
            links.follow_config(&self.config, host, tunnels);
            true
        } else {
            let by_host = underlay && links.follow_host(&self.config, host, tunnels);
            links.follow_tunnels(&self.config, tunnels, affected) || by_host
        };
        if is_changed {
            effects.push(Effect::XfrmLinks(links.desired().clone()));
        }
    }

    /// Updates the distribution of received ESP over the CPUs. No table depends on it, so its interfaces and keys are
    /// no change for them.
    fn follow_underlays(&mut self, effects: &mut Vec<Effect>) {
        let underlays = Underlays::of(&self.config, &self.host);
        if self.underlays.as_ref() != Some(&underlays) {
            effects.push(Effect::Spread(underlays.clone()));
            self.underlays = Some(underlays);
        }
    }

    /// Whether an attachment gains or loses XDP by a changed underlay.
    fn moves_xdp(&self, difference: &Difference) -> bool {
        let interfaces =
            if difference.underlays == NamedDifference::default() { return false } else { self.interfaces() };
        interfaces.iter().any(|(name, used)| self.attachments.is_moved(self.host.link(name), used))
    }

    /// Updates the kernel's routes to these connections and destinations that changed, and the neighbours if they may
    /// have changed.
    fn follow_routes(&mut self, egress: &Affected, neighbours: bool, effects: &mut Vec<Effect>) {
        let mut routes = mem::take(&mut self.routes);
        let affected = self.rib.affected_groups(egress, true);
        routes.follow(self.inputs(), &self.rib, &affected);
        if neighbours || self.rib.changed().len() > 0 {
            effects.push(Effect::Neighbours(slow_path::neighbours(self.inputs(), &self.rib)));
        }
        if self.is_starting {
            // The kernel needs time for many routes: start early, in parallel with other work.
            routes.plan(&self.rib, &self.config, effects);
        }
        self.routes = routes;
    }

    /// The tables are written: attaches the programs once the guard and the settings are in place.
    pub(super) fn attach(&mut self, effects: &mut Vec<Effect>) {
        // Connections have their slots now.
        self.protect(effects);
        let by_ports = self.rib.groups().any(|members| members.len() > 1);
        if self.settings.follow(&self.config, &self.host, by_ports) {
            effects.push(Effect::Sysctls { settings: self.settings.clone(), audit: false });
        }
        self.accept_translated(effects);
        let interfaces = self.interfaces();
        self.attachments.update(&self.host, &interfaces, self.is_starting, effects);
    }
}

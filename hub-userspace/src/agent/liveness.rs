//! States of the connections: judged, logged, counted, told to whoever listens.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use tracing::{info, warn};

use super::Agent;
use crate::{
    agreement::has_sa,
    attachments::missing,
    config::model::{Connection, Source},
    event::{Event, now},
    health::Verdict,
    state::{Entry, State},
};

impl Agent {
    /// Judges the states anew; whether any is another one.
    pub(super) fn judge(&mut self) -> bool {
        let now = Instant::now();
        let (prober, tunnels) = (&self.prober, self.ike.view());
        let health = |name: &str| Some(prober.report(name)?.verdict? == Verdict::Healthy);
        let (config, host, xfrm) = (&self.config, &self.host, self.xfrm.view());
        let tunnel = |name: &str, connection: &Connection| match (&connection.ipsec, connection.selectors) {
            (Some(ipsec), _) => tunnels.is_up(name, ipsec.start),
            (None, Source::Xfrm) => has_sa(config, connection, host, xfrm.table.as_deref()),
            (None, _) => Some(true),
        };
        self.liveness.judge(config, host, tunnel, health, now);
        self.hold_ends = self.liveness.due(&self.config).map(Into::into);
        let states = self.liveness.states();
        let differ = *self.states != states;
        self.states = Arc::new(states);
        differ
    }

    /// Notes the states for the next agent.
    pub(super) fn remember_states(&mut self) {
        for (name, memory) in self.liveness.memories(&self.clock) {
            if let Some(slot) = self.layout.policy.connections.get(name)
                && let Err(error) = self.dataplane.remember(slot, &memory)
            {
                warn!("the next agent will not know how {name} is: {error}");
            }
        }
    }

    /// Logs and tells what is new of the connections: their state, or why it is so.
    pub(super) fn tell_states(&mut self) {
        let reasons: BTreeMap<String, (State, Option<String>)> =
            self.states.iter().map(|(name, state)| (name.clone(), (*state, self.state_reason(name, *state)))).collect();
        // The reason, not the state alone: an interface that is deleted goes down first.
        for (name, told) in reasons.iter().filter(|(name, told)| self.told.get(*name) != Some(*told)) {
            let (state, reason) = told;
            match reason {
                None => info!(connection = name, "up"),
                Some(reason) => warn!(connection = name, "down: {reason}"),
            }
            let was = self.told.get(name).map(|(state, _)| *state);
            let selectors = self.selectors_of(name);
            let (connection, reason) = (name.clone(), reason.clone());
            let event = Event { time: now(), connection, state: *state, was, reason, selectors };
            // Nobody may be listening.
            drop(self.events.send(event));
        }
        for name in self.told.keys().filter(|name| !reasons.contains_key(*name)) {
            let reason = Some("no longer in the configuration".to_owned());
            let was = self.told.get(name).map(|(state, _)| *state);
            let (connection, state) = (name.clone(), State::Down);
            let event = Event { time: now(), connection, state, was, reason, selectors: None };
            drop(self.events.send(event));
        }
        self.told = reasons;
    }

    /// Why a connection is not up.
    pub(super) fn state_reason(&self, name: &str, state: State) -> Option<String> {
        let connection = &self.config.connections[name];
        let interface = &connection.interface;
        match (state, self.host.link(interface)) {
            (State::Up, _) => None,
            (State::AdminDown, _) => Some("taken down by hand".to_owned()),
            (State::Held, _) if self.liveness.get(name).is_some_and(Entry::is_unknown) => {
                Some(self.ipsec_reason(name).unwrap_or_else(|| self.health_reason(name)))
            }
            (State::Held, _) => {
                Some(format!("well again, and up after {:?} without another failure (up_delay)", connection.up_delay))
            }
            (State::Down, None) => {
                Some(self.interfaces.problems().get(interface).cloned().unwrap_or_else(|| missing(interface)))
            }
            (State::Down, Some(link)) if !link.admin_up => {
                Some(format!("interface {interface} is down: `ip link set {interface} up`"))
            }
            (State::Down, Some(link)) if !link.is_up() => Some(format!("interface {interface} has no carrier")),
            (State::Down, Some(_)) => Some(self.ipsec_reason(name).unwrap_or_else(|| self.health_reason(name))),
        }
    }

    /// Why its tunnel is not up, or not known to be.
    fn ipsec_reason(&self, name: &str) -> Option<String> {
        let connection = &self.config.connections[name];
        if connection.ipsec.is_none() && connection.selectors == Source::Xfrm {
            let view = self.xfrm.view();
            let has_sa = has_sa(&self.config, connection, &self.host, view.table.as_deref());
            return match (has_sa, &view.problem) {
                (Some(true), _) => None,
                (_, Some(problem)) => Some(problem.clone()),
                (Some(false), None) => Some("the kernel has no policy with an SA for it".to_owned()),
                (None, None) => Some("the kernel's IPsec policies have not been read yet".to_owned()),
            };
        }
        let start = connection.ipsec.as_ref()?.start;
        let view = self.ike.view();
        (view.is_up(name, start) != Some(true)).then(|| view.reason(name, start))
    }

    /// Why a health check does not pass.
    fn health_reason(&self, name: &str) -> String {
        let check = self.config.connections[name].health_check;
        let destination = check.map(|check| check.destination.to_string()).unwrap_or_default();
        let report = self.prober.report(name).unwrap_or_default();
        match (report.problem, report.verdict) {
            (Some(problem), _) => format!("the health check of {destination} cannot be made: {problem}"),
            (None, Some(verdict)) => format!("health check: {destination} {verdict}"),
            (None, None) => format!("health check: {destination} has not replied yet"),
        }
    }
}

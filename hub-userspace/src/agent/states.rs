//! Connection states and the reasons for them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use tracing::{info, warn};

use super::{
    attachments::missing,
    effect::{Effect, Notice},
    world::World,
};
use crate::{
    config::model::{Connection, SelectorSource},
    connection::{liveness::ConnectionLiveness, state::State},
    health::Verdict,
    ipsec::effective::has_sa,
};

/// Reason for a peer whose link address cannot be resolved.
fn no_answer(peer: IpAddr, interface: &str, bridge_port: bool) -> String {
    let protocol = if peer.is_ipv4() { "ARP" } else { "neighbour solicitations" };
    let remedy = match bridge_port {
        true => {
            format!("the interface is a port of a bridge, which takes the answers: `ip link set {interface} nomaster`")
        }
        false => "check the peer's address and the link".to_owned(),
    };
    format!("peer {peer} does not answer {protocol} on interface {interface}; {remedy}")
}

const GONE: &str = "no longer in the configuration";

impl World {
    /// Re-evaluates the states. Returns whether any has changed.
    pub(super) fn evaluate(&mut self, now: Instant) -> bool {
        let Self { liveness, config, host, tunnels, policies, health, .. } = self;
        let healthy = |name: &str| Some(health.get(name)?.verdict? == Verdict::Healthy);
        let tunnel = |name: &str, connection: &Connection| match (&connection.ipsec, connection.selectors) {
            (Some(ipsec), _) => tunnels.is_up(name, ipsec.start),
            (None, SelectorSource::Xfrm) => has_sa(config, connection, host, policies.table.as_deref()),
            (None, _) => Some(true),
        };
        liveness.evaluate(config, host, tunnel, healthy, now);
        self.hold_down_expires = liveness.due(config);
        let states = liveness.states();
        let differ = *self.states != states;
        self.states = Arc::new(states);
        differ
    }

    /// Stores the states for the next agent.
    pub(super) fn remember_states(&mut self, effects: &mut Vec<Effect>) {
        let slots = &self.ids.policy.connections;
        self.remembered.retain(|slot, _| self.policy.connections.contains_key(slot));
        for (name, memory) in self.liveness.memories(&self.clock) {
            if let Some(slot) = slots.get(name)
                && self.remembered.insert(slot, memory) != Some(memory)
            {
                effects.push(Effect::Remember { connection: name.to_owned(), slot, memory });
            }
        }
    }

    /// Logs and publishes changed states and reasons.
    pub(super) fn publish_states(&mut self, effects: &mut Vec<Effect>) {
        let reasons: BTreeMap<String, (State, Option<String>)> =
            self.states.iter().map(|(name, state)| (name.clone(), (*state, self.state_reason(name, *state)))).collect();
        let was = |name: &str| self.last_published.get(name).map(|(state, _)| *state);
        // A changed reason counts as well: an interface goes down before it is deleted.
        for (name, now) in reasons.iter().filter(|(name, now)| self.last_published.get(*name) != Some(*now)) {
            let (connection, (state, reason)) = (name.clone(), now.clone());
            match &reason {
                None => info!(connection, "up"),
                Some(reason) => warn!(connection, "down: {reason}"),
            }
            let selectors = self.selectors_of(name);
            effects.push(Effect::Notify(Notice { connection, state, was: was(name), reason, selectors }));
        }
        for name in self.last_published.keys().filter(|name| !reasons.contains_key(*name)) {
            let reason = Some(GONE.to_owned());
            let (connection, state) = (name.clone(), State::Down);
            effects.push(Effect::Notify(Notice { connection, state, was: was(name), reason, selectors: None }));
        }
        self.last_published = reasons;
    }

    /// Reason why a connection is not up.
    pub(super) fn state_reason(&self, name: &str, state: State) -> Option<String> {
        let connection = &self.config.connections[name];
        let interface = &connection.interface;
        match (state, self.host.link(interface)) {
            (State::Up, _) => None,
            (State::AdminDown, _) => Some("administratively down".to_owned()),
            (State::HoldDown, _) if self.liveness.get(name).is_some_and(ConnectionLiveness::is_unknown) => {
                Some(self.ipsec_reason(name).unwrap_or_else(|| self.health_reason(name)))
            }
            (State::HoldDown, _) => Some(format!(
                "healthy again, hold-down: up after {:?} without another failure (up_delay)",
                connection.up_delay
            )),
            (State::Down, None) => Some(self.problems.get(interface).cloned().unwrap_or_else(|| missing(interface))),
            (State::Down, Some(link)) if !link.admin_up => {
                Some(format!("interface {interface} is down: `ip link set {interface} up`"))
            }
            (State::Down, Some(link)) if !link.is_up() => Some(format!("interface {interface} has no carrier")),
            (State::Down, Some(link)) => {
                let failed = connection.peer.filter(|peer| self.host.has_failed(link.index, *peer));
                Some(match failed {
                    Some(peer) => no_answer(peer, interface, link.is_bridge_port()),
                    None => self.ipsec_reason(name).unwrap_or_else(|| self.health_reason(name)),
                })
            }
        }
    }

    /// Reason why its tunnel is not up, or not known to be up.
    fn ipsec_reason(&self, name: &str) -> Option<String> {
        let connection = &self.config.connections[name];
        if connection.ipsec.is_none() && connection.selectors == SelectorSource::Xfrm {
            let view = &self.policies;
            let has_sa = has_sa(&self.config, connection, &self.host, view.table.as_deref());
            return match (has_sa, &view.problem) {
                (Some(true), _) => None,
                (_, Some(problem)) => Some(problem.clone()),
                (Some(false), None) => Some("the kernel has no policy with an SA for it".to_owned()),
                (None, None) => Some("the kernel's IPsec policies have not been read yet".to_owned()),
            };
        }
        let start = connection.ipsec.as_ref()?.start;
        let view = &self.tunnels;
        (view.is_up(name, start) != Some(true)).then(|| view.reason(name, start))
    }

    /// Reason why its health check does not pass.
    fn health_reason(&self, name: &str) -> String {
        let check = self.config.connections[name].health_check;
        let destination = check.map(|check| check.destination.to_string()).unwrap_or_default();
        let report = self.health.get(name).cloned().unwrap_or_default();
        match (report.problem, report.verdict) {
            (Some(problem), _) => format!("the health check of {destination} cannot run: {problem}"),
            (None, Some(verdict)) => format!("health check: {destination} {verdict}"),
            (None, None) => format!("health check: {destination} has not replied yet"),
        }
    }
}

//! Connection states and the reasons for them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use tracing::{info, warn};

use super::{
    attachments::missing,
    effect::{Effect, Notice},
    world::World,
};
use crate::{
    config::{
        STANDBY,
        model::{Connection, SelectorSource},
    },
    connection::{
        affected::Affected,
        liveness::ConnectionLiveness,
        state::{Health, State},
    },
    health::HealthReport,
    ipsec::{
        effective::{has_sa, mark},
        xfrm::table::SaMatch,
    },
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
    /// Re-evaluates the states of connections. Returns those that have changed.
    pub(super) fn evaluate(&mut self, affected: &Affected, now: Instant) -> Vec<String> {
        let Self { liveness, config, host, tunnels, policies, health, states, .. } = self;
        let healthy = |name: &str| health.get(name)?.health();
        let tunnel = |name: &str, connection: &Connection| match (&connection.ipsec, connection.selectors) {
            (Some(_), _) if !config.role.has_tunnels() => Some(false),
            (Some(ipsec), _) => tunnels.is_up(name, ipsec.start),
            (None, SelectorSource::Xfrm) => has_sa(config, connection, host, policies.table.as_deref()),
            (None, _) => Some(true),
        };
        liveness.evaluate(config, host, affected, tunnel, healthy, now);
        self.hold_down_expires = liveness.due();
        let state = |name: &str| liveness.get(name).map(|entry| entry.state);
        let changed = affected.names(config).filter(|name| states.get(*name).copied() != state(name));
        let mut changed: Vec<String> = changed.cloned().collect();
        if affected.is_all() {
            changed.extend(states.keys().filter(|name| !config.connections.contains_key(*name)).cloned());
        }
        if changed.is_empty() {
            return changed;
        }
        let states = Arc::make_mut(states);
        for name in &changed {
            match state(name) {
                Some(state) => _ = states.insert(name.clone(), state),
                None => _ = states.remove(name),
            }
        }
        changed
    }

    /// Stores the states of connections for the next agent.
    pub(super) fn remember_states(&mut self, affected: &Affected, effects: &mut Vec<Effect>) {
        let slots = &self.ids.policy.connections;
        if affected.is_all() {
            self.remembered.retain(|slot, _| self.tables.policy.connections.contains_key(slot));
        }
        for name in affected.names(&self.config) {
            if let (Some(slot), Some(memory)) = (slots.get(name), self.liveness.memory(name, &self.clock))
                && self.remembered.insert(slot, memory) != Some(memory)
            {
                effects.push(Effect::Remember { connection: name.clone(), slot, memory });
            }
        }
    }

    /// Logs and publishes changed states and reasons of connections. Returns the published ones.
    pub(super) fn publish_states(&mut self, affected: &Affected, effects: &mut Vec<Effect>) -> BTreeSet<String> {
        let mut published = BTreeSet::new();
        let config = Arc::clone(&self.config);
        for name in affected.names(&config) {
            let Some(state) = self.states.get(name).copied() else { continue };
            let now = (state, self.state_reason(name, state));
            // A changed reason counts as well: an interface goes down before it is deleted.
            if self.last_published.get(name) == Some(&now) {
                continue;
            }
            let (connection, reason) = (name.clone(), now.1.clone());
            match &reason {
                None => info!(name: "connection_up", connection, "up"),
                Some(reason) if state.is_up() => {
                    warn!(name: "connection_degraded", connection, json.reason = reason, "up, {reason}");
                }
                Some(reason) => warn!(name: "connection_down", connection, json.reason = reason, "down: {reason}"),
            }
            let was = self.last_published.insert(connection.clone(), now).map(|(state, _)| state);
            let selectors = self.selectors_of(name);
            published.insert(connection.clone());
            let health = self.health_of(name);
            effects.push(Effect::Notify(Notice { connection, state, health, was, reason, selectors }));
        }
        if affected.is_all() {
            let gone = self.last_published.keys().filter(|name| !config.connections.contains_key(*name));
            for connection in gone.cloned().collect::<Vec<_>>() {
                let was = self.last_published.remove(&connection).map(|(state, _)| state);
                let (state, reason) = (State::Down, Some(GONE.to_owned()));
                effects.push(Effect::Notify(Notice { connection, state, health: None, was, reason, selectors: None }));
            }
        }
        published
    }

    /// The result of its health check, as of the last evaluation.
    pub(super) fn health_of(&self, name: &str) -> Option<Health> {
        self.health.get(name).and_then(HealthReport::health)
    }

    /// Reason why a connection is not up, or degraded.
    pub(super) fn state_reason(&self, name: &str, state: State) -> Option<String> {
        let connection = &self.config.connections[name];
        let interface = &connection.interface;
        match (state, self.host.link(interface)) {
            (State::Up, _) => None,
            (State::Degraded, _) => Some(format!("degraded: {}", self.health_reason(name))),
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
        if connection.ipsec.is_some() && !self.config.role.has_tunnels() {
            return Some(STANDBY.to_owned());
        }
        if connection.ipsec.is_none() && connection.selectors == SelectorSource::Xfrm {
            let view = &self.policies;
            let has_sa = has_sa(&self.config, connection, &self.host, view.table.as_deref());
            return match (has_sa, &view.problem) {
                (Some(true), _) => None,
                (_, Some(problem)) => Some(problem.clone()),
                (Some(false), None) => Some(self.unmatched_reason(connection)),
                (None, None) => Some("the kernel's IPsec policies have not been read yet".to_owned()),
            };
        }
        let start = connection.ipsec.as_ref()?.start;
        let site = &self.config.customer_gateways.get(&connection.customer_gateway)?.address;
        let view = &self.tunnels;
        (view.is_up(name, start) != Some(true)).then(|| view.reason(name, start, site))
    }

    /// Reason why no kernel policy is that of a connection whose SAs are managed externally.
    fn unmatched_reason(&self, connection: &Connection) -> String {
        let (interface, gateway) = (&connection.interface, &connection.customer_gateway);
        match mark(&self.config, connection, &self.host) {
            Some(SaMatch { if_id: None, site: None }) => format!(
                "the kernel's policies cannot be matched: {interface} is not an xfrm interface with an if_id, and {gateway} has \
                 no fixed address; use an xfrm interface"
            ),
            _ => "the kernel has no policy with an SA for it".to_owned(),
        }
    }

    /// Reason why its health check does not pass, or is degraded.
    fn health_reason(&self, name: &str) -> String {
        let check = self.config.connections[name].health_check.as_ref();
        let destinations = check.map_or(&[][..], |check| &check.destinations);
        let report = self.health.get(name).cloned().unwrap_or_default();
        let of_target = |destination: &IpAddr| {
            let report = report.targets.get(destination).unwrap_or(&report);
            match (&report.problem, report.verdict) {
                (Some(problem), _) => format!("the health check of {destination} cannot run: {problem}"),
                (None, Some(verdict)) => format!("health check: {destination} {verdict}"),
                (None, None) => format!("health check: {destination} has not replied yet"),
            }
        };
        let passes = |destination: &IpAddr| report.targets.get(destination).is_some_and(HealthReport::is_healthy);
        let failed: Vec<_> = destinations.iter().filter(|destination| !passes(destination)).map(of_target).collect();
        failed.join(", ")
    }
}

//! Liveness of connections: a state machine with hold-down. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    affected::Affected,
    memory::{Clock, ConnectionMemory},
    state::{Health, State},
};
use crate::{
    config::model::{Config, Connection},
    kernel::netlink::{HostState, Link},
};

/// Tracks the states of all connections and damps flapping: a connection goes down immediately, but comes up after a
/// failure only when it has been healthy for its `up_delay`. Pure: the time is an argument.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    connections: BTreeMap<String, ConnectionLiveness>,
    /// Ends of hold-downs, in order.
    expiries: BTreeSet<(Instant, String)>,
}

/// State of a connection as of the last evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLiveness {
    pub state: State,
    /// Time of the last change of the state.
    pub since: Instant,
    /// Number of visible changes: to or from up, down or administratively down.
    pub changes: u64,
    /// Time since when all evidence is positive.
    healthy_since: Option<Instant>,
    /// It was up and went down, not administratively: before it comes up again, it must wait.
    failed: bool,
    /// `healthy_since` of an earlier agent, until this agent has evidence of its own.
    was_healthy_since: Option<Instant>,
    /// End of its hold-down.
    expires: Option<Instant>,
}

impl Liveness {
    /// Restores an earlier agent's state of a connection. Called before its first evaluation.
    pub fn resume(&mut self, name: String, memory: &ConnectionMemory, clock: &Clock) {
        let ConnectionMemory { state, since, healthy_since, failed, changes } = *memory;
        let since = clock.here(since);
        let was_healthy_since = healthy_since.map(|time| clock.here(time));
        let entry =
            ConnectionLiveness { state, since, changes, healthy_since: None, failed, was_healthy_since, expires: None };
        self.connections.insert(name, entry);
    }

    /// Evaluates connections of the configuration. `tunnel` returns the state of a connection's tunnel, `None` while
    /// unknown, and `Some(true)` for connections without one. `health` returns the verdict of a connection's health
    /// check, `None` before the first one.
    pub fn evaluate(
        &mut self,
        config: &Config,
        host: &HostState,
        affected: &Affected,
        tunnel: impl Fn(&str, &Connection) -> Option<bool>,
        health: impl Fn(&str) -> Option<Health>,
        now: Instant,
    ) {
        if affected.is_all() {
            self.connections.retain(|name, _| config.connections.contains_key(name));
            self.expiries.retain(|(_, name)| config.connections.contains_key(name));
        }
        for name in affected.names(config) {
            let connection = &config.connections[name];
            let loss = if connection.health_check.is_some() { health(name) } else { Some(Health::Up) };
            let answers = loss.map(|health| health != Health::Down);
            let evidence = evidence(connection, host, tunnel(name, connection), answers);
            let entry = if let Some(entry) = self.connections.get_mut(name) {
                if let Some(expires) = entry.expires.take() {
                    self.expiries.remove(&(expires, name.clone()));
                }
                entry.evaluate(connection, evidence, loss, now);
                entry
            } else {
                let first = ConnectionLiveness::first(connection, evidence, loss, now);
                self.connections.entry(name.clone()).or_insert(first)
            };
            if entry.state == State::HoldDown
                && let Some(since) = entry.healthy_since
            {
                let expires = since + connection.up_delay;
                entry.expires = Some(expires);
                self.expiries.insert((expires, name.clone()));
            }
        }
    }

    /// The state to pass on to the next agent.
    pub fn memory(&self, name: &str, clock: &Clock) -> Option<ConnectionMemory> {
        let entry = self.connections.get(name)?;
        Some(ConnectionMemory {
            state: entry.state,
            since: clock.since_boot(entry.since),
            healthy_since: entry.healthy_since.or(entry.was_healthy_since).map(|time| clock.since_boot(time)),
            failed: entry.failed,
            changes: entry.changes,
        })
    }

    pub fn get(&self, name: &str) -> Option<&ConnectionLiveness> {
        self.connections.get(name)
    }

    /// Earliest end of a connection's hold-down.
    pub fn due(&self) -> Option<Instant> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// Connections whose hold-down has ended.
    pub fn expired(&self, now: Instant) -> impl Iterator<Item = &String> {
        self.expiries.iter().take_while(move |(expires, _)| *expires <= now).map(|(_, name)| name)
    }
}

/// Evidence about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    Up,
    /// The state of its tunnel or its health check is unknown; all other evidence is positive.
    Unknown,
    Down,
}

impl ConnectionLiveness {
    fn first(connection: &Connection, evidence: Evidence, loss: Option<Health>, now: Instant) -> Self {
        let mut entry = Self {
            state: State::Down,
            since: now,
            changes: 0,
            healthy_since: None,
            failed: false,
            was_healthy_since: None,
            expires: None,
        };
        entry.evaluate(connection, evidence, loss, now);
        Self { changes: 0, ..entry }
    }

    /// `loss` matters while the evidence is positive.
    fn evaluate(&mut self, connection: &Connection, evidence: Evidence, loss: Option<Health>, now: Instant) {
        self.healthy_since = if evidence == Evidence::Unknown {
            None
        } else {
            let was_healthy_since = self.was_healthy_since.take();
            (evidence == Evidence::Up).then(|| self.healthy_since.or(was_healthy_since).unwrap_or(now))
        };
        let state = match (evidence, self.healthy_since) {
            _ if !connection.enabled => State::AdminDown,
            (Evidence::Down, _) => State::Down,
            // A new or changed health check does not take down a working connection.
            (Evidence::Unknown, _) if self.state.is_up() => self.state,
            (Evidence::Unknown, _) => State::HoldDown,
            (Evidence::Up, Some(since))
                if self.failed && now.saturating_duration_since(since) < connection.up_delay =>
            {
                State::HoldDown
            }
            (Evidence::Up, _) => match loss {
                Some(Health::Degraded) => State::Degraded,
                // A new agent, or a changed check, has not seen a whole window yet.
                Some(Health::Answers) | None if self.state == State::Degraded => State::Degraded,
                _ => State::Up,
            },
        };
        self.failed = match state {
            // An administrator who takes it up does not want to wait for the hold-down.
            State::AdminDown | State::Up | State::Degraded => false,
            State::Down => self.failed || self.state.is_up(),
            State::HoldDown => self.failed,
        };
        if state != self.state {
            self.changes += u64::from(seen(state) != seen(self.state));
            if !(state.is_up() && self.state.is_up()) {
                self.since = now;
            }
            self.state = state;
        }
    }

    /// Whether it waits for the first verdict of its tunnel or its health check.
    pub fn is_unknown(&self) -> bool {
        self.state == State::HoldDown && self.healthy_since.is_none()
    }
}

/// The state as displayed.
fn seen(state: State) -> State {
    match state {
        State::HoldDown => State::Down,
        State::Degraded => State::Up,
        state => state,
    }
}

fn evidence(connection: &Connection, host: &HostState, tunnel: Option<bool>, health: Option<bool>) -> Evidence {
    let link = host.link(&connection.interface);
    let is_up = link.is_some_and(Link::is_up);
    let answers = link.zip(connection.peer).is_none_or(|(link, peer)| !host.has_failed(link.index, peer));
    weigh([Some(is_up && answers), tunnel, health].into_iter())
}

/// Combines answers: `Some(false)` takes precedence over `None`, and `None` over `Some(true)`.
fn weigh(asked: impl Iterator<Item = Option<bool>>) -> Evidence {
    asked.fold(Evidence::Up, |so_far, answer| match (so_far, answer) {
        (Evidence::Down, _) | (_, Some(false)) => Evidence::Down,
        (Evidence::Unknown, _) | (_, None) => Evidence::Unknown,
        (Evidence::Up, Some(true)) => Evidence::Up,
    })
}

#[cfg(test)]
mod tests;

//! What is known of the agent, and rates from two answers. Pure: times are arguments.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::format::{clean, count};
use crate::{
    api_types::{
        event::ConnectionEvent,
        status::{ConnectionStatus, FullStatus, Health, RouteStatus, Traffic},
    },
    cli::table,
    connection::state::{Health as HealthState, State},
};

/// The time that sparklines show.
pub const HISTORY: Duration = Duration::from_secs(120);
/// Maximum number of events, of all connections.
const MOST_EVENTS: usize = 1000;

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    pub rx_packets: f64,
    pub rx_bits: f64,
    pub tx_packets: f64,
    pub tx_bits: f64,
    pub drops: f64,
}

#[derive(Debug)]
pub struct Connection {
    pub status: ConnectionStatus,
    /// `None` before the second answer.
    pub rates: Option<Rates>,
    /// The last rates, the oldest first: [`HISTORY`] at most.
    pub history: VecDeque<Rates>,
    /// Drops per second by reason, of the last interval.
    pub drop_rates: BTreeMap<String, f64>,
    /// The smallest and the largest share of its routes; `None` without a route.
    pub share: Option<(f64, f64)>,
}

#[derive(Debug)]
pub struct Model {
    samples: usize,
    pub gateway: String,
    /// By name.
    pub connections: BTreeMap<String, Connection>,
    /// As of the last status.
    pub routes: Vec<RouteStatus>,
    /// The oldest first.
    pub events: VecDeque<ConnectionEvent>,
    /// Time of the last answer.
    taken: Option<Instant>,
    /// Why there is no newer answer.
    pub problem: Option<String>,
    /// Something has changed that may change shares.
    pub is_status_due: bool,
}

impl Model {
    /// `interval` is the time between two answers.
    pub fn new(interval: Duration) -> Self {
        let samples = (HISTORY.as_secs_f64() / interval.as_secs_f64()).ceil().max(2.0);
        // At most 600.
        #[expect(clippy::cast_sign_loss, reason = "above 0")]
        let samples = samples as usize;
        Self {
            samples,
            gateway: String::new(),
            connections: BTreeMap::new(),
            routes: Vec::new(),
            events: VecDeque::new(),
            taken: None,
            problem: None,
            is_status_due: true,
        }
    }

    /// Takes over an answer. Rates need the one before it; a counter that is lower than before was started anew.
    pub fn take(&mut self, connections: Vec<ConnectionStatus>, now: Instant) {
        let elapsed = self.taken.map(|taken| now.saturating_duration_since(taken).as_secs_f64());
        // After an interruption the rates would be those of all the time since.
        let elapsed = elapsed.filter(|elapsed| *elapsed > 0.0 && self.problem.is_none());
        self.taken = Some(now);
        self.problem = None;
        let mut old = std::mem::take(&mut self.connections);
        for status in connections.into_iter().flat_map(with_tunnels) {
            let name = clean(&status.name);
            let before = old.remove(&name);
            self.is_status_due |= before.as_ref().is_none_or(|before| shows(&before.status) != shows(&status));
            let (rates, drop_rates) = match (&before, elapsed) {
                (Some(before), Some(elapsed)) => rates(&before.status.traffic, &status.traffic, elapsed),
                _ => (None, BTreeMap::new()),
            };
            let (mut history, share) = before.map_or_else(Default::default, |before| (before.history, before.share));
            history.extend(rates);
            while history.len() > self.samples {
                history.pop_front();
            }
            self.connections.insert(name, Connection { status, rates, history, drop_rates, share });
        }
        self.is_status_due |= !old.is_empty();
    }

    /// Takes over the gateway and the routes of a status.
    pub fn take_status(&mut self, full: FullStatus) {
        self.is_status_due = false;
        self.gateway = clean(&full.status.gateway.name);
        self.routes = full.status.routes;
        let mut shares = BTreeMap::<String, (f64, f64)>::new();
        for route in &self.routes {
            let share = shares.entry(clean(&route.next_hop)).or_insert((route.share, route.share));
            *share = (share.0.min(route.share), share.1.max(route.share));
        }
        for (name, connection) in &mut self.connections {
            connection.share = shares.get(name).copied();
        }
    }

    pub fn take_event(&mut self, event: ConnectionEvent) {
        // A new stream begins with the state of each connection, which is known.
        let is_known = event.was.is_none()
            && self.events.iter().any(|old| {
                let same_time = (old.time - event.time).abs() < 1.0;
                old.connection == event.connection && old.state == event.state && same_time
            });
        if is_known {
            return;
        }
        self.is_status_due = true;
        self.events.push_back(event);
        if self.events.len() > MOST_EVENTS {
            self.events.pop_front();
        }
    }

    /// The agent does not answer.
    pub fn fail(&mut self, problem: &str) {
        self.problem = Some(clean(problem));
        self.is_status_due = true;
        for connection in self.connections.values_mut() {
            connection.rates = None;
            connection.drop_rates.clear();
        }
    }
}

/// A connection, and its tunnels as connections.
fn with_tunnels(mut status: ConnectionStatus) -> impl Iterator<Item = ConnectionStatus> {
    let tunnels = std::mem::take(&mut status.tunnels);
    std::iter::once(status).chain(tunnels)
}

/// What of a connection may change shares.
fn shows(status: &ConnectionStatus) -> (State, Option<HealthState>) {
    (status.state, health_of(status).and_then(|health| health.state))
}

fn rates(old: &Traffic, new: &Traffic, elapsed: f64) -> (Option<Rates>, BTreeMap<String, f64>) {
    let rate = |old: u64, new: u64| new.checked_sub(old).map(|number| count(number) / elapsed);
    let all = || {
        Some(Rates {
            rx_packets: rate(old.rx_packets, new.rx_packets)?,
            rx_bits: rate(old.rx_bytes, new.rx_bytes)? * 8.0,
            tx_packets: rate(old.tx_packets, new.tx_packets)?,
            tx_bits: rate(old.tx_bytes, new.tx_bytes)? * 8.0,
            drops: rate(old.drops.values().sum(), new.drops.values().sum())?,
        })
    };
    let of_reason = |(reason, new): (&std::borrow::Cow<'static, str>, &u64)| {
        let rate = rate(old.drops.get(reason).copied().unwrap_or_default(), *new)?;
        Some((clean(reason), rate))
    };
    (all(), new.drops.iter().filter_map(of_reason).collect())
}

fn health_of(status: &ConnectionStatus) -> Option<&Health> {
    status.health.as_ref()
}

impl Connection {
    /// `up`, `degraded`, `down` or `admin down`.
    pub fn state(&self) -> &'static str {
        table::state_of(&self.status)
    }

    /// Of the last probe that was answered, in seconds.
    pub fn round_trip(&self) -> Option<f64> {
        health_of(&self.status).filter(|health| health.healthy).and_then(|health| health.round_trip)
    }

    /// Fraction of the last probes that were lost; `None` before the first ones.
    pub fn loss(&self) -> Option<f64> {
        let health = health_of(&self.status).filter(|health| health.recent_probes > 0)?;
        Some(f64::from(health.recent_lost) / f64::from(health.recent_probes))
    }
}

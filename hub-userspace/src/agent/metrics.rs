//! The input of a scrape. Taken in the agent's loop, without system calls and in a few milliseconds for thousands of
//! connections; counters are read and text is written outside it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use hub_common::maps::{UNATTRIBUTED, VPC};

use super::{edge::Edge, host::Host, world::World};
use crate::{
    config::{
        Config,
        model::{Connection, SelectorSource},
    },
    connection::state::{State, States},
    datapath::{CounterReader, Counters, Dataplane, OwnCounts, SavedCounts},
    health::{HealthReport, ProbeCounts},
    ipsec::{
        effective::mark,
        vici::{driver::Driver, table::Tunnel, tunnels::Tunnels},
        xfrm::follow::Policies,
    },
    kernel::netlink::HostState,
    observe::metrics::{ConnectionScrape, GroupScrape, HealthScrape, IkeScrape, ProcessScrape, QuotaScrape, Scrape},
    routing::rib::{Members, Rib, active},
};

/// Maximum number of shares in a scrape: they have 80 to 120 bytes each.
const MOST_SHARES: usize = 100_000;

/// The agent's state for a scrape.
pub struct MetricsSnapshot {
    config: Arc<Config>,
    rib: Arc<Rib>,
    states: Arc<States>,
    tunnels: Arc<Tunnels>,
    policies: Arc<Policies>,
    host: HostState,
    reader: CounterReader,
    saved: Arc<Mutex<SavedCounts>>,
    /// In the order of the configuration.
    connections: Vec<ConnectionState>,
    /// Of earlier versions.
    vpc: Counters,
    unattributed: Counters,
}

/// The state of a connection that changes in place.
struct ConnectionState {
    slot: Option<u32>,
    /// Counters of earlier versions.
    earlier: Counters,
    changes: u64,
    probes: ProbeCounts,
    health: Option<HealthReport>,
}

impl MetricsSnapshot {
    /// Takes the current state.
    pub(super) fn take(world: &World, edge: &Edge<Dataplane, Host, Driver>) -> Result<Self> {
        let Edge { datapath, kernel, .. } = edge;
        let state = |name: &String| {
            let slot = world.ids.policy.connections.get(name);
            let (probes, health) = kernel.prober.counts(name);
            ConnectionState {
                slot,
                earlier: slot.map(|slot| datapath.earlier(slot)).unwrap_or_default(),
                changes: world.liveness.get(name).map_or(0, |entry| entry.changes),
                probes,
                health,
            }
        };
        Ok(Self {
            config: Arc::clone(&world.config),
            rib: Arc::clone(&world.rib),
            states: Arc::clone(&world.states),
            tunnels: Arc::clone(&world.tunnels),
            policies: Arc::clone(&world.policies),
            host: world.host.clone(),
            reader: datapath.reader().context("the datapath has no counters")?,
            saved: datapath.saved_counts(),
            connections: world.config.connections.keys().map(state).collect(),
            vpc: datapath.earlier(VPC),
            unattributed: datapath.earlier(UNATTRIBUTED),
        })
    }

    /// Reads the counters, and saves the agent's own. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the program's counters cannot be read.
    pub fn scrape(self, last_reload_success: bool) -> Result<Scrape> {
        let own = |((name, _), state): ((&String, _), &ConnectionState)| OwnCounts {
            rekeys: self.tunnels.tunnels.get(name).map_or(0, |tunnel| tunnel.rekeys),
            probes_sent: state.probes.sent,
            probes_lost: state.probes.lost,
        };
        let mut counts: Vec<OwnCounts> = self.config.connections.iter().zip(&self.connections).map(own).collect();
        let names = self.config.connections.keys().map(String::as_str);
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).total(names.zip(&mut counts));

        let mut connections = Vec::with_capacity(self.connections.len());
        for (((name, connection), state), own) in self.config.connections.iter().zip(&self.connections).zip(counts) {
            let counters = state.slot.map_or(Ok(Counters::default()), |slot| self.reader.read(slot))?;
            let tunnel = self.tunnels.tunnels.get(name).map(|tunnel| &**tunnel);
            connections.push(ConnectionScrape {
                name: name.clone(),
                is_up: self.states.get(name) == Some(&State::Up),
                is_admin_up: connection.enabled,
                state_changes: state.changes,
                counters: counters + state.earlier,
                child_sas: self.child_sas(connection, tunnel),
                ike: connection.ipsec.as_ref().map(|_| IkeScrape { is_up: is_established(tunnel), rekeys: own.rekeys }),
                health: connection.health_check.map(|_| health(state.health.as_ref(), own)),
            });
        }
        let (groups, omitted_shares) = groups(&self.rib, &self.states, MOST_SHARES);
        let (routes, of_files) = (self.config.routes.len(), self.config.provenance.routes_of_files());
        let of_files = of_files.min(routes);
        let vpc = self.config.vpc.as_ref().map(|_| self.reader.read(VPC)).transpose()?;
        Ok(Scrape {
            connections,
            vpc: vpc.map(|counters| counters + self.vpc),
            unattributed: self.reader.read(UNATTRIBUTED)? + self.unattributed,
            groups,
            omitted_shares,
            routes: vec![("file", of_files), ("store", routes - of_files)],
            quotas: vec![QuotaScrape {
                name: "connections",
                used: self.config.connections.len(),
                limit: self.config.gateway.max_connections,
            }],
            set_aside: self.config.provenance.set_aside.len(),
            last_reload_success,
            process: ProcessScrape::read(),
        })
    }

    fn child_sas(&self, connection: &Connection, tunnel: Option<&Tunnel>) -> Option<usize> {
        if connection.ipsec.is_some() {
            return Some(tunnel.map_or(0, |tunnel| tunnel.children.len()));
        }
        if connection.selectors != SelectorSource::Xfrm {
            return None;
        }
        let found = self.policies.table.as_deref().zip(mark(&self.config, connection, &self.host));
        Some(found.map_or(0, |(table, mark)| table.inbound(&mark).len()))
    }
}

fn is_established(tunnel: Option<&Tunnel>) -> bool {
    tunnel.and_then(|tunnel| tunnel.ike.as_deref()) == Some("ESTABLISHED")
}

fn health(report: Option<&HealthReport>, own: OwnCounts) -> HealthScrape {
    let healthy = report.filter(|report| report.is_healthy());
    HealthScrape {
        is_healthy: healthy.is_some(),
        round_trip: healthy.and_then(|report| report.round_trip).map(|time| time.as_secs_f64()),
        sent: own.probes_sent,
        lost: own.probes_lost,
    }
}

/// The destinations with several next hops, in the order of these, with `most` shares at most; and how many are omitted.
fn groups(rib: &Rib, states: &States, most: usize) -> (Vec<GroupScrape>, usize) {
    let mut sets: Vec<&Arc<Members>> = rib.groups().filter(|members| members.len() > 1).collect();
    sets.sort_unstable();
    let (mut groups, mut listed, mut omitted) = (Vec::new(), 0, 0);
    for members in sets {
        let active = active(members, states);
        let total: u32 = active.iter().map(|(_, part)| part).sum();
        let share = |name: &String| {
            let part = active.iter().find(|(active, _)| active == name).map_or(0, |(_, part)| *part);
            (name.clone(), f64::from(part) / f64::from(total.max(1)))
        };
        let mut destinations: Vec<_> = rib.destinations(members).collect();
        let room = (most - listed) / members.len();
        omitted += destinations.len().saturating_sub(room) * members.len();
        destinations.truncate(room);
        listed += destinations.len() * members.len();
        // Routes to the hub's own addresses carry nothing.
        let (own, routed) = destinations.into_iter().partition(|destination| rib.is_own(*destination));
        groups.push(GroupScrape { shares: members.keys().map(share).collect(), destinations: routed });
        let idle = members.keys().map(|name| (name.clone(), 0.0)).collect();
        groups.push(GroupScrape { shares: idle, destinations: own });
    }
    (groups, omitted)
}

//! The input of a scrape. Taken in the agent's loop, without system calls and in a few milliseconds for thousands of
//! connections; counters are read and text is written outside it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use hub_common::maps::{UNATTRIBUTED, VPC};

use super::{edge::Edge, host::Host, underlays::Receivers, world::World};
use crate::{
    config::{
        Role,
        model::{Connection, SelectorSource},
    },
    connection::state::States,
    datapath::{CounterReader, Counters, CpuPackets, DatapathError, Dataplane, OwnCounts, SavedCounts},
    health::{HealthReport, ProbeCounts},
    ipsec::{
        effective::mark,
        vici::{driver::Driver, table::Tunnel, tunnels::Tunnels},
        xfrm::{follow::Policies, table::SaMatch},
    },
    kernel::spread::Receive,
    observe::metrics::{
        ConnectionScrape, GroupScrape, HealthScrape, IkeScrape, ProcessScrape, QuotaScrape, Scrape, UnderlayScrape,
        WithTunnelsScrape,
    },
    routing::rib::{Members, Rib, active},
};

/// Maximum number of shares in a scrape: they have 80 to 120 bytes each.
const MOST_SHARES: usize = 100_000;

/// The agent's state for a scrape. Holds none of the agent's large shared values for long: a change would copy them.
pub struct MetricsSnapshot {
    rib: Arc<Rib>,
    states: Arc<States>,
    tunnels: Arc<Tunnels>,
    policies: Arc<Policies>,
    reader: CounterReader,
    saved: Arc<Mutex<SavedCounts>>,
    receivers: Receivers,
    /// By name, a tunnel for itself.
    connections: Vec<ConnectionState>,
    with_tunnels: Vec<WithTunnelsScrape>,
    /// Counters of earlier versions; `None` without a VPC.
    vpc: Option<Counters>,
    unattributed: Counters,
    /// Of the files, of the store, and learned.
    routes: [usize; 3],
    /// Connections, then policy routes: how many are in force, and their quota.
    quotas: [(usize, usize); 2],
    set_aside: usize,
    role: Role,
}

/// The state of a connection.
struct ConnectionState {
    name: String,
    is_admin_up: bool,
    is_up: bool,
    has_check: bool,
    sas: SaOrigin,
    slot: Option<u32>,
    /// Counters of earlier versions.
    earlier: Counters,
    changes: u64,
    probes: ProbeCounts,
    health: Option<HealthReport>,
    /// `None` without `[learn]`.
    refused_routes: Option<usize>,
}

/// Where a connection's SAs come from.
enum SaOrigin {
    /// It has none that the agent knows.
    None,
    /// From the agent's strongSwan.
    Ike,
    /// From another process, in the kernel.
    Kernel(Option<SaMatch>),
}

impl MetricsSnapshot {
    /// Takes the current state.
    pub(super) fn take(world: &World, edge: &Edge<Dataplane, Host, Driver>) -> Result<Self> {
        let Edge { datapath, kernel, .. } = edge;
        let config = &world.config;
        let state = |(name, connection): (&String, &Connection)| {
            let slot = world.ids.policy.connections.get(name);
            let (probes, health) = kernel.prober.counts(name);
            let sas = match (&connection.ipsec, connection.selectors) {
                (Some(_), _) => SaOrigin::Ike,
                (None, SelectorSource::Xfrm) => SaOrigin::Kernel(mark(config, connection, &world.host)),
                (None, _) => SaOrigin::None,
            };
            ConnectionState {
                name: name.clone(),
                is_admin_up: connection.enabled,
                is_up: world.states.get(name).is_some_and(|state| state.is_up()),
                has_check: connection.health_check.is_some(),
                sas,
                slot,
                earlier: slot.map(|slot| datapath.earlier(slot)).unwrap_or_default(),
                changes: world.liveness.get(name).map_or(0, |entry| entry.changes),
                probes,
                health,
                refused_routes: refused_routes(world, name).filter(|_| connection.tunnel_weight.is_none()),
            }
        };
        let of_files = config.provenance.routes_of_files().min(config.routes.len());
        Ok(Self {
            rib: Arc::clone(&world.rib),
            states: Arc::clone(&world.states),
            tunnels: Arc::clone(&world.tunnels),
            policies: Arc::clone(&world.policies),
            reader: datapath.reader().context("the datapath has no counters")?,
            saved: datapath.saved_counts(),
            receivers: Receivers::of(world, &kernel.spreader),
            connections: config.connections.iter().map(state).collect(),
            with_tunnels: with_tunnels(world),
            vpc: config.vpc.as_ref().map(|_| datapath.earlier(VPC)),
            unattributed: datapath.earlier(UNATTRIBUTED),
            routes: [of_files, config.routes.len() - of_files, world.rib.learned_count()],
            quotas: [
                (config.configured().count(), config.gateway.max_connections),
                (config.policy_routes.len(), config.gateway.max_policy_routes),
            ],
            set_aside: config.provenance.set_aside.len(),
            role: config.role,
        })
    }

    /// Reads the counters, and saves the agent's own. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the program's counters cannot be read.
    pub fn scrape(self, last_reload_success: bool) -> Result<Scrape> {
        let Self { rib, states, tunnels, policies, reader, saved, receivers, connections, vpc, unattributed, .. } =
            self;
        let with_tunnels = self.with_tunnels;
        let mut cpus = CpuPackets::default();
        let (groups, omitted_shares) = groups(&rib, &states, MOST_SHARES);
        drop((rib, states));

        let tunnel = |name: &str| tunnels.tunnels.get(name).map(|tunnel| &**tunnel);
        let own = |ConnectionState { name, probes, .. }: &ConnectionState| OwnCounts {
            rekeys: tunnel(name).map_or(0, |tunnel| tunnel.rekeys),
            probes_sent: probes.sent,
            probes_lost: probes.lost,
        };
        let mut counts: Vec<OwnCounts> = connections.iter().map(own).collect();
        let names = connections.iter().map(|state| state.name.as_str());
        saved.lock().unwrap_or_else(PoisonError::into_inner).total(names.zip(&mut counts));

        let scraped = connections.into_iter().zip(counts).map(|(state, own)| {
            let counters = state.slot.map_or(Ok(Counters::default()), |slot| reader.read(slot, &mut cpus))?;
            let tunnel = tunnel(&state.name);
            let of_kernel = |mark: Option<SaMatch>| Some(policies.table.as_ref()?.inbound(&mark?).len());
            let ike = IkeScrape { is_up: is_established(tunnel), rekeys: own.rekeys };
            Ok(ConnectionScrape {
                is_up: state.is_up,
                is_admin_up: state.is_admin_up,
                state_changes: state.changes,
                counters: counters + state.earlier,
                child_sas: match state.sas {
                    SaOrigin::None => None,
                    SaOrigin::Ike => Some(tunnel.map_or(0, |tunnel| tunnel.children.len())),
                    SaOrigin::Kernel(mark) => Some(of_kernel(mark).unwrap_or(0)),
                },
                ike: matches!(state.sas, SaOrigin::Ike).then_some(ike),
                health: state.has_check.then(|| health(state.health.as_ref(), own)),
                refused_routes: state.refused_routes,
                name: state.name,
            })
        });
        let connections = scraped.collect::<Result<_>>()?;
        let [of_files, of_store, learned] = self.routes;
        Ok(Scrape {
            connections,
            with_tunnels,
            vpc: vpc.map(|earlier| Ok::<_, DatapathError>(reader.read(VPC, &mut cpus)? + earlier)).transpose()?,
            unattributed: reader.read(UNATTRIBUTED, &mut cpus)? + unattributed,
            cpu_packets: cpus.iter().collect(),
            underlays: receivers.names().filter_map(|name| Some(underlay(name, receivers.read(name)?))).collect(),
            groups,
            omitted_shares,
            routes: vec![("file", of_files), ("store", of_store), ("learned", learned)],
            quotas: ["connections", "policy_routes"]
                .into_iter()
                .zip(self.quotas)
                .map(|(name, (used, limit))| QuotaScrape { name, used, limit })
                .collect(),
            set_aside: self.set_aside,
            last_reload_success,
            role: self.role,
            process: ProcessScrape::read(),
        })
    }
}

fn refused_routes(world: &World, connection: &str) -> Option<usize> {
    world.config.learn.as_ref().map(|_| world.learned.refused(connection).len())
}

/// The connections with tunnels.
fn with_tunnels(world: &World) -> Vec<WithTunnelsScrape> {
    let with_tunnels =
        world.config.configured().filter(|(_, members)| members.iter().any(|(_, found)| found.tunnel_weight.is_some()));
    let is_up = |name: &String| world.states.get(name).is_some_and(|state| state.is_up());
    let scrape = |(name, members): (&str, Vec<(&String, &Connection)>)| WithTunnelsScrape {
        is_up: members.iter().any(|(member, _)| is_up(member)),
        is_admin_up: members.iter().any(|(_, connection)| connection.enabled),
        refused_routes: refused_routes(world, name),
        name: name.to_owned(),
    };
    with_tunnels.map(scrape).collect()
}

fn underlay(name: &str, receive: Receive) -> UnderlayScrape {
    let mut interrupts = CpuPackets::default();
    for interrupt in receive.interrupts {
        interrupts.merge(&interrupt.counts.into_iter().collect());
    }
    UnderlayScrape { name: name.to_owned(), interrupts: interrupts.iter().filter(|(_, count)| *count > 0).collect() }
}

fn is_established(tunnel: Option<&Tunnel>) -> bool {
    tunnel.and_then(|tunnel| tunnel.ike.as_deref()) == Some("ESTABLISHED")
}

fn health(report: Option<&HealthReport>, own: OwnCounts) -> HealthScrape {
    let answered = report.filter(|report| report.is_answered());
    HealthScrape {
        state: report.and_then(HealthReport::health),
        round_trip: answered.and_then(|report| report.round_trip).map(|time| time.as_secs_f64()),
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::{config, connection::state::State, kernel::netlink::HostState};

    /// Routes of two connections to the first `shared` of three destinations, and of one to the others.
    fn rib(shared: usize) -> Rib {
        let mut text = "[gateway]\nname = \"hub\"\n[customer_gateway.x]\naddress = \"198.51.100.1\"\n".to_owned();
        for name in ["a", "b"] {
            let _ = write!(
                text,
                "[connection.{name}]\ncustomer_gateway = \"x\"\ninterface = \"tun-{name}\"\n\
                 local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.0.0.0/8\"]\n"
            );
        }
        for number in 0..3 {
            for name in if number < shared { &["a", "b"][..] } else { &["a"] } {
                let weight = if *name == "a" { 75 } else { 25 };
                let _ = write!(
                    text,
                    "[[route]]\ndestination = \"10.{number}.0.0/16\"\nnext_hop = \"{name}\"\nweight = {weight}\n"
                );
            }
        }
        let (config, _) = config::parse(&text).expect("it is right");
        Rib::build(&config, &HostState::default())
    }

    /// Destinations, next hops and shares in percent.
    fn listed(groups: &[GroupScrape]) -> Vec<String> {
        let lines = groups.iter().flat_map(|group| {
            group.destinations.iter().flat_map(|destination| {
                group.shares.iter().map(move |(name, share)| format!("{destination} {name} {:.0}", share * 100.0))
            })
        });
        lines.collect()
    }

    #[test]
    fn shares_are_those_of_destinations_with_several_next_hops() {
        let states = |b| States::from([("a".to_owned(), State::Up), ("b".to_owned(), b)]);
        let (found, omitted) = groups(&rib(2), &states(State::Up), 100);
        let expected = ["10.0.0.0/16 a 75", "10.0.0.0/16 b 25", "10.1.0.0/16 a 75", "10.1.0.0/16 b 25"];
        assert_eq!((listed(&found), omitted), (expected.map(str::to_owned).to_vec(), 0));
        let (found, _) = groups(&rib(1), &states(State::Down), 100);
        assert_eq!(listed(&found), ["10.0.0.0/16 a 100", "10.0.0.0/16 b 0"]);
    }

    #[test]
    fn shares_above_the_limit_are_counted() {
        let states = States::new();
        for (most, count, omitted) in [(6, 6, 0), (5, 4, 2), (4, 4, 2), (1, 0, 6), (0, 0, 6)] {
            let (found, left) = groups(&rib(3), &states, most);
            assert_eq!((listed(&found).len(), left), (count, omitted), "{most}");
        }
    }
}

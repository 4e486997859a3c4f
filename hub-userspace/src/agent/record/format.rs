//! The lines of a recording: a header, then one event per line.
//!
//! Host and tunnels are written as differences from the previous line: the state of a large host takes megabytes, and
//! most events change one entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{Transition, effect::Settled, event::Event},
    config::{Config, Role, difference::Difference, show},
    connection::memory::Clock,
    datapath::{AttachMode, Inherited},
    health::HealthReport,
    ipsec::{
        vici::{table::Tunnel, tunnels::Tunnels},
        xfrm,
    },
    kernel::netlink::{Changes, HostState, KernelHop, KernelHops, Link, Problems},
};

/// Format version, increased with each change of the format. Other versions cannot be read. A new kind of event or an
/// optional field is no change.
pub const VERSION: u32 = 1;

/// The agent's initial state: all arguments of [`World::new`](crate::agent::world::World::new).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingHeader {
    pub format: u32,
    /// The agent's version.
    pub agent: String,
    pub attach: AttachMode,
    /// `CLOCK_BOOTTIME`, the clock of inherited times.
    pub since_boot: Duration,
    /// As printed by `vpnhub config show`: secrets are in separate files and not included.
    pub config: String,
    /// Absent in recordings of earlier versions.
    #[serde(default)]
    pub role: Role,
    pub inherited: Inherited,
    pub host: HostChange,
}

impl RecordingHeader {
    pub fn new(
        config: &Config,
        host: &HostState,
        inherited: &Inherited,
        attach: AttachMode,
        clock: Clock,
        now: Instant,
    ) -> Self {
        Self {
            format: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            attach,
            since_boot: clock.since_boot(now),
            config: show(config),
            role: config.role,
            inherited: inherited.clone(),
            host: HostChange::between(&HostState::default(), host),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Microseconds since the start.
    pub at: u64,
    pub event: RecordedEvent,
}

/// An [`Event`] as written. [`Event::Done`] is never written: it follows from the agent's effects.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedEvent {
    Start,
    Started,
    Host {
        host: HostChange,
        changes: Changes,
    },
    Health(BTreeMap<String, HealthReport>),
    Tunnels(TunnelsChange),
    Policies {
        table: Option<xfrm::table::XfrmTable>,
        problem: Option<String>,
    },
    Interfaces(Problems),
    /// As [`Event::Learned`].
    Learned(Vec<(IpNet, Option<Vec<KernelHop>>)>),
    Change {
        difference: Difference,
        /// As [`RecordingHeader::config`]; `None` if it follows from the difference.
        config: Option<String>,
    },
    Secrets,
    Due,
    GuardDisturbed,
    RoutesDisturbed,
    SysctlsDisturbed,
    NeighbourMiss(u32, IpAddr),
    Idle,
    Settled(Settled),
    GraceOver,
}

/// Encodes events as lines.
#[derive(Debug, Default)]
pub struct Encoder {
    /// As last written.
    host: HostState,
    tunnels: Arc<Tunnels>,
}

impl Encoder {
    /// The first line.
    pub fn header(&mut self, header: &RecordingHeader) -> serde_json::Result<String> {
        header.host.apply(&mut self.host);
        Ok(serde_json::to_string(header)? + "\n")
    }

    /// Encodes an event that happened `at` after the start; `None` for an event that is not recorded.
    pub fn line(&mut self, event: &Event, at: Duration) -> serde_json::Result<Option<String>> {
        let Some(event) = self.entry(event) else { return Ok(None) };
        let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        Ok(Some(serde_json::to_string(&Line { at, event })? + "\n"))
    }

    fn entry(&mut self, event: &Event) -> Option<RecordedEvent> {
        Some(match event {
            Event::Start => RecordedEvent::Start,
            Event::Started => RecordedEvent::Started,
            Event::Host { host, changes } => {
                let change = HostChange::between(&self.host, host);
                self.host = host.clone();
                RecordedEvent::Host { host: change, changes: changes.clone() }
            }
            Event::Health(reports) => RecordedEvent::Health(reports.clone()),
            Event::Tunnels(tunnels) => {
                let change = TunnelsChange::between(&self.tunnels, tunnels);
                self.tunnels = Arc::clone(tunnels);
                RecordedEvent::Tunnels(change)
            }
            Event::Policies(policies) => {
                let xfrm::follow::Policies { table, problem } = &**policies;
                RecordedEvent::Policies { table: table.as_deref().cloned(), problem: problem.clone() }
            }
            Event::Interfaces(problems) => RecordedEvent::Interfaces(Problems::clone(problems)),
            Event::Learned(changes) => {
                let change =
                    |(prefix, hops): &(IpNet, Option<KernelHops>)| (*prefix, hops.as_deref().map(<[_]>::to_vec));
                RecordedEvent::Learned(changes.iter().map(change).collect())
            }
            Event::Change(transition) => {
                let Transition { difference, config } = &**transition;
                RecordedEvent::Change { difference: difference.clone(), config: config.as_deref().map(show) }
            }
            Event::Secrets => RecordedEvent::Secrets,
            Event::Due => RecordedEvent::Due,
            Event::GuardDisturbed => RecordedEvent::GuardDisturbed,
            Event::RoutesDisturbed => RecordedEvent::RoutesDisturbed,
            Event::SysctlsDisturbed => RecordedEvent::SysctlsDisturbed,
            Event::NeighbourMiss(ifindex, address) => RecordedEvent::NeighbourMiss(*ifindex, *address),
            Event::Idle => RecordedEvent::Idle,
            Event::Settled(settled) => RecordedEvent::Settled(settled.clone()),
            Event::GraceOver => RecordedEvent::GraceOver,
            Event::Done(_) => return None,
        })
    }
}

/// Difference between two maps.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapChange<K, V> {
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    set: Vec<(K, V)>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    gone: Vec<K>,
}

impl<K, V> Default for MapChange<K, V> {
    fn default() -> Self {
        Self { set: Vec::new(), gone: Vec::new() }
    }
}

impl<K: Ord + Clone + Hash, V: PartialEq + Clone> MapChange<K, V> {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }

    /// Runs in time proportional to the difference, not to the size of the maps.
    fn between(old: &OrdMap<K, V>, new: &OrdMap<K, V>) -> Self {
        Self::of(old.diff(new))
    }

    fn of<'a>(difference: impl Iterator<Item = DiffItem<'a, 'a, K, V>>) -> Self
    where
        K: 'a,
        V: 'a,
    {
        let mut change = Self::default();
        for item in difference {
            match item {
                DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
                    change.set.push((key.clone(), value.clone()));
                }
                DiffItem::Remove(key, _) => change.gone.push(key.clone()),
            }
        }
        change
    }

    fn apply(&self, map: &mut OrdMap<K, V>) {
        for key in &self.gone {
            map.remove(key);
        }
        map.extend(self.set.iter().cloned());
    }
}

/// Difference between two hosts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostChange {
    #[serde(default, skip_serializing_if = "MapChange::is_empty")]
    links: MapChange<u32, Link>,
    #[serde(default, skip_serializing_if = "MapChange::is_empty")]
    addresses: MapChange<u32, BTreeSet<IpNet>>,
    #[serde(default, skip_serializing_if = "MapChange::is_empty")]
    neighbours: MapChange<(u32, IpAddr), [u8; 6]>,
    #[serde(default, skip_serializing_if = "MapChange::is_empty")]
    gateways: MapChange<(u32, IpNet), IpAddr>,
    #[serde(default, skip_serializing_if = "MapChange::is_empty")]
    tentative: MapChange<(u32, IpNet), ()>,
    #[serde(default, skip_serializing_if = "MapChange::is_empty")]
    failed: MapChange<(u32, IpAddr), ()>,
}

impl HostChange {
    fn between(old: &HostState, new: &HostState) -> Self {
        Self {
            links: MapChange::of(old.links.diff(&new.links)),
            addresses: MapChange::between(&old.addresses, &new.addresses),
            neighbours: MapChange::between(&old.neighbours, &new.neighbours),
            gateways: MapChange::between(&old.gateways, &new.gateways),
            tentative: MapChange::between(&old.tentative, &new.tentative),
            failed: MapChange::between(&old.failed, &new.failed),
        }
    }

    pub fn apply(&self, host: &mut HostState) {
        let Self { links, addresses, neighbours, gateways, tentative, failed } = self;
        links.gone.iter().for_each(|index| drop(host.links.remove(index)));
        links.set.iter().for_each(|(_, link)| host.links.insert(link.clone()));
        addresses.apply(&mut host.addresses);
        neighbours.apply(&mut host.neighbours);
        gateways.apply(&mut host.gateways);
        tentative.apply(&mut host.tentative);
        failed.apply(&mut host.failed);
    }
}

/// Difference between two [`Tunnels`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelsChange {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    set: BTreeMap<String, Tunnel>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    problems: BTreeMap<String, String>,
    unreachable: Option<String>,
    heard: bool,
}

impl TunnelsChange {
    /// Runs in time proportional to the difference.
    fn between(old: &Tunnels, new: &Tunnels) -> Self {
        // The stranger and the version are no input of any decision.
        let Tunnels { tunnels, problems, unreachable, heard, stranger: _, lacks_per_cpu_sas: _ } = new;
        let MapChange { set, gone } = MapChange::between(&old.tunnels, tunnels);
        Self {
            set: set.into_iter().map(|(name, tunnel)| (name, Tunnel::clone(&tunnel))).collect(),
            gone,
            problems: problems.iter().map(|(name, why)| (name.clone(), why.clone())).collect(),
            unreachable: unreachable.clone(),
            heard: *heard,
        }
    }

    #[cfg(test)]
    pub fn apply(self, tunnels: &mut Tunnels) {
        let Self { set, gone, problems, unreachable, heard } = self;
        for name in gone {
            tunnels.tunnels.remove(&name);
        }
        tunnels.tunnels.extend(set.into_iter().map(|(name, tunnel)| (name, Arc::new(tunnel))));
        (tunnels.problems, tunnels.unreachable, tunnels.heard) = (problems.into(), unreachable, heard);
    }
}

//! The set of running checks.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    ops::Add,
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    CheckTarget, HealthReport, VerdictChange,
    interface_prober::{InterfaceProber, ProberCommand, SharedReport, lock},
    socket::IpVersion,
};
use crate::{background::Background, config::Config};

type Key = (u32, IpVersion);

/// Runs health checks. They end when it is dropped.
pub struct Prober {
    /// Where the checks run: nothing else that the agent does delays a probe or its reply.
    background: Background,
    events: UnboundedSender<VerdictChange>,
    lines: HashMap<Key, InterfaceProber>,
    /// By connection, with a report for each destination.
    checks: BTreeMap<String, (CheckTarget, Vec<SharedReport>)>,
    /// Probes of earlier checks of each connection.
    earlier: BTreeMap<String, ProbeCounts>,
    /// The ICMP identifier of the next destination. So a reply on another interface belongs to one check, as long as there
    /// are no more than 65536 destinations.
    next_identifier: u16,
}

/// Probes of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    pub sent: u64,
    /// Without a reply in time.
    pub lost: u64,
}

impl Add<&HealthReport> for ProbeCounts {
    type Output = Self;

    fn add(self, report: &HealthReport) -> Self {
        Self { sent: self.sent + report.sent, lost: self.lost + report.lost }
    }
}

impl Prober {
    /// Starts without checks. Verdicts go to `events` only when they change: at most one per interval and check, so the
    /// channel is unbounded. Checks run on a thread of their own, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(events: UnboundedSender<VerdictChange>) -> io::Result<Self> {
        let background = Background::start("health")?;
        Ok(Self {
            background,
            events,
            lines: HashMap::new(),
            checks: BTreeMap::new(),
            earlier: BTreeMap::new(),
            next_identifier: 0,
        })
    }

    /// Starts and stops checks so that exactly those in `desired` run, by connection.
    ///
    /// A check continues with its state if it is unchanged, or if only the link address of its peer changed. A new or
    /// changed check starts from scratch, with a probe at once. Its [`HealthReport`] is empty from here on, and an
    /// event of its predecessor may still be in the channel.
    pub fn set(&mut self, desired: BTreeMap<String, CheckTarget>) {
        let gone: Vec<String> =
            self.checks.keys().filter(|connection| !desired.contains_key(*connection)).cloned().collect();
        for connection in gone {
            self.remove(connection);
        }
        for (connection, target) in desired {
            match self.checks.get_mut(&connection) {
                Some((old, _)) if *old == target => {}
                Some((old, _)) if old.is_same_path(&target) => {
                    old.link = target.link;
                    if let Some(line) = self.lines.get(&key(&target)) {
                        line.command(ProberCommand::Link { connection, link: target.link });
                    }
                }
                Some(_) => {
                    self.remove(connection.clone());
                    self.add(connection, target);
                }
                None => self.add(connection, target),
            }
        }
        // A line without checks ends.
        let used: HashSet<Key> = self.checks.values().map(|(target, _)| key(target)).collect();
        self.lines.retain(|line, _| used.contains(line));
    }

    /// The state of a connection's check; `None` if it has none.
    pub fn report(&self, connection: &str) -> Option<HealthReport> {
        self.checks.get(connection).map(report)
    }

    /// The state of all checks, by connection.
    pub fn reports(&self) -> BTreeMap<String, HealthReport> {
        self.checks.iter().map(|(connection, check)| (connection.clone(), report(check))).collect()
    }

    /// Probes of a connection's checks, and the state of the running one.
    pub fn counts(&self, connection: &str) -> (ProbeCounts, Option<HealthReport>) {
        let earlier = self.earlier.get(connection).copied().unwrap_or_default();
        let report = self.report(connection);
        (report.as_ref().map_or(earlier, |report| earlier + report), report)
    }

    /// Forgets the counts of connections that are no longer in the configuration.
    pub fn keep_counts(&mut self, config: &Config) {
        self.earlier.retain(|connection, _| config.connections.contains_key(connection));
    }

    fn add(&mut self, connection: String, target: CheckTarget) {
        let reports: Vec<_> = target.check.destinations.iter().map(|_| SharedReport::default()).collect();
        let (ifindex, version) = key(&target);
        self.checks.insert(connection.clone(), (target.clone(), reports.clone()));
        let line = self
            .lines
            .entry((ifindex, version))
            .or_insert_with(|| InterfaceProber::start(&self.background, ifindex, version, self.events.clone()));
        let identifier = self.next_identifier;
        self.next_identifier = identifier.wrapping_add(reports.len() as u16);
        line.command(ProberCommand::Add { connection, target, reports, identifier });
    }

    fn remove(&mut self, connection: String) {
        let Some((target, reports)) = self.checks.remove(&connection) else { return };
        let counts = self.earlier.entry(connection.clone()).or_default();
        *counts = reports.iter().fold(*counts, |counts, report| counts + &*lock(report));
        if let Some(line) = self.lines.get(&key(&target)) {
            line.command(ProberCommand::Remove { connection });
        }
    }
}

fn report((target, reports): &(CheckTarget, Vec<SharedReport>)) -> HealthReport {
    let reports = reports.iter().map(|report| lock(report).clone());
    let by_destination = target.check.destinations.iter().copied().zip(reports);
    HealthReport::of_targets(target.check.require, by_destination.collect())
}

/// The line of a check.
fn key(target: &CheckTarget) -> Key {
    (target.ifindex, IpVersion::of(target.check.source))
}

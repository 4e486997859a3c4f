//! Which checks run.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    CheckTarget, HealthReport, VerdictChange,
    interface_prober::{InterfaceProber, ProberCommand, SharedReport, lock},
    socket::IpVersion,
};

type Key = (u32, IpVersion);

/// Runs the checks that it is told to. They end when it is dropped.
pub struct Prober {
    events: UnboundedSender<VerdictChange>,
    lines: HashMap<Key, InterfaceProber>,
    /// By connection.
    checks: BTreeMap<String, (CheckTarget, SharedReport)>,
}

impl Prober {
    /// Runs nothing yet; verdicts will go to `events`, only when they change: at most one an interval and check, which
    /// is why the channel has no limit.
    pub fn start(events: UnboundedSender<VerdictChange>) -> Self {
        Self { events, lines: HashMap::new(), checks: BTreeMap::new() }
    }

    /// Makes the checks that run those that are `wanted`, by connection.
    ///
    /// A check that is unchanged, or whose peer only got another link address, goes on with its state. One that is new
    /// or changed starts from nothing, with a probe at once; its [`HealthReport`] is empty from here on, and an event of its
    /// predecessor may still be in the channel.
    ///
    /// To be called in a tokio runtime; checks run in the network namespace of the threads of that runtime.
    pub fn set(&mut self, desired: BTreeMap<String, CheckTarget>) {
        let gone: Vec<String> =
            self.checks.keys().filter(|connection| !desired.contains_key(*connection)).cloned().collect();
        for connection in gone {
            self.remove(connection);
        }
        for (connection, target) in desired {
            match self.checks.get_mut(&connection) {
                Some((old, _)) if *old == target => {}
                Some((old, _)) if (CheckTarget { link: target.link, ..*old }) == target => {
                    *old = target;
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
        // The last check on a line takes it along.
        let used: HashSet<Key> = self.checks.values().map(|(target, _)| key(target)).collect();
        self.lines.retain(|line, _| used.contains(line));
    }

    /// How a connection's check is doing; nothing if it has none.
    pub fn report(&self, connection: &str) -> Option<HealthReport> {
        self.checks.get(connection).map(|(_, report)| lock(report).clone())
    }

    /// How all checks are doing, by connection.
    pub fn reports(&self) -> BTreeMap<String, HealthReport> {
        self.checks.iter().map(|(connection, (_, report))| (connection.clone(), lock(report).clone())).collect()
    }

    fn add(&mut self, connection: String, target: CheckTarget) {
        let report = SharedReport::default();
        self.checks.insert(connection.clone(), (target, Arc::clone(&report)));
        let (ifindex, version) = key(&target);
        let line = self
            .lines
            .entry((ifindex, version))
            .or_insert_with(|| InterfaceProber::start(ifindex, version, self.events.clone()));
        line.command(ProberCommand::Add { connection, target, report });
    }

    fn remove(&mut self, connection: String) {
        if let Some((target, _)) = self.checks.remove(&connection)
            && let Some(line) = self.lines.get(&key(&target))
        {
            line.command(ProberCommand::Remove { connection });
        }
    }
}

/// The line that a check goes through.
fn key(target: &CheckTarget) -> Key {
    (target.ifindex, IpVersion::of(target.check.destination))
}

//! The task of a [`Reconciler`](super::Reconciler). It works in small steps and processes commands between them.

mod neighbours;
mod rules;
mod watch;

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{AddressFamily, RouteNetlinkMessage},
};
use rustix::io::Errno;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::yield_now,
};
use tracing::{error, warn};

use self::{
    neighbours::Neighbours,
    rules::Rules,
    watch::{ForeignChange, Watch},
};
use super::{GONE, ReconcileFailure, ReconcileReport, ReconcilerCommand};
use crate::{
    kernel::netlink::{
        INTERNAL_PROTOCOL, PROTOCOL,
        plan::RouteKey,
        route_state::{RouteState, RouteWrite},
        socket::{Refusal, Requests},
        wire,
    },
    rate_limit::RestoreSchedule,
};

/// Maximum of routes written in one step: a few milliseconds of work.
const STEP: usize = 512;

/// Attempts to read the kernel's routes if they change meanwhile.
const ATTEMPTS: usize = 3;

/// Families and protocols of all our routes.
const OURS: [(AddressFamily, u8); 4] = [
    (AddressFamily::Inet, PROTOCOL),
    (AddressFamily::Inet, INTERNAL_PROTOCOL),
    (AddressFamily::Inet6, PROTOCOL),
    (AddressFamily::Inet6, INTERNAL_PROTOCOL),
];

/// Delay of an audit after a change by another process: `ip route flush` changes many routes.
const SETTLE: Duration = Duration::from_millis(100);
/// Minimum time between such audits after a burst: with a million routes each takes seconds of CPU time.
const INTERVAL: Duration = Duration::from_secs(5);

const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
const DELETE: u16 = 0;

pub struct ReconcilerTask {
    requests: Requests,
    commands: mpsc::UnboundedReceiver<ReconcilerCommand>,
    routes: RouteState,
    neighbours: Neighbours,
    rules: Rules,
    others: Others,
    /// The first [`ReconcilerCommand::Settle`] has arrived: any undesired object is a leftover from now on.
    begun: bool,
    /// A command has set a desired state.
    wants_anything: bool,
    audit_due: bool,
    /// Changes since the last report.
    done: ReconcileReport,
    settling: Vec<oneshot::Sender<Result<ReconcileReport>>>,
}

/// Changes of our objects by other processes.
struct Others {
    /// `None` while it cannot be opened: the periodic audit still finds all changes.
    watch: Option<Watch>,
    /// When to restore the objects.
    schedule: RestoreSchedule,
    /// Requests an audit from the agent.
    disturbed: Arc<Notify>,
    /// The next audit was requested here: it logs the differences.
    is_restoring: bool,
}

impl ReconcilerTask {
    pub fn new(
        requests: Requests,
        commands: mpsc::UnboundedReceiver<ReconcilerCommand>,
        disturbed: Arc<Notify>,
    ) -> Result<Self> {
        let watch = Watch::open(requests.port()).context("cannot follow changes of routes by other processes")?;
        Ok(Self {
            requests,
            others: Others {
                watch: Some(watch),
                schedule: RestoreSchedule::new(SETTLE, INTERVAL),
                disturbed,
                is_restoring: false,
            },
            commands,
            routes: RouteState::default(),
            neighbours: Neighbours::default(),
            rules: Rules::default(),
            begun: false,
            wants_anything: false,
            audit_due: false,
            done: ReconcileReport::default(),
            settling: Vec::new(),
        })
    }

    /// Runs until the [`Reconciler`](super::Reconciler) is dropped.
    pub async fn run(mut self) {
        let mut failed_before = false;
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.take(command);
            }
            if self.is_due() {
                let Err(error) = self.step().await else {
                    yield_now().await;
                    continue;
                };
                // It is unknown which pending changes were made.
                self.routes.begin_reading();
                let reopened = Requests::open().map(|requests| self.requests = requests);
                // The watch recognizes our own changes by the port of the old socket.
                self.others.watch = Watch::open(self.requests.port()).ok();
                if !failed_before && reopened.is_ok() {
                    failed_before = true;
                    warn!(name: "routes_reread", "{error:#}; reading all routes again");
                    continue;
                }
                self.give_up(&error);
            } else {
                failed_before = false;
                self.report();
            }
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                changes = next_changes(&mut self.others.watch) => self.note(changes),
                () = self.others.schedule.wait() => {
                    self.others.is_restoring = true;
                    self.others.disturbed.notify_one();
                }
            }
        }
    }

    /// Schedules an audit after a change of our objects by another process.
    fn note(&mut self, changes: io::Result<Vec<ForeignChange>>) {
        let is_disturbed = match changes {
            Ok(changes) => self.begun && changes.iter().any(|change| self.concerns(change)),
            Err(error) => {
                warn!(name: "routes_not_followed", "changes of routes by other processes cannot be followed, an audit finds them later: {error}");
                self.others.watch = None;
                true
            }
        };
        if is_disturbed {
            self.others.schedule.disturbed(Instant::now());
        }
    }

    fn concerns(&self, change: &ForeignChange) -> bool {
        match change {
            ForeignChange::Route { key, is_ours } => *is_ours || self.routes.wants(key),
            ForeignChange::Neighbour { key, now } => self.neighbours.is_disturbed(*key, now.as_deref()),
            ForeignChange::Lost => true,
        }
    }

    fn take(&mut self, command: ReconcilerCommand) {
        self.wants_anything = true;
        match command {
            ReconcilerCommand::Routes(changes) => {
                for (key, action) in changes {
                    self.routes.want(key, action);
                }
            }
            ReconcilerCommand::Neighbours(neighbours) => self.neighbours.want(neighbours),
            ReconcilerCommand::Rules(rules) => self.rules.want(rules),
            ReconcilerCommand::Clear => {
                self.routes.want_nothing();
                self.neighbours.want(BTreeSet::new());
                self.rules.want(BTreeSet::new());
            }
            ReconcilerCommand::Audit => self.audit_due = true,
            ReconcilerCommand::Settle(answer) => {
                self.begun = true;
                self.settling.push(answer);
            }
        }
    }

    fn is_due(&self) -> bool {
        if !self.begun {
            return self.wants_anything && (!self.routes.is_known() || self.neighbours.due || self.routes.has_writes());
        }
        let routes = !self.routes.is_known() || self.routes.is_due();
        routes || self.rules.due || self.neighbours.is_due() || self.audit_due
    }

    /// Does one step of the pending work, in the order that [`Reconciler`](super::Reconciler) guarantees.
    async fn step(&mut self) -> Result<()> {
        if !self.routes.is_known() {
            return self.read().await;
        }
        if self.neighbours.due {
            return self.set_neighbours().await;
        }
        let writes = self.routes.next_writes(STEP);
        if !writes.is_empty() {
            return self.write_routes(writes).await;
        }
        if !self.begun {
            return Ok(());
        }
        if self.rules.due {
            return self.write_rules().await;
        }
        let deletions = self.routes.next_deletions(STEP);
        if !deletions.is_empty() {
            return self.delete_routes(deletions).await;
        }
        if !self.neighbours.to_delete.is_empty() {
            return self.delete_neighbours().await;
        }
        self.read().await
    }

    /// Reads the kernel's routes, and schedules reading its rules and neighbours.
    async fn read(&mut self) -> Result<()> {
        self.audit_due = false;
        let mut whole = false;
        for _ in 0..ATTEMPTS {
            self.routes.begin_reading();
            whole = true;
            for (family, protocol) in OURS {
                let request = RouteNetlinkMessage::GetRoute(wire::all::routes_of(family, protocol));
                let note = |object: RouteNetlinkMessage| {
                    if let RouteNetlinkMessage::NewRoute(shown) = object
                        && let Some((key, action)) = wire::our_route(&shown)
                    {
                        self.routes.note(key, action);
                    }
                };
                whole &= self.requests.dump("reading the agent's routes", request, note).await.context(UNREADABLE)?;
            }
            if whole {
                break;
            }
        }
        self.routes.conclude(whole);
        self.rules.due = true;
        self.neighbours.due = true;
        if self.others.is_restoring && self.routes.is_due() {
            let routes = self.routes.due();
            warn!(name: "routes_disturbed", routes, "another process changed or removed routes of the agent: the agent restores them");
        }
        Ok(())
    }

    async fn write_routes(&mut self, writes: Vec<RouteWrite>) -> Result<()> {
        let messages = writes.iter().map(|write| {
            let message = RouteNetlinkMessage::NewRoute(wire::route(&write.key, &write.action));
            (message, if write.replaces { SET } else { ADD })
        });
        let results = self.requests.change("writing routes", messages.collect()).await?;
        for (write, result) in writes.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    *(if write.replaces { &mut self.done.replaced } else { &mut self.done.added }) += 1;
                    self.routes.written(write);
                }
                Err(refusal) => self.refuse(write.key, refusal)?,
            }
        }
        Ok(())
    }

    async fn delete_routes(&mut self, keys: Vec<RouteKey>) -> Result<()> {
        let not_there = self.delete_of_protocol(keys, false).await?;
        for key in self.delete_of_protocol(not_there, true).await? {
            self.routes.deleted(key);
        }
        Ok(())
    }

    /// Deletes routes with the protocol that we would set, or with the other one; returns the missing ones.
    async fn delete_of_protocol(&mut self, keys: Vec<RouteKey>, is_odd: bool) -> Result<Vec<RouteKey>> {
        let messages =
            keys.iter().map(|key| (RouteNetlinkMessage::DelRoute(wire::route_deletion(key, is_odd)), DELETE));
        let results = self.requests.change("deleting routes", messages.collect()).await?;
        let mut not_there = Vec::new();
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    self.done.deleted += 1;
                    self.routes.deleted(key);
                }
                Err(refusal) if GONE.iter().any(|errno| refusal.is(*errno)) => not_there.push(key),
                Err(refusal) => self.refuse(key, refusal)?,
            }
        }
        Ok(not_there)
    }

    fn refuse(&mut self, key: RouteKey, refusal: Refusal) -> Result<()> {
        if refusal.is(Errno::PERM) {
            bail!("{key}: {refusal}");
        }
        self.routes.refused(key, refusal);
        Ok(())
    }

    /// Nothing is due: answers the waiting callers.
    fn report(&mut self) {
        if self.settling.is_empty() {
            return;
        }
        let mut report = std::mem::take(&mut self.done);
        report.failures.extend(self.neighbours.failures.iter().cloned());
        let whole = self.routes.is_whole();
        report.failures.extend(self.routes.refusals().map(|(key, refusal)| {
            let doubtful = refusal.is(Errno::EXIST) && !whole;
            let reason = if doubtful { DOUBTFUL.to_owned() } else { refusal.to_string() };
            ReconcileFailure { object: key.to_string(), reason, destination: Some(key.destination) }
        }));
        report.failures.extend(self.rules.failures.iter().cloned());
        for answer in self.settling.drain(..) {
            // The caller may have gone.
            let _ = answer.send(Ok(report.clone()));
        }
    }

    fn give_up(&mut self, error: &anyhow::Error) {
        if self.settling.is_empty() {
            error!(name: "routes_not_reconciled", "the kernel's routes cannot be reconciled: {error:#}");
        }
        for answer in self.settling.drain(..) {
            let _ = answer.send(Err(anyhow!("{error:#}")));
        }
    }
}

const UNREADABLE: &str = "cannot read the agent's objects in the kernel";

/// Reason for a route that exists although the dump did not contain it.
const DOUBTFUL: &str = "there is another route in its place, perhaps the agent's own: the kernel's routes changed each \
    time they were read; the next audit tries again";

/// The next changes by other processes; never without a watch.
async fn next_changes(watch: &mut Option<Watch>) -> io::Result<Vec<ForeignChange>> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

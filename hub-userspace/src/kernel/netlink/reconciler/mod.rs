//! Reconciles the kernel's routes and neighbours with the desired state, in the background.

mod probes;
mod task;

use std::{collections::BTreeSet, fmt, future::Future, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use self::task::ReconcilerTask;
use super::{
    plan::{KernelNeighbour, KernelRule, RouteAction, RouteKey},
    socket::Requests,
};

/// Accepted on deletion: the object has already gone, alone or with its interface.
const GONE: &[Errno] = &[Errno::NOENT, Errno::SRCH, Errno::NODEV];

/// The kernel refuses another neighbour (`ENOBUFS`, `neigh_alloc` in `net/core/neighbour.c`).
const NEIGHBOUR_TABLE_FULL: &str = "the kernel's neighbour table is full: raise the sysctls \
    net.ipv4.neigh.default.gc_thresh3 and net.ipv6.neigh.default.gc_thresh3 above the number of neighbours";

/// Makes the kernel's objects of ours match the desired state. Only one may run in a network namespace.
///
/// A task does the work. No function here waits for it, and each call replaces pending work on the same objects.
/// Nothing is deleted before the first [`Self::settled`]. By then the complete desired state must have been passed,
/// because all other objects of ours are treated as leftovers of an earlier agent.
///
/// The order is independent of the order of calls. Neighbours are set first, because a route in use needs its
/// neighbour. Then routes are added or replaced, then rules added. Rules, routes and neighbours are deleted last, in this
/// order. A route or rule that exists before and after a change also exists throughout it.
///
/// Dropping it ends the task and leaves the kernel unchanged; [`Self::clear`] removes everything.
#[derive(Debug)]
pub struct Reconciler {
    commands: mpsc::UnboundedSender<ReconcilerCommand>,
    to_probe: mpsc::UnboundedSender<(u32, IpAddr)>,
    disturbed: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

/// A command to the task, processed in order.
#[derive(Debug)]
enum ReconcilerCommand {
    Routes(Vec<(RouteKey, Option<Arc<RouteAction>>)>),
    Neighbours(BTreeSet<KernelNeighbour>),
    Rules(BTreeSet<KernelRule>),
    /// Clears the desired state.
    Clear,
    Audit,
    Settle(oneshot::Sender<Result<ReconcileReport>>),
}

/// The changes since the last report, and the current failures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Routes and neighbours that did not exist before.
    pub added: usize,
    /// Existing routes whose action differed.
    pub replaced: usize,
    /// Our objects that are no longer desired.
    pub deleted: usize,
    /// Everything that the kernel currently refuses. The next audit retries.
    pub failures: Vec<ReconcileFailure>,
}

/// A failed change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReconcileFailure {
    /// The route, rule or neighbour.
    pub object: String,
    /// The cause and a remedy, in one sentence.
    pub reason: String,
    /// Destination of the route, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpNet>,
}

impl fmt::Display for ReconcileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

impl ReconcileReport {
    /// Whether nothing changed and nothing fails.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Reconciler {
    /// Starts the task, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no netlink socket can be opened. Missing privileges show only at the first change.
    pub fn start() -> Result<Self> {
        let (commands, reported) = mpsc::unbounded_channel();
        let (to_probe, asked) = mpsc::unbounded_channel();
        let probes = tokio::spawn(probes::run(Requests::open()?, asked));
        let disturbed = Arc::default();
        let task = ReconcilerTask::new(Requests::open()?, reported, Arc::clone(&disturbed))?;
        Ok(Self { commands, to_probe, disturbed, tasks: [tokio::spawn(task.run()), probes] })
    }

    /// Returns when another process may have changed our routes or neighbours. The caller then calls [`Self::audit`].
    /// Rate-limited. Cancel-safe.
    pub async fn disturbed(&self) {
        self.disturbed.notified().await;
    }

    /// Sets the desired action of these routes; `None` deletes. Actions should be [normalised](RouteAction::normalised)
    /// and shared by the routes of a group, because they are stored.
    pub fn routes(&self, changes: Vec<(RouteKey, Option<Arc<RouteAction>>)>) {
        self.send(ReconcilerCommand::Routes(changes));
    }

    /// Sets the complete set of desired neighbours.
    pub fn neighbours(&self, neighbours: BTreeSet<KernelNeighbour>) {
        self.send(ReconcilerCommand::Neighbours(neighbours));
    }

    /// Sets the complete set of desired rules.
    pub fn rules(&self, rules: BTreeSet<KernelRule>) {
        self.send(ReconcilerCommand::Rules(rules));
    }

    /// Once pending work is done, reads all our objects again and repairs differences: the kernel drops routes on its
    /// own, and others may delete them. Refused changes are retried.
    pub fn audit(&self) {
        self.send(ReconcilerCommand::Audit);
    }

    /// Resolves once all commands so far, and any that arrive meanwhile, have been tried.
    ///
    /// # Errors
    /// When the kernel does not answer, or forbids all changes. The next command retries. Single refused changes are in
    /// the report.
    pub fn settled(&self) -> impl Future<Output = Result<ReconcileReport>> + Send + use<> {
        let (sender, answer) = oneshot::channel();
        self.send(ReconcilerCommand::Settle(sender));
        async { answer.await.context("the task that reconciles the kernel's routes has ended; restart the agent")? }
    }

    /// Removes all our objects: rules first, then routes, then neighbours.
    ///
    /// # Errors
    /// As [`Self::settled`].
    pub async fn clear(mut self) -> Result<ReconcileReport> {
        // Probing could create another neighbour.
        let [_, probes] = &mut self.tasks;
        probes.abort();
        drop(probes.await);
        self.send(ReconcilerCommand::Clear);
        // The audit finds objects that were not written yet or that others have changed.
        self.audit();
        self.settled().await
    }

    /// Makes the kernel confirm a stale neighbour, or resolve an unknown one. The kernel does so on its own only for
    /// its own packets, not for those of the fast path. Other states are left alone. Does not wait for pending routes.
    pub fn probe(&self, ifindex: u32, address: IpAddr) {
        // The other task reports that this one has ended.
        let _ = self.to_probe.send((ifindex, address));
    }

    /// If the task has ended, [`Self::settled`] reports it.
    fn send(&self, command: ReconcilerCommand) {
        let _ = self.commands.send(command);
    }
}

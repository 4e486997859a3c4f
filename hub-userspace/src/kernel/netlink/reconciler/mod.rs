//! Has the kernel hold routes and neighbours, in the background.

mod probes;
mod task;

use std::{collections::BTreeSet, fmt, future::Future, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::task::ReconcilerTask;
use super::{
    plan::{KernelNeighbour, RouteAction, RouteKey},
    socket::Requests,
};

/// On a delete: it is gone already, by itself or with its interface.
const GONE: &[Errno] = &[Errno::NOENT, Errno::SRCH, Errno::NODEV];

/// Has the kernel hold what is wanted, and nothing else of ours. There must be one at a time in a network namespace.
///
/// A task does the work; none of these functions waits for it, and each replaces what it has not come to yet. Nothing is
/// deleted before the first [`Self::settled`]: by then everything wanted must have been told, because all else of ours is
/// then taken for the leftovers of an earlier agent. Rules are always leftovers: this version makes none.
///
/// Whatever is asked and whenever, neighbours are set first, because a route in use needs its own; then routes are added
/// or replaced. Rules, routes and neighbours are deleted last, in this order. A route that is there before and after is there at all times in between.
///
/// Dropping it ends the task and leaves the kernel as it is; [`Self::clear`] takes everything back.
#[derive(Debug)]
pub struct Reconciler {
    commands: mpsc::UnboundedSender<ReconcilerCommand>,
    to_probe: mpsc::UnboundedSender<(u32, IpAddr)>,
    tasks: [JoinHandle<()>; 2],
}

/// What the task is told. It takes them in order.
#[derive(Debug)]
enum ReconcilerCommand {
    Routes(Vec<(RouteKey, Option<Arc<RouteAction>>)>),
    Neighbours(BTreeSet<KernelNeighbour>),
    /// Nothing is wanted any more.
    Clear,
    Audit,
    Settle(oneshot::Sender<Result<ReconcileReport>>),
}

/// What was done since the report before, and what could not be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Routes, rules and neighbours that were not there before.
    pub added: usize,
    /// Routes that were there and did something else.
    pub replaced: usize,
    /// What was ours and is no longer wanted.
    pub deleted: usize,
    /// All that the kernel refuses at present. The next audit tries again.
    pub failures: Vec<ReconcileFailure>,
}

/// Something that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReconcileFailure {
    /// The route, rule or neighbour.
    pub object: String,
    /// Why, and what can be done, in one sentence.
    pub reason: String,
}

impl fmt::Display for ReconcileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

impl ReconcileReport {
    /// Whether there was nothing to do and nothing fails.
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
    /// When the kernel gives no netlink socket. Missing rights show at the first change only.
    pub fn start() -> Result<Self> {
        let (commands, told) = mpsc::unbounded_channel();
        let (to_probe, asked) = mpsc::unbounded_channel();
        let probes = tokio::spawn(probes::run(Requests::open()?, asked));
        let task = tokio::spawn(ReconcilerTask::new(Requests::open()?, told).run());
        Ok(Self { commands, to_probe, tasks: [task, probes] })
    }

    /// What these routes are to do from now on; nothing: they are to go. Actions are best
    /// [normalised](RouteAction::normalised), and shared by the routes of a group: they are kept.
    pub fn routes(&self, changes: Vec<(RouteKey, Option<Arc<RouteAction>>)>) {
        self.tell(ReconcilerCommand::Routes(changes));
    }

    /// All neighbours that are to be there.
    pub fn neighbours(&self, neighbours: BTreeSet<KernelNeighbour>) {
        self.tell(ReconcilerCommand::Neighbours(neighbours));
    }

    /// Reads all of ours again and mends what differs, when what was asked so far has been done: the kernel drops routes
    /// by itself, and others may remove them. What was refused is tried again.
    pub fn audit(&self) {
        self.tell(ReconcilerCommand::Audit);
    }

    /// Resolves when all that was asked until now, and what was asked besides meanwhile, has been tried.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or forbids all changes. It is tried again as soon as anything is asked. A single
    /// refused change is in the report.
    pub fn settled(&self) -> impl Future<Output = Result<ReconcileReport>> + Send + use<> {
        let (sender, answer) = oneshot::channel();
        self.tell(ReconcilerCommand::Settle(sender));
        async { answer.await.context("the task that keeps the kernel's routes has ended; restart the agent")? }
    }

    /// Removes everything of ours: rules first, then routes, then neighbours.
    ///
    /// # Errors
    /// As [`Self::settled`].
    pub async fn clear(mut self) -> Result<ReconcileReport> {
        // A neighbour that is asked for is one more.
        let [_, probes] = &mut self.tasks;
        probes.abort();
        drop(probes.await);
        self.tell(ReconcilerCommand::Clear);
        // What was wanted may not have been written, and others may have got in between.
        self.audit();
        self.settled().await
    }

    /// Has the kernel confirm a neighbour that went stale, or resolve one that it does not know: it
    /// does so by itself only for what its own packets need, and the fast path's do not count.
    /// Any other state is left alone. Does not wait for routes that are under way.
    pub fn probe(&self, ifindex: u32, address: IpAddr) {
        // That its task has ended is told by the other one.
        let _ = self.to_probe.send((ifindex, address));
    }

    /// If the task has ended, [`Self::settled`] says so.
    fn tell(&self, command: ReconcilerCommand) {
        let _ = self.commands.send(command);
    }
}

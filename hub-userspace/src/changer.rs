//! Changes of the configuration while the agent runs: by command, or by reading the file again.
//!
//! A change is judged first, by all rules of the file and for room in the kernel program's tables; then the file is
//! replaced; then the change is put in force. What the kernel refuses after that is tried again as any other of its
//! refusals: the file says what is wanted, and going back could be refused as well. One change at a time, so they cannot
//! get into each other's way; and beside the agent's loop, because reading and writing a large file takes its time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::block_in_place,
    time::timeout,
};

use crate::{
    agent::{RETRY, Request, Snapshot, Step},
    config::{
        LoadError,
        difference::{Difference, Routes},
        edit::{Edit, EditError, Enable},
        store::{Change, Proposal, ProposeError, Store, StoreError},
    },
    netlink::Failure,
    slots::Full,
};

/// How long an answer waits for the kernel's own routes.
const SETTLING: Duration = Duration::from_secs(5);
/// Routes of a kind that an answer lists.
const MOST_ROUTES: usize = 1000;

/// What somebody wants changed.
pub enum Wish {
    Edit(Edit),
    Reload,
}

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// One sentence for people, without its end.
    pub message: String,
    pub changed: bool,
    /// Of routes the first thousand that came, went or changed.
    #[serde(flatten)]
    pub difference: Difference,
    /// Routes that the difference does not list.
    #[serde(default)]
    pub omitted_routes: usize,
    /// What may not be meant so; one sentence each.
    pub warnings: Vec<String>,
    #[serde(default)]
    pub took: Took,
}

/// Where the time of a change went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// The rules of the file, and room in the tables.
    pub judging: f64,
    /// The file, through to the disk.
    pub writing: f64,
    /// The program's tables.
    pub applying: f64,
    /// The kernel's own routes.
    pub settling: f64,
}

/// Why nothing was changed, but for the last two.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Edit(EditError),
    /// The file as it would be breaks rules.
    #[error("nothing was changed: {0}")]
    Refused(ProposeError),
    #[error("not reloaded, the old configuration stays in force:\n{0}")]
    Load(#[from] LoadError),
    #[error(
        "not reloaded, the old configuration stays in force: {0} has another value, which counts from the agent's start on: \
         restart the agent"
    )]
    Restart(String),
    #[error("nothing was changed: {0}")]
    Full(#[from] Full),
    #[error("nothing was changed: {0}")]
    Store(#[from] StoreError),
    #[error("saved, but not in force yet: {0}; the agent tries again every {seconds} s", seconds = RETRY.as_secs())]
    NotApplied(String),
    #[error("the agent is stopping")]
    Stopping,
}

impl From<ProposeError> for ChangeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Edit(error) => Self::Edit(error),
            ProposeError::Refused(_) => Self::Refused(error),
        }
    }
}

/// A wish, and where to answer it.
pub type Order = (Wish, oneshot::Sender<Result<Changed, ChangeError>>);

/// A change that was made: what is different, and what the rules and the kernel say to it.
struct Made {
    difference: Difference,
    took: Took,
    warnings: Vec<String>,
}

/// Makes changes, one at a time.
pub struct Changer {
    store: Store,
    agent: mpsc::Sender<Request>,
}

impl Changer {
    pub fn new(store: Store, agent: mpsc::Sender<Request>) -> Self {
        Self { store, agent }
    }

    /// Serves until nobody can order any more. Needs a runtime of several threads.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some((wish, answer)) = orders.recv().await {
            let result = match wish {
                Wish::Edit(edit) => self.edit(&edit).await,
                Wish::Reload => self.reload().await,
            };
            // The client may have gone: a change is made all the same.
            drop(answer.send(result));
        }
    }

    async fn edit(&mut self, edit: &Edit) -> Result<Changed, ChangeError> {
        let watch = Watch::start();
        let proposal = block_in_place(|| self.store.propose(edit))?;
        let Made { difference, took, mut warnings } = self.make(proposal, watch).await?;
        if difference.is_empty() {
            return Ok(Changed::nothing("nothing to change: it is so already", warnings, took));
        }
        let message = match edit {
            Edit::Enable(Enable { connection, enabled: true }) => format!("connection {connection} taken up again"),
            Edit::Enable(Enable { connection, enabled: false }) => {
                warnings.extend(self.still_carrying(connection).await);
                format!("connection {connection} taken down")
            }
            _ => difference.to_string(),
        };
        Ok(Changed::now(message, difference, warnings, took))
    }

    async fn reload(&mut self) -> Result<Changed, ChangeError> {
        let watch = Watch::start();
        let proposal = block_in_place(|| self.store.propose_reload())?;
        let Made { difference, took, warnings } = self.make(proposal, watch).await?;
        if difference.is_empty() {
            // A secret may be another one all the same.
            self.agent.send(Request::ReadSecrets).await.map_err(|_| ChangeError::Stopping)?;
            return Ok(Changed::nothing("reloaded: nothing has changed", warnings, took));
        }
        Ok(Changed::now(format!("reloaded: {difference}"), difference, warnings, took))
    }

    /// Writes what was proposed and puts it in force.
    async fn make(&mut self, mut proposal: Proposal, mut watch: Watch) -> Result<Made, ChangeError> {
        let mut warnings = std::mem::take(&mut proposal.warnings);
        let step = match std::mem::replace(&mut proposal.change, Change::Nothing) {
            Change::Nothing => None,
            Change::Small(difference) => Some(Step { difference, config: None }),
            Change::Whole(config) => {
                let old = self.ask(Request::Config).await?;
                let difference = block_in_place(|| Difference::between(&old, &config));
                if let Some(key) = difference.needs_restart() {
                    return Err(ChangeError::Restart(key.to_owned()));
                }
                Some(Step { difference, config: Some(Arc::from(config)) })
            }
        };
        let step = step.map(Arc::new);
        if let Some(step) = &step {
            self.ask(|answer| Request::Rehearse(Arc::clone(step), answer)).await??;
        }
        let judging = watch.lap();
        block_in_place(|| self.store.commit(proposal))?;
        let writing = watch.lap();
        let Some(step) = step else {
            let took = Took { judging, writing, ..Took::default() };
            return Ok(Made { difference: Difference::default(), took, warnings });
        };
        let adopted = self.ask(|answer| Request::Adopt(Arc::clone(&step), answer)).await?;
        let settled = adopted.map_err(|error| ChangeError::NotApplied(format!("{error:#}")))?;
        let applying = watch.lap();
        warnings.extend(match timeout(SETTLING, settled).await {
            Ok(Ok(Ok(refused))) => concerning(&refused, &step.difference),
            Ok(Ok(Err(error))) => vec![format!("the kernel's own routes do not follow: {error}")],
            Ok(Err(_)) => return Err(ChangeError::Stopping),
            Err(_) => vec!["the kernel's own routes are still being written".to_owned()],
        });
        let took = Took { judging, writing, applying, settling: watch.lap() };
        Ok(Made { difference: step.difference.clone(), took, warnings })
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ChangeError> {
        let (sender, answer) = oneshot::channel();
        self.agent.send(request(sender)).await.map_err(|_| ChangeError::Stopping)?;
        answer.await.map_err(|_| ChangeError::Stopping)
    }

    /// A connection that was taken down keeps what no other next hop can take over.
    async fn still_carrying(&self, name: &str) -> Option<String> {
        let snapshot: Snapshot = self.ask(Request::Status).await.ok()?.ok()?;
        let mut carried = snapshot.carrying(name).map(|route| route.destination);
        let first = carried.next()?;
        let more = match carried.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("{name} still carries {first}{more}: no other next hop is up; help: add a route by another one"))
    }
}

/// What the kernel refuses of the routes that came or changed. The agent tries again.
fn concerning(refused: &[Failure], difference: &Difference) -> Vec<String> {
    let Routes { added, changed, .. } = &difference.routes;
    let routes = added.iter().chain(changed.iter().map(|changed| &changed.to));
    let names: Vec<String> = routes.take(MOST_ROUTES).map(|route| format!("route {} ", route.destination)).collect();
    let concerns = |failure: &&Failure| names.iter().any(|name| failure.object.starts_with(name));
    refused.iter().filter(concerns).map(|failure| format!("{failure}; the agent tries again")).collect()
}

/// Measures one thing after the other.
struct Watch(Instant);

impl Watch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the last call.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now - std::mem::replace(&mut self.0, now);
        lap.as_secs_f64() * 1000.0
    }
}

impl Changed {
    fn now(message: String, mut difference: Difference, warnings: Vec<String>, took: Took) -> Self {
        let omitted_routes = difference.routes.truncate(MOST_ROUTES);
        Self { message, changed: true, difference, omitted_routes, warnings, took }
    }

    fn nothing(message: &str, warnings: Vec<String>, took: Took) -> Self {
        let difference = Difference::default();
        Self { message: message.to_owned(), changed: false, difference, omitted_routes: 0, warnings, took }
    }
}

//! Answers to changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    agent::RETRY,
    config::{
        LoadError,
        difference::{Difference, Routes},
        in_force::ProposeError,
    },
    fib::id_allocator::Full,
    kernel::netlink::ReconcileFailure,
    store::StoreError,
};

/// How long an answer waits for the kernel's own routes.
pub(super) const SETTLING: Duration = Duration::from_secs(5);
/// Routes of a kind that an answer lists.
const MOST_ROUTES: usize = 1000;

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
    pub took: Timings,
}

/// Where the time of a change went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// The rules, and room in the tables.
    pub judging: f64,
    /// The store, through to the disk.
    pub writing: f64,
    /// The program's tables.
    pub applying: f64,
    /// The kernel's own routes.
    pub settling: f64,
}

/// Why nothing was changed, but for the last two.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It does not fit what is there.
    #[error(transparent)]
    Edit(ProposeError),
    /// What would be in force breaks rules.
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
    #[error("there is nothing to confirm: no `vpnhub reload --confirm` is open")]
    NothingToConfirm,
    #[error("saved, but not in force yet: {0}; the agent tries again every {seconds} s", seconds = RETRY.as_secs())]
    NotApplied(String),
    #[error("the agent is stopping")]
    Stopping,
}

impl From<ProposeError> for ChangeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(_) => Self::Refused(error),
            error => Self::Edit(error),
        }
    }
}

impl Changed {
    pub(super) fn now(message: String, mut difference: Difference, warnings: Vec<String>, took: Timings) -> Self {
        let omitted_routes = difference.routes.truncate(MOST_ROUTES);
        Self { message, changed: true, difference, omitted_routes, warnings, took }
    }

    pub(super) fn nothing(message: &str, warnings: Vec<String>, took: Timings) -> Self {
        let difference = Difference::default();
        Self { message: message.to_owned(), changed: false, difference, omitted_routes: 0, warnings, took }
    }
}

/// What the kernel refuses of the routes that came or changed. The agent tries again.
pub(super) fn concerning(refused: &[ReconcileFailure], difference: &Difference) -> Vec<String> {
    let Routes { added, changed, .. } = &difference.routes;
    let routes = added.iter().chain(changed.iter().map(|changed| &changed.to));
    let names: Vec<String> = routes.take(MOST_ROUTES).map(|route| format!("route {} ", route.destination)).collect();
    let concerns = |failure: &&ReconcileFailure| names.iter().any(|name| failure.object.starts_with(name));
    refused.iter().filter(concerns).map(|failure| format!("{failure}; the agent tries again")).collect()
}

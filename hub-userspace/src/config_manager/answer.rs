//! Answers to changes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    agent::RETRY,
    config::{
        LoadError, Role,
        difference::{Difference, Routes},
        in_force::ProposeError,
    },
    fib::id_allocator::Full,
    kernel::netlink::ReconcileFailure,
    store::StoreError,
};

/// Longest wait of an answer for the kernel's own routes.
pub(super) const SETTLING: Duration = Duration::from_secs(5);
/// Longest wait for ids that earlier changes have replaced.
pub(super) const RELEASING: Duration = Duration::from_secs(2);
/// The usual length of a grace period: 10 to 30 ms.
pub(super) const GRACE: Duration = Duration::from_millis(20);
/// Maximum number of routes of a kind in an answer.
const MOST_ROUTES: usize = 1000;

/// Maximum number of connections with renewed secrets in a message.
const MOST_RENEWED: usize = 20;

/// Result of a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// One sentence for the user, without a full stop.
    pub message: String,
    pub changed: bool,
    /// Whether the change created the object that the request names.
    #[serde(default)]
    pub created: bool,
    /// Includes at most the first thousand routes that were added, removed or changed.
    #[serde(flatten)]
    pub difference: Difference,
    /// Number of routes that the difference omits.
    #[serde(default)]
    pub omitted_routes: usize,
    /// Possible mistakes; one sentence each.
    pub warnings: Vec<String>,
    #[serde(default)]
    pub took: Timings,
}

/// Duration of each phase of a change, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// Validation and the capacity check.
    pub validating: f64,
    /// The store, including the sync to disk.
    pub writing: f64,
    /// The program's tables.
    pub applying: f64,
    /// The kernel's own routes.
    pub settling: f64,
}

/// Why nothing was changed, except in the last two cases.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The change does not match the existing objects.
    #[error(transparent)]
    Edit(ProposeError),
    /// The resulting configuration violates a rule.
    #[error("nothing was changed: {0}")]
    Refused(ProposeError),
    #[error("not reloaded, the old configuration stays in force:\n{0}")]
    Load(#[from] LoadError),
    #[error(
        "not reloaded, the old configuration stays in force: {0} has changed, which takes effect when the agent \
         starts: restart the agent"
    )]
    Restart(String),
    #[error("nothing was changed: {0}")]
    Full(#[from] Full),
    #[error("nothing was changed: {0}")]
    Store(#[from] StoreError),
    #[error("there is nothing to confirm: no `vpnhub reload --confirm` is pending")]
    NothingToConfirm,
    #[error("saved, but not in force yet: {0}; the agent tries again every {seconds} s", seconds = RETRY.as_secs())]
    NotApplied(String),
    #[error("another command has changed the role of this hub meanwhile, to {0}")]
    OtherRole(Role),
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
        Self { message, changed: true, created: false, difference, omitted_routes, warnings, took }
    }

    /// The configuration is the same; secrets or certificates of these connections may have been renewed.
    pub(super) fn renewed(connections: &[String], warnings: Vec<String>, took: Timings) -> Self {
        let nothing = Self::nothing("reloaded: nothing has changed", warnings, took);
        if connections.is_empty() {
            return nothing;
        }
        let message = format!("reloaded: the configuration is the same{}", renewed_text(connections));
        Self { message, changed: true, ..nothing }
    }

    pub(super) fn nothing(message: &str, warnings: Vec<String>, took: Timings) -> Self {
        let difference = Difference::default();
        let message = message.to_owned();
        Self { message, changed: false, created: false, difference, omitted_routes: 0, warnings, took }
    }
}

/// The part of an answer about connections with renewed secrets or certificates; empty without any.
pub(super) fn renewed_text(connections: &[String]) -> String {
    let more = connections.len().saturating_sub(MOST_RENEWED);
    let names = connections[..connections.len() - more].join(", ");
    match (connections.len(), more) {
        (0, _) => String::new(),
        (_, 0) => format!("; secrets or certificates renewed: {names}"),
        (_, more) => format!("; secrets or certificates renewed: {names} and {more} more"),
    }
}

/// Failures of added or changed routes in the kernel. The agent retries.
pub(super) fn concerning(refused: &[ReconcileFailure], difference: &Difference) -> Vec<String> {
    let Routes { added, changed, .. } = &difference.routes;
    let routes = added.iter().chain(changed.iter().map(|changed| &changed.to));
    let names: Vec<String> = routes.take(MOST_ROUTES).map(|route| format!("route {} ", route.destination)).collect();
    let concerns = |failure: &&ReconcileFailure| names.iter().any(|name| failure.object.starts_with(name));
    refused.iter().filter(concerns).map(|failure| format!("{failure}; the agent tries again")).collect()
}

//! Events for listeners on the control socket.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::connection::state::{Health, State};

/// A change of a connection's state, its health, its reason or its negotiated selectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConnectionEvent {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time: f64,
    pub connection: String,
    pub state: State,
    /// Result of its health check; absent without one, or before the first result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// `None` for a new connection.
    pub was: Option<State>,
    /// Reason why it is not up, or degraded.
    pub reason: Option<String>,
    /// Selectors in force, if SAs determine them, as in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selectors: Option<Vec<String>>,
}

/// The time of an event that happens now.
pub fn now() -> f64 {
    // A clock before 1970 is wrong anyway.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

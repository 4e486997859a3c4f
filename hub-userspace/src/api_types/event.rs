//! What happens, as it is told to those who listen on the control socket.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::connection::state::State;

/// A connection's state changed, or the reason for it, or what its SAs admit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionEvent {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time: f64,
    pub connection: String,
    pub state: State,
    /// Nothing for a connection that is new.
    pub was: Option<State>,
    /// Why it is not up.
    pub reason: Option<String>,
    /// Selectors in force, where SAs tell them, as in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selectors: Option<Vec<String>>,
}

/// The time of an event that happens now.
pub fn now() -> f64 {
    // A clock before 1970 is wrong anyway.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

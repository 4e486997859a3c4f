//! The audit log: who changed what, and when.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Entries that are kept: the oldest go first.
pub const MOST_ENTRIES: u64 = 10_000;

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Seconds since 1970, UTC.
    pub time: f64,
    /// User at the other end of the socket; `None`: a signal.
    pub uid: Option<u32>,
    /// As the command is called: `route add`, `reload`.
    pub action: String,
    /// What was changed, as a sentence names it.
    pub object: String,
    /// The keys before the change; `null` where there was no object.
    pub before: Value,
    /// The keys after it; `null` where there is no object any more.
    pub after: Value,
}

//! The audit log: each change with its user and time.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Capacity of the log; the oldest entries are removed first.
pub const MOST_ENTRIES: u64 = 10_000;

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditEntry {
    /// Seconds since 1970, UTC.
    pub time: f64,
    /// User at the other end of the socket; `None` for a signal.
    pub uid: Option<u32>,
    /// The command: `route add`, `reload`.
    pub action: String,
    /// The changed object, in the words of a message.
    pub object: String,
    /// The keys before the change; `null` if the object did not exist.
    pub before: Value,
    /// The keys after the change; `null` if the object was deleted.
    pub after: Value,
}

//! States of a connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its interface is there and running, and its tunnel is up and its health check passes if it has them.
    Up,
    /// As `Up`, but not for long enough since it last failed, or not known to be healthy yet: it gets no traffic while
    /// another can take it. Shown as down.
    #[serde(rename(serialize = "down"), skip_deserializing)]
    #[cfg_attr(test, schemars(skip))]
    HoldDown,
    Down,
    /// Taken down by hand.
    AdminDown,
}

/// States by connection name.
pub type States = BTreeMap<String, State>;

/// How a [`State`] is recorded: with the hold-down, which a status does not show.
#[derive(Serialize, Deserialize)]
#[serde(remote = "State", rename_all = "snake_case")]
pub enum RecordedState {
    Up,
    HoldDown,
    Down,
    AdminDown,
}

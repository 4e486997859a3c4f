//! States of a connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its interface exists and is running. Its tunnel is up and its health check passes, if configured.
    Up,
    /// As `Up`, but in hold-down after a failure, or its health is not known yet. It gets no traffic while another
    /// next hop can take it. Displayed as down.
    #[serde(rename(serialize = "down"), skip_deserializing)]
    #[cfg_attr(test, schemars(skip))]
    HoldDown,
    Down,
    /// Administratively down.
    AdminDown,
}

/// States by connection name.
pub type States = BTreeMap<String, State>;

/// A [`State`] as recorded: with the hold-down, which a status does not show.
#[derive(Serialize, Deserialize)]
#[serde(remote = "State", rename_all = "snake_case")]
pub enum RecordedState {
    Up,
    HoldDown,
    Down,
    AdminDown,
}

//! States of a connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its interface exists and is running. Its tunnel is up and its health check passes, if configured.
    Up,
    /// As `Up`, but its health check loses more probes than allowed. It gets no traffic while another next hop is `Up`.
    /// Displayed as up.
    #[serde(rename(serialize = "up"), skip_deserializing)]
    #[schemars(skip)]
    Degraded,
    /// As `Up`, but in hold-down after a failure, or its health is not known yet. It gets no traffic while another
    /// next hop can take it. Displayed as down.
    #[serde(rename(serialize = "down"), skip_deserializing)]
    #[schemars(skip)]
    HoldDown,
    Down,
    /// Administratively down.
    AdminDown,
}

impl State {
    /// It carries traffic, and is displayed as up.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Degraded)
    }
}

/// Result of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HealthState")]
pub enum Health {
    Up,
    /// It replies, but has not sent a whole window of probes yet, so its loss is not known. Displayed as up.
    #[serde(rename(serialize = "up"), skip_deserializing)]
    #[schemars(skip)]
    Answers,
    /// It replies, and loses more probes than allowed.
    Degraded,
    Down,
}

/// States by connection name.
pub type States = BTreeMap<String, State>;

/// A [`State`] as recorded: with the two that a status does not show.
#[derive(Serialize, Deserialize)]
#[serde(remote = "State", rename_all = "snake_case")]
pub enum RecordedState {
    Up,
    Degraded,
    HoldDown,
    Down,
    AdminDown,
}

//! Whether a connection can carry traffic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    config::model::{Config, Connection},
    netlink::{HostState, Link},
};

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its interface is there and running, and its health check passes if it has one.
    Up,
    Down,
    /// Taken down by hand.
    AdminDown,
}

/// States by connection name.
pub type States = BTreeMap<String, State>;

/// The state of every connection of the configuration; `is_healthy` knows those that have a health check.
pub fn states(config: &Config, host: &HostState, is_healthy: impl Fn(&str) -> bool) -> States {
    let state = |name: &str, connection: &Connection| {
        if !connection.enabled {
            State::AdminDown
        } else if host.link(&connection.interface).is_some_and(Link::is_up)
            && (connection.health_check.is_none() || is_healthy(name))
        {
            State::Up
        } else {
            State::Down
        }
    };
    config.connections.iter().map(|(name, connection)| (name.clone(), state(name, connection))).collect()
}

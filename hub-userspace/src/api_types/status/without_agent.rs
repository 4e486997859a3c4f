//! Output of `vpnhub status` without an agent.

use serde::Serialize;

use super::{Reasons, Traffic, reasons};
use crate::datapath::{Counters, Running, RunningConnection};

/// Status of a datapath that runs without an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct WithoutAgent {
    /// Always `false`.
    pub agent: bool,
    pub interfaces: Vec<RunningInterfaceStatus>,
    /// Ordered by name, with the counters that the next agent continues.
    pub connections: Vec<RunningConnectionStatus>,
    pub drops: Reasons,
    pub passes: Reasons,
}

/// An interface with the program attached; has no name if it is in another network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct RunningInterfaceStatus {
    pub name: Option<String>,
    pub attach: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct RunningConnectionStatus {
    pub name: String,
    #[serde(flatten)]
    pub traffic: Traffic,
}

impl From<Running> for WithoutAgent {
    fn from(running: Running) -> Self {
        let Running { interfaces, connections, vpc, unattributed } = running;
        let total = connections.values().map(|connection| connection.counters).sum::<Counters>() + vpc + unattributed;
        let of = |(name, connection): (String, RunningConnection)| RunningConnectionStatus {
            name,
            traffic: (&connection.counters).into(),
        };
        Self {
            agent: false,
            interfaces: (interfaces.into_iter())
                .map(|interface| RunningInterfaceStatus { name: interface.name, attach: interface.mode })
                .collect(),
            connections: connections.into_iter().map(of).collect(),
            drops: reasons(&total, true),
            passes: reasons(&total, false),
        }
    }
}

//! The hub's part among several hubs for the same sites.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a hub does for its sites. Its datapath is loaded, and its selectors are in force, in each role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Publishes its routes; strongSwan has its tunnels.
    #[default]
    Active,
    /// Publishes no routes, so that others send it no traffic. The tunnels stay, for what still comes.
    Withdrawn,
    /// Publishes no routes; strongSwan has none of its tunnels.
    Standby,
}

impl Role {
    /// Whether routes are published.
    pub const fn publishes(self) -> bool {
        matches!(self, Self::Active)
    }

    /// Whether the connections with IPsec are loaded into strongSwan.
    pub const fn has_tunnels(self) -> bool {
        !matches!(self, Self::Standby)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Withdrawn => "withdrawn",
            Self::Standby => "standby",
        }
    }

    /// The role in words, for a message.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Active => "this hub is active: its routes are published, and strongSwan has its tunnels",
            Self::Withdrawn => "this hub is withdrawn: it publishes no routes, and its tunnels stay",
            Self::Standby => "this hub is standby: it publishes no routes, and strongSwan has none of its tunnels",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a connection with IPsec is down on a standby hub.
pub const STANDBY: &str = "this hub is standby: `vpnhub active` loads its tunnels";

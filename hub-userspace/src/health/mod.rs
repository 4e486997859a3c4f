//! Health checks: ICMP echo through a connection's own interface.
//!
//! Probes are sent and replies received through a packet socket bound to the interface. This bypasses the host's
//! routes, rules, reverse-path filters and connection tracking. A standby tunnel is checked although all routes lead to
//! the active one, and a reply through another interface does not count. `echo` and `check` define a valid reply, and
//! `check` when a path is healthy.
//!
//! - [`Prober`] follows the desired state; it starts and stops lines.
//! - A `line` is an interface and IP version: one socket and one task for all checks through it, so that thousands of
//!   connections may share an interface.
//! - `check` and `echo` are pure: the state of a check, and its packets.

mod check;
mod echo;
mod interface_prober;
mod prober;
mod socket;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

pub use check::RecentProbes;
pub use prober::{ProbeCounts, Prober};
use serde::{Deserialize, Serialize};

use crate::{
    config::model::{Config, Connection, HealthCheck},
    kernel::netlink::HostState,
};

/// A check, and the interface for its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckTarget {
    /// The connection's interface.
    pub ifindex: u32,
    pub link: LinkLayer,
    pub check: HealthCheck,
}

/// Link layer of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// Packets start at the IP header: tunnels.
    RawIp,
    /// Frames go to the connection's `peer`.
    Ethernet {
        /// Its link address, if known; required for sending.
        peer: Option<[u8; 6]>,
    },
}

/// The checks to run: one for each enabled connection with a health check and an existing interface.
pub fn targets(config: &Config, host: &HostState) -> BTreeMap<String, CheckTarget> {
    let target = |(name, connection): (&String, &Connection)| {
        let check = connection.health_check.filter(|_| connection.enabled)?;
        let link = host.link(&connection.interface)?;
        let peer = connection.peer.and_then(|peer| host.neighbours.get(&(link.index, peer)).copied());
        let on = if link.ethernet { LinkLayer::Ethernet { peer } } else { LinkLayer::RawIp };
        Some((name.clone(), CheckTarget { ifindex: link.index, link: on, check }))
    };
    config.connections.iter().filter_map(target).collect()
}

/// A changed verdict. It may be outdated: [`Prober::report`] has the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictChange {
    pub connection: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Healthy,
    Unhealthy {
        /// Probes in a row without a reply.
        misses: u32,
        /// Time since the last reply; `None` if there never was one.
        last_reply_age: Option<Duration>,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => write!(f, "replies"),
            Self::Unhealthy { misses, last_reply_age: None } => write!(f, "never replied, {misses} probes so far"),
            Self::Unhealthy { misses, last_reply_age: Some(age) } => {
                write!(f, "no reply to {misses} probes, the last one {:.2} s before that", age.as_secs_f64())
            }
        }
    }
}

/// The state of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// `None` before the first reply or the first `retries` misses: the path is not known to be healthy.
    pub verdict: Option<Verdict>,
    /// Probes sent.
    pub sent: u64,
    /// Genuine replies.
    pub received: u64,
    /// Probes without a reply in time.
    #[serde(default)]
    pub lost: u64,
    /// The last probes that were answered or lost.
    #[serde(skip)]
    pub recent: RecentProbes,
    /// Round trip of the last reply.
    pub round_trip: Option<Duration>,
    #[serde(skip)]
    pub last_reply: Option<Instant>,
    /// Why the last probe could not be sent, in a sentence.
    pub problem: Option<String>,
}

impl HealthReport {
    pub fn is_healthy(&self) -> bool {
        self.verdict == Some(Verdict::Healthy)
    }
}

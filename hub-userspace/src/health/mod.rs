//! Health checks: ICMP echo through a connection's own interface.
//!
//! Probes leave, and replies are taken, through a packet socket that is bound to the interface. So no route, rule,
//! reverse-path filter or connection tracking of the host is asked: a standby tunnel is checked although all routes lead
//! to the active one, and a reply through another interface does not count. What a reply must be is in `echo` and
//! `check`, where also stands when a path is healthy.
//!
//! - [`Prober`] follows what is wanted, and starts and stops lines.
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

pub use prober::Prober;
use serde::{Deserialize, Serialize};

use crate::{
    config::model::{Config, Connection, HealthCheck},
    kernel::netlink::HostState,
};

/// What to check, and where the probes leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckTarget {
    /// The connection's interface.
    pub ifindex: u32,
    pub link: LinkLayer,
    pub check: HealthCheck,
}

/// How packets get on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// Packets start at the IP header: tunnels.
    RawIp,
    /// Frames go to the connection's `peer`.
    Ethernet {
        /// Its link address, when known: without it no probe can leave.
        peer: Option<[u8; 6]>,
    },
}

/// What to check: the connections that have a check, are wanted and have an interface.
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

/// A verdict that is new. It may have been overtaken: [`Prober::report`] has the current one.
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
        /// Since the last reply, if there ever was one.
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

/// How a check is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Nothing before the first reply or the first `retries` misses: the path is not known to be healthy.
    pub verdict: Option<Verdict>,
    /// Probes that left.
    pub sent: u64,
    /// Genuine replies.
    pub received: u64,
    /// Round trip of the last reply.
    pub round_trip: Option<Duration>,
    #[serde(skip)]
    pub last_reply: Option<Instant>,
    /// Why the last probe did not leave, in a sentence.
    pub problem: Option<String>,
}

impl HealthReport {
    pub fn is_healthy(&self) -> bool {
        self.verdict == Some(Verdict::Healthy)
    }
}

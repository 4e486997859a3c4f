//! Health checks: ICMP echo through a connection's own interface.
//!
//! Probes are sent and replies received through a packet socket bound to the interface. This bypasses the host's
//! routes, rules, reverse-path filters and connection tracking. A standby tunnel is checked although all routes lead to
//! the active one, and a reply through another interface does not count. `echo` and `check` define a valid reply, and
//! `check` when a path is healthy.
//!
//! - [`Prober`] follows the desired state; it starts and stops lines.
//! - A `line` is an interface and IP version: one socket and one task for all checks through it, so that thousands of
//!   connections may share an interface. Each destination of a check is probed by itself; `report` sums them up.
//! - [`ReplyListener`] hears replies on all interfaces, for a diagnosis.
//! - `check` and `echo` are pure: the state of a check, and its packets.

mod check;
mod echo;
mod interface_prober;
mod listener;
mod prober;
mod report;
mod socket;

use std::collections::BTreeMap;

pub use check::RecentProbes;
pub use listener::{ProbeReply, ReplyListener, probe_reply};
pub use prober::{ProbeCounts, Prober};
pub use report::{HealthReport, Verdict};

use crate::{
    config::model::{Config, Connection, HealthCheck},
    kernel::netlink::HostState,
};

/// A check, and the interface for its probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTarget {
    /// The connection's interface.
    pub ifindex: u32,
    pub link: LinkLayer,
    pub check: HealthCheck,
}

impl CheckTarget {
    /// Whether a check can go on as `other`: they differ at most in the link address of the peer.
    pub fn is_same_path(&self, other: &Self) -> bool {
        self.ifindex == other.ifindex && self.check == other.check
    }
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
        let check = connection.health_check.clone().filter(|_| connection.enabled)?;
        let link = host.link(&connection.interface)?;
        let peer = connection.peer.and_then(|peer| host.neighbours.get(&(link.index, peer)).copied());
        let on = if link.ethernet { LinkLayer::Ethernet { peer } } else { LinkLayer::RawIp };
        Some((name.clone(), CheckTarget { ifindex: link.index, link: on, check }))
    };
    config.connections.iter().filter_map(target).collect()
}

/// A changed verdict of one destination. It may be outdated: [`Prober::report`] has the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictChange {
    pub connection: String,
    pub verdict: Verdict,
}

//! The health check of a connection, in a status.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{connection::state::Health as State, health::HealthReport};

/// State of a health check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Health {
    /// It replies; it may be degraded.
    pub healthy: bool,
    /// `None` before the first result.
    #[serde(default)]
    pub state: Option<State>,
    /// Probes sent successfully.
    pub sent: u64,
    pub received: u64,
    /// Round-trip time of the last reply, in seconds.
    pub round_trip: Option<f64>,
    /// The last probes that were answered or lost: 32 at most for each destination.
    #[serde(default)]
    pub recent_probes: u32,
    /// Of these, those without a reply in time.
    #[serde(default)]
    pub recent_lost: u32,
    /// ICMP identifier of the probes, by which a capture shows them; `None` with several destinations.
    #[serde(default)]
    pub identifier: Option<u16>,
    /// The destinations, if there are several; the fields above sum them up.
    #[serde(default)]
    pub targets: Vec<HealthTarget>,
}

/// One of several destinations of a health check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HealthTarget {
    #[schemars(with = "String")]
    pub destination: IpAddr,
    /// `None` before the first result.
    pub state: Option<State>,
    pub sent: u64,
    pub received: u64,
    /// Probes without a reply in time.
    pub lost: u64,
    /// Round-trip time of the last reply, in seconds.
    pub round_trip: Option<f64>,
    /// Why the last probe could not be sent.
    pub problem: Option<String>,
    /// As that of [`Health`].
    #[serde(default)]
    pub identifier: Option<u16>,
}

impl From<&HealthReport> for Health {
    fn from(report: &HealthReport) -> Self {
        let (recent_probes, recent_lost) = report.recent_counts();
        let target = |(destination, report): (&IpAddr, &HealthReport)| HealthTarget {
            destination: *destination,
            state: report.health(),
            sent: report.sent,
            received: report.received,
            lost: report.lost,
            round_trip: report.round_trip.map(|time| time.as_secs_f64()),
            problem: report.problem.clone(),
            identifier: report.identifier,
        };
        Self {
            healthy: report.is_answered(),
            state: report.health(),
            sent: report.sent,
            received: report.received,
            round_trip: report.round_trip.map(|time| time.as_secs_f64()),
            recent_probes,
            recent_lost,
            identifier: report.identifier,
            targets: report.targets.iter().map(target).collect(),
        }
    }
}

impl Health {
    /// The ICMP identifiers of its probes.
    pub fn identifiers(&self) -> impl Iterator<Item = u16> {
        self.identifier.into_iter().chain(self.targets.iter().filter_map(|target| target.identifier))
    }
}

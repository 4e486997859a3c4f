//! Verdicts and reports, of one destination and of a check with several. Pure.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::RecentProbes;
use crate::{config::model::Require, connection::state::Health};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Healthy,
    /// It replies, but more probes are lost than allowed.
    Degraded {
        /// Lost probes of the window.
        lost: u32,
        /// Probes of the window so far.
        probes: u32,
    },
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
            Self::Degraded { lost, probes } => write!(f, "loses {lost} of {probes} probes"),
            Self::Unhealthy { misses, last_reply_age: None } => write!(f, "never replied, {misses} probes so far"),
            Self::Unhealthy { misses, last_reply_age: Some(age) } => {
                write!(f, "no reply to {misses} probes, the last one {:.2} s before that", age.as_secs_f64())
            }
        }
    }
}

/// A verdict without its numbers, in ascending order of what it is worth. Unknown is worth less than a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Unhealthy,
    Unknown,
    Degraded,
    Healthy,
}

fn rank(verdict: Option<Verdict>) -> Rank {
    match verdict {
        Some(Verdict::Unhealthy { .. }) => Rank::Unhealthy,
        None => Rank::Unknown,
        Some(Verdict::Degraded { .. }) => Rank::Degraded,
        Some(Verdict::Healthy) => Rank::Healthy,
    }
}

/// The state of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// `None` before the first reply or the first `retries` misses: the path is not known to be healthy.
    pub verdict: Option<Verdict>,
    /// Whether the verdict already covers a whole window of loss. Always true where loss does not matter.
    #[serde(default)]
    pub is_loss_known: bool,
    /// Probes sent.
    pub sent: u64,
    /// Genuine replies.
    pub received: u64,
    /// Probes without a reply in time.
    #[serde(default)]
    pub lost: u64,
    /// The last probes that were answered or lost; of one destination.
    #[serde(skip)]
    pub recent: RecentProbes,
    /// Round trip of the last reply.
    pub round_trip: Option<Duration>,
    #[serde(skip)]
    pub last_reply: Option<Instant>,
    /// Why the last probe could not be sent, in a sentence.
    pub problem: Option<String>,
    /// The ICMP identifier of the probes, different for each destination of all checks; of one destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u16>,
    /// The reports of several destinations, which this one sums up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<IpAddr, HealthReport>,
}

impl HealthReport {
    pub fn is_healthy(&self) -> bool {
        self.verdict == Some(Verdict::Healthy)
    }

    /// The verdict as evidence; `None` before the first one.
    pub fn health(&self) -> Option<Health> {
        Some(match self.verdict? {
            Verdict::Healthy if self.is_loss_known => Health::Up,
            Verdict::Healthy => Health::Answers,
            Verdict::Degraded { .. } => Health::Degraded,
            Verdict::Unhealthy { .. } => Health::Down,
        })
    }

    /// It replies, whatever it loses.
    pub fn is_answered(&self) -> bool {
        rank(self.verdict) > Rank::Unknown
    }

    /// Sums up the reports of a check's destinations. With `any` the best verdict counts, with `all` the worst.
    pub fn of_targets(require: Require, reports: BTreeMap<IpAddr, Self>) -> Self {
        if reports.len() < 2 {
            return reports.into_values().next().unwrap_or_default();
        }
        let mut report = Self::default();
        let by_rank = |one: &&Self| (rank(one.verdict), one.is_loss_known);
        let decisive = match require {
            Require::Any => reports.values().max_by_key(by_rank),
            Require::All => reports.values().min_by_key(by_rank),
        };
        if let Some(decisive) = decisive {
            (report.verdict, report.is_loss_known) = (decisive.verdict, decisive.is_loss_known);
        }
        for target in reports.values() {
            report.sent += target.sent;
            report.received += target.received;
            report.lost += target.lost;
            report.problem = report.problem.or_else(|| target.problem.clone());
        }
        if let Some(last) = reports.values().max_by_key(|target| target.last_reply) {
            (report.round_trip, report.last_reply) = (last.round_trip, last.last_reply);
        }
        report.targets = reports;
        report
    }

    /// The last probes of all destinations: how many, and how many of them were lost.
    pub fn recent_counts(&self) -> (u32, u32) {
        let of_targets = self.targets.values().map(|target| (target.recent.count(), target.recent.lost()));
        let own = (self.recent.count(), self.recent.lost());
        of_targets.fold(own, |(count, lost), (others, others_lost)| (count + others, lost + others_lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Option<Verdict> = None;
    const UP: Option<Verdict> = Some(Verdict::Healthy);
    const LOSSY: Option<Verdict> = Some(Verdict::Degraded { lost: 2, probes: 9 });
    const DOWN: Option<Verdict> = Some(Verdict::Unhealthy { misses: 3, last_reply_age: None });

    fn verdict(require: Require, verdicts: &[Option<Verdict>]) -> Option<Verdict> {
        let report = |verdict| HealthReport { verdict, is_loss_known: true, ..HealthReport::default() };
        let addresses = (1..).map(|last| IpAddr::from([10, 0, 0, last]));
        let reports = addresses.zip(verdicts.iter().map(|verdict| report(*verdict))).collect();
        HealthReport::of_targets(require, reports).verdict
    }

    #[test]
    fn any_takes_the_best_destination_and_all_the_worst() {
        for (verdicts, any, all) in [
            (&[UP][..], UP, UP),
            (&[DOWN], DOWN, DOWN),
            (&[NONE], NONE, NONE),
            (&[], NONE, NONE),
            (&[UP, DOWN], UP, DOWN),
            (&[UP, LOSSY], UP, LOSSY),
            (&[LOSSY, DOWN], LOSSY, DOWN),
            (&[NONE, UP], UP, NONE),
            (&[NONE, LOSSY], LOSSY, NONE),
            (&[NONE, DOWN], NONE, DOWN),
            (&[UP, LOSSY, DOWN, NONE], UP, DOWN),
            (&[DOWN, DOWN, DOWN], DOWN, DOWN),
        ] {
            assert_eq!(verdict(Require::Any, verdicts), any, "any of {verdicts:?}");
            assert_eq!(verdict(Require::All, verdicts), all, "all of {verdicts:?}");
        }
    }

    #[test]
    fn counts_are_those_of_all_destinations() {
        let one = |sent, lost, problem: Option<&str>| HealthReport {
            sent,
            lost,
            received: sent - lost,
            problem: problem.map(str::to_owned),
            ..HealthReport::default()
        };
        let reports = BTreeMap::from([
            (IpAddr::from([10, 0, 0, 1]), one(10, 1, None)),
            (IpAddr::from([10, 0, 0, 2]), one(20, 2, Some("its interface is down"))),
        ]);
        let report = HealthReport::of_targets(Require::All, reports);
        assert_eq!((report.sent, report.lost, report.received), (30, 3, 27));
        assert_eq!(report.problem.as_deref(), Some("its interface is down"));
        assert_eq!(report.targets.len(), 2);
    }
}

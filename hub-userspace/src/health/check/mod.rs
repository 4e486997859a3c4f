//! When a path counts as healthy. Pure: time comes in, verdicts come out.
//!
//! A probe goes out every `interval`, the first at once. Any genuine reply makes the path healthy; it is unhealthy when
//! `retries` probes that were all sent since the last reply came have each had `interval` and nothing came. Hence:
//!
//! - the verdict falls later than `retries * interval`, and not later than `(retries + 1) * interval`, after the last
//!   reply (plus the lateness of timers);
//! - the round trip may be longer than `interval`: what counts is that replies come in, not which probe they belong to,
//!   as long as they are not older than [`LATE`]. A path flaps only if no reply comes for `retries * interval`. (With
//!   one retry that leaves no room for jitter, unless the round trip stays below the interval);
//! - nothing is said before the first reply or the first `retries` misses. Until then a path is not healthy.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Verdict;

/// Random bytes that the far end must send back. Nobody who has not seen the probe can guess them.
pub type Nonce = [u8; 16];

/// A reply counts this long after its probe was sent, or an interval if that is longer: more than the round trip of any
/// path that one would use, and short enough that the reply still says something about now.
pub const LATE: Duration = Duration::from_secs(2);

/// The state of one check.
#[derive(Debug)]
pub struct Check {
    interval: Duration,
    retries: u32,
    /// When the next probe is due.
    due: Instant,
    /// Sequence number of the next probe.
    sequence: u16,
    /// Probes that a reply may still come for, the oldest first.
    probes: VecDeque<Probe>,
    /// Probes sent since the last reply came.
    unanswered: u32,
    last_reply: Option<Instant>,
    healthy: Option<bool>,
}

#[derive(Debug)]
struct Probe {
    sequence: u16,
    nonce: Nonce,
    sent: Instant,
}

/// A genuine reply.
#[derive(Debug, PartialEq, Eq)]
pub struct ProbeReply {
    pub round_trip: Duration,
    /// The verdict, if it changed.
    pub verdict: Option<Verdict>,
}

impl Check {
    /// A check whose first probe is due at `start`.
    pub fn new(interval: Duration, retries: u32, start: Instant) -> Self {
        Self {
            interval,
            retries,
            due: start,
            sequence: 0,
            probes: VecDeque::new(),
            unanswered: 0,
            last_reply: None,
            healthy: None,
        }
    }

    /// When the next probe is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Has the next probe sent at `now`, in place of the last one.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
        // That one has not had its interval.
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Whether [`Self::judge`] would find the path unhealthy now: the last moment to look for replies.
    pub fn is_overdue(&self) -> bool {
        self.unanswered >= self.retries
    }

    /// To be asked when a probe is due, before it is sent: the verdict, if the path turned out unhealthy.
    pub fn evaluate(&mut self, now: Instant) -> Option<Verdict> {
        if !self.is_overdue() || self.healthy == Some(false) {
            return None;
        }
        self.healthy = Some(false);
        let last_reply_age = self.last_reply.map(|last_reply| now.saturating_duration_since(last_reply));
        Some(Verdict::Unhealthy { misses: self.unanswered, last_reply_age })
    }

    /// Notes a probe as sent at `now`, whether or not it could be; its sequence number.
    pub fn probe(&mut self, now: Instant, nonce: Nonce) -> u16 {
        let late = LATE.max(self.interval);
        while self.probes.front().is_some_and(|probe| now.saturating_duration_since(probe.sent) > late) {
            self.probes.pop_front();
        }
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.probes.push_back(Probe { sequence, nonce, sent: now });
        self.unanswered = self.unanswered.saturating_add(1);
        // From when it was due, so that lateness does not add up; but the far end must have most of the interval.
        self.due += self.interval;
        if self.due < now + self.interval / 2 {
            self.due = now + self.interval;
        }
        sequence
    }

    /// Takes a reply that came at `now`; nothing if it answers no probe of ours, is too old or came before.
    pub fn reply(&mut self, now: Instant, sequence: u16, nonce: &[u8]) -> Option<ProbeReply> {
        let at = self.probes.iter().position(|probe| probe.sequence == sequence && probe.nonce == nonce)?;
        let round_trip = now.saturating_duration_since(self.probes.remove(at)?.sent);
        if round_trip > LATE.max(self.interval) {
            return None;
        }
        self.unanswered = 0;
        self.last_reply = Some(now);
        let verdict = (self.healthy != Some(true)).then_some(Verdict::Healthy);
        self.healthy = Some(true);
        Some(ProbeReply { round_trip, verdict })
    }
}

#[cfg(test)]
mod tests;

//! When a path is healthy. Pure: time in, verdicts out.
//!
//! One probe is sent every `interval`, the first at once. Any genuine reply makes the path healthy. The path is
//! unhealthy when `retries` probes, all sent after the last reply arrived, have each waited `interval` without a reply.
//! Hence:
//!
//! - the verdict falls later than `retries * interval`, and not later than `(retries + 1) * interval`, after the last
//!   reply (plus the lateness of timers);
//! - the round trip may exceed `interval`: it does not matter which probe a reply belongs to, as long as it is not
//!   older than [`LATE`]. A path flaps only if no reply arrives for `retries * interval`. (With one retry that leaves
//!   no room for jitter, unless the round trip stays below the interval);
//! - there is no verdict before the first reply or the first `retries` misses. Until then a path is not healthy.
//!
//! A path that is healthy by these rules may be *degraded* by loss: [`loss`].

mod loss;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::loss::LossWindow;
use super::Verdict;
use crate::config::model::Degraded;

/// Random bytes that the far end must echo, so that an off-path attacker cannot forge a reply.
pub type Nonce = [u8; 16];

/// Maximum age of a reply since its probe was sent, or an interval if that is longer. It exceeds the round trip of any
/// usable path, and is short enough for the reply to reflect the current state.
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
    /// Probes that may still be answered, the oldest first.
    probes: VecDeque<Probe>,
    /// Probes sent since the last reply.
    unanswered: u32,
    last_reply: Option<Instant>,
    healthy: Option<bool>,
    /// Probes that were sent and can no longer be answered.
    lost: u64,
    recent: RecentProbes,
    /// `None` if loss does not degrade the path.
    loss: Option<LossWindow>,
    /// As last returned to the caller.
    reported: Option<Class>,
}

/// What a verdict says, without numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Healthy { is_loss_known: bool },
    Degraded,
    Unhealthy,
}

/// The last probes that were answered or lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecentProbes {
    /// One bit a probe, the last one lowest: 1 is lost.
    lost: u32,
    /// 32 at most.
    count: u32,
}

impl RecentProbes {
    fn note(&mut self, is_lost: bool) {
        self.lost = self.lost << 1 | u32::from(is_lost);
        self.count = (self.count + 1).min(u32::BITS);
    }

    /// 32 at most.
    pub const fn count(self) -> u32 {
        self.count
    }

    pub const fn lost(self) -> u32 {
        self.lost.count_ones()
    }
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
    pub fn new(interval: Duration, retries: u32, degraded: Option<Degraded>, start: Instant) -> Self {
        Self {
            interval,
            retries,
            due: start,
            sequence: 0,
            probes: VecDeque::new(),
            unanswered: 0,
            last_reply: None,
            healthy: None,
            lost: 0,
            recent: RecentProbes::default(),
            loss: degraded.map(LossWindow::new),
            reported: None,
        }
    }

    /// When the next probe is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Reschedules the next probe to `now`, in place of the last one.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
        // The last probe has not had its interval.
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Whether [`Self::evaluate`] would find the path unhealthy now. If so, process pending replies first.
    pub fn is_overdue(&self) -> bool {
        self.unanswered >= self.retries
    }

    /// Call when a probe is due, before sending it. Returns the verdict if it has changed.
    pub fn evaluate(&mut self, now: Instant) -> Option<Verdict> {
        self.expire(now);
        if self.is_overdue() {
            self.healthy = Some(false);
        }
        self.change(now)
    }

    /// Counts the probes that can no longer be answered.
    fn expire(&mut self, now: Instant) {
        let late = LATE.max(self.interval);
        while self.probes.front().is_some_and(|probe| now.saturating_duration_since(probe.sent) > late) {
            self.probes.pop_front();
            self.note(true);
        }
    }

    fn note(&mut self, is_lost: bool) {
        self.lost += u64::from(is_lost);
        self.recent.note(is_lost);
        if let Some(loss) = &mut self.loss {
            loss.note(is_lost);
        }
    }

    /// Whether the loss over the whole window is known, or does not matter.
    pub fn is_loss_known(&self) -> bool {
        self.loss.as_ref().is_none_or(|loss| loss.is_full() || loss.is_degraded())
    }

    /// The verdict, if it differs from the last one.
    fn change(&mut self, now: Instant) -> Option<Verdict> {
        let degraded = self.loss.as_ref().filter(|loss| loss.is_degraded());
        let (class, verdict) = match (self.healthy?, degraded) {
            (false, _) => {
                let last_reply_age = self.last_reply.map(|last_reply| now.saturating_duration_since(last_reply));
                (Class::Unhealthy, Verdict::Unhealthy { misses: self.unanswered, last_reply_age })
            }
            (true, Some(loss)) => (Class::Degraded, loss.verdict()),
            (true, None) => (Class::Healthy { is_loss_known: self.is_loss_known() }, Verdict::Healthy),
        };
        (self.reported.replace(class) != Some(class)).then_some(verdict)
    }

    /// Records a probe as sent at `now`, even if sending failed; returns its sequence number.
    pub fn probe(&mut self, now: Instant, nonce: Nonce) -> u16 {
        self.expire(now);
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.probes.push_back(Probe { sequence, nonce, sent: now });
        self.unanswered = self.unanswered.saturating_add(1);
        // Counted from the due time, so that lateness does not accumulate; but the far end must have most of the
        // interval.
        self.due += self.interval;
        if self.due < now + self.interval / 2 {
            self.due = now + self.interval;
        }
        sequence
    }

    /// The last probe could not be sent: it cannot be answered, and is not lost on the path.
    pub fn not_sent(&mut self) {
        self.probes.pop_back();
    }

    /// Number of probes that were sent and got no reply in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The last probes.
    pub fn recent(&self) -> RecentProbes {
        self.recent
    }

    /// Processes a reply received at `now`; `None` if it matches no probe, is too old or is a duplicate.
    pub fn reply(&mut self, now: Instant, sequence: u16, nonce: &[u8]) -> Option<ProbeReply> {
        let at = self.probes.iter().position(|probe| probe.sequence == sequence && probe.nonce == nonce)?;
        let round_trip = now.saturating_duration_since(self.probes.remove(at)?.sent);
        if round_trip > LATE.max(self.interval) {
            self.note(true);
            return None;
        }
        self.note(false);
        self.unanswered = 0;
        self.last_reply = Some(now);
        self.healthy = Some(true);
        Some(ProbeReply { round_trip, verdict: self.change(now) })
    }
}

#[cfg(test)]
mod tests;

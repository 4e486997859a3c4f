//! Rate limits for work and log lines that traffic, peers or other processes can cause.

mod log;
mod restore;

use std::time::{Duration, Instant};

pub use self::{
    log::{LogLimit, UNLIMITED},
    restore::RestoreSchedule,
};

/// A token bucket: allows a burst, then one action per interval. Pure: the time is an argument.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    burst: u32,
    interval: Duration,
    tokens: u32,
    /// Time of the last refill.
    refilled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens, refilled by one per `interval`.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, tokens: burst, refilled: None }
    }

    /// Takes a token; returns whether there was one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }

    /// When the next token is available: `now` if there is one.
    pub fn available(&mut self, now: Instant) -> Instant {
        self.refill(now);
        match self.refilled {
            Some(refilled) if self.tokens == 0 => refilled + self.interval,
            _ => now,
        }
    }

    /// Whether no token has been taken for so long that the bucket is full.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens == self.burst
    }

    fn refill(&mut self, now: Instant) {
        if self.tokens == self.burst {
            self.refilled = Some(now);
            return;
        }
        let refilled = *self.refilled.get_or_insert(now);
        let due = now.saturating_duration_since(refilled).as_nanos() / self.interval.as_nanos().max(1);
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(due).min(self.burst);
        self.refilled = match self.tokens == self.burst {
            true => Some(now),
            false => Some(refilled + self.interval * due),
        };
    }
}

#[cfg(test)]
mod tests;

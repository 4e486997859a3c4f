//! When to restore objects of the agent that another process has changed.

use std::time::{Duration, Instant};

use super::TokenBucket;

/// Restorations in a row before the rate limit applies.
const BURST: u32 = 5;

/// Schedules restorations. Disturbances until a restoration begins are restored together. Pure: the time is an
/// argument.
#[derive(Debug)]
pub struct RestoreSchedule {
    /// Delay after the first disturbance, for a burst of them to end.
    settle: Duration,
    bucket: TokenBucket,
    due: Option<Instant>,
}

impl RestoreSchedule {
    /// After a burst, restores once per `interval`: a process that changes the objects again must not keep the agent
    /// busy.
    pub const fn new(settle: Duration, interval: Duration) -> Self {
        Self { settle, bucket: TokenBucket::new(BURST, interval), due: None }
    }

    /// Something has changed.
    pub fn disturbed(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(self.bucket.available(now).max(now + self.settle));
        }
    }

    /// When to restore.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Begins a restoration if one is due.
    pub fn begin(&mut self, now: Instant) -> bool {
        let begins = self.due.is_some_and(|due| due <= now);
        if begins {
            self.due = None;
            self.bucket.take(now);
        }
        begins
    }

    /// Completes when a restoration is due, and begins it. Cancel-safe.
    pub async fn wait(&mut self) {
        loop {
            match self.due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
            if self.begin(Instant::now()) {
                return;
            }
        }
    }
}

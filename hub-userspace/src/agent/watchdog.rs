//! systemd's watchdog: it restarts an agent whose loop does not go round any more (`WatchdogSec=`, `sd_watchdog_enabled(3)`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Pings twice within the time that systemd waits.
pub struct Watchdog {
    /// Nothing where systemd does not watch.
    every: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// As systemd has set it in the environment.
    pub fn of_systemd() -> Self {
        Self { every: sd_notify::watchdog_enabled().map(|time| time / 2), next: Instant::now() }
    }

    /// When the next ping is due; never, where systemd does not watch. May be cancelled.
    pub async fn due(&self) {
        match self.every {
            Some(_) => sleep_until(self.next).await,
            None => std::future::pending().await,
        }
    }

    /// Says that the loop goes round.
    pub fn ping(&mut self) {
        self.next = Instant::now() + self.every.unwrap_or_default();
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            warn!("systemd not notified: {error}");
        }
    }
}

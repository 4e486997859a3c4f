//! systemd's watchdog: it restarts an agent whose loop hangs (`WatchdogSec=`, `sd_watchdog_enabled(3)`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Pings twice per watchdog period.
pub struct Watchdog {
    /// `None` if the watchdog is disabled.
    every: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// Reads the period that systemd sets in the environment.
    pub fn of_systemd() -> Self {
        Self { every: sd_notify::watchdog_enabled().map(|time| time / 2), next: Instant::now() }
    }

    /// Waits until the next ping is due; forever if the watchdog is disabled. Cancel-safe.
    pub async fn due(&self) {
        match self.every {
            Some(_) => sleep_until(self.next).await,
            None => std::future::pending().await,
        }
    }

    /// Reports that the loop runs.
    pub fn ping(&mut self) {
        self.next = Instant::now() + self.every.unwrap_or_default();
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            warn!(name: "systemd_not_notified", "systemd not notified: {error}");
        }
    }
}

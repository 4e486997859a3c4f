//! What runs beside the agent: notices to systemd, reloads at SIGHUP, and the count of suppressed log lines.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, oneshot},
};

use crate::{
    config_manager::{ChangeRequest, ConfigChange},
    rate_limit::{LogLimit, UNLIMITED},
};

/// Logs once a minute how many lines the rate limit has suppressed.
pub(super) async fn report_suppressed(limit: LogLimit) {
    let mut interval = tokio::time::interval(Duration::from_secs(60));
    loop {
        interval.tick().await;
        limit.report();
    }
}

/// Reloads the files at each SIGHUP.
pub(super) async fn reload_on(mut hangup: Signal, orders: mpsc::Sender<ChangeRequest>) {
    while hangup.recv().await.is_some() {
        let reloading = NotifyState::monotonic_usec_now().map(|now| vec![NotifyState::Reloading, now]);
        notify(&reloading.unwrap_or_default());
        let (sender, answer) = oneshot::channel();
        if orders
            .send(ChangeRequest::Change { change: ConfigChange::Reload(None), uid: None, answer: sender })
            .await
            .is_err()
        {
            return;
        }
        match answer.await {
            Ok(Ok(changed)) => {
                changed
                    .warnings
                    .iter()
                    .for_each(|warning| tracing::warn!(name: "configuration_warning", target: UNLIMITED, "{warning}"));
                tracing::info!(name: "reloaded", target: UNLIMITED, "SIGHUP: {}", changed.message);
            }
            Ok(Err(error)) => {
                error
                    .to_string()
                    .lines()
                    .for_each(|line| tracing::error!(name: "reload_failed", target: UNLIMITED, "SIGHUP: {line}"));
            }
            Err(_) => return,
        }
        notify(&[NotifyState::Ready]);
    }
}

/// Notifies systemd, if it listens.
pub(super) fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(name: "systemd_not_notified", "systemd not notified: {error}");
    }
}

//! Writes the nftables table that makes the kernel obey the program's decisions, and restores it after changes by
//! others.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::{runtime::Handle, task::block_in_place};
use tracing::{info, warn};

use super::{
    fd_store,
    netlink::{Guard, GuardCounters, Ruleset},
};
use crate::rate_limit::RestoreSchedule;

/// Minimum time between restorations after a burst. Short: without the table the kernel forwards past the selectors.
const INTERVAL: Duration = Duration::from_millis(20);

pub struct GuardTable {
    guard: Guard,
    /// When to restore it.
    schedule: RestoreSchedule,
    /// The kernel reports changes. Otherwise the periodic audit finds them.
    is_followed: bool,
}

impl GuardTable {
    /// Resumes with the socket in systemd's file descriptor store, if there is one. With `plain_table` the table has no
    /// owner, as on a kernel before 6.9.
    ///
    /// # Errors
    /// When the kernel has no nftables, or this process may not change them.
    pub async fn open(plain_table: bool) -> Result<Self> {
        let guard = match (fd_store::take(), plain_table) {
            (stored, true) => {
                if stored.is_some() {
                    fd_store::forget();
                }
                Guard::open_plain().await?
            }
            (Some(stored), false) => match Guard::resume(stored).await {
                Ok(Some(guard)) => guard,
                unusable => {
                    let why = unusable
                        .err()
                        .map_or("it is of another network namespace".to_owned(), |error| error.to_string());
                    warn!(name: "nftables_socket_closed", "the socket that systemd stores is closed: {why}");
                    fd_store::forget();
                    open_and_keep().await?
                }
            },
            (None, false) => open_and_keep().await?,
        };
        if !guard.is_owner() {
            info!(name: "nftables_table",
                "the nftables table inet vpnhub has no owner, which needs Linux 6.9: others can flush it, and the \
                 agent then restores it"
            );
        }
        Ok(Self { guard, schedule: RestoreSchedule::new(Duration::ZERO, INTERVAL), is_followed: true })
    }

    /// Blocks until the kernel has applied it, so that later steps can rely on it. Needs a multi-threaded runtime.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<()> {
        let guard = &mut self.guard;
        block_in_place(|| Handle::current().block_on(guard.apply(ruleset))).context(
            "cannot write the nftables table inet vpnhub, which enforces the selectors in the kernel's own forwarding",
        )
    }

    /// Returns when another process has changed the table. The caller then calls [`Self::apply`]. Rate-limited.
    /// Cancel-safe.
    pub async fn disturbed(&mut self) {
        let Self { guard, schedule, is_followed } = self;
        loop {
            tokio::select! {
                biased;
                () = schedule.wait() => break,
                heard = guard.disturbed(), if *is_followed => {
                    if let Err(error) = heard {
                        warn!(name: "nftables_table_failed",
                            "changes of the nftables table inet vpnhub cannot be followed, an audit finds them later: \
                             {error}"
                        );
                        *is_followed = false;
                    }
                    schedule.disturbed(Instant::now());
                }
            }
        }
        warn!(name: "nftables_table_disturbed", "another process changed or removed the nftables table inet vpnhub: the agent restores it");
    }

    /// Packets and bytes that the table dropped.
    pub fn counters(&mut self) -> Result<GuardCounters> {
        let guard = &mut self.guard;
        Ok(block_in_place(|| Handle::current().block_on(guard.counters()))?)
    }

    /// Removes the table: traffic that it dropped passes again.
    pub async fn remove(mut self) -> Result<()> {
        self.guard.remove().await?;
        fd_store::forget();
        Ok(())
    }
}

/// Under systemd, the stored socket owns the table even while no agent runs.
async fn open_and_keep() -> Result<Guard> {
    let guard = Guard::open().await?;
    if guard.is_owner() {
        guard.with_socket(fd_store::keep);
    }
    Ok(guard)
}

//! `vpnhub run`: the agent and its servers.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::background::{notify, reload_on};
use crate::{
    agent::{Agent, process},
    api::{AppState, MetricsListener, ScrapeLock, Socket, TraceLoad, router},
    config_manager::{ConfigManager, InitialConfig},
    datapath::{AttachMode, Instance},
    rate_limit::UNLIMITED,
};

/// Runs the agent until SIGINT or SIGTERM.
pub(super) async fn serve(
    config: &Path,
    state: &Path,
    attach: AttachMode,
    instance: &Instance,
    record: Option<&Path>,
    plain_table: bool,
    socket: PathBuf,
) -> Result<()> {
    // From here on a signal ends the agent, but not in the middle of its start.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;

    process::prepare();
    let mut socket = Socket::open(&socket)?;
    let mut start = InitialConfig::open(config, state, instance.as_str())?;
    start
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!(name: "configuration_warning", target: UNLIMITED, "{warning}"));
    let agent = Box::pin(Agent::start(start.take_config(), attach, instance, plain_table, record)).await?;
    let (sender, requests) = mpsc::channel(16);
    let (orders, taken) = mpsc::channel(16);
    let manager = ConfigManager::new(start, sender.clone());
    let state = AppState {
        agent: sender,
        changes: orders.clone(),
        events: agent.events(),
        packets: agent.packets(),
        store: manager.write_state(),
        reloads: manager.reload_state(),
        scrapes: ScrapeLock::default(),
        metrics: MetricsListener::default(),
        trace: TraceLoad::new(agent.live_tables()),
    };
    tokio::spawn(manager.run(taken));
    state.metrics.serve(agent.metrics_address(), state.clone());
    socket.serve(router(state));
    tokio::spawn(reload_on(hangup, orders));
    notify(&[NotifyState::Ready]);
    let shutdown = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        notify(&[NotifyState::Stopping]);
    };
    Box::pin(agent.run(requests, shutdown)).await
}

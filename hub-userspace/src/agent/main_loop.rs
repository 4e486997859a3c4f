//! The event loop: receives events, passes them to [`step`](super::step::step) and performs the resulting effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, ready},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    edge::{self, Edge},
    effect::Settled,
    event::Event,
    host::{self, Host},
    lock::InstanceLock,
    metrics::MetricsSnapshot,
    packet_names::PacketNames,
    record::Recorder,
    request::Request,
    snapshot::Snapshot,
    watchdog::Watchdog,
    world::{RETRY, World},
};
use crate::{
    api_types::event::ConnectionEvent,
    config::{Config, model::OnStop},
    datapath::{Dataplane, LiveTables},
    health,
    ipsec::{vici::driver::Driver, xfrm::translated},
    kernel::netlink::{Changes, HostFollower, HostState, take_out_of_group},
    observe::packets::PacketListeners,
};

/// What an agent leaves in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    /// Programs, tables, routes and neighbours, for the next agent.
    Datapath,
    /// The nftables table, which blocks the sites.
    Table,
    Nothing,
}

pub struct Agent {
    pub(super) world: World,
    pub(super) edge: Edge<Dataplane, Host, Driver>,
    /// The follower's current view.
    pub(super) host: HostState,
    pub(super) follower: HostFollower,
    /// Time of the next attempt after following the host has failed.
    pub(super) follow_after: Instant,
    pub(super) neighbour_misses: mpsc::Receiver<(u32, IpAddr)>,
    pub(super) verdicts: mpsc::UnboundedReceiver<health::VerdictChange>,
    pub(super) settled: mpsc::UnboundedReceiver<Settled>,
    pub(super) recorder: Option<Recorder>,
    /// The address of the listener for Prometheus.
    pub(super) metrics: watch::Sender<Option<SocketAddr>>,
    pub(super) packets: PacketListeners,
    pub(super) _lock: InstanceLock,
}

impl Agent {
    pub(super) fn handle(&mut self, event: Event) -> Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&event, std::time::Instant::now());
        }
        edge::drive(&mut self.world, &mut self.edge, event, std::time::Instant::now)
    }

    /// As [`Self::handle`], for events whose result nobody waits for: an error is logged.
    fn follow(&mut self, event: Event) {
        if let Err(error) = self.handle(event) {
            error!(name: "change_failed", "{error:#}; the previous state stays in force; next attempt in {} s", RETRY.as_secs());
        }
    }

    /// Sender of connection events, for subscribers.
    pub fn events(&self) -> broadcast::WeakSender<ConnectionEvent> {
        self.edge.listeners.downgrade()
    }

    /// The program's tables, for a second load.
    pub fn live_tables(&self) -> Arc<LiveTables> {
        self.edge.datapath.live_tables()
    }

    /// Where listeners to packets come in.
    pub fn packets(&self) -> PacketListeners {
        self.packets.clone()
    }

    /// The address at which to serve metrics, as configured; `None`: at none.
    pub fn metrics_address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.metrics.subscribe()
    }

    /// Serves until `shutdown`. Afterwards the datapath keeps running, unless configured to be detached.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, shutdown: impl Future) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut watchdog = Watchdog::of_systemd();
        loop {
            let Edge { kernel, ike, datapath: _, listeners: _ } = &mut self.edge;
            let Host { guard, interfaces, policies, grace, reconciler, sysctls, learned, .. } = kernel;
            // Priority order: failures before requests, requests before deferrable work.
            tokio::select! {
                biased;
                () = watchdog.due() => watchdog.ping(),
                _ = &mut shutdown => break,
                changes = changed(self.follow_after, &mut self.follower, &mut self.host) => match changes {
                    Ok(changes) => self.follow(Event::Host { host: self.host.clone(), changes }),
                    Err(error) => {
                        error!(name: "host_not_followed", "the host's interfaces cannot be followed: {error:#}");
                        self.follow_after = Instant::now() + RETRY;
                    }
                },
                Some(verdict) = self.verdicts.recv() => {
                    let reports = self.reports(verdict);
                    self.follow(Event::Health(reports));
                }
                () = ike.changed() => self.follow(Event::Tunnels(self.edge.ike.view())),
                () = interfaces.changed() => self.follow(Event::Interfaces(self.edge.kernel.interfaces.problems())),
                () = policies.changed() => self.follow(Event::Policies(self.edge.kernel.policies.view())),
                changes = learned.changed() => self.follow(Event::Learned(changes)),
                () = guard.disturbed() => self.follow(Event::GuardDisturbed),
                () = reconciler.disturbed() => self.follow(Event::RoutesDisturbed),
                () = sysctls.disturbed() => self.follow(Event::SysctlsDisturbed),
                () = host::finished(grace) => {
                    self.edge.kernel.grace = None;
                    self.follow(Event::GraceOver);
                }
                Some(request) = requests.recv() => self.answer(request),
                () = sleep_until(self.world.due().into()) => self.follow(Event::Due),
                () = ready(()), if self.world.has_work() => self.follow(Event::Idle),
                Some(settled) = self.settled.recv() => self.follow(Event::Settled(settled)),
                Some((ifindex, address)) = self.neighbour_misses.recv() => {
                    self.follow(Event::NeighbourMiss(ifindex, address));
                }
            }
        }
        info!(name: "agent_stopping", "stopping");
        // Requests in the queue fail now instead of waiting for an answer.
        drop(requests);
        let remains = match self.world.config().dataplane.on_stop {
            OnStop::Detach => Remains::Nothing,
            OnStop::Keep => Remains::Datapath,
        };
        Box::pin(self.stop(remains)).await
    }

    /// Reports for this verdict and for all others in the queue.
    fn reports(&mut self, first: health::VerdictChange) -> BTreeMap<String, health::HealthReport> {
        let mut reports = BTreeMap::new();
        let mut next = Some(first);
        while let Some(health::VerdictChange { connection, .. }) = next {
            // The queued verdict may be outdated: the prober has the current one.
            if let Some(report) = self.edge.kernel.prober.report(&connection) {
                reports.insert(connection, report);
            }
            next = self.verdicts.try_recv().ok();
        }
        reports
    }

    /// Ends the agent. Routes are removed first, so that packets passed to the kernel meanwhile have no route to a
    /// site, whatever `ip_forward` is set to. xfrm interfaces always stay, like strongSwan's tunnels.
    pub(super) async fn stop(self, remains: Remains) -> Result<()> {
        drop(self.recorder);
        let Edge { datapath, mut kernel, .. } = self.edge;
        if remains != Remains::Datapath {
            let cleared = kernel.reconciler.clear().await;
            if let Err(failure) = translated::remove_all() {
                warn!(name: "ipsec_policy_not_removed", "IPsec policies of the agent are not removed: {failure}");
            }
            datapath.unload()?;
            if let Err(failure) = kernel.spreader.put_all_back() {
                warn!(name: "rps_not_restored", "rps_cpus is not put back: {failure}");
            }
            // The nftables table stays as long as one of the routes does.
            let report = cleared.context("cannot remove the routes of the agent from the kernel")?;
            for failure in report.failures {
                warn!(name: "route_not_removed", "not removed: {failure}");
            }
        }
        if remains == Remains::Nothing {
            kernel.guard.remove().await?;
            take_out_of_group(&BTreeSet::new()).await?;
        }
        kernel.interfaces.end().await;
        Ok(())
    }

    fn answer(&mut self, request: Request) {
        // The client may have disconnected: the change is made anyway.
        match request {
            Request::Status(answer) => {
                // A probe that cannot be sent has a reason before it has a verdict.
                let reports = self.edge.kernel.prober.reports();
                self.follow(Event::Health(reports));
                drop(answer.send(Snapshot::take(&self.world, &mut self.edge)));
            }
            Request::Metrics(answer) => drop(answer.send(MetricsSnapshot::take(&self.world, &self.edge))),
            Request::Trace(request, answer) => drop(answer.send(self.world.trace(&request))),
            Request::PacketNames(answer) => drop(answer.send(PacketNames::of(&self.world))),
            Request::Config(answer) => drop(answer.send(Arc::clone(self.world.config()))),
            Request::TunnelsUp(answer) => drop(answer.send(self.world.has_all_tunnels())),
            Request::ReadSecrets(answer) => {
                self.follow(Event::Secrets);
                self.edge.ike.read_files(answer);
            }
            Request::Renegotiate { name, children, answer } => self.edge.ike.renegotiate(name, children, answer),
            Request::CheckCapacity(transition, answer) => drop(answer.send(self.world.check_capacity(&transition))),
            Request::Commit(transition, answer) => {
                // The change stays in the desired state on an error and is retried.
                let committed = self
                    .handle(Event::Change(transition))
                    .inspect_err(|error| warn!(name: "change_failed", "{error:#}"));
                drop(answer.send(committed.map(|()| self.edge.kernel.settlement())));
                let config = self.world.config();
                self.edge.kernel.prober.keep_counts(config);
                let listen = listen(config);
                self.metrics.send_if_modified(|address| std::mem::replace(address, listen) != listen);
            }
        }
    }
}

pub(super) fn listen(config: &Config) -> Option<SocketAddr> {
    config.metrics.map(|metrics| metrics.listen)
}

/// Next changes on the host, not before `after`.
async fn changed(after: Instant, follower: &mut HostFollower, host: &mut HostState) -> Result<Changes> {
    sleep_until(after).await;
    follower.changed(host).await
}

//! The event loop: receives events, passes them to [`step`](super::step::step) and performs the resulting effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, ready},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{
    edge::{self, Edge},
    effect::Settled,
    event::Event,
    host::{self, Host},
    lock::{InstanceLock, SPREAD_MEMORY, old_agent_runs},
    metrics::MetricsSnapshot,
    packet_names::PacketNames,
    record::{Recorder, Recording, format::RecordingHeader},
    request::Request,
    snapshot::Snapshot,
    watchdog::Watchdog,
    world::{RETRY, World},
};
use crate::{
    api_types::event::ConnectionEvent,
    config::{
        Config,
        model::{Learn, OnStop, SelectorSource},
    },
    connection::memory::Clock,
    datapath::{AttachMode, Dataplane, Instance, LiveTables},
    health::{self, Prober},
    ipsec::{
        links::first_links,
        vici::driver::Driver,
        xfrm::{
            self,
            translated::{self, TranslatedPolicies},
        },
    },
    kernel::{
        guard::GuardTable,
        netlink::{
            Changes, HostFollower, HostState, Interfaces, Reconciler, RouteFollower, TableChanges, take_out_of_group,
        },
        spread::Spreader,
        sysctl::Sysctls,
    },
    observe::packets::{self, PacketListeners},
};

/// Events that a listener may lag behind.
const EVENTS: usize = 1024;
/// Longest wait at the start for the SAs while an earlier agent's datapath runs.
const HEAR_WITHIN: Duration = Duration::from_secs(3);

pub struct Agent {
    world: World,
    edge: Edge<Dataplane, Host, Driver>,
    /// The follower's current view.
    host: HostState,
    follower: HostFollower,
    /// Time of the next attempt after following the host has failed.
    follow_after: Instant,
    neighbour_misses: mpsc::Receiver<(u32, IpAddr)>,
    verdicts: mpsc::UnboundedReceiver<health::VerdictChange>,
    settled: mpsc::UnboundedReceiver<Settled>,
    recorder: Option<Recorder>,
    /// The address of the listener for Prometheus.
    metrics: watch::Sender<Option<SocketAddr>>,
    packets: PacketListeners,
    _lock: InstanceLock,
}

impl Agent {
    /// Loads the programs, reconciles everything, and takes over the datapath of an earlier agent of this instance.
    /// That datapath forwards unchanged until then. On an error it stays in place; without one, all changes to the
    /// host are reverted.
    ///
    /// With `plain_table` the nftables table has no owner, as on kernels before 6.9.
    pub async fn start(
        config: Config,
        mode: AttachMode,
        instance: &Instance,
        plain_table: bool,
        record: Option<&Path>,
    ) -> Result<Self> {
        let lock = InstanceLock::claim()?;
        // Behind the lock: a refused start leaves no empty recording.
        let recording = record.map(Recording::create).transpose()?.flatten();
        if old_agent_runs() {
            warn!(
                "an agent of version 0.1 runs in this network namespace, and two agents would undo each other's \
                 routes: stop it, then start this one again"
            );
        }
        let (mut datapath, inherited) = Dataplane::start(&config.dataplane, instance)?;
        let is_running = inherited.is_running;
        datapath.follow_log();
        let neighbour_misses = datapath.neighbour_misses()?;
        let packets =
            packets::start(datapath.packet_tap()?).context("cannot follow the program's records of packets")?;
        let interfaces = Interfaces::start(first_links(&config)).await?;
        let (host, follower) = HostFollower::start().await?;
        let (learned, routes) = RouteFollower::start(config.learn.as_ref().map(Learn::followed)).await?;
        let (memory, name) = lock.companion(SPREAD_MEMORY).context("cannot open the lock's directory again")?;
        let (sender, verdicts) = mpsc::unbounded_channel();
        let (reports, settled) = mpsc::unbounded_channel();
        let kernel = Host {
            interfaces,
            policies: xfrm::follow::PolicyFollower::start(),
            learned,
            prober: Prober::start(sender),
            guard: GuardTable::open(plain_table).await?,
            sysctls: Sysctls::start(),
            translated: TranslatedPolicies::default(),
            spreader: Spreader::start(memory, name),
            reconciler: Reconciler::start()?,
            waiting: Vec::new(),
            settled: reports,
            grace: None,
        };
        let ike = Driver::start(&config);
        let (clock, now) = (Clock::now(), std::time::Instant::now());
        let begin = |recording: Recording| {
            recording.begin(&RecordingHeader::new(&config, &host, &inherited, mode, clock, now), now)
        };
        let recorder = recording.map(begin).transpose()?;
        let metrics = watch::Sender::new(listen(&config));
        let mut agent = Self {
            world: World::new(config, host.clone(), inherited, mode, clock, now),
            edge: Edge { datapath, kernel, ike, listeners: broadcast::Sender::new(EVENTS) },
            host,
            follower,
            follow_after: Instant::now(),
            neighbour_misses,
            verdicts,
            settled,
            recorder,
            metrics,
            packets,
            _lock: lock,
        };
        if is_running {
            info!(%instance, "taking over the running datapath");
            agent.hear().await;
        }
        if let Err(error) = agent.start_forwarding(routes).await {
            if let Err(another) = Box::pin(agent.stop(!is_running)).await {
                warn!("{another:#}");
            }
            return Err(error);
        }
        let config = agent.world.config();
        info!(
            gateway = config.gateway.name,
            connections = config.connections.len(),
            routes = config.routes.len(),
            "ready"
        );
        Ok(agent)
    }

    /// Waits up to [`HEAR_WITHIN`] for the SAs' selectors, which the running datapath may have but this agent does
    /// not know yet.
    async fn hear(&mut self) {
        let connections = self.world.config().connections.values();
        let ike = connections.clone().any(|connection| connection.ipsec.is_some());
        let xfrm = connections.clone().any(|connection| connection.selectors == SelectorSource::Xfrm);
        let Edge { kernel: Host { policies, .. }, ike: driver, .. } = &mut self.edge;
        policies.want(xfrm);
        let heard = async {
            loop {
                let (tunnels, policies_view) = (driver.view(), policies.view());
                let ike = ike && !tunnels.heard && tunnels.unreachable.is_none();
                let xfrm = xfrm && policies_view.table.is_none() && policies_view.problem.is_none();
                if !ike && !xfrm {
                    break;
                }
                tokio::select! {
                    () = driver.changed() => {}
                    () = policies.changed() => {}
                }
            }
        };
        if timeout(HEAR_WITHIN, heard).await.is_err() {
            warn!("the SAs are not known yet: the file's selectors are in force until then");
        }
    }

    /// `routes` are those of the followed table: a restart must not lose them for a moment.
    async fn start_forwarding(&mut self, routes: TableChanges) -> Result<()> {
        for event in [
            Event::Tunnels(self.edge.ike.view()),
            Event::Policies(self.edge.kernel.policies.view()),
            Event::Interfaces(self.edge.kernel.interfaces.problems()),
            Event::Learned(routes),
            Event::Start,
            Event::Started,
        ] {
            self.handle(event)?;
        }
        let settled = self.edge.kernel.settlement();
        while self.world.has_work() {
            self.handle(Event::Idle)?;
        }
        if let Err(error) = settled.await? {
            bail!("{error}");
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&event, std::time::Instant::now());
        }
        edge::drive(&mut self.world, &mut self.edge, event, std::time::Instant::now)
    }

    /// As [`Self::handle`], for events whose result nobody waits for: an error is logged.
    fn follow(&mut self, event: Event) {
        if let Err(error) = self.handle(event) {
            error!("{error:#}; the previous state stays in force; next attempt in {} s", RETRY.as_secs());
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
                        error!("the host's interfaces cannot be followed: {error:#}");
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
        info!("stopping");
        // Requests in the queue fail now instead of waiting for an answer.
        drop(requests);
        let detach = self.world.config().dataplane.on_stop == OnStop::Detach;
        Box::pin(self.stop(detach)).await
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

    /// Leaves programs, tables, routes and neighbours in place for the next agent. With `detach` all are removed,
    /// routes first, so that packets passed to the kernel meanwhile have no route to a site, whatever `ip_forward` is
    /// set to. xfrm interfaces always stay, like strongSwan's tunnels.
    pub async fn stop(self, detach: bool) -> Result<()> {
        drop(self.recorder);
        let Edge { datapath, mut kernel, .. } = self.edge;
        if detach {
            let report =
                kernel.reconciler.clear().await.context("cannot remove the routes of the agent from the kernel")?;
            for failure in report.failures {
                warn!("not removed: {failure}");
            }
            if let Err(failure) = translated::remove_all() {
                warn!("IPsec policies of the agent are not removed: {failure}");
            }
            datapath.unload()?;
            kernel.guard.remove().await?;
            take_out_of_group(&BTreeSet::new()).await?;
            if let Err(failure) = kernel.spreader.put_all_back() {
                warn!("rps_cpus is not put back: {failure}");
            }
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
            Request::ReadSecrets(answer) => {
                self.follow(Event::Secrets);
                self.edge.ike.read_files(answer);
            }
            Request::Renegotiate { name, children, answer } => self.edge.ike.renegotiate(name, children, answer),
            Request::CheckCapacity(transition, answer) => drop(answer.send(self.world.check_capacity(&transition))),
            Request::Commit(transition, answer) => {
                // The change stays in the desired state on an error and is retried.
                let committed = self.handle(Event::Change(transition)).inspect_err(|error| warn!("{error:#}"));
                drop(answer.send(committed.map(|()| self.edge.kernel.settlement())));
                let config = self.world.config();
                self.edge.kernel.prober.keep_counts(config);
                let listen = listen(config);
                self.metrics.send_if_modified(|address| std::mem::replace(address, listen) != listen);
            }
        }
    }
}

fn listen(config: &Config) -> Option<SocketAddr> {
    config.metrics.map(|metrics| metrics.listen)
}

/// Next changes on the host, not before `after`.
async fn changed(after: Instant, follower: &mut HostFollower, host: &mut HostState) -> Result<Changes> {
    sleep_until(after).await;
    follower.changed(host).await
}

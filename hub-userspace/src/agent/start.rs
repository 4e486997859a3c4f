//! The start of an agent, which takes over the datapath of an earlier one.
//!
//! Without a datapath the nftables table is in force first: from then on the kernel forwards nothing that no program has
//! marked. So strongSwan brings up the tunnels while the kernel verifies the programs, which takes most of a start. With
//! a datapath, nothing changes before the programs are loaded: it forwards by the earlier configuration.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    edge::Edge,
    event::Event,
    guard::closed,
    host::Host,
    lock::{InstanceLock, SPREAD_MEMORY, old_agent_runs},
    main_loop::{Agent, Remains, listen},
    record::{Recording, format::RecordingHeader},
    world::World,
};
use crate::{
    background::spawn_blocking,
    config::{
        Config,
        model::{Learn, SelectorSource},
    },
    connection::memory::Clock,
    datapath::{AttachMode, Claim, DatapathError, Dataplane, Instance},
    health::Prober,
    ipsec::{
        links::first_links,
        vici::driver::Driver,
        xfrm::{follow::PolicyFollower, translated::TranslatedPolicies},
    },
    kernel::{
        guard::GuardTable,
        netlink::{HostFollower, Interfaces, Reconciler, RouteFollower, TableChanges},
        spread::Spreader,
        sysctl::Sysctls,
    },
    observe::packets,
};

/// Events that a listener may lag behind.
const EVENTS: usize = 1024;
/// Longest wait at the start for the SAs while an earlier agent's datapath runs.
const HEAR_WITHIN: Duration = Duration::from_secs(3);
const CUT_SHORT: &str = "loading the programs was cut short";

impl Agent {
    /// Loads the programs, reconciles everything, and takes over the datapath of an earlier agent of this instance.
    /// That datapath forwards unchanged until then. On an error it stays in place. Without one the nftables table
    /// stays, because tunnels may be up; everything else is reverted.
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
        let claim = Claim::new(instance)?;
        let is_running = claim.inherited().is_running;
        let mut guard = GuardTable::open(plain_table).await?;
        if is_running {
            info!(%instance, "taking over the running datapath");
        } else {
            // Also in place of a table that is there: others may have emptied it.
            guard.apply(&closed(&config))?;
        }
        let started = Box::pin(Self::start_behind(guard, lock, claim, config, mode, recording)).await;
        if started.is_err() && !is_running {
            warn!(
                "the nftables table inet vpnhub stays: the kernel forwards nothing from and to the sites until an \
                 agent runs; `vpnhub unload` removes it"
            );
        }
        started
    }

    /// As [`Self::start`], behind the nftables table.
    async fn start_behind(
        guard: GuardTable,
        lock: InstanceLock,
        claim: Claim,
        config: Config,
        mode: AttachMode,
        recording: Option<Recording>,
    ) -> Result<Self> {
        let inherited = claim.inherited().clone();
        let is_running = inherited.is_running;
        let settings = config.dataplane.clone();
        let mut loading = spawn_blocking(move || Dataplane::start(&settings, claim));
        let loaded = if is_running { Some((&mut loading).await.context(CUT_SHORT)??) } else { None };
        let ike = Driver::start(&config);
        let interfaces = Interfaces::start(first_links(&config)).await?;
        let (host, follower) = HostFollower::start().await?;
        let (learned, routes) = RouteFollower::start(config.learn.as_ref().map(Learn::followed)).await?;
        let (memory, name) = lock.companion(SPREAD_MEMORY).context("cannot open the lock's directory again")?;
        let (sender, verdicts) = mpsc::unbounded_channel();
        let (reports, settled) = mpsc::unbounded_channel();
        let mut kernel = Host {
            interfaces,
            policies: PolicyFollower::start(),
            learned,
            prober: Prober::start(sender).context("cannot start the thread of the health checks")?,
            guard,
            sysctls: Sysctls::start(),
            translated: TranslatedPolicies::default(),
            spreader: Spreader::start(memory, name),
            reconciler: Reconciler::start()?,
            waiting: Vec::new(),
            settled: reports,
            grace: None,
        };
        let mut datapath = match loaded {
            Some(datapath) => datapath,
            None => loaded_behind(&mut kernel.guard, &config, loading).await?,
        };
        datapath.follow_log();
        let neighbour_misses = datapath.neighbour_misses()?;
        let packets =
            packets::start(datapath.packet_tap()?).context("cannot follow the program's records of packets")?;
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
            agent.hear().await;
        }
        if let Err(error) = agent.start_forwarding(routes).await {
            let remains = if is_running { Remains::Datapath } else { Remains::Table };
            if let Err(another) = Box::pin(agent.stop(remains)).await {
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
}

/// The loaded programs. Keeps the nftables table in force until then: before Linux 6.9 others can remove it.
async fn loaded_behind(
    guard: &mut GuardTable,
    config: &Config,
    mut loading: JoinHandle<Result<Dataplane, DatapathError>>,
) -> Result<Dataplane> {
    loop {
        tokio::select! {
            loaded = &mut loading => return Ok(loaded.context(CUT_SHORT)??),
            () = guard.disturbed() => guard.apply(&closed(config))?,
        }
    }
}

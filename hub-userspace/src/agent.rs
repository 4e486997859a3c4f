//! The agent: follows configuration and host, and keeps program and kernel in step with them.
//!
//! One loop holds all state and is the only writer. What takes long is done elsewhere: files by the
//! [`Changer`](crate::changer::Changer), kernel routes by [`netlink::Reconciler`](crate::netlink::Reconciler). So a failure is
//! acted on at once, whatever else is going on.

mod kernel;
mod liveness;
mod selectors;
mod snapshot;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, ready},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, info, warn};

use self::kernel::Kernel;
pub use self::{kernel::Settled, snapshot::Snapshot};
use crate::{
    attachments::Attachments,
    compile::Inputs,
    config::{
        Config,
        difference::Difference,
        model::{OnStop, Source},
    },
    dataplane::{Dataplane, Inherited, Instance, Mode},
    event::Event,
    guard,
    health::{self, Prober},
    id_allocator::Full,
    id_maps::IdMaps,
    lock::{InstanceLock, old_agent_runs},
    memory::Clock,
    netlink::{Changes, Failure, Follower, HostState, Interfaces, take_out_of_group},
    rib::Rib,
    selectors::Agreements,
    state::{Liveness, State, States},
    sysctl::Sysctls,
    tables::PolicyTables,
    vici::driver::Driver,
    watchdog::Watchdog,
    xfrm,
};

/// What is asked of the agent.
pub enum Request {
    Status(oneshot::Sender<Result<Snapshot>>),
    /// The configuration in force.
    Config(oneshot::Sender<Arc<Config>>),
    /// Whether the kernel program's tables have room for a change.
    Rehearse(Arc<Step>, oneshot::Sender<Result<(), Full>>),
    /// Reads the files anew that the configuration in force names: secrets, certificates.
    ReadSecrets,
    /// Puts a change in force. Answered when the program has it, with what tells that the kernel has it, too.
    Adopt(Arc<Step>, oneshot::Sender<Result<oneshot::Receiver<Settled>>>),
}

/// From one configuration to the next.
pub struct Step {
    pub difference: Difference,
    /// All of it, unless it follows from the difference: see [`Config::apply`].
    pub config: Option<Arc<Config>>,
}

/// What did not work is tried again after this long, if nothing happens before.
pub const RETRY: Duration = Duration::from_secs(5);
/// When all is well, the kernel's routes and rules are compared with what they should be after this long: other network
/// managers remove what they do not know.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Events that a listener may be behind.
const EVENTS: usize = 1024;
/// Most that a start waits for what is known of SAs, while an earlier agent's datapath runs.
const HEAR_WITHIN: Duration = Duration::from_secs(3);

pub struct Agent {
    config: Arc<Config>,
    host: HostState,
    follower: Follower,
    dataplane: Dataplane,
    wanted_neighbours: mpsc::Receiver<(u32, IpAddr)>,
    layout: IdMaps,
    rib: Arc<Rib>,
    /// As last compiled.
    policy_tables: PolicyTables,
    /// What SAs admit.
    agreements: Agreements,
    /// Connections for which that is otherwise than last told.
    dirty_selectors: BTreeSet<String>,
    liveness: Liveness,
    /// By which the next agent is told of times.
    clock: Clock,
    states: Arc<States>,
    /// When a connection that is held may be up.
    hold_ends: Option<Instant>,
    /// State of each connection and why it is so, as last told.
    told: BTreeMap<String, (State, Option<String>)>,
    events: broadcast::Sender<Event>,
    /// Keeps strongSwan in step, and tells how its tunnels are.
    ike: Driver,
    /// Makes xfrm interfaces.
    interfaces: Interfaces,
    /// Knows the SAs that others make.
    xfrm: xfrm::follow::Follower,
    prober: Prober,
    verdicts: mpsc::UnboundedReceiver<health::Event>,
    attachments: Attachments,
    /// Keeps the kernel to what the program decides.
    guard: guard::GuardReconciler,
    sysctls: Sysctls,
    /// Indices of the interfaces that TC alone reaches.
    tc_only: BTreeSet<u32>,
    kernel: Kernel,
    settled: mpsc::UnboundedReceiver<Settled>,
    /// What the kernel refused last time: it is told once.
    refused: Vec<Failure>,
    /// What has changed and is not all in the tables and in the kernel yet.
    pending: Pending,
    /// Ends when no packet is on its way any more with the numbers that are to be released.
    grace: Option<JoinHandle<()>>,
    is_starting: bool,
    /// When to follow the host again: it could not be followed.
    follow_after: Instant,
    /// When to look again at what did not work, and at what others may have removed.
    next_look: Instant,
    _lock: InstanceLock,
}

/// What has changed.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent parts, each changed or not")]
struct Pending {
    host: Changes,
    /// Connections, the VPC or settings; routes are the RIB's business.
    config: bool,
    /// A connection may have another state.
    states: bool,
    /// One has.
    ways: bool,
    /// SAs admit something else.
    selectors: bool,
}

impl Agent {
    /// Loads the programs, brings everything into step, and takes over the datapath of an earlier agent of this instance, which
    /// goes on as it is until then. On an error that datapath stays; where there was none, what has been done to the host is
    /// taken back.
    ///
    /// With `plain_table` the nftables table has no owner, as on kernels before 6.9.
    pub async fn start(config: Config, mode: Mode, instance: &Instance, plain_table: bool) -> Result<Self> {
        let lock = InstanceLock::claim()?;
        if old_agent_runs() {
            warn!(
                "an agent of version 0.1 runs in this network namespace, and two undo each other's routes: stop it, then \
                 start this one again"
            );
        }
        let (mut dataplane, inherited) = Dataplane::start(&config.dataplane, instance)?;
        let Inherited { is_running, connections, groups } = inherited;
        let (mut layout, mut liveness, clock) = (IdMaps::default(), Liveness::default(), Clock::now());
        layout.inherit(connections.iter().map(|(name, (slot, _))| (name.clone(), *slot)), groups);
        for (name, (_, memory)) in connections {
            if let Some(memory) = memory {
                liveness.resume(name, &memory, &clock);
            }
        }
        dataplane.follow_log();
        let wanted_neighbours = dataplane.wanted_neighbours()?;
        let interfaces = Interfaces::start(config.xfrm_links()).await?;
        let (host, follower) = Follower::start().await?;
        let (sender, verdicts) = mpsc::unbounded_channel();
        let (reports, settled) = mpsc::unbounded_channel();
        let config = Arc::new(config);
        let mut agent = Self {
            rib: Arc::new(Rib::build(&config, &host)),
            ike: Driver::start(&config),
            interfaces,
            xfrm: xfrm::follow::Follower::start(),
            config,
            host,
            follower,
            dataplane,
            wanted_neighbours,
            layout,
            policy_tables: PolicyTables::default(),
            agreements: Agreements::new(),
            dirty_selectors: BTreeSet::new(),
            liveness,
            clock,
            states: Arc::default(),
            hold_ends: None,
            told: BTreeMap::new(),
            events: broadcast::Sender::new(EVENTS),
            prober: Prober::start(sender),
            verdicts,
            attachments: Attachments::new(mode),
            guard: guard::GuardReconciler::open(plain_table).await?,
            sysctls: Sysctls::default(),
            tc_only: BTreeSet::new(),
            kernel: Kernel::start(reports)?,
            settled,
            refused: Vec::new(),
            pending: Pending { host: Changes::everything(), config: true, states: true, ways: true, selectors: true },
            grace: None,
            is_starting: true,
            follow_after: Instant::now(),
            next_look: Instant::now() + LOOK_AGAIN,
            _lock: lock,
        };
        if is_running {
            info!(%instance, "taking over the running datapath");
            agent.hear().await;
        }
        if let Err(error) = agent.start_forwarding().await {
            if let Err(another) = agent.stop(!is_running).await {
                warn!("{another:#}");
            }
            return Err(error);
        }
        info!(
            gateway = agent.config.gateway.name,
            connections = agent.config.connections.len(),
            routes = agent.config.routes.len(),
            "ready"
        );
        Ok(agent)
    }

    /// Waits for what the running datapath may know and this agent does not yet: what SAs admit. Not for ever.
    async fn hear(&mut self) {
        let connections = self.config.connections.values();
        let ike = connections.clone().any(|connection| connection.ipsec.is_some());
        let xfrm = connections.clone().any(|connection| connection.selectors == Source::Xfrm);
        self.xfrm.want(xfrm);
        let heard = async {
            loop {
                let (tunnels, policies) = (self.ike.view(), self.xfrm.view());
                let ike = ike && !tunnels.heard && tunnels.unreachable.is_none();
                let xfrm = xfrm && policies.table.is_none() && policies.problem.is_none();
                if !ike && !xfrm {
                    break;
                }
                tokio::select! {
                    () = self.ike.changed() => {}
                    () = self.xfrm.changed() => {}
                }
            }
        };
        if timeout(HEAR_WITHIN, heard).await.is_err() {
            warn!("the SAs are not known yet: until they are, the selectors of the file are in force");
        }
    }

    async fn start_forwarding(&mut self) -> Result<()> {
        self.converge()?;
        self.is_starting = false;
        let settled = self.kernel.settled();
        while self.kernel.has_work() {
            self.kernel.work(&self.rib, &self.config);
        }
        if let Err(error) = settled.await? {
            bail!("{error}");
        }
        Ok(())
    }

    /// What happens to the connections from now on.
    pub fn events(&self) -> broadcast::WeakSender<Event> {
        self.events.downgrade()
    }

    /// Serves until `shutdown`. The datapath goes on then.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, shutdown: impl Future) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut watchdog = Watchdog::of_systemd();
        loop {
            // In this order: what a failure asks for goes before what somebody asks for, and that before what can wait.
            tokio::select! {
                biased;
                () = watchdog.due() => watchdog.ping(),
                _ = &mut shutdown => break,
                changes = changed(self.follow_after, &mut self.follower, &mut self.host) => match changes {
                    Ok(changes) => self.follow(changes),
                    Err(error) => {
                        error!("the host's interfaces cannot be followed: {error:#}");
                        self.follow_after = Instant::now() + RETRY;
                    }
                },
                Some(_) = self.verdicts.recv() => {
                    // The prober has the verdicts; several may have come at once.
                    while self.verdicts.try_recv().is_ok() {}
                    self.pending.states = true;
                    self.follow(Changes::default());
                }
                () = self.ike.changed() => {
                    self.pending.states = true;
                    self.follow(Changes::default());
                }
                () = self.interfaces.changed() => {
                    self.pending.states = true;
                    self.follow(Changes::default());
                }
                () = self.xfrm.changed() => {
                    self.pending.states = true;
                    self.follow(Changes::default());
                }
                () = until(self.hold_ends) => {
                    self.pending.states = true;
                    self.follow(Changes::default());
                }
                () = self.guard.disturbed() => self.put_guard_back(),
                () = finished(&mut self.grace) => self.release(),
                Some(request) = requests.recv() => self.answer(request),
                () = sleep_until(self.next_look) => {
                    self.next_look = Instant::now() + LOOK_AGAIN;
                    self.kernel.audit();
                    self.sysctls.audit();
                    self.put_guard_back();
                    self.pending.host.neighbours = true;
                    self.follow(Changes::default());
                }
                () = ready(()), if self.kernel.has_work() => self.kernel.work(&self.rib, &self.config),
                Some(settled) = self.settled.recv() => self.tell_refused(settled),
                Some((ifindex, address)) = self.wanted_neighbours.recv() => self.kernel.probe(ifindex, address),
            }
        }
        info!("stopping");
        // Nobody waits for an answer that does not come any more.
        drop(requests);
        let detach = self.config.dataplane.on_stop == OnStop::Detach;
        self.stop(detach).await
    }

    /// Leaves everything as it is for the next agent: programs, tables, routes, neighbours. With `detach` it takes them all away,
    /// routes first: what the kernel gets by then has no way to a site, whatever `ip_forward` says. xfrm interfaces stay
    /// in any case, as strongSwan's tunnels do.
    pub async fn stop(self, detach: bool) -> Result<()> {
        if detach {
            let report = self.kernel.clear().await.context("cannot remove the routes of the agent from the kernel")?;
            for failure in report.failures {
                warn!("not removed: {failure}");
            }
            self.dataplane.unload()?;
            self.guard.remove().await?;
            take_out_of_group(&BTreeSet::new()).await?;
        }
        self.interfaces.end().await;
        Ok(())
    }

    fn follow(&mut self, changes: Changes) {
        self.pending.host.add(changes);
        if let Err(error) = self.converge() {
            error!("{error:#}; what was in force stays so, next try in {} s", RETRY.as_secs());
        }
    }

    /// Looks again soon: something did not work.
    fn retry(&mut self) {
        self.next_look = self.next_look.min(Instant::now() + RETRY);
    }

    /// Brings the program into step with configuration and host, as far as something is pending, and has the kernel
    /// follow. What fails does not keep the rest from being done; all of it stays pending.
    fn converge(&mut self) -> Result<()> {
        for (ifindex, address) in std::mem::take(&mut self.pending.host.stale) {
            // The kernel would never notice that a link address has changed which only the program uses.
            if self.dataplane.is_attached(ifindex) {
                self.kernel.probe(ifindex, address);
            }
        }
        for ifindex in std::mem::take(&mut self.pending.host.gone) {
            self.dataplane.forget(ifindex);
            self.sysctls.forget(ifindex);
        }
        let Changes { links, addresses, neighbours, gateways, .. } = self.pending.host;
        let Pending { config, states, .. } = self.pending;
        if config {
            self.interfaces.want(self.config.xfrm_links());
            self.xfrm.want(self.config.connections.values().any(|connection| connection.selectors == Source::Xfrm));
        }
        if links || neighbours || config {
            self.prober.set(health::targets(&self.config, &self.host));
        }
        let mut result = self.protect();
        if self.is_starting {
            // Without it the kernel would forward past the selectors.
            result.as_ref().map_err(|error| anyhow!("{error:#}"))?;
        }
        if links || states || config {
            self.pending.selectors |= self.agree();
            self.pending.ways |= self.judge();
            if (links || self.pending.ways) && !config {
                result = result.and(self.steer());
            }
            self.tell_states();
        }
        let Pending { ways, selectors, .. } = self.pending;
        let own = links || addresses || gateways || config;
        if own && self.rib.is_behind(self.config.vpc.as_ref(), &self.host) {
            Arc::make_mut(&mut self.rib).follow(self.config.vpc.as_ref(), &self.host);
        }
        if links || neighbours || config || ways || selectors || self.rib.changed().len() > 0 {
            self.kernel
                .follow(inputs(&self.config, &self.host, &self.states, &self.agreements, &self.tc_only), &self.rib);
            if self.is_starting {
                // The kernel takes its time for many routes: meanwhile there is more to do.
                self.kernel.plan(&self.rib, &self.config);
            }
            let in_force = Arc::clone(&self.config);
            let interfaces = interfaces(&in_force);
            self.tc_only = self.attachments.tc_only(&self.dataplane, &self.host, &interfaces);
            result = result.and(self.write_tables(links || neighbours || config || selectors));
            // Connections have their numbers now.
            result = result.and(self.protect());
            self.sysctls.update(&self.config, &self.host);
            self.sysctls.reflect_marks();
            if self.rib.groups().any(|members| members.len() > 1) {
                self.sysctls.choose_by_ports();
            }
            if self.is_starting {
                // An earlier agent's programs go on with their tables, rather than to be replaced with half of these.
                result.as_ref().map_err(|error| anyhow!("{error:#}"))?;
            }
            self.attachments.update(&mut self.dataplane, &self.host, &interfaces);
            let tc_only = self.attachments.tc_only(&self.dataplane, &self.host, &interfaces);
            if tc_only != self.tc_only {
                // A driver has no native XDP: that is known once it was tried.
                self.tc_only = tc_only;
                result = result.and(self.write_tables(true));
            }
        }
        self.remember_states();
        self.tell_selectors();
        if (links || addresses) && !self.is_starting {
            // The kernel drops routes of its own accord when a link or an address goes.
            self.kernel.audit();
        }
        match &result {
            Ok(()) => self.pending = Pending::default(),
            Err(_) => self.retry(),
        }
        if !self.refused.is_empty() || !self.attachments.is_complete(&self.host) {
            self.retry();
        }
        result
    }

    /// Has the nftables table follow.
    fn protect(&mut self) -> Result<()> {
        self.guard.follow(&self.config, &self.host, &self.agreements, &self.layout.policy.connections)
    }

    /// Somebody else has changed the nftables table.
    fn put_guard_back(&mut self) {
        if let Err(error) = self.guard.apply() {
            error!("{error:#}; next try in {} s", RETRY.as_secs());
            self.retry();
        }
    }

    /// Logs what the kernel newly refuses; all of it is tried again.
    fn tell_refused(&mut self, settled: Settled) {
        let refused = match settled {
            Ok(refused) => refused,
            Err(error) => {
                error!("{error}; next try in {} s", RETRY.as_secs());
                return self.retry();
            }
        };
        for failure in refused.iter().filter(|failure| !self.refused.contains(failure)) {
            warn!("{failure}");
        }
        self.refused = refused;
        if !self.refused.is_empty() {
            return self.retry();
        }
        if let Err(error) = self.guard.routes_are_settled() {
            error!("{error:#}");
            self.retry();
        }
    }

    fn answer(&mut self, request: Request) {
        // The client may have gone: a change is made all the same.
        match request {
            Request::Status(answer) => drop(answer.send(self.snapshot())),
            Request::Config(answer) => drop(answer.send(Arc::clone(&self.config))),
            Request::ReadSecrets => self.ike.set(&self.config),
            Request::Rehearse(step, answer) => drop(answer.send(self.rehearse(&step))),
            Request::Adopt(step, answer) => {
                let adopted = self.adopt(&step);
                drop(answer.send(adopted.map(|()| self.kernel.settled())));
            }
        }
    }

    /// Puts a change in force. On an error it is wanted all the same, and tried again.
    fn adopt(&mut self, step: &Step) -> Result<()> {
        let difference = &step.difference;
        match &step.config {
            Some(config) => self.config = Arc::clone(config),
            None => Arc::make_mut(&mut self.config).apply(difference),
        }
        if difference.is_beyond_routes() {
            self.ike.set(&self.config);
        }
        if !difference.is_empty() {
            info!("configuration: {difference}");
        }
        if !difference.routes.is_empty() {
            Arc::make_mut(&mut self.rib).change(&difference.routes);
        }
        self.pending.config |= difference.is_beyond_routes();
        self.converge().inspect_err(|error| warn!("{error:#}"))
    }
}

fn inputs<'a>(
    config: &'a Config,
    host: &'a HostState,
    states: &'a States,
    agreements: &'a Agreements,
    tc_only: &'a BTreeSet<u32>,
) -> Inputs<'a> {
    Inputs { config, host, states, agreements, tc_only }
}

/// Names of all interfaces that are to be attached to.
fn interfaces(config: &Config) -> BTreeSet<&str> {
    let connections = config.connections.values().map(|connection| connection.interface.as_str());
    connections.chain(config.vpc.iter().map(|vpc| vpc.interface.as_str())).collect()
}

/// What changes on the host, after a time.
async fn changed(after: Instant, follower: &mut Follower, host: &mut HostState) -> Result<Changes> {
    sleep_until(after).await;
    follower.changed(host).await
}

/// Never, without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The end of a task; never, without one.
async fn finished(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

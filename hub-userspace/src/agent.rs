//! The agent: follows configuration and host, and keeps program and kernel in step with them.

mod change;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hub_common::maps::{Counters, UNATTRIBUTED, VPC};
use rustix::thread::{MembarrierCommand, membarrier};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    compile::{Inputs, compile},
    config::{Config, edit::Edit, store::Store},
    dataplane::{Dataplane, Mode, sum},
    layout::Layout,
    netlink::{Changes, Follower, HostPlan, HostState, Syncer},
    rib::{self, Rib},
    slowpath,
    state::{State, States, states},
    status::{self, Status},
};

pub use change::{ChangeError, Changed};

/// What the control socket asks of the agent.
pub enum Request {
    Status(oneshot::Sender<Result<Status>>),
    Change(Edit, oneshot::Sender<Result<Changed, ChangeError>>),
    Reload(oneshot::Sender<Result<Changed, ChangeError>>),
}

/// What the kernel refused is tried again after this long, if nothing happens before.
const RETRY: Duration = Duration::from_secs(5);

pub struct Agent {
    config: Config,
    store: Store,
    mode: Mode,
    host: HostState,
    follower: Follower,
    syncer: Syncer,
    dataplane: Dataplane,
    wanted_neighbours: mpsc::Receiver<(u32, IpAddr)>,
    layout: Layout,
    rib: Rib,
    states: States,
    /// Why the program is not attached to an interface, by the interface's name.
    attach_errors: BTreeMap<String, String>,
    /// What the kernel holds of ours, once it does.
    synced: Option<HostPlan>,
    retry: Option<Instant>,
}

impl Agent {
    /// Reads the configuration, loads the program and brings everything into step.
    pub async fn start(config: PathBuf, mode: Mode) -> Result<Self> {
        let (store, loaded) = Store::open(&config)?;
        for warning in &loaded.warnings {
            warn!("{}", warning.in_file(&config.display().to_string()));
        }
        let mut dataplane = Dataplane::load()?;
        dataplane.follow_log();
        let wanted_neighbours = dataplane.wanted_neighbours()?;
        let (host, follower) = Follower::start().await?;
        let mut agent = Self {
            config: loaded.config,
            store,
            mode,
            host,
            follower,
            syncer: Syncer::open()?,
            dataplane,
            wanted_neighbours,
            layout: Layout::default(),
            rib: Rib::default(),
            states: States::new(),
            attach_errors: BTreeMap::new(),
            synced: None,
            retry: None,
        };
        agent.converge(&Changes::everything()).await?;
        info!(
            gateway = agent.config.gateway.name,
            connections = agent.config.connections.len(),
            routes = agent.config.routes.len(),
            "ready"
        );
        Ok(agent)
    }

    /// Serves until `shutdown`, then takes back all it has done to the host.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, shutdown: impl Future) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let retry = self.retry.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                _ = &mut shutdown => break,
                changes = self.follower.changed(&mut self.host) => match changes {
                    Ok(changes) => self.follow(&changes).await,
                    Err(error) => error!("the host's interfaces cannot be followed: {error:#}"),
                },
                Some((ifindex, address)) = self.wanted_neighbours.recv() => self.probe(ifindex, address).await,
                Some(request) = requests.recv() => self.answer(request).await,
                () = sleep_until(retry) => self.follow(&Changes::everything()).await,
            }
        }
        info!("stopping");
        self.stop().await
    }

    /// Detaches the program, then removes routes, rules and neighbours: until the last moment the kernel has a way for
    /// the packets it gets.
    async fn stop(mut self) -> Result<()> {
        drop(self.dataplane);
        let report = self.syncer.clear().await.context("cannot remove the routes of the agent from the kernel")?;
        for failure in report.failures {
            warn!("not removed: {failure}");
        }
        Ok(())
    }

    async fn follow(&mut self, changes: &Changes) {
        if let Err(error) = self.converge(changes).await {
            error!("{error:#}; the old state stays in force, next try in {} s", RETRY.as_secs());
            self.retry = Some(Instant::now() + RETRY);
        }
    }

    /// Brings program and kernel into step with configuration and host, as far as `changes` goes.
    async fn converge(&mut self, changes: &Changes) -> Result<()> {
        self.retry = None;
        if changes.links || changes.addresses || changes.gateways {
            self.note_states();
            self.rib = Rib::build(&self.config, &self.host);
        }
        if changes.links || changes.addresses || changes.gateways || changes.neighbours {
            self.write_tables()?;
            self.attach();
            self.sync(changes.links || changes.addresses).await?;
        }
        self.refresh(changes).await;
        Ok(())
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs { config: &self.config, host: &self.host, states: &self.states }
    }

    fn note_states(&mut self) {
        let new = states(&self.config, &self.host);
        for (name, state) in &new {
            if self.states.get(name) == Some(state) {
                continue;
            }
            match self.state_reason(name, *state) {
                None => info!(connection = name, "up"),
                Some(reason) => warn!(connection = name, "down: {reason}"),
            }
        }
        self.states = new;
    }

    /// Why a connection is not up.
    fn state_reason(&self, name: &str, state: State) -> Option<String> {
        let interface = &self.config.connections[name].interface;
        match (state, self.host.link(interface)) {
            (State::Up, _) => None,
            (State::AdminDown, _) => Some("taken down by hand".to_owned()),
            (State::Down, None) => Some(missing(interface)),
            (State::Down, Some(link)) if !link.admin_up => {
                Some(format!("interface {interface} is down: `ip link set {interface} up`"))
            }
            (State::Down, Some(_)) => Some(format!("interface {interface} has no carrier")),
        }
    }

    fn write_tables(&mut self) -> Result<()> {
        // A compilation that fails must not leave numbers half given.
        let mut layout = self.layout.clone();
        let tables = compile(self.inputs(), &self.rib, &mut layout)?;
        self.layout = layout;
        self.dataplane.apply(&tables)?;
        if self.layout.is_resting() {
            // A grace period: when it is over, no packet is under way with what it read from the old tables.
            match membarrier(MembarrierCommand::Global) {
                Ok(()) => self.layout.release(),
                Err(error) => warn!("membarrier: {error}; numbers in the tables are not used again"),
            }
        }
        Ok(())
    }

    /// Attaches to what is new and lets go of what is no attachment any more.
    fn attach(&mut self) {
        let connections = self.config.connections.values().map(|connection| &connection.interface);
        let interfaces: BTreeSet<&String> =
            connections.chain(self.config.vpc.iter().map(|vpc| &vpc.interface)).collect();
        let wanted: BTreeMap<u32, &String> =
            interfaces.iter().filter_map(|name| Some((self.host.link(name)?.index, *name))).collect();
        let attached: BTreeSet<u32> = self.dataplane.attached().map(|(ifindex, _)| ifindex).collect();
        for ifindex in attached.iter().filter(|ifindex| !wanted.contains_key(ifindex)) {
            self.dataplane.detach(*ifindex);
        }
        self.attach_errors.retain(|name, _| interfaces.contains(name));
        for (ifindex, name) in wanted.into_iter().filter(|(ifindex, _)| !attached.contains(ifindex)) {
            match self.dataplane.attach(ifindex, self.mode) {
                Ok(attached) => {
                    self.attach_errors.remove(name);
                    match &attached.reason {
                        None => info!(interface = name, mode = attached.mode, "attached"),
                        Some(reason) => info!(interface = name, mode = attached.mode, reason, "attached"),
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.attach_errors.get(name) != Some(&error) {
                        error!(interface = name, "not attached: {error}");
                    }
                    self.attach_errors.insert(name.clone(), error);
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
        for name in interfaces.into_iter().filter(|name| self.host.link(name).is_none()) {
            self.attach_errors.insert(name.clone(), missing(name));
        }
    }

    /// `kernel_may_have_removed`: it drops routes of its own accord when a link or address goes.
    async fn sync(&mut self, kernel_may_have_removed: bool) -> Result<()> {
        let plan = slowpath::plan(self.inputs(), &self.rib);
        if self.synced.as_ref() == Some(&plan) && !kernel_may_have_removed {
            return Ok(());
        }
        self.synced = None;
        let report = self.syncer.apply(&plan).await.context("cannot write the kernel's routes")?;
        for failure in &report.failures {
            warn!("{failure}");
        }
        if report.failures.is_empty() {
            self.synced = Some(plan);
        } else {
            self.retry = Some(Instant::now() + RETRY);
        }
        Ok(())
    }

    /// Has the kernel ask again for link addresses that the program uses but the kernel does not: it would never
    /// notice that they have changed.
    async fn refresh(&mut self, changes: &Changes) {
        let attached: BTreeSet<u32> = self.dataplane.attached().map(|(ifindex, _)| ifindex).collect();
        for (ifindex, address) in changes.stale.iter().filter(|(ifindex, _)| attached.contains(ifindex)) {
            self.probe(*ifindex, *address).await;
        }
    }

    /// Has the kernel ask the link for a neighbour's address; the answer comes as a change of the host.
    async fn probe(&mut self, ifindex: u32, address: IpAddr) {
        if let Err(error) = self.syncer.probe_neighbour(ifindex, address).await {
            warn!(%address, "neighbour not asked for: {error:#}");
        }
    }

    async fn answer(&mut self, request: Request) {
        // The client may have gone: a change is made all the same.
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Change(edit, answer) => drop(answer.send(self.change(&edit).await)),
            Request::Reload(answer) => drop(answer.send(self.reload().await)),
        }
    }

    fn status(&self) -> Result<Status> {
        let mut total = self.dataplane.counters(UNATTRIBUTED)?;
        let mut counters = |slot: Option<u32>| -> Result<Counters> {
            let counters = slot.map_or(Ok(Counters::default()), |slot| self.dataplane.counters(slot))?;
            total = sum(total, counters);
            Ok(counters)
        };
        let mut connections = Vec::new();
        for (name, connection) in &self.config.connections {
            let state = self.states[name];
            connections.push(status::Connection {
                name: name.clone(),
                interface: connection.interface.clone(),
                state,
                state_reason: self.state_reason(name, state),
                attachment: self.attachment(&connection.interface),
                traffic: (&counters(self.layout.connections.get(name))?).into(),
            });
        }
        let vpc_traffic = counters(Some(VPC))?;
        let vpc = self.config.vpc.as_ref().map(|vpc| status::Vpc {
            interface: vpc.interface.clone(),
            attachment: self.attachment(&vpc.interface),
            traffic: (&vpc_traffic).into(),
        });
        Ok(Status {
            gateway: status::Gateway { name: self.config.gateway.name.clone() },
            vpc,
            connections,
            routes: self.routes(),
            drops: status::reasons(&total, true),
            passes: status::reasons(&total, false),
        })
    }

    fn attachment(&self, interface: &str) -> status::Attachment {
        let link = self.host.link(interface);
        let attached = link.and_then(|link| self.dataplane.attached().find(|(ifindex, _)| *ifindex == link.index));
        match attached {
            Some((_, attached)) => {
                status::Attachment { attach: Some(attached.mode.to_owned()), attach_reason: attached.reason.clone() }
            }
            None => status::Attachment { attach: None, attach_reason: self.attach_errors.get(interface).cloned() },
        }
    }

    fn routes(&self) -> Vec<status::Route> {
        let routes = self.config.routes.iter().map(|route| status::Route {
            destination: route.destination,
            next_hop: route.next_hop.clone(),
            weight: route.weight,
            publish: route.publish,
            share: rib::share(&self.rib, route.destination, &route.next_hop, &self.states),
        });
        routes.collect()
    }
}

fn missing(interface: &str) -> String {
    format!("interface {interface} does not exist: create it, the agent attaches as soon as it is there")
}

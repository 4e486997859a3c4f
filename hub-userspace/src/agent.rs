//! The agent: follows configuration and host, and keeps program and kernel in step with them.

mod change;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending},
    net::IpAddr,
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hub_common::maps::{Counters, UNATTRIBUTED, VPC};
use rustix::thread::{MembarrierCommand, membarrier};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    attachments::{Attachments, missing},
    compile::{Inputs, compile},
    config::{Config, edit::Edit, store::Store},
    dataplane::{Dataplane, Mode, sum},
    health::{self, Prober},
    layout::Layout,
    netlink::{Changes, Failure, Follower, HostPlan, HostState, Keeper, Report},
    rib::{self, Rib},
    slowpath,
    sole::Sole,
    state::{State, States, states},
    status::{self, Status},
};

pub use change::{ChangeError, Changed};

/// What the control socket asks of the agent.
pub enum Request {
    Status(oneshot::Sender<Result<Status>>),
    Change(Edit, ChangeAnswer),
    Reload(ChangeAnswer),
}

type ChangeAnswer = oneshot::Sender<Result<Changed, ChangeError>>;

/// Resolves when the kernel holds what it was to hold.
type Settling = Pin<Box<dyn Future<Output = Result<Report>> + Send>>;

/// What did not work is tried again after this long, if nothing happens before.
const RETRY: Duration = Duration::from_secs(5);
/// When all is well, the kernel's routes and rules are compared with what they should be after this long: other network
/// managers remove what they do not know.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

pub struct Agent {
    config: Config,
    store: Store,
    host: HostState,
    follower: Follower,
    keeper: Keeper,
    dataplane: Dataplane,
    wanted_neighbours: mpsc::Receiver<(u32, IpAddr)>,
    layout: Layout,
    rib: Rib,
    states: States,
    prober: Prober,
    verdicts: mpsc::UnboundedReceiver<health::Event>,
    /// A health check has a new verdict.
    judge_again: bool,
    attachments: Attachments,
    /// Why each connection is not up, as last logged.
    reasons: BTreeMap<String, Option<String>>,
    /// What the kernel was last told to hold of ours.
    told: Option<HostPlan>,
    /// It is not known yet what came of that.
    settling: Option<Settling>,
    /// What the kernel refused last time: it is told once.
    refused: BTreeSet<Failure>,
    /// What has changed and is not all in the tables and in the kernel yet.
    pending: Changes,
    /// When to look again at what did not work, and at what others may have removed.
    next_look: Instant,
    _sole: Sole,
}

impl Agent {
    /// Reads the configuration, loads the program and brings everything into step. What it has done to the host until
    /// an error, it takes back.
    pub async fn start(config: PathBuf, mode: Mode) -> Result<Self> {
        let (store, loaded) = Store::open(&config)?;
        for warning in &loaded.warnings {
            warn!("{}", warning.in_file(&config.display().to_string()));
        }
        let sole = Sole::claim()?;
        let mut dataplane = Dataplane::load()?;
        dataplane.follow_log();
        let wanted_neighbours = dataplane.wanted_neighbours()?;
        let (host, follower) = Follower::start().await?;
        let (sender, verdicts) = mpsc::unbounded_channel();
        let mut agent = Self {
            config: loaded.config,
            store,
            host,
            follower,
            keeper: Keeper::start()?,
            dataplane,
            wanted_neighbours,
            layout: Layout::default(),
            rib: Rib::default(),
            states: States::new(),
            prober: Prober::start(sender),
            verdicts,
            judge_again: false,
            attachments: Attachments::new(mode),
            reasons: BTreeMap::new(),
            told: None,
            settling: None,
            refused: BTreeSet::new(),
            pending: Changes::everything(),
            next_look: Instant::now(),
            _sole: sole,
        };
        if let Err(error) = agent.begin().await {
            agent.stop().await?;
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

    async fn begin(&mut self) -> Result<()> {
        self.converge().await?;
        let report = settled(&mut self.settling).await?;
        self.note_refusals(report);
        Ok(())
    }

    /// Serves until `shutdown`, then takes back all it has done to the host.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, shutdown: impl Future) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                _ = &mut shutdown => break,
                changes = self.follower.changed(&mut self.host) => match changes {
                    Ok(changes) => self.follow(changes).await,
                    Err(error) => {
                        error!("the host's interfaces cannot be followed: {error:#}");
                        sleep(RETRY).await;
                    }
                },
                Some((ifindex, address)) = self.wanted_neighbours.recv() => self.keeper.probe(ifindex, address),
                Some(_) = self.verdicts.recv() => {
                    // The prober has the verdicts; several may have come at once.
                    while self.verdicts.try_recv().is_ok() {}
                    self.judge_again = true;
                    self.follow(Changes::default()).await;
                }
                report = settled(&mut self.settling) => match report {
                    Ok(report) => self.note_refusals(report),
                    Err(error) => {
                        error!("{error:#}, next try in {} s", RETRY.as_secs());
                        self.next_look = Instant::now() + RETRY;
                    }
                },
                Some(request) = requests.recv() => self.answer(request).await,
                () = sleep_until(self.next_look) => {
                    self.keeper.audit();
                    self.pending.neighbours = true;
                    self.follow(Changes::default()).await;
                }
            }
        }
        info!("stopping");
        self.stop().await
    }

    /// Detaches the program, then removes routes, rules and neighbours: until the last moment the kernel has a way for
    /// the packets it gets.
    async fn stop(self) -> Result<()> {
        drop(self.dataplane);
        let report = self.keeper.clear().await.context("cannot remove the routes of the agent from the kernel")?;
        for failure in report.failures {
            warn!("not removed: {failure}");
        }
        Ok(())
    }

    async fn follow(&mut self, changes: Changes) {
        self.pending.add(changes);
        if let Err(error) = self.converge().await {
            error!("{error:#}; what was in force stays so, next try in {} s", RETRY.as_secs());
            self.next_look = Instant::now() + RETRY;
        }
    }

    /// Brings program and kernel into step with configuration and host, as far as something is pending. On an error it
    /// stays pending.
    async fn converge(&mut self) -> Result<()> {
        for (ifindex, address) in std::mem::take(&mut self.pending.stale) {
            // The kernel would never notice that a link address has changed which only the program uses.
            if self.dataplane.is_attached(ifindex) {
                self.keeper.probe(ifindex, address);
            }
        }
        for ifindex in std::mem::take(&mut self.pending.gone) {
            self.dataplane.forget(ifindex);
        }
        let Changes { links, addresses, neighbours, gateways, .. } = self.pending;
        if links || neighbours {
            self.prober.set(health::targets(&self.config, &self.host));
        }
        if links || self.judge_again {
            self.note_states();
        }
        if links || addresses || gateways {
            self.rib = Rib::build(&self.config, &self.host);
        }
        if links || addresses || gateways || neighbours || self.judge_again {
            self.write_tables().await?;
            let interfaces = interfaces(&self.config);
            self.attachments.update(&mut self.dataplane, &self.host, &interfaces);
            // The kernel drops routes of its own accord when a link or an address goes.
            self.sync(links || addresses);
            let complete = self.refused.is_empty() && self.attachments.is_complete(&self.host);
            self.next_look = Instant::now() + if complete { LOOK_AGAIN } else { RETRY };
        }
        self.pending = Changes::default();
        self.judge_again = false;
        Ok(())
    }

    fn is_healthy(&self, name: &str) -> bool {
        self.prober.report(name).is_some_and(|report| report.is_healthy())
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs { config: &self.config, host: &self.host, states: &self.states }
    }

    fn note_states(&mut self) {
        self.states = states(&self.config, &self.host, |name| self.is_healthy(name));
        let reasons: BTreeMap<String, Option<String>> =
            self.states.iter().map(|(name, state)| (name.clone(), self.state_reason(name, *state))).collect();
        // The reason, not the state alone: an interface that is deleted goes down first.
        for (name, reason) in reasons.iter().filter(|(name, reason)| self.reasons.get(*name) != Some(*reason)) {
            match reason {
                None => info!(connection = name, "up"),
                Some(reason) => warn!(connection = name, "down: {reason}"),
            }
        }
        self.reasons = reasons;
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
            (State::Down, Some(link)) if !link.is_up() => Some(format!("interface {interface} has no carrier")),
            (State::Down, Some(_)) => Some(self.health_reason(name)),
        }
    }

    /// Why a health check does not pass.
    fn health_reason(&self, name: &str) -> String {
        let check = self.config.connections[name].health_check;
        let destination = check.map(|check| check.destination.to_string()).unwrap_or_default();
        let report = self.prober.report(name).unwrap_or_default();
        match (report.problem, report.verdict) {
            (Some(problem), _) => format!("the health check of {destination} cannot be made: {problem}"),
            (None, Some(verdict)) => format!("health check: {destination} {verdict}"),
            (None, None) => format!("health check: {destination} has not replied yet"),
        }
    }

    async fn write_tables(&mut self) -> Result<()> {
        // A compilation that fails must not leave numbers half given.
        let mut layout = self.layout.clone();
        let tables = compile(self.inputs(), &self.rib, &mut layout)?;
        self.layout = layout;
        self.dataplane.apply(&tables)?;
        if self.layout.is_resting() {
            // An RCU grace period: when it is over, no packet is under way with what it read from the old tables. A
            // kernel with nohz_full does not offer it; then a time in which every packet has long gone.
            if membarrier(MembarrierCommand::Global).is_err() {
                sleep(Duration::from_millis(20)).await;
            }
            self.layout.release();
        }
        Ok(())
    }

    /// Tells what the kernel is to hold; does not wait until it does.
    fn sync(&mut self, kernel_may_have_removed: bool) {
        let attached = interfaces(&self.config)
            .into_iter()
            .filter(|name| self.host.link(name).is_some_and(|link| self.dataplane.is_attached(link.index)));
        let plan = slowpath::plan(self.inputs(), &self.rib, &attached.map(str::to_owned).collect());
        if self.told.as_ref() != Some(&plan) {
            self.keeper.replace_all(plan.clone());
            self.told = Some(plan);
        }
        if kernel_may_have_removed {
            self.keeper.audit();
        }
        self.settling = Some(Box::pin(self.keeper.settled()));
    }

    fn note_refusals(&mut self, report: Report) {
        for failure in report.failures.iter().filter(|failure| !self.refused.contains(failure)) {
            warn!("{failure}");
        }
        self.refused = report.failures.into_iter().collect();
        if !self.refused.is_empty() {
            self.next_look = self.next_look.min(Instant::now() + RETRY);
        }
    }

    async fn answer(&mut self, request: Request) {
        // The client may have gone: a change is made all the same.
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Change(edit, answer) => {
                let changed = self.change(&edit).await;
                self.answer_change(changed, answer);
            }
            Request::Reload(answer) => {
                let changed = self.reload().await;
                self.answer_change(changed, answer);
            }
        }
    }

    /// A change is done when the kernel's routes have followed: who asked waits for that, the agent does not.
    fn answer_change(&self, changed: Result<Changed, ChangeError>, answer: ChangeAnswer) {
        let settled = self.keeper.settled();
        tokio::spawn(async move {
            let changed = match changed {
                Ok(changed) if changed.changed => {
                    settled.await.map(|_| changed).map_err(|error| ChangeError::NotApplied(format!("{error:#}")))
                }
                unchanged => unchanged,
            };
            drop(answer.send(changed));
        });
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
                health: self.prober.report(name).map(|report| status::Health {
                    healthy: report.is_healthy(),
                    sent: report.sent,
                    received: report.received,
                    round_trip: report.round_trip.map(|time| time.as_secs_f64()),
                }),
                attachment: self.attachments.status(&self.dataplane, &self.host, &connection.interface),
                traffic: (&counters(self.layout.connections.get(name))?).into(),
            });
        }
        let vpc_traffic = counters(Some(VPC))?;
        let vpc = self.config.vpc.as_ref().map(|vpc| status::Vpc {
            interface: vpc.interface.clone(),
            attachment: self.attachments.status(&self.dataplane, &self.host, &vpc.interface),
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

/// What the kernel holds of what it was told, once that is known; waits for ever if nothing is to be known.
async fn settled(settling: &mut Option<Settling>) -> Result<Report> {
    let Some(future) = settling else {
        return pending().await;
    };
    let report = future.await;
    *settling = None;
    report.context("cannot write the kernel's routes")
}

/// Names of all interfaces that are to be attached to.
fn interfaces(config: &Config) -> BTreeSet<&str> {
    let connections = config.connections.values().map(|connection| connection.interface.as_str());
    connections.chain(config.vpc.iter().map(|vpc| vpc.interface.as_str())).collect()
}

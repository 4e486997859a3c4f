//! The driver's task: runs one session after another.

mod load;
mod look;
mod publish;
mod retry;

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use self::{load::Refusals, look::Looks};
use super::{
    super::{
        desired::{DesiredState, name_of},
        event::{EVENTS, LOG, SaChange, ViciEvent},
        message::Message,
        session::{Session, SessionError},
        table::SaTable,
        tunnels::Tunnels,
    },
    DriverRequest,
    retries::Retries,
    rush::Rush,
    strangers::Strangers,
};
use crate::config::{Config, ipsec::StartAction};

/// Delay between attempts to reach charon: initial and maximum.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// While charon does not answer for less than this, its SAs count as unchanged: a restart takes a second.
const GRACE: Duration = Duration::from_secs(5);
/// Maximum number of received events that are handled before their result is published and other tasks run.
const TURN: usize = 256;

pub struct DriverTask {
    config: Arc<Config>,
    configs: watch::Receiver<Arc<Config>>,
    requests: mpsc::Receiver<DriverRequest>,
    publisher: watch::Sender<Arc<Tunnels>>,
    desired: DesiredState,
    /// The state loaded into the charon of this session.
    loaded: DesiredState,
    refusals: Refusals,
    /// Version of the charon of this session; `None` as long as nothing depends on it.
    version: Option<String>,
    /// As in [`Tunnels`].
    lacks_per_cpu_sas: Option<String>,
    /// Connections whose files have changed since the last report.
    renewed: BTreeSet<String>,
    /// Connections that are loaded with other certificates or selectors when they are down, by charon's name.
    deferred: BTreeSet<String>,
    /// The messages of connections whose SAs an earlier agent has kept, by charon's name. Until the next load.
    adopted: BTreeMap<String, Message>,
    /// One of these is down.
    must_load: bool,
    table: SaTable,
    /// The charon process whose SAs are in the table.
    process: Option<i32>,
    looks: Looks,
    retries: Retries,
    /// While it lasts, charon's log is not followed.
    rush: Option<Rush>,
    strangers: Strangers,
    /// charon's names of the connections of a site's address.
    sites: BTreeMap<IpAddr, Vec<String>>,
    /// Since when charon does not answer, and why.
    lost: Option<(Instant, String)>,
    heard: bool,
    /// Every connection must be published: the configuration has changed.
    all_changed: bool,
}

enum SessionEnd {
    Broken(SessionError),
    /// The configuration changed charon's socket, or no longer needs charon.
    Moved,
}

impl From<SessionError> for SessionEnd {
    fn from(error: SessionError) -> Self {
        Self::Broken(error)
    }
}

impl DriverTask {
    pub fn new(
        mut configs: watch::Receiver<Arc<Config>>,
        requests: mpsc::Receiver<DriverRequest>,
        publisher: watch::Sender<Arc<Tunnels>>,
    ) -> Self {
        let config = Arc::clone(&configs.borrow_and_update());
        Self {
            desired: DesiredState::of(&config),
            sites: sites(&config),
            config,
            configs,
            requests,
            publisher,
            loaded: DesiredState::default(),
            refusals: Refusals::default(),
            version: None,
            lacks_per_cpu_sas: None,
            renewed: BTreeSet::new(),
            deferred: BTreeSet::new(),
            adopted: BTreeMap::new(),
            must_load: false,
            table: SaTable::default(),
            process: None,
            looks: Looks::new(Instant::now()),
            retries: Retries::default(),
            rush: None,
            strangers: Strangers::default(),
            lost: None,
            heard: false,
            all_changed: true,
        }
    }

    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            if !self.needs_charon() {
                self.lost = None;
                self.table.clear();
                self.publish();
                tokio::select! {
                    changed = self.configs.changed() => match changed {
                        Ok(()) => self.reconfigure(),
                        Err(_) => return,
                    },
                    Some(request) = self.requests.recv() => self.answer_without_session(request),
                }
                continue;
            }
            let socket = self.config.gateway.vici_socket.clone();
            let error = match Session::connect(&socket).await {
                Ok(mut session) => {
                    let started = Instant::now();
                    let end = self.serve(&mut session, &socket).await;
                    if started.elapsed() > LONGEST_WAIT {
                        wait = FIRST_WAIT;
                    }
                    match end {
                        SessionEnd::Moved => continue,
                        SessionEnd::Broken(error) => error.to_string(),
                    }
                }
                Err(error) => unreachable(&socket, &error),
            };
            if self.lost.is_none() {
                warn!(name: "strongswan_failed", "{error}; trying again");
            }
            let since = self.lost.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            // Report the latest error: "not running" is more useful than "connection closed".
            self.lost = Some((since, error));
            let until = Instant::now() + wait;
            wait = (wait * 2).min(LONGEST_WAIT);
            self.publish();
            tokio::select! {
                () = sleep_until(until) => {}
                () = sleep_until(self.lost.as_ref().map_or(until, |(since, _)| *since + GRACE)), if !self.is_forgotten() => {}
                Some(request) = self.requests.recv() => self.answer_without_session(request),
                changed = self.configs.changed() => match changed {
                        Ok(()) => self.reconfigure(),
                        Err(_) => return,
                    },
            }
        }
    }

    /// Takes the new configuration.
    fn reconfigure(&mut self) {
        self.config = Arc::clone(&self.configs.borrow_and_update());
        self.sites = sites(&self.config);
        self.strangers.forget();
        self.read_files();
    }

    /// Takes a new configuration, if there is one, and reads its files again. Returns the connections for which they
    /// have changed since the last call.
    fn renew(&mut self) -> Vec<String> {
        if self.configs.has_changed().unwrap_or(false) {
            self.reconfigure();
        } else {
            self.read_files();
        }
        mem::take(&mut self.renewed).into_iter().collect()
    }

    /// Reads the files that the configuration names.
    fn read_files(&mut self) {
        let desired = DesiredState::of(&self.config);
        self.renewed.extend(desired.renewed_since(&self.desired));
        self.desired = desired;
        self.all_changed = true;
    }

    async fn answer(&mut self, session: &mut Session, request: DriverRequest) -> Result<(), SessionError> {
        match request {
            DriverRequest::Renegotiate { name, children, answer } => {
                // An SA that has ended since the last listing is missing, too.
                self.look(session).await?;
                let result = self.renegotiate(session, &name, children).await;
                let (answered, result) = match result {
                    Ok(answered) => (answered, Ok(())),
                    Err(error) => (Err(error.to_string()), Err(error)),
                };
                drop(answer.send(answered));
                result
            }
            DriverRequest::ReadFiles(answer) => {
                let renewed = self.renew();
                let result = self.load(session).await;
                drop(answer.send(renewed));
                result
            }
        }
    }

    fn answer_without_session(&mut self, request: DriverRequest) {
        match request {
            DriverRequest::Renegotiate { answer, .. } => drop(answer.send(Err(self.why_lost()))),
            DriverRequest::ReadFiles(answer) => drop(answer.send(self.renew())),
        }
    }

    async fn serve(&mut self, session: &mut Session, socket: &Path) -> SessionEnd {
        match self.serve_until_broken(session, socket).await {
            Ok(()) => SessionEnd::Moved,
            Err(error) => SessionEnd::Broken(error),
        }
    }

    async fn serve_until_broken(&mut self, session: &mut Session, socket: &Path) -> Result<(), SessionError> {
        self.loaded = DesiredState::default();
        self.version = None;
        if self.lacks_per_cpu_sas.is_some() {
            // This charon may have them.
            self.read_files();
        }
        self.meet(session);
        // First, so that no later event is missed.
        session.subscribe(&EVENTS).await?;
        self.clean(session).await?;
        // Before loading, which takes seconds for thousands of connections: the agent needs the existing SAs.
        self.look(session).await?;
        self.adopt(session).await?;
        info!(name: "strongswan_connected", "strongSwan answers on {}", socket.display());
        self.lost = None;
        self.heard = true;
        self.rush = Rush::begin(self.initiated(), Instant::now());
        if self.rush.is_none() {
            session.subscribe(&[LOG]).await?;
        }
        self.load(session).await?;
        self.publish();
        loop {
            let rush_ends = self.rush.as_ref().map(Rush::ends);
            let next_look = self.looks.next(self.retries.next());
            tokio::select! {
                event = session.event() => {
                    self.follow(&event?);
                    self.absorb(session)?;
                }
                changed = self.configs.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.reconfigure();
                    self.load(session).await?;
                }
                Some(request) = self.requests.recv() => self.answer(session, request).await?,
                () = sleep_until(rush_ends.unwrap_or(next_look)), if rush_ends.is_some() => {
                    self.rush = None;
                    session.subscribe(&[LOG]).await?;
                }
                () = sleep_until(next_look) => {
                    self.look(session).await?;
                    self.publish();
                    self.retry(session).await?;
                }
            }
            if !self.needs_charon() || self.config.gateway.vici_socket != socket {
                return Ok(());
            }
            self.publish();
            if mem::take(&mut self.must_load) {
                self.load(session).await?;
            }
            yield_now().await;
        }
    }

    /// Whether charon has, or may have, connections of the configuration: a standby hub has none left there.
    fn needs_charon(&self) -> bool {
        !self.desired.is_empty() || (!self.config.role.has_tunnels() && self.config.tunnels().next().is_some())
    }

    /// Connections that the hub initiates and that are not up.
    fn initiated(&self) -> BTreeSet<String> {
        if !self.config.role.has_tunnels() {
            return BTreeSet::new();
        }
        let tunnels = self.config.tunnels().filter(|tunnel| tunnel.ipsec.start == StartAction::Start);
        let down = tunnels.filter(|tunnel| !self.table.is_up(&name_of(tunnel.name)));
        down.map(|tunnel| tunnel.name.to_owned()).collect()
    }

    /// Updates the table.
    fn follow(&mut self, event: &ViciEvent) {
        if let Some(hint) = event.hint()
            && let Some((site, fault)) =
                self.strangers.follow(hint, |site| self.sites.contains_key(&site), Instant::now())
        {
            for connection in self.sites.get(&site).into_iter().flatten() {
                if !self.table.is_up(connection) {
                    self.table.apply(SaChange::Failed { connection: connection.clone(), fault });
                }
            }
        }
        for change in SaChange::of_event(event) {
            if matches!(change, SaChange::IkeDown(_) | SaChange::ChildDown(_)) {
                // Rekeying may have changed its number.
                self.looks.soon(Instant::now());
            }
            self.table.apply(change);
        }
    }

    /// Updates the table by events that have been received, up to [`TURN`].
    fn absorb(&mut self, session: &mut Session) -> Result<(), SessionError> {
        for _ in 0..TURN {
            let Some(event) = session.received_event()? else { break };
            self.follow(&event);
        }
        if session.take_lost_events() {
            self.looks.soon(Instant::now());
        }
        Ok(())
    }

    /// Removes the SAs from the table if charon is a new process.
    fn meet(&mut self, session: &Session) {
        let process = session.process();
        if process != self.process {
            self.process = process;
            self.table.lose_all();
        }
    }

    fn is_forgotten(&self) -> bool {
        self.lost.as_ref().is_some_and(|(since, _)| since.elapsed() >= GRACE)
    }

    fn why_lost(&self) -> String {
        match &self.lost {
            Some((_, why)) => why.clone(),
            None => "no connection of the configuration has IPsec".to_owned(),
        }
    }
}

fn sites(config: &Config) -> BTreeMap<IpAddr, Vec<String>> {
    let mut sites = BTreeMap::<_, Vec<_>>::new();
    for tunnel in config.tunnels() {
        if let Some(address) = tunnel.site.ip() {
            sites.entry(address).or_default().push(name_of(tunnel.name));
        }
    }
    sites
}

fn unreachable(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("strongSwan does not answer on {socket}: start it, or set vici_socket in [gateway]")
        }
        io::ErrorKind::PermissionDenied => format!("no access to strongSwan's {socket}: run as root, or as its group"),
        _ => format!("strongSwan cannot be queried on {socket}: {error}"),
    }
}

#[cfg(test)]
mod tests;

//! The driver's task: runs one session after another.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::super::{
    desired::{CharonStep, DesiredState, children_of, connection_of, name_of},
    event::{ChildSa, EVENTS, IkeSa, SaChange, listed},
    message::Message,
    session::{Session, SessionError},
    table::SaTable,
    tunnels::Tunnels,
};
use crate::config::{Config, ipsec::StartAction};

/// Delay between attempts to reach charon: initial and maximum.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// While charon does not answer for less than this, its SAs count as unchanged: a restart takes a second.
const GRACE: Duration = Duration::from_secs(5);
/// Interval of listing all SAs, for counters and missed events.
const LOOK: Duration = Duration::from_secs(10);
/// Delay of that listing after something went down: rekeying may have changed its number.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// Number of repeated listings while one lacks an SA whose end was not reported, and the delay between them.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Delay between attempts to initiate a tunnel: initial and maximum.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

pub struct DriverTask {
    config: Arc<Config>,
    configs: watch::Receiver<Arc<Config>>,
    publisher: watch::Sender<Arc<Tunnels>>,
    desired: DesiredState,
    /// The state loaded into the charon of this session.
    loaded: DesiredState,
    table: SaTable,
    /// The charon process whose SAs are in the table.
    process: Option<i32>,
    retries: BTreeMap<String, Retry>,
    /// Since when charon does not answer, and why.
    lost: Option<(Instant, String)>,
    heard: bool,
}

/// The next attempt to initiate a tunnel.
struct Retry {
    at: Instant,
    wait: Duration,
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
    pub fn new(mut configs: watch::Receiver<Arc<Config>>, publisher: watch::Sender<Arc<Tunnels>>) -> Self {
        let config = Arc::clone(&configs.borrow_and_update());
        Self {
            desired: DesiredState::of(&config),
            config,
            configs,
            publisher,
            loaded: DesiredState::default(),
            table: SaTable::default(),
            process: None,
            retries: BTreeMap::new(),
            lost: None,
            heard: false,
        }
    }

    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            if self.desired.is_empty() {
                self.lost = None;
                self.table.clear();
                self.publish();
                if !self.reconfigured().await {
                    return;
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
                warn!("{error}; trying again");
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
                is_there = self.reconfigured() => if !is_there { return },
            }
        }
    }

    /// Waits for a new configuration; `false`: there will be none.
    async fn reconfigured(&mut self) -> bool {
        if self.configs.changed().await.is_err() {
            return false;
        }
        self.config = Arc::clone(&self.configs.borrow_and_update());
        self.desired = DesiredState::of(&self.config);
        true
    }

    async fn serve(&mut self, session: &mut Session, socket: &Path) -> SessionEnd {
        match self.serve_until_broken(session, socket).await {
            Ok(()) => SessionEnd::Moved,
            Err(error) => SessionEnd::Broken(error),
        }
    }

    async fn serve_until_broken(&mut self, session: &mut Session, socket: &Path) -> Result<(), SessionError> {
        self.loaded = DesiredState::default();
        self.meet(session);
        // First, so that no later event is missed.
        session.subscribe(&EVENTS).await?;
        self.clean(session).await?;
        self.load(session).await?;
        self.look(session).await?;
        info!("strongSwan answers on {}", socket.display());
        self.lost = None;
        self.heard = true;
        self.publish();
        let mut next_look = Instant::now() + LOOK;
        loop {
            let next_retry = self.next_retry();
            tokio::select! {
                event = session.event() => {
                    let changes = SaChange::of_event(&event?);
                    if changes.iter().any(|change| matches!(change, SaChange::IkeDown(_) | SaChange::ChildDown(_))) {
                        next_look = next_look.min(Instant::now() + LOOK_SOON);
                    }
                    for change in changes {
                        self.table.apply(change);
                    }
                }
                is_there = self.reconfigured() => {
                    if !is_there {
                        return Ok(());
                    }
                    self.load(session).await?;
                    if self.desired.is_empty() || self.config.gateway.vici_socket != socket {
                        return Ok(());
                    }
                }
                () = sleep_until(next_look) => {
                    self.look(session).await?;
                    next_look = Instant::now() + LOOK;
                }
                () = sleep_until(next_retry) => self.retry(session).await?,
            }
            self.publish();
        }
    }

    /// Removes the SAs from the table if charon is a new process.
    fn meet(&mut self, session: &Session) {
        let process = session.process();
        if process != self.process {
            self.process = process;
            self.table.lose_all();
        }
    }

    /// Removes leftovers of an earlier agent from charon, and records the objects that may stay.
    async fn clean(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let nothing = Message::default();
        let connections = session.request("get-conns", &nothing).await?.list("conns").to_vec();
        let secrets = session.request("get-shared", &nothing).await?.list("keys").to_vec();
        for step in self.desired.steps_to_clean(&connections, &secrets) {
            carry_out(session, step).await?;
        }
        Ok(())
    }

    /// Loads the differences into charon. A refusal is a problem of the connection; the next change of that connection
    /// is loaded again.
    async fn load(&mut self, session: &mut Session) -> Result<(), SessionError> {
        for step in self.desired.steps_from(&self.loaded) {
            carry_out(session, step).await?;
        }
        self.loaded = self.desired.clone();
        let config = &self.config;
        self.retries.retain(|name, _| config.connections.get(name).is_some_and(|found| found.ipsec.is_some()));
        Ok(())
    }

    /// Lists all SAs.
    ///
    /// The list is not a snapshot: charon iterates over the IKE SAs. During a replacement, the list can contain the new
    /// one before it has the children, and miss the old one. So a missing tunnel of ours without a reported end is
    /// listed again, on its own.
    async fn look(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let mut sas = list_sas(session, &Message::default()).await?;
        for _ in 0..LOOKS {
            let mut missing = self.table.lost_by(&sas);
            missing.retain(|name| connection_of(name).is_some());
            if missing.is_empty() {
                break;
            }
            sleep(LOOK_AGAIN).await;
            for name in missing {
                let own = list_sas(session, &Message::default().with("ike", &name)).await?;
                sas.retain(|(ike, _)| ike.connection != name);
                sas.extend(own);
            }
        }
        self.table.replace(sas);
        Ok(())
    }

    /// When the next tunnel that should be up is initiated again.
    fn next_retry(&mut self) -> Instant {
        let now = Instant::now();
        for tunnel in self.config.tunnels().filter(|tunnel| tunnel.ipsec.start == StartAction::Start) {
            let state = self.table.tunnel(&name_of(tunnel.name));
            // charon is already initiating it, or it is up.
            if state.is_up() || state.ike.as_deref() == Some("CONNECTING") {
                if state.is_up() {
                    self.retries.remove(tunnel.name);
                }
            } else {
                let first = Retry { at: now + FIRST_RETRY, wait: FIRST_RETRY };
                self.retries.entry(tunnel.name.to_owned()).or_insert(first);
            }
        }
        self.retries.values().map(|retry| retry.at).min().unwrap_or(now + LONGEST_RETRY)
    }

    /// Initiates the tunnels whose retry is due.
    async fn retry(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let now = Instant::now();
        let due: Vec<String> =
            self.retries.iter().filter(|(_, retry)| retry.at <= now).map(|(name, _)| name.clone()).collect();
        self.look(session).await?;
        for name in due {
            if let Some(retry) = self.retries.get_mut(&name) {
                retry.wait = (retry.wait * 2).min(LONGEST_RETRY);
                retry.at = now + retry.wait;
            }
            let charon_name = name_of(&name);
            let state = self.table.tunnel(&charon_name);
            let Some(message) = self.loaded.connections.get(&charon_name) else { continue };
            if state.is_up() || state.ike.as_deref() == Some("CONNECTING") {
                continue;
            }
            for child in children_of(message) {
                // Returns at once; events report the result.
                let initiate = Message::default().with("child", child).with("ike", &charon_name).with("timeout", "-1");
                tolerate(session.request("initiate", &initiate).await)?;
            }
        }
        Ok(())
    }

    fn is_forgotten(&self) -> bool {
        self.lost.as_ref().is_some_and(|(since, _)| since.elapsed() >= GRACE)
    }

    /// Publishes the state of the tunnels if it has changed.
    fn publish(&mut self) {
        if self.is_forgotten() {
            self.table.clear();
        }
        let unreachable = self.lost.as_ref().filter(|_| self.is_forgotten()).map(|(_, why)| why.clone());
        let tunnels = self.config.tunnels();
        let tunnels = tunnels.map(|tunnel| (tunnel.name.to_owned(), self.table.tunnel(&name_of(tunnel.name))));
        let (problems, heard) = (self.desired.problems.clone(), self.heard);
        let view = Tunnels { tunnels: tunnels.collect(), problems, unreachable, heard };
        self.publisher.send_if_modified(|published| {
            let differs = **published != view;
            if differs {
                *published = Arc::new(view);
            }
            differs
        });
    }
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

/// The SAs that match a filter; an empty filter matches all.
async fn list_sas(session: &mut Session, filter: &Message) -> Result<Vec<(IkeSa, Vec<ChildSa>)>, SessionError> {
    let messages = session.list("list-sas", "list-sa", filter).await?;
    Ok(messages.iter().flat_map(listed).collect())
}

async fn carry_out(session: &mut Session, step: CharonStep) -> Result<(), SessionError> {
    match step {
        CharonStep::Load { command, message } => tolerate(session.request(command, &message).await),
        CharonStep::UnloadSecret(name) => {
            tolerate(session.request("unload-shared", &Message::default().with("id", name)).await)
        }
        CharonStep::UnloadConnection(name) => {
            // Unload the connection first, so that nothing initiates it again.
            let unload = Message::default().with("name", &name);
            tolerate(session.request("unload-conn", &unload).await)?;
            let shown = connection_of(&name).unwrap_or(&name).to_owned();
            info!(connection = shown, "its SAs are closed: its [ipsec] section was removed");
            let terminate = Message::default().with("ike", name).with("timeout", "-1");
            // There may be no SA to terminate.
            match session.request("terminate", &terminate).await {
                Err(error) if !error.is_refusal() => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// Logs a refusal without ending the session.
fn tolerate(result: Result<Message, SessionError>) -> Result<(), SessionError> {
    match result {
        Err(error) if error.is_refusal() => {
            warn!("{error}");
            Ok(())
        }
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests;

//! All checks through one interface with one IP version: a socket and a task.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::sleep_until,
};
use tracing::warn;

use super::{
    CheckTarget, HealthReport, LinkLayer, Verdict, VerdictChange,
    check::{Check, Nonce},
    echo,
    socket::{Cookie, EchoSocket, IpVersion},
};
use crate::background::Background;

/// Delay between the starts of new checks: a tunnel's queue holds a few hundred packets, and thousands of checks may
/// be added at once.
const SPACING: Duration = Duration::from_micros(100);
/// Most probes sent between two reads of the socket.
const BATCH: usize = 32;
/// Replies to our probes are far shorter, IPv4 options included. Longer packets are truncated and fail to parse.
const BUFFER: usize = 256;

pub type SharedReport = Arc<Mutex<HealthReport>>;

pub fn lock(report: &SharedReport) -> MutexGuard<'_, HealthReport> {
    // A panic leaves counters that are at worst off by one.
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

pub enum ProberCommand {
    /// A report for each destination.
    Add {
        connection: String,
        target: CheckTarget,
        reports: Vec<SharedReport>,
        /// The first ICMP identifier to use, or the next free one.
        identifier: u16,
    },
    Link {
        connection: String,
        link: LinkLayer,
    },
    Remove {
        connection: String,
    },
}

/// Handle of a line's task; dropping it ends the task.
pub struct InterfaceProber {
    commands: UnboundedSender<ProberCommand>,
}

impl InterfaceProber {
    pub fn start(
        background: &Background,
        ifindex: u32,
        version: IpVersion,
        events: UnboundedSender<VerdictChange>,
    ) -> Self {
        let (sender, commands) = unbounded_channel();
        let worker = Worker {
            ifindex,
            version,
            events,
            socket: None,
            cookie: Cookie::default(),
            checks: HashMap::new(),
            identifiers: HashMap::new(),
            due: BTreeSet::new(),
            next_start: Instant::now(),
        };
        background.spawn(worker.run(commands));
        Self { commands: sender }
    }

    pub fn command(&self, command: ProberCommand) {
        // The task ends only with the runtime.
        drop(self.commands.send(command));
    }
}

/// The probes of one destination.
struct RunningCheck {
    connection: String,
    source: IpAddr,
    destination: IpAddr,
    link: LinkLayer,
    check: Check,
    report: SharedReport,
}

struct Worker {
    ifindex: u32,
    version: IpVersion,
    events: UnboundedSender<VerdictChange>,
    /// `None` if opening failed; every probe tries again.
    socket: Option<EchoSocket>,
    cookie: Cookie,
    /// By ICMP identifier.
    checks: HashMap<u16, RunningCheck>,
    /// The ICMP identifiers of each connection, one for each destination.
    identifiers: HashMap<String, Vec<u16>>,
    /// When each check's next probe is due.
    due: BTreeSet<(Instant, u16)>,
    next_start: Instant,
}

impl Worker {
    async fn run(mut self, mut commands: UnboundedReceiver<ProberCommand>) {
        let mut buffer = [0; BUFFER];
        loop {
            let due = self.due.first().map(|(due, _)| *due);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                received = receive(self.socket.as_ref(), &mut buffer) => match received {
                    Ok(length) => self.take(&buffer[..length]),
                    Err(error) => self.note_socket_error(&error),
                },
                () = until(due) => {}
            }
            // Not only after the timer: a stream of packets must not delay probes.
            self.probe_due();
        }
    }

    fn obey(&mut self, command: ProberCommand) {
        match command {
            ProberCommand::Add { connection, target, reports, identifier } => {
                self.add(&connection, &target, reports, identifier);
            }
            ProberCommand::Link { connection, link } => self.set_link(&connection, link),
            ProberCommand::Remove { connection } => {
                for identifier in self.identifiers.remove(&connection).unwrap_or_default() {
                    if let Some(running) = self.checks.remove(&identifier) {
                        self.due.remove(&(running.check.due(), identifier));
                    }
                }
            }
        }
    }

    fn add(&mut self, connection: &str, target: &CheckTarget, reports: Vec<SharedReport>, mut first: u16) {
        let CheckTarget { link, check, .. } = target;
        for (&destination, report) in check.destinations.iter().zip(reports) {
            let mut identifiers = (0..=u16::MAX).map(|step| first.wrapping_add(step));
            let Some(identifier) = identifiers.find(|identifier| !self.checks.contains_key(identifier)) else {
                warn!(name: "health_check_impossible", connection, "no health check: 65536 destinations are probed through this interface already");
                return;
            };
            first = identifier.wrapping_add(1);
            lock(&report).identifier = Some(identifier);
            let start = self.next_start.max(Instant::now());
            self.next_start = start + SPACING;
            let (source, link, connection) = (check.source, *link, connection.to_owned());
            let check = Check::new(check.interval, check.retries, check.degraded, start);
            self.due.insert((check.due(), identifier));
            self.identifiers.entry(connection.clone()).or_default().push(identifier);
            self.checks.insert(identifier, RunningCheck { connection, source, destination, link, check, report });
        }
    }

    fn set_link(&mut self, connection: &str, link: LinkLayer) {
        for identifier in self.identifiers.get(connection).into_iter().flatten() {
            let Some(running) = self.checks.get_mut(identifier) else { continue };
            if running.link == (LinkLayer::Ethernet { peer: None }) {
                // The last probe could not be sent.
                self.due.remove(&(running.check.due(), *identifier));
                running.check.hurry(Instant::now());
                self.due.insert((running.check.due(), *identifier));
            }
            running.link = link;
        }
    }

    fn probe_due(&mut self) {
        for _ in 0..BATCH {
            match self.due.first() {
                Some((due, identifier)) if *due <= Instant::now() => self.probe(*identifier),
                _ => return,
            }
        }
    }

    fn probe(&mut self, identifier: u16) {
        if self.checks.get(&identifier).is_some_and(|running| running.check.is_overdue()) {
            // If this task is late, the reply may already be in the socket.
            self.take_all();
        }
        let ready = self.open().and_then(|()| random());
        let now = Instant::now();
        let Some(running) = self.checks.get_mut(&identifier) else { return };
        self.due.remove(&(running.check.due(), identifier));
        if let Some(verdict) = running.check.evaluate(now) {
            running.notify(verdict, &self.events);
        }
        // A probe that cannot be sent counts as missed, like a lost one.
        let sequence = running.check.probe(now, *ready.as_ref().unwrap_or(&Nonce::default()));
        self.due.insert((running.check.due(), identifier));
        let sent = match (ready, &self.socket) {
            (Ok(nonce), Some(socket)) => running.send(socket, identifier, sequence, self.cookie, &nonce),
            (ready, _) => ready.map(drop),
        };
        if let Err(error) = &sent {
            // The interface was deleted; a new one may get the same index.
            if matches!(Errno::from_io_error(error), Some(Errno::NXIO | Errno::NODEV)) {
                self.socket = None;
            }
        }
        if sent.is_err() {
            running.check.not_sent();
        }
        running.note_sent(sent.err().map(|error| sentence(&error)));
    }

    fn open(&mut self) -> io::Result<()> {
        if self.socket.is_none() {
            self.cookie = random()?;
            self.socket = Some(EchoSocket::open(self.ifindex, self.version, self.cookie)?);
        }
        Ok(())
    }

    /// Processes all packets that are already in the socket.
    fn take_all(&mut self) {
        let mut buffer = [0; BUFFER];
        while let Some(Ok(length)) = self.socket.as_ref().map(|socket| socket.receive_now(&mut buffer)) {
            self.take(&buffer[..length]);
        }
    }

    fn take(&mut self, packet: &[u8]) {
        let Some(reply) = echo::reply(packet) else { return };
        let Some(running) = self.checks.get_mut(&reply.identifier) else { return };
        let Some(nonce) = reply.payload.strip_prefix(&self.cookie) else { return };
        if reply.source != running.destination || reply.destination != running.source {
            return;
        }
        let now = Instant::now();
        let Some(answer) = running.check.reply(now, reply.sequence, nonce) else { return };
        let mut report = lock(&running.report);
        report.received += 1;
        report.recent = running.check.recent();
        report.round_trip = Some(answer.round_trip);
        report.last_reply = Some(now);
        drop(report);
        if let Some(verdict) = answer.verdict {
            running.notify(verdict, &self.events);
        }
    }

    fn note_socket_error(&mut self, error: &io::Error) {
        // NETDOWN is reported once when the interface goes down, and the kernel re-attaches the socket when it comes
        // up. After any other error the next probe opens a new socket.
        if Errno::from_io_error(error) != Some(Errno::NETDOWN) {
            self.socket = None;
        }
    }
}

impl RunningCheck {
    fn notify(&self, verdict: Verdict, events: &UnboundedSender<VerdictChange>) {
        let mut report = lock(&self.report);
        report.verdict = Some(verdict);
        report.is_loss_known = self.check.is_loss_known();
        drop(report);
        // Fails only if the agent is stopping.
        drop(events.send(VerdictChange { connection: self.connection.clone(), verdict }));
    }

    fn send(
        &self,
        socket: &EchoSocket,
        identifier: u16,
        sequence: u16,
        cookie: Cookie,
        nonce: &Nonce,
    ) -> io::Result<()> {
        let neighbour = match self.link {
            LinkLayer::RawIp => None,
            LinkLayer::Ethernet { peer: Some(peer) } => Some(peer),
            LinkLayer::Ethernet { peer: None } => {
                return Err(io::Error::other("the link address of its peer is not known yet"));
            }
        };
        let payload = [&cookie[..], nonce].concat();
        let packet = echo::request(self.source, self.destination, identifier, sequence, &payload)
            .ok_or_else(|| io::Error::other("source and destination are not of one IP version"))?;
        socket.send(&packet, neighbour)
    }

    /// Records that a probe was sent, or why not; logs each new problem once.
    fn note_sent(&self, problem: Option<String>) {
        let mut report = lock(&self.report);
        if let Some(problem) = &problem
            && report.problem.as_ref() != Some(problem)
        {
            warn!(name: "health_check_not_sent", connection = self.connection, json.reason = problem, "the health check cannot send: {problem}");
        }
        report.sent += u64::from(problem.is_none());
        report.lost = self.check.lost();
        report.recent = self.check.recent();
        report.problem = problem;
    }
}

async fn receive(socket: Option<&EchoSocket>, buffer: &mut [u8]) -> io::Result<usize> {
    match socket {
        Some(socket) => socket.receive(buffer).await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // Up to 256 bytes are never returned short (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// The problem and its remedy.
fn sentence(error: &io::Error) -> String {
    let sentence = match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "it needs CAP_NET_RAW: run the agent as root, or add CAP_NET_RAW to AmbientCapabilities= in its systemd unit"
        }
        Some(Errno::NETDOWN) => "its interface is down; retried with every probe",
        Some(Errno::NODEV | Errno::NXIO) => "its interface is gone; retried with every probe",
        Some(Errno::MFILE) => "the agent has too many files open: raise LimitNOFILE= in its systemd unit",
        Some(Errno::NOBUFS | Errno::AGAIN) => "the queue of its interface is full; retried with every probe",
        Some(Errno::MSGSIZE) => "the MTU of its interface is below 68 bytes",
        _ => return error.to_string(),
    };
    sentence.to_owned()
}

//! Stands in for charon with any number of tunnels, by telling what a real one told of its own.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};

use super::{
    recording::{Event, Recording, Rekeys},
    vici::{
        CMD_REQUEST, CMD_RESPONSE, EVENT, EVENT_CONFIRM, EVENT_REGISTER, EVENT_UNREGISTER, Node, Packet, Section,
        sections, value,
    },
};

/// Answers agents at a socket until the process ends.
#[derive(Clone)]
pub struct Player {
    recording: Arc<Recording>,
    tunnels: Arc<Mutex<Vec<Tunnel>>>,
    clients: Arc<Mutex<Vec<Arc<Client>>>>,
    /// Names of loaded connections and secrets.
    loaded: Arc<Mutex<BTreeMap<&'static str, HashSet<String>>>>,
}

#[derive(Clone, Copy, Default)]
struct Tunnel {
    is_up: bool,
    rekeys: Rekeys,
}

struct Client {
    stream: UnixStream,
    /// Whole packets only.
    writing: Mutex<()>,
    events: Mutex<HashSet<String>>,
}

/// One round of dead peer detection, or a change of a tunnel.
#[derive(Debug, Clone, Copy)]
pub enum Turn {
    Dpd,
    ChildRekey,
    IkeRekey,
    Down,
}

impl Player {
    /// All tunnels are down, until the agent initiates them.
    pub fn start(socket: &Path, recording: Arc<Recording>, tunnels: u32) -> Result<Self> {
        let listener = UnixListener::bind(socket).context("making the socket of VICI")?;
        let player = Self {
            recording,
            tunnels: Arc::new(Mutex::new(vec![Tunnel::default(); tunnels as usize])),
            clients: Arc::default(),
            loaded: Arc::default(),
        };
        let acceptor = player.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let client = Arc::new(Client { stream, writing: Mutex::default(), events: Mutex::default() });
                lock(&acceptor.clients).push(Arc::clone(&client));
                let player = acceptor.clone();
                thread::spawn(move || player.serve(&client));
            }
        });
        Ok(player)
    }

    /// Plays a turn of a tunnel; nothing for one that is down.
    pub fn play(&self, number: u32, turn: Turn) {
        let before = {
            let mut tunnels = lock(&self.tunnels);
            let tunnel = &mut tunnels[number as usize];
            let before = *tunnel;
            match turn {
                _ if !before.is_up => return,
                Turn::Dpd => {}
                Turn::ChildRekey => tunnel.rekeys.child += 1,
                Turn::IkeRekey => tunnel.rekeys.ike += 1,
                Turn::Down => tunnel.is_up = false,
            }
            before
        };
        // Recorded after both rekeyings.
        let Rekeys { ike, child } = before.rekeys;
        let (events, rekeys) = match turn {
            Turn::ChildRekey => (&self.recording.child_rekey, Rekeys { ike, child }),
            Turn::IkeRekey => (&self.recording.ike_rekey, Rekeys { ike, child: child.wrapping_sub(1) }),
            Turn::Dpd => (&self.recording.dpd, before.rekeys.recorded()),
            Turn::Down => (&self.recording.down, before.rekeys.recorded()),
        };
        self.tell(number, events, rekeys);
    }

    /// The rekeyings of each tunnel that is up.
    pub fn rekeys(&self) -> Vec<(u32, Rekeys)> {
        let tunnels = lock(&self.tunnels);
        (0..)
            .zip(&*tunnels)
            .filter(|(_, tunnel)| tunnel.is_up)
            .map(|(number, tunnel)| (number, tunnel.rekeys))
            .collect()
    }

    fn tell(&self, number: u32, events: &[Event], rekeys: Rekeys) {
        let count = self.count();
        let clients = lock(&self.clients).clone();
        for (name, message) in events {
            let listening: Vec<_> = clients.iter().filter(|client| lock(&client.events).contains(name)).collect();
            if listening.is_empty() {
                continue;
            }
            let packet = Packet::new(EVENT, name, self.recording.told_of(message, number, count, rekeys)).encode();
            for client in listening {
                // One that has gone is of no interest.
                drop(client.write(&packet));
            }
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(lock(&self.tunnels).len()).expect("few tunnels")
    }

    fn serve(&self, client: &Arc<Client>) {
        while let Ok(Some(request)) = Packet::receive(&client.stream) {
            let mut up = None;
            let answer = match request.kind {
                EVENT_REGISTER => {
                    lock(&client.events).insert(request.name);
                    Packet::new(EVENT_CONFIRM, "", Section::new())
                }
                EVENT_UNREGISTER => {
                    lock(&client.events).remove(&request.name);
                    Packet::new(EVENT_CONFIRM, "", Section::new())
                }
                CMD_REQUEST => Packet::new(CMD_RESPONSE, "", self.command(client, &request, &mut up)),
                _ => return,
            };
            if client.write(&answer.encode()).is_err() {
                break;
            }
            if let Some(number) = up {
                self.initiate(number);
            }
        }
        lock(&self.clients).retain(|other| !Arc::ptr_eq(other, client));
    }

    /// Carries out a command. A tunnel that it initiates goes to `up`.
    fn command(&self, client: &Client, request: &Packet, up: &mut Option<u32>) -> Section {
        let names = |kind| lock(&self.loaded).entry(kind).or_default().iter().cloned().collect();
        let message = &request.message;
        match request.name.as_str() {
            "list-sas" => self.list(client, value(message, "ike")),
            "get-conns" => return vec![("conns".to_owned(), Node::List(names("conns")))],
            "get-shared" => return vec![("keys".to_owned(), Node::List(names("keys")))],
            "load-conn" => {
                let connection = sections(message).next();
                lock(&self.loaded).entry("conns").or_default().extend(connection.map(|(name, _)| name.to_owned()));
                let children = connection.and_then(|(_, section)| {
                    sections(section).find(|(name, _)| *name == "children").map(|(_, children)| children)
                });
                let starts = |(_, child): (&str, &Section)| value(child, "start_action") == Some("start");
                if children.is_some_and(|children| sections(children).any(starts)) {
                    *up = connection.and_then(|(name, _)| number(name));
                }
            }
            "load-shared" => {
                let id = value(message, "id").map(str::to_owned);
                lock(&self.loaded).entry("keys").or_default().extend(id);
            }
            "initiate" => *up = value(message, "ike").and_then(number),
            _ => {}
        }
        vec![("success".to_owned(), Node::Value("yes".to_owned()))]
    }

    fn initiate(&self, number: u32) {
        let rekeys = {
            let mut tunnels = lock(&self.tunnels);
            let Some(tunnel) = tunnels.get_mut(number as usize) else { return };
            if std::mem::replace(&mut tunnel.is_up, true) {
                return;
            }
            // charon never uses an id again.
            tunnel.rekeys = Rekeys { ike: tunnel.rekeys.ike + 1, child: tunnel.rekeys.child + 1 };
            tunnel.rekeys
        };
        self.tell(number, &self.recording.up, rekeys);
    }

    fn list(&self, client: &Client, ike: Option<&str>) {
        let tunnels = lock(&self.tunnels).clone();
        let count = self.count();
        let is_asked = |number: &u32| ike.is_none_or(|ike| self::number(ike) == Some(*number));
        for (number, tunnel) in (0..).zip(tunnels).filter(|(number, tunnel)| tunnel.is_up && is_asked(number)) {
            let listed = self.recording.told_of(&self.recording.listed, number, count, tunnel.rekeys.recorded());
            drop(client.write(&Packet::new(EVENT, "list-sa", listed).encode()));
        }
    }
}

impl Rekeys {
    /// For what was recorded after both rekeyings.
    fn recorded(self) -> Self {
        Self { ike: self.ike.wrapping_sub(1), child: self.child.wrapping_sub(1) }
    }
}

impl Client {
    fn write(&self, packet: &[u8]) -> std::io::Result<()> {
        let _one = lock(&self.writing);
        (&self.stream).write_all(packet)
    }
}

/// The number of a connection of the bench.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix("vpnhub-t")?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

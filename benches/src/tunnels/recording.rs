//! What strongSwan tells of a tunnel, recorded, and told again of any number of tunnels.

use std::{
    fmt::Write as _,
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hub_tests::lab::HUB;

use super::{
    crowd::{self, Charons, Sites},
    vici::{CMD_REQUEST, EVENT, EVENT_REGISTER, Node, Packet, Section, node, sections, value},
};
use crate::{
    failover,
    testbed::{Common, Running},
};

/// The events of an agent.
const EVENTS: [&str; 5] = ["ike-updown", "ike-rekey", "child-updown", "child-rekey", "log"];
/// The recorded connection.
const NAME: &str = "vpnhub-t0";
/// For charon to tell all of a change.
const QUIET: Duration = Duration::from_secs(3);
/// More than the interval of dead peer detection.
const ONE_DPD: Duration = Duration::from_secs(33);

pub type Event = (String, Section);

/// Events of one tunnel of a real charon.
pub struct Recording {
    /// From nothing to established.
    pub up: Vec<Event>,
    /// One round of dead peer detection.
    pub dpd: Vec<Event>,
    pub child_rekey: Vec<Event>,
    pub ike_rekey: Vec<Event>,
    /// The site closes it.
    pub down: Vec<Event>,
    /// Its entry in a listing, at the end of all.
    pub listed: Section,
    ids: RecordedIds,
}

/// charon's ids and SPIs, before and after the rekeyings.
#[derive(Default)]
struct RecordedIds {
    ike: [String; 2],
    child: [String; 2],
    /// In and out.
    spis: [[String; 2]; 2],
}

/// How often a tunnel has been rekeyed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rekeys {
    pub ike: u32,
    pub child: u32,
}

impl Recording {
    /// Of a real tunnel, whose agent and charons end with this.
    pub fn make(common: &Common) -> Result<Self> {
        let world = crowd::world(1)?;
        let charons = Charons::start(&world, Sites::Alive, 1)?;
        let told = listen(&charons.hub_socket())?;
        let running = Running::start(&common.agent()?, &world[HUB], &charons.config(&failover::standby(common, 1)))?;
        charons.wait_until_up()?;
        let up = collect(&told, QUIET)?;
        charons.rekey("--child", NAME)?;
        let child_rekey = collect(&told, QUIET)?;
        charons.rekey("--ike", NAME)?;
        let ike_rekey = collect(&told, QUIET)?;
        let dpd = collect(&told, ONE_DPD)?;
        let listed = list(&charons.hub_socket())?;
        charons.close(0)?;
        let mut down = collect(&told, QUIET)?;
        let end = down.iter().position(|(name, message)| name == "ike-updown" && value(message, "up").is_none());
        down.truncate(end.context("charon did not report the tunnel's end")? + 1);
        running.agent.stop()?;

        let mut ids = RecordedIds::default();
        let of = |events: &[Event], name: &str| -> Result<Section> {
            let found = events.iter().rev().find(|(kind, _)| kind == name);
            let (_, message) = found.with_context(|| format!("charon sent no {name}"))?;
            let (_, ike) = sections(message).next().context("an event without an SA")?;
            Ok(ike.clone())
        };
        let both = |section: &Section| -> Result<[Section; 2]> {
            match [node(section, "old"), node(section, "new")] {
                [Some(Node::Section(old)), Some(Node::Section(new))] => Ok([old.clone(), new.clone()]),
                _ => bail!("a rekeying without an old and a new SA"),
            }
        };
        let text = |section: &Section, key: &str| value(section, key).map(str::to_owned).context("an SA without ids");
        for (id, ike) in ids.ike.iter_mut().zip(both(&of(&ike_rekey, "ike-rekey")?)?) {
            *id = text(&ike, "uniqueid")?;
        }
        let of_child = of(&child_rekey, "child-rekey")?;
        let Some(Node::Section(children)) = node(&of_child, "child-sas") else { bail!("a rekeying without a child") };
        let (_, child) = sections(children).next().context("a rekeying without a child")?;
        for (place, child) in both(child)?.iter().enumerate() {
            ids.child[place] = text(child, "uniqueid")?;
            ids.spis[place] = [text(child, "spi-in")?, text(child, "spi-out")?];
        }
        ensure!(dpd.iter().any(|(name, _)| name == "log"), "charon logged nothing in {ONE_DPD:?}");
        Ok(Self { up, dpd, child_rekey, ike_rekey, down, listed, ids })
    }

    /// The same, told of tunnel `number` of `count` after so many rekeyings.
    pub fn told_of(&self, message: &Section, number: u32, count: u32, rekeys: Rekeys) -> Section {
        let RecordedIds { ike, child, spis } = &self.ids;
        let mut exact = Vec::new();
        for place in [0_u8, 1] {
            let at = usize::from(place);
            let (ike_id, child_id) = (
                1 + (rekeys.ike + u32::from(place)) * count + number,
                (1 << 30) + (rekeys.child + u32::from(place)) * count + number,
            );
            exact.push((&ike[at], ike_id.to_string()));
            exact.push((&child[at], child_id.to_string()));
            exact.push((&spis[at][0], spi(child_id)));
            exact.push((&spis[at][1], spi(!child_id)));
        }
        let (address, network) = (crowd::address(number).to_string(), crowd::network(number).addr().to_string());
        let parts = [
            (NAME.to_owned(), format!("vpnhub-t{number}")),
            (crowd::address(0).to_string(), address),
            (crowd::network(0).addr().to_string(), network),
        ];
        Substitution { exact, parts, child: &child[0], child_after: &child[1] }.section(message)
    }
}

/// As charon writes the SPI of this child.
pub fn spi(child: u32) -> String {
    format!("{child:08x}")
}

/// The SPI of the hub's side of tunnel `number` after so many rekeyings.
pub fn spi_in(number: u32, count: u32, rekeys: Rekeys) -> String {
    spi((1 << 30) + rekeys.child * count + number)
}

struct Substitution<'a> {
    /// Whole values of ids.
    exact: Vec<(&'a String, String)>,
    /// Parts of texts.
    parts: [(String, String); 3],
    child: &'a str,
    child_after: &'a str,
}

impl Substitution<'_> {
    fn section(&self, section: &Section) -> Section {
        section.iter().map(|(name, node)| (self.name(name), self.node(name, node))).collect()
    }

    fn node(&self, key: &str, node: &Node) -> Node {
        match node {
            Node::Value(value) if key.ends_with("uniqueid") || key.starts_with("spi-") => {
                let new = self.exact.iter().find(|(old, _)| *old == value);
                Node::Value(new.map_or_else(|| value.clone(), |(_, new)| new.clone()))
            }
            Node::Value(value) => Node::Value(self.text(value)),
            Node::List(items) => Node::List(items.iter().map(|item| self.text(item)).collect()),
            Node::Section(section) => Node::Section(self.section(section)),
        }
    }

    /// A child's section is named after the child and its id.
    fn name(&self, name: &str) -> String {
        for id in [self.child, self.child_after] {
            if let Some(first) = name.strip_suffix(id).and_then(|name| name.strip_suffix('-')) {
                let new = self.exact.iter().find(|(old, _)| *old == id).map(|(_, new)| new.as_str());
                let mut text = self.text(first);
                write!(text, "-{}", new.unwrap_or_default()).expect("a string takes all");
                return text;
            }
        }
        self.text(name)
    }

    fn text(&self, text: &str) -> String {
        self.parts.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    }
}

/// Subscribes to a charon's events.
fn listen(socket: &Path) -> Result<Receiver<Event>> {
    let stream = UnixStream::connect(socket).context("connecting to charon")?;
    for event in EVENTS {
        Packet::new(EVENT_REGISTER, event, Section::new()).send(&stream)?;
    }
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Ok(Some(packet)) = Packet::receive(&stream) {
            if packet.kind == EVENT && sender.send((packet.name, packet.message)).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// What comes until nothing has come for this long, about the recorded connection.
fn collect(told: &Receiver<Event>, quiet: Duration) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let deadline = std::time::Instant::now() + quiet;
    loop {
        let rest = deadline.saturating_duration_since(std::time::Instant::now());
        match told.recv_timeout(rest) {
            Ok(event) => events.push(event),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => bail!("charon closed the connection"),
        }
    }
    let is_ours = |(name, message): &Event| match name.as_str() {
        "log" => value(message, "ikesa-name") == Some(NAME),
        _ => sections(message).any(|(name, _)| name == NAME),
    };
    events.retain(is_ours);
    Ok(events)
}

/// The entry of the recorded connection in a listing of all SAs.
fn list(socket: &Path) -> Result<Section> {
    let stream = UnixStream::connect(socket).context("connecting to charon")?;
    Packet::new(EVENT_REGISTER, "list-sa", Section::new()).send(&stream)?;
    Packet::new(CMD_REQUEST, "list-sas", Section::new()).send(&stream)?;
    while let Some(packet) = Packet::receive(&stream)? {
        if packet.kind == EVENT && sections(&packet.message).any(|(name, _)| name == NAME) {
            return Ok(packet.message);
        }
    }
    bail!("charon lists no {NAME}")
}

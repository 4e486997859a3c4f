//! Sends, captures, compares.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::bail;
use hub_tests::lab::Agent;
use hub_tests::packet::{Packet, hex};

use crate::arena::Arena;
use crate::changing::Stage;
use crate::draw::draw;
use crate::dual::Tunnel;
use crate::places::{ALL, Place, Places, TRANSLATED, is_hub, within};
use crate::policy::{Allowed, NOWHERE, Policy};
use crate::raw::RawLink;
use crate::reading::Reading;
use crate::wires::{Arrival, MARKER, Macs, Wires, macs};

/// Limit of frames in memory for display; older ones are drawn again from the seed.
const RECENT: usize = 100_000;
/// Packets sent between two checks of the far ends, whose buffers hold some thousand frames.
const BURST: usize = 250;
/// Packets sent before a wait for everything.
const VOLLEY: usize = 2000;

/// A packet that entered, and its allowed outcomes.
#[derive(Debug, Clone, Copy)]
struct Sent {
    entry: Place,
    tunnel: Tunnel,
    source: Option<IpAddr>,
    allowed: Allowed,
    /// Its allowed places while the nftables table is installed.
    guarded: Places,
}

/// Policy violations: the kind, its count, and the first in full.
pub type Findings = BTreeMap<String, (u64, String)>;

pub struct Hunt<'a> {
    pub arena: &'a Arena,
    pub wires: Wires,
    pub macs: Vec<Option<Macs>>,
    sent: Vec<Sent>,
    recent: VecDeque<Vec<u8>>,
    /// Ids of packets that must arrive, the place, and the number of arrivals.
    due: HashMap<u64, (Place, u64)>,
    /// Places at which each marker has arrived.
    pub marked: HashSet<(u64, Place, Tunnel)>,
    /// The number of markers so far.
    pub rounds: u64,
    pub stage: Stage,
    /// The stage that the world is changing to: its policy applies as well as that of the current one.
    pub next: Option<Stage>,
    /// The current phase, for messages.
    pub phase: String,
    /// The VPC's interface is no longer an attachment. As on any other, the policy does not restrict the hub's own
    /// answers there.
    pub vpc_is_let_go: bool,
    /// The nftables table is, or may be, missing.
    pub unguarded: bool,
    /// Packets that arrived meanwhile, and that the table would have dropped.
    pub leaked: u64,
    findings: Findings,
    /// Packets that arrived at allowed places.
    pub arrived: u64,
    /// Of crafted packets; those of random ones are not stored.
    arrivals: Vec<Arrival>,
    crafted: bool,
}

impl<'a> Hunt<'a> {
    pub fn new(arena: &'a Arena, raw: [RawLink; 2]) -> anyhow::Result<Self> {
        Ok(Self {
            wires: Wires::open(&arena.world, raw, arena.variant.dual)?,
            macs: macs(&arena.world)?,
            arena,
            sent: Vec::new(),
            recent: VecDeque::new(),
            due: HashMap::new(),
            marked: HashSet::new(),
            rounds: 0,
            stage: Stage::FIRST,
            next: None,
            phase: String::new(),
            vpc_is_let_go: false,
            unguarded: false,
            leaked: 0,
            findings: Findings::new(),
            arrived: 0,
            arrivals: Vec::new(),
            crafted: false,
        })
    }

    pub fn sent(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Sends one packet, built for its id.
    pub fn fire(&mut self, entry: Place, make: impl FnOnce(u64) -> Vec<u8>) -> u64 {
        self.crafted = true;
        let id = self.sent() + 1;
        let bytes = make(id);
        self.enter(entry, Tunnel::First, bytes);
        id
    }

    /// Sends one packet outside the wires. It may arrive nowhere and draw no answer.
    pub fn fire_unadmitted(&mut self, entry: Place, send: impl FnOnce(u64) -> bool) {
        let id = self.sent() + 1;
        self.sent.push(Sent { entry, tunnel: Tunnel::First, source: None, allowed: NOWHERE, guarded: Places::NONE });
        self.recent.push_back(Vec::new());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        send(id);
    }

    fn enter(&mut self, entry: Place, tunnel: Tunnel, bytes: Vec<u8>) {
        let hub_mac = self.macs[entry as usize].map(|[hub, _]| hub);
        let by = |stage, guarded| {
            let policy = Policy { guarded, ..self.arena.variant.policy(stage) };
            policy.allowed((entry, tunnel), &bytes, hub_mac)
        };
        let verdict = |guarded| {
            let allowed = by(self.stage, guarded);
            self.next.map_or(allowed, |next| allowed.or(by(next, guarded)))
        };
        let mut allowed = verdict(true);
        let guarded = allowed.packet;
        if self.unguarded {
            allowed = verdict(false);
        }
        if entry == Place::Vpc && self.vpc_is_let_go {
            allowed.answers = Places::of(&ALL);
        }
        let entered = self.wires.send((entry, tunnel), &bytes);
        let source = Reading::of(entry, &bytes).map(|reading| match self.translates(entry) {
            true => entry.at_hub(reading.source).unwrap_or(reading.source),
            false => reading.source,
        });
        self.sent.push(Sent { entry, tunnel, source, allowed, guarded });
        if let (Some(place), true) = (allowed.must, entered) {
            self.due.insert(self.sent(), (place, 0));
        }
        self.recent.push_back(bytes);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    pub fn translates(&self, place: Place) -> bool {
        self.arena.variant.translated && TRANSLATED.contains(&place)
    }

    /// Sends random packets, and checks arrivals meanwhile.
    pub fn burst(&mut self, seed: u64, packets: usize) {
        for _ in 0..packets {
            let id = self.sent() + 1;
            let (entry, bytes) = draw(seed, id, &self.macs, self.arena.variant);
            let has_two = self.arena.variant.dual.is_some_and(|dual| dual.site == entry);
            self.enter(entry, if has_two && id.count_ones() % 2 == 1 { Tunnel::Second } else { Tunnel::First }, bytes);
        }
        self.look();
    }

    /// Sends random packets; every packet that must arrive has to.
    pub fn run(&mut self, seed: u64, packets: u64) -> anyhow::Result<()> {
        let end = self.sent() + packets;
        while self.sent() < end {
            let volley = usize::try_from(end - self.sent())?.min(VOLLEY);
            for first in (0..volley).step_by(BURST) {
                self.burst(seed, BURST.min(volley - first));
            }
            self.settle()?;
            self.collect_debts();
        }
        Ok(())
    }

    /// A packet that has not arrived, or more than once, is a finding.
    pub fn collect_debts(&mut self) {
        for (id, (place, times)) in std::mem::take(&mut self.due) {
            if times != 1 {
                let entry = self.sent[usize::try_from(id - 1).expect("an index")].entry;
                let kind = if times == 0 { "lost".to_owned() } else { format!("arrived {times} times") };
                self.find(format!("{entry} -> {place}: {kind}"), id, None);
            }
        }
    }

    /// Forgets which packets must arrive, where delivery is not guaranteed.
    pub fn waive_debts(&mut self) {
        self.due.clear();
    }

    /// Checks all arrivals so far.
    pub fn look(&mut self) {
        let mut arrivals = Vec::new();
        self.wires.drain(&self.arena.world, |arrival| arrivals.push(arrival));
        for arrival in arrivals {
            self.compare(arrival);
        }
    }

    fn compare(&mut self, arrival: Arrival) {
        let Arrival { place, tunnel, id, .. } = arrival;
        if id & MARKER != 0 {
            self.marked.insert((id, place, tunnel));
            return;
        }
        let sent = usize::try_from(id).ok().and_then(|id| self.sent.get(id.wrapping_sub(1)));
        let Some(Sent { entry, source, allowed, guarded, .. }) = sent.copied() else { return };
        let from_hub = arrival.source.is_some_and(|from| is_hub(from) && source != Some(from));
        match self.due.get_mut(&id) {
            Some((due, times)) if *due == place && arrival.source == source => *times += 1,
            Some((due, _)) if *due == place && arrival.source.is_none() => {
                self.find(format!("{entry} -> {place}: arrived as what is no IP packet"), id, Some(&arrival));
            }
            _ => {}
        }
        let is_answer = from_hub && (allowed.answers.contains(place) || self.owns_now(place, source, allowed.answers));
        if allowed.packet.contains(place) || is_answer {
            self.arrived += 1;
            self.leaked += u64::from(!from_hub && !guarded.contains(place));
        } else {
            let what = if from_hub { "an answer of the hub arrived" } else { "arrived" };
            let phase = if self.phase.is_empty() { String::new() } else { format!("{}: ", self.phase) };
            self.find(format!("{phase}{entry} -> {place}: {what} beyond policy"), id, Some(&arrival));
        }
        if self.next.is_none() && !from_hub && !self.stage.carries(self.arena.variant.dual, place, tunnel) {
            self.find(format!("{entry} -> {place}{tunnel}: arrived by the tunnel that stands by"), id, Some(&arrival));
        }
        if self.translates(place)
            && let Some(Reading { destination, .. }) = Reading::of(place, &arrival.bytes)
            && (within(place.networks().0, destination) || within(place.networks().1, destination))
        {
            self.find(
                format!("{entry} -> {place}: arrived for an address that the site does not know"),
                id,
                Some(&arrival),
            );
        }
        if self.crafted {
            self.arrivals.push(arrival);
        }
    }

    /// Whether a learned route leads to a place with this source of a packet that may have an answer. The kernel waits
    /// seconds for a neighbour before it answers: the source may be another site's by then.
    fn owns_now(&self, place: Place, source: Option<IpAddr>, answers: Places) -> bool {
        let variant = self.arena.variant;
        let stages = [Some(self.stage), self.next].into_iter().flatten();
        let owners = |source| stages.map(|stage| variant.policy(stage).members(source)).fold(Places::NONE, Places::and);
        variant.learned && answers != Places::NONE && source.is_some_and(|source| owners(source).contains(place))
    }

    fn find(&mut self, what: String, id: u64, arrival: Option<&Arrival>) {
        let Sent { entry, tunnel, allowed, .. } = self.sent[usize::try_from(id - 1).expect("an index")];
        let oldest = self.sent() - self.recent.len() as u64;
        let bytes = id.checked_sub(oldest + 1).and_then(|at| self.recent.get(usize::try_from(at).ok()?));
        let describe = |place, bytes: &[u8]| match Reading::of(place, bytes) {
            Some(reading) => format!("{reading}\n{}", hex(bytes)),
            None => format!("no IP packet\n{}", hex(bytes)),
        };
        let finding = self.findings.entry(what).or_default();
        finding.0 += 1;
        if finding.0 == 1 {
            let sent = bytes.map_or("no longer stored: replay the seed\n".to_owned(), |bytes| describe(entry, bytes));
            writeln!(finding.1, "id {id} as sent by {entry}{tunnel}: {sent}policy: {allowed:?}")
                .expect("a string takes all");
            if let Some(arrival) = arrival {
                let got = describe(arrival.place, &arrival.bytes);
                write!(finding.1, "as it arrived at {}{}: {got}", arrival.place, arrival.tunnel)
                    .expect("a string takes all");
            }
        }
    }

    /// All arrivals of an id so far, in order.
    pub fn arrivals_of(&self, id: u64) -> Vec<&Arrival> {
        self.arrivals.iter().filter(|arrival| arrival.id == id).collect()
    }

    /// Fails if anything beyond the policy has arrived.
    pub fn verdict(&mut self) -> anyhow::Result<()> {
        self.arrivals.clear();
        if self.findings.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for (what, (times, _)) in &self.findings {
            writeln!(text, "{times:>7} x {what}")?;
        }
        for (what, (_, example)) in &self.findings {
            writeln!(text, "\n{what}, for example:\n{example}")?;
        }
        bail!("of {} packets:\n{text}", self.sent())
    }

    /// Ends a hunt: checks the verdict, after the agent has exited properly.
    pub fn conclude(&mut self, agent: Agent) -> anyhow::Result<()> {
        println!("{:?}: {} packets, {} arrived", self.arena.variant, self.sent(), self.arrived);
        let verdict = self.verdict();
        agent.stop()?;
        verdict
    }

    /// The violations so far.
    pub fn findings(&self) -> Findings {
        self.findings.clone()
    }

    /// Restores earlier findings.
    pub fn set_findings(&mut self, findings: Findings) {
        self.findings = findings;
    }

    /// Adds another violation.
    pub fn note(&mut self, what: impl std::fmt::Display) {
        self.findings.entry(format!("{}: {what:#}", self.phase)).or_default().0 += 1;
    }
}

/// A UDP packet between two addresses of one family.
pub fn udp(from: IpAddr, to: IpAddr) -> Packet {
    ip(from, to).udp(5000, 6000)
}

/// An empty packet between two addresses of one family.
pub fn ip(from: IpAddr, to: IpAddr) -> Packet {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Packet::ipv4(from, to),
        (IpAddr::V6(from), IpAddr::V6(to)) => Packet::ipv6(from, to),
        _ => panic!("{from} and {to} are of two families"),
    }
}

//! Sends, captures, compares.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use hub_tests::lab::Agent;
use hub_tests::packet::{Packet, hex};

use crate::arena::Arena;
use crate::draw::draw;
use crate::places::{ALL, Place, Places, SITES, TRANSLATED, is_hub, within};
use crate::policy::{Allowed, NOWHERE, Policy};
use crate::raw::RawLink;
use crate::reading::Reading;
use crate::wires::{Arrival, MARKER, Macs, Wires, framed, macs, payload};

/// Limit of frames in memory for display; older ones are drawn again from the seed.
const RECENT: usize = 100_000;
/// Packets sent between two checks of the far ends, whose buffers hold some thousand frames.
const BURST: usize = 250;
/// Packets sent before a wait for everything.
const VOLLEY: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(20);
/// The interval for resending markers. It matters only if a neighbour is not known yet, or a frame was lost.
const AGAIN: Duration = Duration::from_millis(200);

/// A packet that entered, and its allowed outcomes.
#[derive(Debug, Clone, Copy)]
struct Sent {
    entry: Place,
    source: Option<IpAddr>,
    allowed: Allowed,
    /// Its allowed places while the nftables table is installed.
    guarded: Places,
}

/// Policy violations: the kind, its count, and the first in full.
pub type Findings = BTreeMap<String, (u64, String)>;

pub struct Hunt<'a> {
    arena: &'a Arena,
    wires: Wires,
    pub macs: Vec<Option<Macs>>,
    sent: Vec<Sent>,
    recent: VecDeque<Vec<u8>>,
    /// Ids of packets that must arrive, the place, and the number of arrivals.
    due: HashMap<u64, (Place, u64)>,
    /// Places at which each marker has arrived.
    marked: HashSet<(u64, Place)>,
    rounds: u64,
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
            wires: Wires::open(&arena.world, raw)?,
            macs: macs(&arena.world)?,
            arena,
            sent: Vec::new(),
            recent: VecDeque::new(),
            due: HashMap::new(),
            marked: HashSet::new(),
            rounds: 0,
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
        self.enter(entry, bytes);
        id
    }

    /// Sends one packet outside the wires. It may arrive nowhere and draw no answer.
    pub fn fire_unadmitted(&mut self, entry: Place, send: impl FnOnce(u64) -> bool) {
        let id = self.sent() + 1;
        self.sent.push(Sent { entry, source: None, allowed: NOWHERE, guarded: Places::NONE });
        self.recent.push_back(Vec::new());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        send(id);
    }

    fn enter(&mut self, entry: Place, bytes: Vec<u8>) {
        let hub_mac = self.macs[entry as usize].map(|[hub, _]| hub);
        let policy = self.arena.variant.policy();
        let mut allowed = policy.allowed(entry, &bytes, hub_mac);
        let guarded = allowed.packet;
        if self.unguarded {
            allowed = Policy { guarded: false, ..policy }.allowed(entry, &bytes, hub_mac);
        }
        if entry == Place::Vpc && self.vpc_is_let_go {
            allowed.answers = Places::of(&ALL);
        }
        let entered = self.wires.send(entry, &bytes);
        let source = Reading::of(entry, &bytes).map(|reading| match self.translates(entry) {
            true => entry.at_hub(reading.source).unwrap_or(reading.source),
            false => reading.source,
        });
        self.sent.push(Sent { entry, source, allowed, guarded });
        if let (Some(place), true) = (allowed.must, entered) {
            self.due.insert(self.sent(), (place, 0));
        }
        self.recent.push_back(bytes);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    fn translates(&self, place: Place) -> bool {
        self.arena.variant.translated && TRANSLATED.contains(&place)
    }

    /// Sends random packets, and checks arrivals meanwhile.
    pub fn burst(&mut self, seed: u64, packets: usize) {
        for _ in 0..packets {
            let (entry, bytes) = draw(seed, self.sent() + 1, &self.macs, self.arena.variant.translated);
            self.enter(entry, bytes);
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
        let Arrival { place, id, .. } = arrival;
        if id & MARKER != 0 {
            self.marked.insert((id, place));
            return;
        }
        let sent = usize::try_from(id).ok().and_then(|id| self.sent.get(id.wrapping_sub(1)));
        let Some(Sent { entry, source, allowed, guarded }) = sent.copied() else { return };
        let from_hub = arrival.source.is_some_and(|from| is_hub(from) && source != Some(from));
        match self.due.get_mut(&id) {
            Some((due, times)) if *due == place && arrival.source == source => *times += 1,
            Some((due, _)) if *due == place && arrival.source.is_none() => {
                self.find(format!("{entry} -> {place}: arrived as what is no IP packet"), id, Some(&arrival));
            }
            _ => {}
        }
        if allowed.packet.contains(place) || (from_hub && allowed.answers.contains(place)) {
            self.arrived += 1;
            self.leaked += u64::from(!from_hub && !guarded.contains(place));
        } else {
            let what = if from_hub { "an answer of the hub arrived" } else { "arrived" };
            let phase = if self.phase.is_empty() { String::new() } else { format!("{}: ", self.phase) };
            self.find(format!("{phase}{entry} -> {place}: {what} beyond policy"), id, Some(&arrival));
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

    fn find(&mut self, what: String, id: u64, arrival: Option<&Arrival>) {
        let Sent { entry, allowed, .. } = self.sent[usize::try_from(id - 1).expect("an index")];
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
            writeln!(finding.1, "id {id} as sent by {entry}: {sent}policy: {allowed:?}").expect("a string takes all");
            if let Some(arrival) = arrival {
                let got = describe(arrival.place, &arrival.bytes);
                write!(finding.1, "as it arrived at {}: {got}", arrival.place).expect("a string takes all");
            }
        }
    }

    /// All arrivals of an id so far, in order.
    pub fn arrivals_of(&self, id: u64) -> Vec<&Arrival> {
        self.arrivals.iter().filter(|arrival| arrival.id == id).collect()
    }

    /// Waits until everything sent has been processed: until a marker, sent afterwards, has arrived on every path that
    /// is certain to be open.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let mut ways: Vec<(Place, Place)> = Vec::new();
        for site in SITES {
            let other =
                if self.arena.variant.segments && !site.may_reach(Place::Vpc) { Place::Delta } else { Place::Vpc };
            ways.extend([(site, other), (other, site)]);
        }
        ways.extend([(Place::Mgmt, Place::Vpc), (Place::Wan, Place::Vpc)]);
        self.settle_ways(&ways)
    }

    /// Like [`settle`](Self::settle), on these paths only.
    pub fn settle_ways(&mut self, ways: &[(Place, Place)]) -> anyhow::Result<()> {
        let mut missing: Vec<(u64, Place, Place, bool)> = Vec::new();
        for (from, to) in ways {
            for v6 in [false, true] {
                self.rounds += 1;
                missing.push((MARKER | self.rounds, *from, *to, v6));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            for (id, from, to, v6) in &missing {
                let source = if self.translates(*from) { from.own(from.host(*v6)) } else { from.host(*v6) };
                let marker = udp(source, to.host(*v6)).bytes(payload(*id, 32));
                let bytes = framed(*from, &marker, &self.macs);
                self.wires.send(*from, &bytes);
            }
            let again = Instant::now() + AGAIN;
            while !missing.is_empty() && Instant::now() < again {
                self.look();
                missing.retain(|(id, _, to, _)| !self.marked.contains(&(*id, *to)));
                if !missing.is_empty() {
                    thread::yield_now();
                }
            }
            if Instant::now() > deadline {
                bail!("{}: {missing:?} have not arrived: what is allowed does not pass", self.phase);
            }
        }
        self.marked.clear();
        Ok(())
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

//! The kernel program under test: loaded, filled from a [`World`], run on single frames, its counters read.
//!
//! It needs existing devices, so everything runs in a network namespace of the test's own.

mod arrival;
mod inputs;
pub mod traced;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use hub_common::{
    Reason,
    maps::{CaptureFilter, CapturePrefix, MAX_SNAPLEN, UNATTRIBUTED, VPC},
};
use hub_tests::{
    lab::{Namespace, require_root, unique_prefix},
    model::{Account, Count, Mark, Prediction, World},
};
use hub_userspace::{
    config::{
        difference::Routes,
        model::{self, LookupKind, Route},
    },
    connection::affected::Affected,
    datapath::{Action, Counters, Dataplane, Hook, Outcome, PacketRecord, PacketTap, Tracer},
    fib::{self, Inputs, id_maps::IdMaps, tables::Tables},
    routing::{groups::AffectedGroups, rib::Rib},
    trace::View,
};
use ipnet::IpNet;

use self::inputs::negotiated;
pub use self::{arrival::Arrival, inputs::inputs};

/// An entry point of the program.
pub type Entry = (Hook, LookupKind);

pub const ENTRIES: [Entry; 4] = [
    (Hook::Xdp, LookupKind::Compiled),
    (Hook::Xdp, LookupKind::Lpm),
    (Hook::Tc, LookupKind::Compiled),
    (Hook::Tc, LookupKind::Lpm),
];

/// The program's bits of `skb->mark`, and the one that marks every allowed packet.
const MARK_MASK: u32 = 0x1fff_0000;
const MARK_FLAG: u32 = 0x1000_0000;

/// Every packet with all that can be recorded of it.
pub const EVERYTHING: CaptureFilter = CaptureFilter {
    outcomes: u32::MAX,
    connection: CaptureFilter::ANY_CONNECTION,
    source: CapturePrefix::ANY,
    destination: CapturePrefix::ANY,
    protocol: CaptureFilter::ANY_PROTOCOL,
    source_ports: CaptureFilter::ANY_PORT,
    destination_ports: CaptureFilter::ANY_PORT,
    snaplen: MAX_SNAPLEN,
    one_in: 1,
    is_plain: 0,
};

/// Non-zero counters by account and name.
pub type Books = BTreeMap<(Account, &'static str), u64>;

/// The loaded program.
pub struct Program {
    pub entry: Entry,
    /// Records every packet.
    tap: PacketTap,
    dataplane: Dataplane,
    /// The contents of its maps.
    tables: Tables,
    /// Indices of the interfaces that carry raw IP.
    pub raw: BTreeSet<u32>,
    /// Destinations in its maps.
    destinations: BTreeSet<IpNet>,
    /// The owner of each counter slot.
    slots: Vec<(u32, Account)>,
    /// The agent of the last [`Program::install`].
    agent: Agent,
}

/// The agent's state from one world to the next.
#[derive(Default)]
pub struct Agent {
    layout: IdMaps,
    rib: Rib,
    routes: Vec<Route>,
}

/// Runs a test in a new network namespace that has a device for each of these interface indices.
pub fn in_namespace(devices: &[u32], test: impl FnOnce(&Namespace) -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
    require_root()?;
    let namespace = Namespace::create(&unique_prefix())?;
    // The far ends have no part in the test, but need their own indices: they would take one of the others'.
    let pair = |index: &u32| {
        format!("link add near{index} index {index} type veth peer name far{index} index {}\n", 1000 + index)
    };
    let lines: String = devices.iter().map(pair).collect();
    namespace.batch(&lines)?;
    namespace.enter(|| test(&namespace))?
}

/// Like [`in_namespace`], with the loaded program, for each entry point.
pub fn with_program(
    devices: &[u32],
    test: impl Fn(&Namespace, &mut Program) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    for entry in ENTRIES {
        in_namespace(devices, |namespace| test(namespace, &mut Program::load(entry)?))
            .with_context(|| format!("{entry:?}"))?;
    }
    Ok(())
}

impl Program {
    pub fn load(entry: Entry) -> anyhow::Result<Self> {
        let settings = model::DataplaneSettings { lookup: entry.1, ..model::DataplaneSettings::default() };
        let mut dataplane = Dataplane::load(&settings).context("loading the kernel program")?;
        let mut tap = dataplane.packet_tap()?;
        tap.insert(0, &EVERYTHING)?;
        Ok(Self {
            entry,
            tap,
            dataplane,
            tables: Tables::default(),
            raw: BTreeSet::new(),
            destinations: BTreeSet::new(),
            slots: Vec::new(),
            agent: Agent::default(),
        })
    }

    /// Fills the program's maps with the agent's own functions, with no state from an earlier world.
    pub fn install(&mut self, world: &World) -> anyhow::Result<()> {
        let mut agent = Agent::default();
        self.follow(world, &mut agent)?;
        self.agent = agent;
        Ok(())
    }

    /// A second load of the program.
    pub fn tracer(&self) -> anyhow::Result<Tracer> {
        Tracer::load(&self.dataplane.live_tables()).context("loading the program again")
    }

    /// Calls `look` with the agent's state and the contents of the maps, after [`Program::install`] of this world.
    pub fn view<R>(&self, world: &World, look: impl FnOnce(View<'_>) -> R) -> R {
        let (config, host, states) = inputs(world);
        let (negotiated, tc_only) = (negotiated(world), tc_only(world));
        let inputs =
            Inputs { config: &config, host: &host, states: &states, negotiated: &negotiated, tc_only: &tc_only };
        look(View { inputs, rib: &self.agent.rib, ids: &self.agent.layout, tables: &self.tables })
    }

    /// Applies the differences from the agent's previous world.
    pub fn follow(&mut self, world: &World, agent: &mut Agent) -> anyhow::Result<()> {
        let (config, host, states) = inputs(world);
        let tc_only = tc_only(world);
        let raw = world.interfaces.iter().filter(|interface| !interface.ethernet);
        self.raw = raw.map(|interface| interface.index).collect();
        let negotiated = negotiated(world);
        let Agent { layout, rib, routes } = agent;
        rib.change(&Routes::between(routes, &config.routes));
        rib.follow(&config, &host);
        let inputs =
            Inputs { config: &config, host: &host, states: &states, negotiated: &negotiated, tc_only: &tc_only };
        let mut ingress = fib::policy_tables(inputs, layout, &Affected::All, &BTreeSet::new(), &self.tables.policy)?;
        let compiled = fib::egress_tables(inputs, rib, layout, &AffectedGroups::All)?;
        let (generation, policy_routes) =
            self.tables.next_policy_routes(|generation| fib::policy_route_tables(rib, layout, generation))?;
        ingress.set_policy_generation(generation);
        let mut changed = rib.take_changed();
        let destinations: BTreeSet<IpNet> = rib.iter().collect();
        // Entries of another agent.
        changed.extend(self.destinations.difference(&destinations));
        let neighbours = fib::neighbour_table(inputs);
        let routes_to = compiled.routes(rib, &changed);
        for write in self.tables.writes_to(
            Some(&ingress),
            Some(&neighbours),
            &compiled.entries,
            Some((generation, &policy_routes)),
            routes_to,
        ) {
            let (count, result) = self.dataplane.write(&write);
            self.tables.note(&write, count);
            result?;
        }
        // No packet is in flight.
        for write in self.tables.writes_of_unused_policy_routes() {
            let (count, result) = self.dataplane.write(&write);
            self.tables.note(&write, count);
            result?;
        }
        self.destinations = destinations;
        *routes = config.routes;
        layout.policy.end();
        layout.egress.end();
        // No packet is in flight.
        layout.begin_release();
        layout.release();
        let numbers = self.dataplane.numbers();
        numbers.begin_release();
        numbers.release();
        self.slots = vec![(UNATTRIBUTED, Account::Unattributed), (VPC, Account::Vpc)];
        self.slots.extend(ingress.tables.connections.into_iter().map(|(slot, name)| (slot, Account::Connection(name))));
        Ok(())
    }

    /// Runs it on a frame without metadata.
    pub fn run(&mut self, interface: u32, frame: &[u8]) -> anyhow::Result<Outcome> {
        self.take(&Arrival::new(interface, frame.to_vec()))
    }

    pub fn take(&mut self, arrival: &Arrival) -> anyhow::Result<Outcome> {
        let Arrival { interface, frame, mark, .. } = arrival;
        let (hook, _) = self.entry;
        let left_over = match hook {
            Hook::Tc | Hook::Egress if self.raw.contains(interface) => arrival.left_over(),
            _ => Vec::new(),
        };
        let outcome = self.dataplane.test_run(hook, *interface, &[&left_over[..], frame].concat(), *mark);
        let mut outcome = outcome.with_context(|| format!("a test run of {} bytes, {:?}", frame.len(), self.entry))?;
        if outcome.frame.starts_with(&left_over) {
            outcome.frame.drain(..left_over.len());
        }
        Ok(outcome)
    }

    /// Runs the program at egress on a frame that leaves by an Ethernet interface; returns the frame afterwards.
    pub fn leave(&mut self, interface: u32, frame: &[u8]) -> anyhow::Result<Vec<u8>> {
        let outcome = self.dataplane.test_run(Hook::Egress, interface, frame, 0)?;
        anyhow::ensure!(outcome.action == Action::Pass, "the program at egress says {:?}", outcome.action);
        Ok(outcome.frame)
    }

    /// Whether a frame can reach this program.
    pub fn gets(&self, world: &World, arrival: &Arrival) -> bool {
        match self.entry.0 {
            // It does not know which protocol the kernel will assign.
            Hook::Xdp | Hook::Spread => !world.is_by_tc(arrival.interface) && arrival.taken_for.is_none(),
            // A test run requires the headers that the EtherType implies (bpf_prog_test_run_skb(), net/bpf/test_run.c).
            Hook::Tc | Hook::Egress => self.tc_gets(arrival),
        }
    }

    /// Whether a frame can run in a test run of TC.
    pub fn tc_gets(&self, arrival: &Arrival) -> bool {
        let raw = self.raw.contains(&arrival.interface);
        let link_header = if raw { 0 } else { 14 };
        match arrival.protocol(raw) {
            0x0800 => arrival.frame.len() >= link_header + 20,
            0x86dd => arrival.frame.len() >= link_header + 40,
            _ => arrival.frame.len() >= link_header,
        }
    }

    /// This hook's part of a verdict.
    pub fn part(&self, prediction: Prediction, world: &World, arrival: &Arrival) -> Prediction {
        match self.entry.0 {
            Hook::Xdp | Hook::Spread => prediction.by_xdp(world),
            Hook::Tc | Hook::Egress => prediction.by_tc(world, arrival.interface, &arrival.frame),
        }
    }

    /// The expected `skb->mark` of an arrival passed with this mark: bits that are not the program's do not change.
    pub fn marked(&self, arrival: &Arrival, mark: Option<&Mark>) -> anyhow::Result<u32> {
        let number = match mark {
            // XDP sets no mark.
            None => return Ok(arrival.mark),
            Some(Mark::Cleared) => return Ok(arrival.mark & !MARK_MASK),
            Some(Mark::NoRoute) => 0,
            Some(Mark::NextHop(Account::Vpc)) => 1,
            Some(Mark::Local) => 4095,
            Some(Mark::NextHop(account)) => {
                let slot = self.slots.iter().find(|(_, other)| other == account).map(|(slot, _)| *slot);
                let slot = slot.with_context(|| format!("{account:?} has no slot"))?;
                anyhow::ensure!((2..4095).contains(&slot), "slot {slot} of {account:?} is not a connection's");
                slot
            }
        };
        Ok(arrival.mark & !MARK_MASK | MARK_FLAG | number << 16)
    }

    /// The program's records of packets since the last call; empties the ring.
    pub fn records(&mut self) -> anyhow::Result<Vec<PacketRecord>> {
        self.tap.renew()?;
        Ok(std::iter::from_fn(|| self.tap.read()).collect())
    }

    /// Makes the whole burst of records available again.
    pub fn reset_record_limits(&mut self) -> anyhow::Result<()> {
        self.tap.insert(0, &EVERYTHING).map_err(Into::into)
    }

    /// The account of a counter slot.
    pub fn account(&self, slot: u32) -> Option<&Account> {
        self.slots.iter().find(|(other, _)| *other == slot).map(|(_, account)| account)
    }

    /// All counters since the program was loaded.
    pub fn books(&self) -> anyhow::Result<Books> {
        let mut books = Books::new();
        for (slot, account) in &self.slots {
            let Counters { rx_packets, rx_bytes, tx_packets, tx_bytes, reasons } = self.dataplane.counters(*slot)?;
            let traffic = [
                ("rx_packets", rx_packets),
                ("rx_bytes", rx_bytes),
                ("tx_packets", tx_packets),
                ("tx_bytes", tx_bytes),
            ];
            let reasons = Reason::ALL.into_iter().map(|reason| (reason.name(), reasons[reason as usize]));
            for (name, value) in traffic.into_iter().chain(reasons).filter(|(_, value)| *value != 0) {
                books.insert((account.clone(), name), value);
            }
        }
        Ok(books)
    }
}

/// Indices of the interfaces served by TC only.
fn tc_only(world: &World) -> BTreeSet<u32> {
    world.interfaces.iter().map(|interface| interface.index).filter(|index| world.is_by_tc(*index)).collect()
}

/// The changes between two readings.
pub fn difference(before: &Books, after: &Books) -> Books {
    let change = |(key, value): (&(Account, &'static str), &u64)| {
        let change = value - before.get(key).copied().unwrap_or(0);
        (change != 0).then(|| (key.clone(), change))
    };
    after.iter().filter_map(change).collect()
}

/// Adds the model's counts.
pub fn enter(books: &mut Books, prediction: &Prediction) {
    for (account, count) in &prediction.counts {
        let mut add = |name, value| {
            *books.entry((account.clone(), name)).or_default() += value;
        };
        match *count {
            Count::Received(bytes) => {
                add("rx_packets", 1);
                add("rx_bytes", bytes);
            }
            Count::Sent(bytes) => {
                add("tx_packets", 1);
                add("tx_bytes", bytes);
            }
            Count::Reason(reason) => add(reason, 1),
        }
    }
}

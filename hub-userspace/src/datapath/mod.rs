//! The only writer of the datapath: loads the program, attaches it, fills its maps and reads its counters. Only this
//! module uses aya.

mod attach;
mod bpf;
mod claim;
mod counters;
mod cpu_packets;
mod error;
mod features;
mod groups;
mod handover;
mod instance;
mod links;
pub mod lookup;
mod maps;
mod named_map;
mod neighbour_miss;
mod old;
mod packet_tap;
mod pins;
mod policy_routes;
mod reason_names;
mod records;
mod removal;
mod run;
mod running;
mod saved_counts;
#[cfg(test)]
mod scale;
mod spread;
mod tc;
mod tracer;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use aya::{EbpfLoader, maps::RingBuf};
use aya_log::EbpfLogger;
use hub_common::maps::NEIGHBOUR_MISS_BYTES;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::warn;

pub use self::{
    attach::{AttachMode, Attached, ToAttach},
    claim::{Claim, Inherited},
    counters::{CounterReader, Counters},
    cpu_packets::CpuPackets,
    error::DatapathError,
    features::missing_features,
    instance::Instance,
    packet_tap::{PacketRecord, PacketTap, monotonic},
    removal::Removal,
    run::{Action, Hook, Outcome},
    running::{Running, RunningConnection, RunningInterface, running},
    saved_counts::{OwnCounts, SavedCounts},
    tracer::{Arrived, Leaving, LiveTables, TraceRun, Tracer},
};
use crate::{
    config::model,
    connection::memory::ConnectionMemory,
    datapath::{
        attach::{Programs, detach},
        handover::{HANDOVER, Handover},
        maps::Maps,
        named_map::take,
        pins::Pins,
        records::Records,
        spread::Spreading,
    },
    fib::{id_allocator::DeferredFree, tables::Write},
};

/// Directory of an instance with its tables, while [`Tracer`] loads the program again.
const TRACE: &str = "trace";

/// The kernel program, built with this agent.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vpnhub-ebpf"));

/// The loaded programs and their maps. Attached programs stay attached when this is dropped: see [`Dataplane::unload`].
pub struct Dataplane {
    programs: Programs,
    maps: Maps,
    handover: Handover,
    spreading: Spreading,
    /// Required for attaching.
    pins: Option<Pins>,
    /// Indices of the interfaces that this agent has attached.
    attached: BTreeSet<u32>,
    /// The earlier agent's programs may still be running.
    is_starting: bool,
    /// The agent's own counts; read at the first scrape.
    saved: Arc<Mutex<SavedCounts>>,
    live: Arc<LiveTables>,
}

fn loader<'a>(settings: &'a model::DataplaneSettings, tag: &'a [u32; 2]) -> Result<EbpfLoader<'a>, DatapathError> {
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| DatapathError::Load(format!("{path}: {error}")))?;
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(spread::CPUS, u32::try_from(cpus).unwrap_or(u32::MAX));
    loader.override_global("MARK", &settings.mark, true).override_global("HANDOVER_TAG", tag, true);
    Ok(loader)
}

/// Only the programs of this agent know it.
fn random_tag() -> Result<[u32; 2], DatapathError> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| DatapathError::Program(error.to_string()))?;
    let number = u64::from_ne_bytes(bytes);
    Ok([number as u32, (number >> 32) as u32])
}

impl Dataplane {
    /// Loads the program into the kernel, only for [`Dataplane::test_run`].
    pub fn load(settings: &model::DataplaneSettings) -> Result<Self, DatapathError> {
        error::check_host()?;
        let object = loader(settings, &[0; 2])?.load(PROGRAM).map_err(|error| DatapathError::load(&error))?;
        let live = Arc::new(LiveTables::of(&object, settings, pins::of_test_run()?)?);
        let mut programs = Programs::load(object, settings.lookup)?;
        let handover = Handover::new(take(programs.object(), HANDOVER)?);
        let spreading = Spreading::take(programs.object())?;
        let maps = Maps::take(programs.object(), settings, Records::default(), groups::create()?)?;
        let (pins, attached, saved) = (None, BTreeSet::new(), Arc::default());
        Ok(Self { programs, maps, handover, spreading, pins, attached, is_starting: false, saved, live })
    }

    /// Loads the programs into the kernel, which takes long. Those of an earlier agent of this instance keep running
    /// until [`Dataplane::attach`]. Both share the counters; all other tables start empty.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(settings: &model::DataplaneSettings, claim: Claim) -> Result<Self, DatapathError> {
        let Claim { pins, records, .. } = claim;
        let tag = random_tag()?;
        let mut with_pins = loader(settings, &tag)?;
        for (map, path) in records::paths(&pins) {
            with_pins.map_pin_path(map, path);
        }
        let object = with_pins.load(PROGRAM).map_err(|error| DatapathError::load(&error))?;
        let live = Arc::new(LiveTables::of(&object, settings, pins.place(TRACE))?);
        let mut programs = Programs::load_both(object, settings.lookup)?;
        let groups = groups::create()?;
        groups::stage(&pins, programs.object(), &groups.map)?;
        let handover = Handover::new(take(programs.object(), HANDOVER)?);
        let spreading = Spreading::take(programs.object())?;
        let maps = Maps::take(programs.object(), settings, records, groups)?;
        let saved = Arc::new(Mutex::new(SavedCounts::of(&pins)));
        let (pins, attached) = (Some(pins), BTreeSet::new());
        Ok(Self { programs, maps, handover, spreading, pins, attached, is_starting: true, saved, live })
    }

    /// Forwards the program's few log messages to this process's log. Needs a tokio runtime.
    pub fn follow_log(&mut self) {
        let logger = EbpfLogger::init(self.programs.object());
        let follow = logger.map_err(anyhow::Error::from).and_then(|logger| {
            // SAFETY: the logger owns its file descriptor, which stays open and unchanged until the logger is dropped.
            Ok(unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?)
        });
        match follow {
            Ok(mut logger) => {
                tokio::spawn(async move {
                    while let Ok(mut ready) = logger.readable_mut().await {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                });
            }
            Err(error) => {
                warn!(name: "program_log_missing", "the kernel program's own log messages will be missing: {error:#}");
            }
        }
    }

    /// Neighbours that packets needed and the program did not know, as interface index and address, with repetitions.
    /// Needs a tokio runtime.
    pub fn neighbour_misses(&mut self) -> Result<mpsc::Receiver<(u32, IpAddr)>, DatapathError> {
        let map =
            self.programs.object().take_map("NEIGHBOUR_MISS").expect("the embedded object has every map; taken once");
        let ring = RingBuf::try_from(map)
            .map_err(|error| DatapathError::map("NEIGHBOUR_MISS", NEIGHBOUR_MISS_BYTES, &error))?;
        neighbour_miss::follow(ring)
            .map_err(|error| DatapathError::Map { map: "NEIGHBOUR_MISS", cause: error.to_string() })
    }

    /// The program's records of packets; take it once.
    pub fn packet_tap(&mut self) -> Result<PacketTap, DatapathError> {
        PacketTap::take(self.programs.object())
    }

    /// Applies changes of a map in order; returns the number applied, and the error that stopped them.
    pub fn write(&mut self, write: &Write) -> (usize, Result<(), DatapathError>) {
        self.maps.write(write)
    }

    /// Ids and memory quarantined with the tables, in addition to those of the id maps.
    pub fn numbers(&mut self) -> &mut dyn DeferredFree {
        self.maps.look_up()
    }

    /// Attaches the programs to an interface, or replaces those of an earlier agent.
    ///
    /// # Panics
    /// Without an instance.
    pub fn attach(&mut self, interface: &ToAttach) -> Result<Attached, DatapathError> {
        let pins = self.pins.as_ref().expect("an agent has an instance");
        let attached = self.programs.attach(pins, &mut self.handover, interface)?;
        self.attached.insert(interface.ifindex);
        Ok(attached)
    }

    /// Call it when interfaces were removed; their indices may be in use again. The kernel has cleared their ports
    /// (`dev_map_notification`, kernel/bpf/devmap.c) and detached the programs.
    pub fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        for ifindex in interfaces {
            self.detach(*ifindex);
            self.pins.iter().for_each(|pins| spread::detach(pins, *ifindex));
            self.spreading.forget(*ifindex);
        }
    }

    /// Detaches the programs from an interface, which may be gone.
    fn detach(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
        if let Some(pins) = &self.pins {
            detach(pins, &self.handover, ifindex);
        }
    }

    /// Detaches from all other interfaces. The first call ends the start; make it once everything possible is attached.
    /// After it no program of an earlier agent runs.
    pub fn keep(&mut self, interfaces: &BTreeSet<u32>) -> Result<(), DatapathError> {
        self.handover.resume();
        let Some(pins) = &self.pins else { return Ok(()) };
        if !self.is_starting {
            let gone: Vec<u32> = self.attached.difference(interfaces).copied().collect();
            for ifindex in gone {
                self.detach(ifindex);
            }
            return Ok(());
        }
        let all: BTreeSet<u32> = pins.links().into_iter().map(|(ifindex, _)| ifindex).collect();
        for ifindex in all.difference(interfaces).copied() {
            detach(pins, &self.handover, ifindex);
        }
        groups::commit(pins)?;
        self.maps.counters.map.records.commit(pins)?;
        self.is_starting = false;
        Ok(())
    }

    /// Records the state of a connection by its slot, for the next agent.
    pub fn remember(&mut self, slot: u32, memory: &ConnectionMemory) -> Result<(), DatapathError> {
        self.maps.counters.map.records.note(slot, |record| memory.write(record))
    }

    /// Denies, detaches the programs from all interfaces, and removes all pins. The kernel may still be detaching
    /// afterwards: see [`Removal::finish_later`].
    pub fn unload(self) -> Result<usize, DatapathError> {
        self.pins.iter().for_each(groups::deny);
        let Self { pins, handover, .. } = self;
        // No filter is replaced by a link any more.
        drop(handover);
        pins.map_or(Ok(0), |pins| Removal::of(pins).finish_later())
    }

    /// Counters of a slot, summed over the CPUs.
    pub fn counters(&self, slot: u32) -> Result<Counters, DatapathError> {
        self.counters_by_cpu(slot, &mut CpuPackets::default())
    }

    /// The same. Adds the slot's packets to `cpus`.
    pub fn counters_by_cpu(&self, slot: u32, cpus: &mut CpuPackets) -> Result<Counters, DatapathError> {
        self.maps.counters.read(slot, cpus)
    }

    /// Counters of a slot from earlier versions, to add to those of [`Dataplane::reader`].
    pub fn earlier(&self, slot: u32) -> Counters {
        self.maps.counters.map.records.earlier(slot)
    }

    /// A reader of the counters for other threads.
    pub fn reader(&self) -> Option<CounterReader> {
        self.maps.counters.reader()
    }

    /// The tables, for a second load of the program.
    pub fn live_tables(&self) -> Arc<LiveTables> {
        Arc::clone(&self.live)
    }

    /// The agent's own counts, which the next agent continues.
    pub fn saved_counts(&self) -> Arc<Mutex<SavedCounts>> {
        Arc::clone(&self.saved)
    }
}

//! The one writer: loads the program, attaches it, fills its maps and reads its counters. Nobody else knows aya.

mod attach;
mod bpf;
mod chunks;
mod counters;
mod error;
mod groups;
mod instance;
mod ledger;
mod lookup;
mod maps;
mod old;
mod pins;
mod run;
mod running;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{EbpfLoader, maps::RingBuf};
use aya_log::EbpfLogger;
use hub_common::maps::WANTED_BYTES;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::{debug, warn};

pub use self::{
    attach::{Attached, Mode},
    counters::Counters,
    error::Error,
    groups::OldGroup,
    instance::Instance,
    run::{Action, Hook, Outcome},
    running::{Running, RunningConnection, RunningInterface, running, unload},
};
use crate::{
    config::model,
    dataplane::{
        attach::{Programs, detach},
        ledger::Ledger,
        maps::{Loaded, Maps},
        pins::{Kind, Pins},
    },
    id_allocator::DeferredFree,
    memory::Memory,
    tables::{EgressTables, PolicyTables, RouteChanges},
};

/// The kernel program, as built with this agent.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vpnhub-ebpf"));

/// The loaded programs and their maps. What is attached stays attached when this is dropped: see [`Dataplane::unload`].
pub struct Dataplane {
    programs: Programs,
    maps: Maps,
    loaded: Loaded,
    /// Nothing can be attached without it.
    pins: Option<Pins>,
    /// How interfaces are attached, by ifindex.
    interfaces: BTreeMap<u32, Attached>,
    /// Interfaces that an earlier agent has attached by TC alone.
    were_tc_only: BTreeSet<u32>,
    /// The earlier agent's programs may still run.
    is_starting: bool,
}

/// What a new agent continues from.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// Packets are being forwarded.
    pub is_running: bool,
    /// `COUNTERS` slots and states of connections, by name.
    pub connections: BTreeMap<String, (u32, Option<Memory>)>,
    pub groups: Vec<OldGroup>,
}

impl Dataplane {
    /// Loads the program into the kernel, to run it by [`Dataplane::test_run`] alone.
    pub fn load(settings: &model::Dataplane) -> Result<Self, Error> {
        error::check_host()?;
        let object = EbpfLoader::new()
            .override_global("MARK", &settings.mark, true)
            .load(PROGRAM)
            .map_err(|error| Error::load(&error))?;
        let mut programs = Programs::load(object, settings.lookup)?;
        let maps = Maps::take(programs.object(), settings, Ledger::default(), groups::create()?)?;
        Ok(Self {
            programs,
            maps,
            loaded: Loaded::default(),
            pins: None,
            interfaces: BTreeMap::new(),
            were_tc_only: BTreeSet::new(),
            is_starting: false,
        })
    }

    /// Loads the programs into the kernel, beside those of an earlier agent of this instance, which go on as they are until
    /// [`Dataplane::attach`]. Counters are shared with them, all other tables are empty.
    ///
    /// # Errors
    /// When another agent has this instance, or its datapath is elsewhere; when the kernel refuses.
    pub fn start(settings: &model::Dataplane, instance: &Instance) -> Result<(Self, Inherited), Error> {
        error::check_host()?;
        let pins = Pins::claim(instance)?;
        let ledger = Ledger::open(&pins)?;
        let live = pins.live_links();
        let inherited = Inherited {
            is_running: !live.is_empty(),
            connections: (ledger.owners().into_iter())
                .map(|(slot, (name, record))| (name, (slot, Memory::of(record))))
                .collect(),
            groups: groups::read(&pins),
        };
        let mut with_pins = EbpfLoader::new();
        with_pins.override_global("MARK", &settings.mark, true);
        for (map, path) in ledger::paths(&pins) {
            with_pins.map_pin_path(map, path);
        }
        let object = with_pins.load(PROGRAM).map_err(|error| Error::load(&error))?;
        let mut programs = Programs::load(object, settings.lookup)?;
        programs.tc()?;
        let groups = groups::create()?;
        groups::stage(&pins, programs.object(), &groups.map)?;
        let mut loaded = Loaded::default();
        loaded.ingress.connections = ledger.owners().into_iter().map(|(slot, (name, _))| (slot, name)).collect();
        let maps = Maps::take(programs.object(), settings, ledger, groups)?;
        let has_xdp = |ifindex| live.iter().any(|(other, kind)| *other == ifindex && kind.is_xdp());
        let tc = live.iter().filter(|(_, kind)| matches!(kind, Kind::Tcx | Kind::Clsact));
        let were_tc_only = tc.map(|(ifindex, _)| *ifindex).filter(|ifindex| !has_xdp(*ifindex)).collect();
        let dataplane = Self {
            programs,
            maps,
            loaded,
            pins: Some(pins),
            interfaces: BTreeMap::new(),
            were_tc_only,
            is_starting: true,
        };
        Ok((dataplane, inherited))
    }

    /// Forwards the program's own log messages, of which there are few, to this process's log. Needs a tokio runtime.
    pub fn follow_log(&mut self) {
        let logger = EbpfLogger::init(self.programs.object());
        let follow = logger.map_err(anyhow::Error::from).and_then(|logger| {
            // SAFETY: the logger owns its file descriptor, which stays open and the same until it is dropped.
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
            Err(error) => warn!("the kernel program's own log messages will be missing: {error:#}"),
        }
    }

    /// Neighbours that packets needed and the program did not know, as interface index and address; each may come
    /// often. Needs a tokio runtime.
    pub fn wanted_neighbours(&mut self) -> Result<mpsc::Receiver<(u32, IpAddr)>, Error> {
        let map = self.programs.object().take_map("WANTED").expect("the embedded object has every map; taken once");
        let ring = RingBuf::try_from(map).map_err(|error| Error::map("WANTED", WANTED_BYTES, &error))?;
        wanted::follow(ring).map_err(|error| Error::Map { map: "WANTED", cause: error.to_string() })
    }

    /// Makes the maps hold what is wanted, and changes these routes.
    ///
    /// What a packet may find leads only to what is there already: new entries are written from the last stage of the
    /// program to the first, and what is gone is deleted from the first to the last. On an error the maps hold what was
    /// written until then, and the next call, with the same routes, goes on from there.
    pub fn apply(&mut self, ingress: &PolicyTables, ways: &EgressTables, routes: &RouteChanges) -> Result<(), Error> {
        let changes = self.maps.write(&mut self.loaded, ingress, ways, routes)?;
        if changes > 0 {
            debug!(changes, "tables written");
        }
        Ok(())
    }

    /// Makes the ways out what is wanted, and nothing else: what a failure asks for, and at once.
    pub fn steer(&mut self, ways: &EgressTables) -> Result<(), Error> {
        let changes = self.maps.steer(&mut self.loaded.ways, ways)?;
        if changes > 0 {
            debug!(changes, "ways written");
        }
        Ok(())
    }

    /// Numbers and memory that rest with the tables, beside those of the layout.
    pub fn numbers(&mut self) -> &mut dyn DeferredFree {
        self.maps.look_up()
    }

    /// Attaches the programs to an interface, or swaps them in where an earlier agent has attached its own. `reason` is why
    /// `mode` is TC, where nobody asked for it.
    ///
    /// # Panics
    /// Without an instance.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        reason: Option<&str>,
    ) -> Result<&Attached, Error> {
        let pins = self.pins.as_ref().expect("an agent has an instance");
        let attached = self.programs.attach(pins, interface, ifindex, mode, reason)?;
        self.interfaces.insert(ifindex, attached);
        Ok(&self.interfaces[&ifindex])
    }

    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.interfaces.contains_key(&ifindex)
    }

    /// An earlier agent has found that XDP does not work there.
    pub fn was_tc_only(&self, ifindex: u32) -> bool {
        self.were_tc_only.contains(&ifindex)
    }

    /// An interface went, and another or the same may have come back under its index: the kernel has emptied its port
    /// (`dev_map_notification`, kernel/bpf/devmap.c) and detached the program.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        self.were_tc_only.remove(&ifindex);
        self.loaded.ingress.ports.retain(|_, port| *port != ifindex);
    }

    /// Detaches the programs from an interface, which may be gone.
    fn detach(&mut self, ifindex: u32) {
        self.interfaces.remove(&ifindex);
        if let Some(pins) = &self.pins {
            detach(pins, ifindex);
        }
    }

    /// Detaches from all interfaces but these. The first time, once all that can be is attached, this ends the start: nothing of an
    /// earlier agent's programs runs any more.
    pub fn keep(&mut self, wanted: impl Fn(u32) -> bool) -> Result<(), Error> {
        let Some(pins) = &self.pins else { return Ok(()) };
        if !self.is_starting {
            let gone: Vec<u32> = self.interfaces.keys().copied().filter(|ifindex| !wanted(*ifindex)).collect();
            for ifindex in gone {
                self.detach(ifindex);
            }
            return Ok(());
        }
        let all: BTreeSet<u32> = pins.links().into_iter().map(|(ifindex, _)| ifindex).collect();
        for ifindex in all.into_iter().filter(|ifindex| !wanted(*ifindex)) {
            detach(pins, ifindex);
        }
        groups::commit(pins)?;
        self.maps.counters.map.ledger.commit(pins)?;
        self.is_starting = false;
        Ok(())
    }

    /// Notes the state of a connection by its slot, for the next agent.
    pub fn remember(&mut self, slot: u32, memory: &Memory) -> Result<(), Error> {
        self.maps.counters.map.ledger.note(slot, |record| memory.write(record))
    }

    /// Detaches the programs from all interfaces, and removes all that is pinned.
    pub fn unload(self) -> Result<usize, Error> {
        self.pins.map_or(Ok(0), Pins::unload)
    }

    /// Interfaces the program is attached to, and how.
    pub fn attached(&self) -> impl Iterator<Item = (u32, &Attached)> {
        self.interfaces.iter().map(|(ifindex, attached)| (*ifindex, attached))
    }

    /// Counts of a slot, summed over the CPUs.
    pub fn counters(&self, slot: u32) -> Result<Counters, Error> {
        self.maps.counters(slot)
    }
}

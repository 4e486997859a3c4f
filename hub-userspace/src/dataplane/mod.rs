//! The one writer: loads the program, attaches it, fills its maps and reads its counters. Nobody else knows aya.

mod attach;
mod chunks;
mod counters;
mod error;
mod lookup;
mod maps;
mod run;
mod wanted;

use std::{collections::BTreeMap, net::IpAddr};

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
    run::{Action, Hook, Outcome},
};
use crate::{
    config::model,
    dataplane::{
        attach::{Link, Programs},
        maps::{Loaded, Maps},
    },
    slots::Numbers,
    tables::{Ingress, RouteChanges, Ways},
};

/// The kernel program, as built with this agent.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vpnhub-ebpf"));

/// The loaded program and its maps. Dropping it detaches and unloads the program.
pub struct Dataplane {
    programs: Programs,
    maps: Maps,
    loaded: Loaded,
    /// By ifindex.
    interfaces: BTreeMap<u32, Interface>,
}

/// An interface that the program is attached to.
struct Interface {
    link: Link,
    attached: Attached,
    /// The TC program besides, for what XDP cannot send: see [`Dataplane::hand_over`].
    second: Option<Link>,
}

impl Dataplane {
    /// Loads the program into the kernel. Attaches it to nothing, yet.
    pub fn load(settings: &model::Dataplane) -> Result<Self, Error> {
        error::check_host()?;
        let object = EbpfLoader::new().load(PROGRAM).map_err(|error| Error::load(&error))?;
        let mut programs = Programs::load(object, settings.lookup)?;
        let maps = Maps::take(programs.object(), settings)?;
        Ok(Self { programs, maps, loaded: Loaded::default(), interfaces: BTreeMap::new() })
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
    pub fn apply(&mut self, ingress: &Ingress, ways: &Ways, routes: &RouteChanges) -> Result<(), Error> {
        let changes = self.maps.write(&mut self.loaded, ingress, ways, routes)?;
        if changes > 0 {
            debug!(changes, "tables written");
        }
        Ok(())
    }

    /// Makes the ways out what is wanted, and nothing else: what a failure asks for, and at once.
    pub fn steer(&mut self, ways: &Ways) -> Result<(), Error> {
        let changes = self.maps.steer(&mut self.loaded.ways, ways)?;
        if changes > 0 {
            debug!(changes, "ways written");
        }
        Ok(())
    }

    /// Numbers and memory that rest with the tables, beside those of the layout.
    pub fn numbers(&mut self) -> &mut dyn Numbers {
        self.maps.look_up()
    }

    /// Loads the TC program, which [`Dataplane::attach`] otherwise does when it is first needed, and tells of what goes wrong.
    pub fn load_tc(&mut self) {
        if let Err(error) = self.programs.tc() {
            debug!("TC program: {error}");
        }
    }

    /// Attaches the program to an interface. `reason` is why `mode` is TC, where nobody asked for it.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        reason: Option<&str>,
    ) -> Result<&Attached, Error> {
        let (link, attached) = self.programs.attach(interface, ifindex, mode, reason)?;
        self.interfaces.insert(ifindex, Interface { link, attached, second: None });
        Ok(&self.interfaces[&ifindex].attached)
    }

    /// Attaches the TC program besides to an interface that has native XDP, for what is to leave where XDP cannot send; or
    /// detaches it, without a reason.
    pub fn hand_over(&mut self, interface: &str, ifindex: u32, reason: Option<String>) -> Result<(), Error> {
        let Some(entry) = self.interfaces.get_mut(&ifindex).filter(|entry| entry.attached.reason != reason) else {
            return Ok(());
        };
        // In this order, each way: for a moment both count a packet, rather than none.
        if reason.is_some() {
            if entry.second.is_none() {
                entry.second = Some(self.programs.attach_tc(interface)?);
            }
        } else {
            self.programs.detach(entry.second.take());
        }
        entry.attached.reason = reason;
        Ok(())
    }

    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.interfaces.contains_key(&ifindex)
    }

    /// An interface went, and another or the same may have come back under its index: the kernel has emptied its port
    /// (`dev_map_notification`, kernel/bpf/devmap.c) and detached the program.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        self.loaded.ingress.ports.retain(|_, port| *port != ifindex);
    }

    /// Detaches the program from an interface, which may be gone.
    pub fn detach(&mut self, ifindex: u32) {
        let Some(Interface { link, second, .. }) = self.interfaces.remove(&ifindex) else { return };
        self.programs.detach([Some(link), second].into_iter().flatten());
    }

    /// Interfaces the program is attached to, and how.
    pub fn attached(&self) -> impl Iterator<Item = (u32, &Attached)> {
        self.interfaces.iter().map(|(ifindex, interface)| (*ifindex, &interface.attached))
    }

    /// Counts of a slot, summed over the CPUs.
    pub fn counters(&self, slot: u32) -> Result<Counters, Error> {
        self.maps.counters(slot)
    }
}

//! The one writer: loads the program, attaches it, fills its maps and reads its counters. Nobody else knows aya.

mod attach;
mod chunks;
mod error;
mod lookup;
mod maps;
mod wanted;

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::RingBuf,
    programs::{Xdp, xdp::XdpLinkId},
};
use aya_log::EbpfLogger;
use hub_common::maps::{Counters, WANTED_BYTES};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::{debug, warn};

pub use self::{
    attach::{Attached, Mode},
    error::Error,
    maps::sum,
};
use crate::{
    config::model,
    dataplane::maps::{Loaded, Maps},
    slots::Numbers,
    tables::{Ingress, RouteChanges, Ways},
};

/// The kernel program, as built with this agent.
static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vpnhub-ebpf"));

/// The loaded program and its maps. Dropping it detaches and unloads the program.
pub struct Dataplane {
    ebpf: Ebpf,
    /// The program's entry point that is loaded.
    entry: &'static str,
    maps: Maps,
    loaded: Loaded,
    /// By ifindex.
    links: BTreeMap<u32, (XdpLinkId, Attached)>,
}

/// A packet's fate under [`Dataplane::test_run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `XDP_PASS`, `XDP_DROP`, `XDP_REDIRECT`, ... (enum `xdp_action`, linux/bpf.h).
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Dataplane {
    /// Loads the program into the kernel. Attaches it to nothing, yet.
    pub fn load(settings: &model::Dataplane) -> Result<Self, Error> {
        error::check_host()?;
        let mut ebpf = EbpfLoader::new().load(PROGRAM).map_err(|error| Error::load(&error))?;
        let entry = match settings.lookup {
            model::Lookup::Compiled => "vpnhub_xdp",
            model::Lookup::Lpm => "vpnhub_xdp_lpm",
        };
        program(&mut ebpf, entry).load().map_err(Error::program)?;
        let maps = Maps::take(&mut ebpf, settings)?;
        Ok(Self { ebpf, entry, maps, loaded: Loaded::default(), links: BTreeMap::new() })
    }

    /// Forwards the program's own log messages, of which there are few, to this process's log. Needs a tokio runtime.
    pub fn follow_log(&mut self) {
        let logger = EbpfLogger::init(&mut self.ebpf);
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
        let map = self.ebpf.take_map("WANTED").expect("the embedded object has every map; taken once");
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

    /// Attaches the program to an interface, natively where the driver can and `mode` allows; `reason` is why `mode` is
    /// generic, where nobody asked for it.
    pub fn attach(&mut self, ifindex: u32, mode: Mode, reason: Option<&str>) -> Result<&Attached, Error> {
        let (link, attached) = attach::attach(program(&mut self.ebpf, self.entry), ifindex, mode, reason)?;
        self.links.insert(ifindex, (link, attached));
        Ok(&self.links[&ifindex].1)
    }

    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.links.contains_key(&ifindex)
    }

    /// An interface went, and another or the same may have come back under its index: the kernel has emptied its port
    /// (`dev_map_notification`, kernel/bpf/devmap.c) and detached the program.
    pub fn forget(&mut self, ifindex: u32) {
        self.detach(ifindex);
        self.loaded.ingress.ports.retain(|_, port| *port != ifindex);
    }

    /// Detaches the program from an interface, which may be gone.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some((link, _)) = self.links.remove(&ifindex)
            && let Err(error) = program(&mut self.ebpf, self.entry).detach(link)
        {
            debug!(ifindex, "not detached: {error}");
        }
    }

    /// Interfaces the program is attached to, and how.
    pub fn attached(&self) -> impl Iterator<Item = (u32, &Attached)> {
        self.links.iter().map(|(ifindex, (_, attached))| (*ifindex, attached))
    }

    /// Counts of a slot, summed over the CPUs.
    pub fn counters(&self, slot: u32) -> Result<Counters, Error> {
        self.maps.counters(slot)
    }

    /// Runs the loaded program on a frame, as if it came in on `ifindex`, an interface of this network namespace.
    ///
    /// Counts as any other packet; the redirect is decided but not carried out.
    pub fn test_run(&mut self, ifindex: u32, frame: &[u8]) -> Result<Outcome, Error> {
        // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let length = u32::try_from(frame.len()).map_err(|_| Error::FrameTooLong)?;
        let context: Vec<u8> = [0, length, 0, ifindex, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut output = vec![0; frame.len() + 256];
        let result = program(&mut self.ebpf, self.entry)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut output),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .map_err(Error::program)?;
        output.truncate(result.data_size_out as usize);
        Ok(Outcome { action: result.return_value, frame: output })
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, entry: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(entry).expect("the embedded object has it");
    program.try_into().expect("it is an XDP program")
}

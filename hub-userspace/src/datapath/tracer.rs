//! A second load of the program, which runs single packets against the live tables and changes nothing.
//!
//! The tables that the program reads are the live maps. Everything else is the load's own: counters, rings, the log. So
//! a run appears in no counter, report or log line of the datapath.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{Ebpf, maps::Map};
use hub_common::{
    Mark, Reason,
    maps::{UNATTRIBUTED, VPC},
};
use tracing::debug;

use super::{
    Counters, CpuPackets, DatapathError, PROGRAM,
    attach::Programs,
    bpf,
    counters::BySlot,
    loader,
    named_map::Named,
    pins::{make_directory, remove_directory},
    records::{Records, SLOTS},
    run::{Action, Hook},
};
use crate::config::model::{DataplaneSettings, LookupKind};

/// The tables: the program reads them and never writes them. A map that is not in this list is new in each load.
const TABLES: [&str; 21] = [
    "ATTACHMENTS",
    "FAR_ATTACHMENTS",
    "TRANSLATIONS",
    "VLANS",
    "REMOTES_V4",
    "REMOTES_V6",
    "LOCALS_V4",
    "LOCALS_V6",
    "LINKS",
    "PORT_RULES",
    "ROUTES_V4",
    "ROUTES_V6",
    "CHUNKS",
    "POLICY_ROUTES",
    "POLICY_OVERFLOW",
    "BUCKETS",
    "GROUP_MEMBERS",
    "NEXT_HOPS",
    "MSS_LIMITS",
    "NEIGHBOURS",
    "PORTS",
];

/// The live tables of a datapath.
pub struct LiveTables {
    maps: Vec<(&'static str, OwnedFd)>,
    /// Directory in bpffs, which exists only while the object is loaded.
    pins: PathBuf,
    mark: Mark,
    lookup: LookupKind,
}

impl LiveTables {
    /// The tables of a loaded object whose maps have not been taken yet.
    pub(super) fn of(object: &Ebpf, settings: &DataplaneSettings, pins: PathBuf) -> Result<Self, DatapathError> {
        let again = |name| {
            let map = object.map(name).expect("the embedded object has every map");
            let fd = descriptor(map).try_clone_to_owned();
            Ok((name, fd.map_err(|error| DatapathError::Map { map: name, cause: error.to_string() })?))
        };
        let maps = TABLES.into_iter().map(again).collect::<Result<_, DatapathError>>()?;
        // Of an agent that was killed while it loaded.
        remove_directory(&pins)?;
        Ok(Self { maps, pins, mark: settings.mark, lookup: settings.lookup })
    }
}

fn descriptor(map: &Map) -> BorrowedFd<'_> {
    match map {
        Map::Array(map) | Map::ArrayOfMaps(map) | Map::DevMap(map) | Map::HashMap(map) | Map::LpmTrie(map) => {
            map.fd().as_fd()
        }
        _ => unreachable!("no table is of another type"),
    }
}

/// The second load.
pub struct Tracer {
    programs: Programs,
    counters: Named<BySlot>,
}

/// What the program has done with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRun {
    /// The programs that ran, in order, and what each returned. TC runs on what XDP passes.
    pub hooks: Vec<(Hook, Action)>,
    /// Why it is not forwarded; `None`: it is.
    pub reason: Option<Reason>,
    /// `COUNTERS` slot of the connection that it is counted for.
    pub connection: u32,
    /// The selectors of that connection have admitted it.
    pub is_admitted: bool,
    /// `COUNTERS` slot of the connection that it is sent to.
    pub egress: Option<u32>,
    /// The frame afterwards, without what a test run requires in front of it.
    pub frame: Vec<u8>,
    /// `skb->mark` afterwards, if TC has passed it.
    pub mark: u32,
}

/// A frame to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub ifindex: u32,
    /// It begins with an Ethernet header, otherwise with the IP header.
    pub is_ethernet: bool,
    /// The interface has XDP, too.
    pub has_xdp: bool,
    pub frame: Vec<u8>,
    /// `skb->protocol` on an interface without link header; `None`: by the IP version.
    pub protocol: Option<u16>,
    /// Where it leaves if it is sent.
    pub leaving: Option<Leaving>,
}

/// The interface that a frame is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    pub ifindex: u32,
    pub is_ethernet: bool,
    /// The program at egress translates there.
    pub translates: bool,
}

/// Link addresses in front of a packet without link header. A test run of TC requires a link header, and takes the
/// packet's protocol from it; the program skips it, as it does on xfrm interfaces.
const LINK_ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Of a packet of an unknown IP version (RFC 5342).
const EXPERIMENTAL: u16 = 0x88b5;

impl Tracer {
    /// Loads the object again. Takes some tenths of a second: the verifier checks the program.
    pub fn load(tables: &LiveTables) -> Result<Self, DatapathError> {
        let LiveTables { maps: _, pins: _, mark, lookup } = tables;
        let pins = TablePins::new(tables)?;
        let settings = DataplaneSettings { mark: *mark, lookup: *lookup, ..DataplaneSettings::default() };
        let tag = [0; 2];
        let mut loader = loader(&settings, &tag)?;
        for name in TABLES {
            loader.map_pin_path(name, pins.path(name));
        }
        let object = loader.load(PROGRAM).map_err(|error| DatapathError::load(&error))?;
        drop(pins);
        let mut programs = Programs::load(object, *lookup)?;
        let counters = BySlot::take(programs.object(), Records::default())?;
        Ok(Self { programs, counters })
    }

    /// Runs a frame through the programs of its interface, which is in the network namespace of the calling thread.
    /// `likely`: slots that are probably counted.
    ///
    /// # Errors
    /// When the interface does not exist or the kernel cannot run the frame: see [`super::Dataplane::test_run`].
    pub fn run(&mut self, arrived: &Arrived, likely: &[u32]) -> Result<TraceRun, DatapathError> {
        let Arrived { ifindex, frame, has_xdp, .. } = arrived;
        let mut hooks = Vec::new();
        if *has_xdp {
            let outcome = self.programs.test_run(Hook::Xdp, *ifindex, frame, 0)?;
            hooks.push((Hook::Xdp, outcome.action));
            if outcome.action != Action::Pass {
                return self.finish(hooks, outcome.frame, 0, likely);
            }
        }
        let front = front(arrived.is_ethernet, arrived.protocol, frame);
        let outcome = self.programs.test_run(Hook::Tc, *ifindex, &[&front[..], frame].concat(), 0)?;
        hooks.push((Hook::Tc, outcome.action));
        let mut frame = outcome.frame;
        if frame.starts_with(&front) {
            frame.drain(..front.len());
        }
        let mut run = self.finish(hooks, frame, outcome.mark, likely)?;
        if let (Action::Redirect, Some(leaving)) = (outcome.action, arrived.leaving) {
            self.leave(&mut run, arrived.is_ethernet, leaving)?;
        }
        Ok(run)
    }

    /// Completes a frame that TC has sent, as it leaves the interface.
    fn leave(&mut self, run: &mut TraceRun, was_ethernet: bool, leaving: Leaving) -> Result<(), DatapathError> {
        let Leaving { ifindex, is_ethernet, translates } = leaving;
        // The kernel removes a header that the interface does not have (`__bpf_redirect_no_mac`, net/core/filter.c).
        if was_ethernet && !is_ethernet && run.frame.len() > ETHERNET {
            run.frame.drain(..ETHERNET);
        }
        if translates {
            let front = front(is_ethernet, None, &run.frame);
            let outcome = self.programs.test_run(Hook::Egress, ifindex, &[&front[..], &run.frame].concat(), 0)?;
            run.hooks.push((Hook::Egress, outcome.action));
            run.frame = outcome.frame;
            run.frame.drain(..front.len());
        }
        Ok(())
    }

    /// Takes what has been counted.
    fn finish(
        &mut self,
        hooks: Vec<(Hook, Action)>,
        frame: Vec<u8>,
        mark: u32,
        likely: &[u32],
    ) -> Result<TraceRun, DatapathError> {
        let mut run =
            TraceRun { hooks, reason: None, connection: UNATTRIBUTED, is_admitted: false, egress: None, frame, mark };
        let is_sent = run.hooks.last().is_some_and(|(_, action)| *action == Action::Redirect);
        let mut is_complete = false;
        let first = likely.iter().copied().chain([UNATTRIBUTED, VPC]);
        for slot in first.chain(0..SLOTS) {
            let Counters { rx_packets, tx_packets, reasons, .. } =
                self.counters.read(slot, &mut CpuPackets::default())?;
            let reason = Reason::ALL.into_iter().find(|reason| reasons[*reason as usize] != 0);
            if rx_packets == 0 && tx_packets == 0 && reason.is_none() {
                continue;
            }
            if rx_packets != 0 {
                (run.connection, run.is_admitted) = (slot, true);
            }
            if tx_packets != 0 {
                run.egress = Some(slot);
            }
            if reason.is_some() {
                (run.connection, run.reason) = (slot, reason);
            }
            self.counters.map.clear(slot).map_err(|error| DatapathError::map("TRAFFIC", SLOTS, &error))?;
            is_complete = if is_sent { run.is_admitted && run.egress.is_some() } else { run.reason.is_some() };
            if is_complete {
                break;
            }
        }
        if is_complete { Ok(run) } else { Err(DatapathError::Program("it has counted nothing".to_owned())) }
    }
}

/// What a test run of TC requires in front of a frame.
fn front(is_ethernet: bool, protocol: Option<u16>, frame: &[u8]) -> Vec<u8> {
    if is_ethernet {
        return Vec::new();
    }
    let by_version = || match frame.first().map(|byte| byte >> 4) {
        Some(4) => 0x0800,
        Some(6) => 0x86dd,
        _ => EXPERIMENTAL,
    };
    [&LINK_ADDRESSES[..], &protocol.unwrap_or_else(by_version).to_be_bytes()].concat()
}

/// Pins of the tables while the object is loaded: aya opens maps of others only by a path.
struct TablePins<'a>(&'a Path);

impl<'a> TablePins<'a> {
    fn new(tables: &'a LiveTables) -> Result<Self, DatapathError> {
        make_directory(&tables.pins)?;
        let pins = Self(&tables.pins);
        for (name, map) in &tables.maps {
            let pinned = bpf::pin(map.as_fd(), &pins.path(name));
            pinned.map_err(|error| DatapathError::Map { map: name, cause: error.to_string() })?;
        }
        Ok(pins)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TablePins<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove_directory(self.0) {
            debug!("{error}");
        }
    }
}

//! Distributes received ESP of few receive queues over all CPUs, by Receive Packet Steering
//! (Documentation/networking/scaling.rst). RPS hashes ESP by its SPI (`proto_ports_offset`, include/linux/in.h).
//! Where it cannot, an XDP program does: the datapath attaches it to the interfaces of a [`SpreadPlan`].
//!
//! [`decide`] has the decisions and is pure; [`sysfs`] reads and writes the masks; [`memory`] records them, so that a
//! later agent, or `vpnhub unload`, puts back what was there before.

mod decide;
mod mask;
mod memory;
mod plan;
mod receive;
mod sysfs;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, netdevice::index_to_name, socket_with},
};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::{
    decide::{Action, OwnMask},
    memory::{Memory, Remembered},
    sysfs::{Queues, SpreadFailure, Sysfs},
};
pub use self::{
    mask::CpuMask,
    plan::{SpreadInterface, SpreadPlan, VLANS},
    receive::{Interrupt, Receive, ReceiveReader, Softnet},
};
use crate::{
    config::{Config, model::Spread},
    kernel::netlink::{HostState, Link},
};

/// Kinds of interfaces to which the kernel hands packets of the interfaces below them after RPS
/// (`__netif_receive_skb_core`, net/core/dev.c): RPS on themselves has no effect.
const UPPER: [&str; 5] = ["vlan", "bond", "team", "macvlan", "ipvlan"];

/// Which interface had a name at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    pub index: u32,
    /// `None` without a link address of 6 bytes.
    pub mac: Option<[u8; 6]>,
}

impl Incarnation {
    pub const fn of(link: &Link) -> Self {
        Self { index: link.index, mac: link.mac }
    }
}

/// The desired state of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Desired {
    spread: Spread,
    /// `None` if the interface does not exist.
    link: Option<Incarnation>,
    /// Its kind, if it is one of [`UPPER`].
    upper: Option<String>,
    /// With `xdp`: it has VLAN interfaces.
    has_vlans: bool,
}

/// The desired state of all underlays, by interface name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlays(BTreeMap<String, Desired>);

impl Underlays {
    pub fn of(config: &Config, host: &HostState) -> Self {
        let underlays = config.underlays.iter().map(|(name, underlay)| {
            let link = host.link(name);
            let upper = link.and_then(|link| link.kind.clone()).filter(|kind| UPPER.contains(&kind.as_str()));
            let is_above =
                |other: &Link| link.is_some_and(|link| other.vlan.is_some_and(|(lower, _)| lower == link.index));
            let has_vlans = underlay.spread == Spread::Xdp && host.links.values().any(is_above);
            let link = link.map(Incarnation::of);
            (name.clone(), Desired { spread: underlay.spread, link, upper, has_vlans })
        });
        Self(underlays.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of these interfaces is among them.
    pub fn has_any(&self, interfaces: &BTreeSet<u32>) -> bool {
        self.indices().any(|index| interfaces.contains(&index))
    }

    fn indices(&self) -> impl Iterator<Item = u32> {
        self.0.values().filter_map(|desired| Some(desired.link.as_ref()?.index))
    }
}

/// What is in force on an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpreadReport {
    /// RPS is in force on every receive queue.
    pub is_rps: bool,
    /// Why it is not, or not by the agent.
    pub reason: Option<String>,
    /// Numbers of receive queues and of online CPUs, if known.
    pub rx_queues: Option<usize>,
    pub cpus: Option<u32>,
    /// Index of an interface to which the XDP program is to be attached.
    pub xdp: Option<u32>,
}

/// Writes the masks.
#[derive(Debug)]
pub struct Spreader {
    /// Opened when it is needed first.
    sysfs: Option<Arc<Sysfs>>,
    memory: Memory,
    reports: BTreeMap<String, SpreadReport>,
    /// Failures by the interface's name, so that each is logged once.
    failed: BTreeMap<String, String>,
    /// Interfaces whose masks could not be put back: logged once, too.
    stuck: BTreeSet<u32>,
}

impl Spreader {
    /// `directory` and `name`: the file that outlives the agent. Only root may write to the directory.
    pub fn start(directory: OwnedFd, name: String) -> Self {
        let memory = Memory::open(directory, name);
        Self { sysfs: None, memory, reports: BTreeMap::new(), failed: BTreeMap::new(), stuck: BTreeSet::new() }
    }

    /// Of an interface of the configuration.
    pub fn report(&self, name: &str) -> SpreadReport {
        self.reports.get(name).cloned().unwrap_or_default()
    }

    /// The interfaces were removed. Their indices may be reused.
    pub fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        let before = self.memory.interfaces.len();
        self.memory.interfaces.retain(|index, _| !interfaces.contains(index));
        self.stuck.retain(|index| !interfaces.contains(index));
        if self.memory.interfaces.len() < before {
            self.save();
        }
    }

    /// Applies the desired state, and puts back what is no longer desired. Returns what XDP is to do.
    pub fn set(&mut self, underlays: &Underlays) -> SpreadPlan {
        let mut plan = SpreadPlan::default();
        self.reports.clear();
        self.failed.retain(|name, _| underlays.0.contains_key(name));
        let desired: BTreeSet<u32> = underlays.indices().collect();
        let obsolete: Vec<u32> =
            self.memory.interfaces.keys().filter(|index| !desired.contains(index)).copied().collect();
        for index in obsolete {
            match self.put_back(index) {
                Ok(_) => _ = self.stuck.remove(&index),
                Err(failure) if self.stuck.insert(index) => {
                    warn!(name: "rps_not_restored", "rps_cpus is not put back: {failure}");
                }
                Err(_) => {}
            }
        }
        for (name, desired) in &underlays.0 {
            let mut report = SpreadReport::default();
            if let Err(failure) = self.apply(name, desired, &mut report, &mut plan) {
                report.reason = Some(failure.to_string());
                // RPS is not needed there.
                let is_quiet = desired.spread == Spread::Off || report.xdp.is_some();
                if !is_quiet || matches!(failure, SpreadFailure::Write(..)) {
                    self.note(name, failure.to_string());
                }
            } else {
                self.failed.remove(name);
            }
            self.reports.insert(name.clone(), report);
        }
        plan
    }

    /// A module with which RPS does not distribute ESP, if it is loaded: GRO decrypts before RPS (`esp4_gro_receive`,
    /// `net/ipv4/esp4_offload.c`).
    pub fn esp_offload(&self) -> Option<&'static str> {
        let sysfs = self.sysfs.as_ref()?;
        ["esp4_offload", "esp6_offload"].into_iter().find(|module| sysfs.has_module(module))
    }

    /// Reads queues, interrupts and counts of CPUs; `None` before the first underlay.
    pub fn receive_reader(&self) -> Option<ReceiveReader> {
        Some(ReceiveReader::new(Arc::clone(self.sysfs.as_ref()?), PathBuf::from("/proc")))
    }

    /// Puts back all masks of this and earlier agents; returns the number of queues. Continues after a failure.
    ///
    /// # Errors
    /// The first failure.
    pub fn put_all_back(&mut self) -> Result<usize, SpreadFailure> {
        let all: Vec<u32> = self.memory.interfaces.keys().copied().collect();
        let results: Vec<_> = all.into_iter().map(|index| self.put_back(index)).collect();
        results.into_iter().sum()
    }

    fn note(&mut self, name: &str, failure: String) {
        if self.failed.get(name) != Some(&failure) {
            warn!(name: "spread_failed", interface = name, "received ESP is not distributed over CPUs: {failure}");
        }
        self.failed.insert(name.to_owned(), failure);
    }

    fn apply(
        &mut self,
        name: &str,
        Desired { spread, link, upper, has_vlans }: &Desired,
        report: &mut SpreadReport,
        plan: &mut SpreadPlan,
    ) -> Result<(), SpreadFailure> {
        let link = link.as_ref().ok_or_else(|| SpreadFailure::Missing(name.to_owned()))?;
        if let Some(kind) = upper.as_ref().filter(|_| *spread != Spread::Off) {
            return Err(SpreadFailure::Upper(name.to_owned(), kind.clone()));
        }
        let sysfs = sysfs(&mut self.sysfs)?;
        let online = sysfs.online_cpus()?;
        report.cpus = Some(online.count());
        if *spread == Spread::Xdp {
            plan.cpus = sysfs.usable_cpus(&online).cpus().collect();
            if plan.cpus.len() > 1 {
                let generic = has_vlans.then_some(VLANS);
                plan.interfaces.insert(link.index, SpreadInterface { name: name.to_owned(), generic });
                report.xdp = Some(link.index);
            }
        }
        let queues = sysfs.queues(name, link)?;
        let mut masks = queues.masks()?;
        report.rx_queues = Some(masks.len());
        let actions = decide::actions(*spread, &online, &masks, self.own(link.index));
        if !actions.is_empty() {
            self.perform(link, &queues, &online, &actions)?;
            masks = queues.masks()?;
        }
        (report.is_rps, report.reason) = decide::outcome(*spread, &online, &masks, self.own(link.index));
        Ok(())
    }

    fn own(&self, index: u32) -> &BTreeMap<u32, OwnMask> {
        static NONE: BTreeMap<u32, OwnMask> = BTreeMap::new();
        self.memory.interfaces.get(&index).map_or(&NONE, |remembered| &remembered.queues)
    }

    /// Puts the masks of an interface back; returns the number of queues.
    fn put_back(&mut self, index: u32) -> Result<usize, SpreadFailure> {
        let Some(Remembered { link, queues: own }) = self.memory.interfaces.get(&index).cloned() else { return Ok(0) };
        let name = name_of(index).map_err(|error| SpreadFailure::Read(format!("interface {index}"), error))?;
        let Some(name) = name else {
            self.forget(&BTreeSet::from([index]));
            return Ok(0);
        };
        let queues = sysfs(&mut self.sysfs)?.queues(&name, &link)?;
        let nothing = CpuMask::default();
        let actions = decide::actions(Spread::Off, &nothing, &queues.masks()?, &own);
        self.perform(&link, &queues, &nothing, &actions)?;
        Ok(actions.values().filter(|action| matches!(action, Action::PutBack(_))).count())
    }

    /// Performs the actions in the order of the queues, up to the first failure.
    ///
    /// A mask is recorded before it is written: an agent that is killed in between leaves none behind.
    fn perform(
        &mut self,
        link: &Incarnation,
        queues: &Queues,
        online: &CpuMask,
        actions: &BTreeMap<u32, Action>,
    ) -> Result<(), SpreadFailure> {
        let mut own = self.own(link.index).clone();
        own.retain(|number, _| actions.get(number) != Some(&Action::Forget));
        let mask = |before: &CpuMask, is| OwnMask { before: before.clone(), asked: online.clone(), is };
        let spreads = actions.iter().filter_map(|(number, action)| match action {
            Action::Spread { before } => Some((*number, mask(before, online.clone()))),
            _ => None,
        });
        let planned: BTreeMap<u32, OwnMask> = own.clone().into_iter().chain(spreads).collect();
        if planned != own {
            self.memory.set(link, planned);
            if let Err(error) = self.memory.save() {
                self.memory.set(link, own);
                return Err(SpreadFailure::Memory(self.memory.name().to_owned(), error));
            }
        }
        let (mut spread, mut put_back) = (0, 0);
        let result = actions.iter().try_for_each(|(number, action)| {
            match action {
                Action::Spread { before } => {
                    own.insert(*number, mask(before, queues.write(*number, online)?));
                    spread += 1;
                }
                Action::PutBack(before) => {
                    queues.write(*number, before)?;
                    own.remove(number);
                    put_back += 1;
                }
                Action::Forget => {}
            }
            Ok(())
        });
        self.memory.set(link, own);
        self.save();
        if spread > 0 {
            info!(name: "rps_set", interface = queues.interface(), "rps_cpus of {spread} receive queues set to {online}");
        }
        if put_back > 0 {
            info!(name: "rps_restored", interface = queues.interface(), "rps_cpus of {put_back} receive queues put back");
        }
        result
    }

    /// The file only matters to a later agent.
    fn save(&self) {
        if let Err(error) = self.memory.save() {
            warn!(name: "spread_failed",
                "the next agent may not put rps_cpus back: cannot write {} beside its lock: {error}",
                self.memory.name()
            );
        }
    }
}

fn sysfs(opened: &mut Option<Arc<Sysfs>>) -> Result<&Sysfs, SpreadFailure> {
    if opened.is_none() {
        let sysfs = Sysfs::open().map_err(|error| SpreadFailure::Read(sysfs::VISIBLE.to_owned(), error))?;
        return Ok(opened.insert(Arc::new(sysfs)));
    }
    opened.as_deref().ok_or(SpreadFailure::OtherNamespace)
}

/// The present name of an interface; `None` if it is gone.
fn name_of(index: u32) -> io::Result<Option<String>> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match index_to_name(&socket, index) {
        Ok(name) => Ok(Some(name)),
        Err(Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;

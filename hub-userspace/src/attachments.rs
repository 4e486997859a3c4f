//! Which interfaces the program is attached to, and how.
//!
//! A TC program is behind every XDP program: it decides about what XDP passes, and sends what XDP cannot. Native XDP sends only to
//! devices that have native XDP themselves (`ndo_xdp_xmit`, net/core/filter.c), and a redirect to another one fails without
//! a word.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info};

use crate::{
    dataplane::{Attached, Dataplane, Mode},
    netlink::{HostState, Link},
    status,
};

/// Devices whose native program runs on the devices below them, where packets come in under another index
/// (`bond_xdp_set`, `drivers/net/bonding/bond_main.c`).
const ABOVE_OTHERS: [&str; 2] = ["bond", "team"];

pub struct Attachments {
    mode: Mode,
    /// Why the program is not attached, or not as it should be, by the interface's name.
    errors: BTreeMap<String, String>,
}

impl Attachments {
    pub fn new(mode: Mode) -> Self {
        Self { mode, errors: BTreeMap::new() }
    }

    /// Indices of the interfaces, of these names, that are reached by TC alone, as far as is known before all are
    /// attached.
    pub fn tc_only(&self, dataplane: &Dataplane, host: &HostState, interfaces: &BTreeSet<&str>) -> BTreeSet<u32> {
        let attached: BTreeMap<u32, &Attached> = dataplane.attached().collect();
        let links = interfaces.iter().filter_map(|name| host.link(name));
        let is_tc = |link: &&Link| {
            if let Some(attached) = attached.get(&link.index) {
                return attached.is_tc();
            }
            let mode = self.mode_of(link).0;
            mode == Mode::Tc || (mode == Mode::Auto && dataplane.was_tc_only(link.index))
        };
        links.filter(is_tc).map(|link| link.index).collect()
    }

    /// Attaches to the interfaces of these names as far as they are there, and then lets go of all others.
    pub fn update(&mut self, dataplane: &mut Dataplane, host: &HostState, interfaces: &BTreeSet<&str>) {
        let links: BTreeMap<u32, &Link> =
            interfaces.iter().filter_map(|name| host.link(name)).map(|link| (link.index, link)).collect();
        self.errors.retain(|name, _| interfaces.contains(name.as_str()));
        for link in links.values().copied() {
            self.attach(dataplane, link);
        }
        if let Err(error) = dataplane.keep(|ifindex| links.contains_key(&ifindex)) {
            error!("{error}");
        }
        for name in interfaces.iter().filter(|name| host.link(name).is_none()) {
            self.errors.insert((*name).to_owned(), missing(name));
        }
    }

    /// Every interface that is there has its programs.
    pub fn is_complete(&self, host: &HostState) -> bool {
        self.errors.keys().all(|name| host.link(name).is_none())
    }

    /// What status shows for an interface.
    pub fn status(&self, dataplane: &Dataplane, host: &HostState, interface: &str) -> status::Attachment {
        let link = host.link(interface);
        let attached = link.and_then(|link| dataplane.attached().find(|(ifindex, _)| *ifindex == link.index));
        match attached {
            Some((_, attached)) => {
                status::Attachment { attach: Some(attached.mode.to_owned()), attach_reason: attached.reason.clone() }
            }
            None => status::Attachment { attach: None, attach_reason: self.errors.get(interface).cloned() },
        }
    }

    /// How an interface is to be attached, and why it is not to be tried natively.
    fn mode_of(&self, link: &Link) -> (Mode, Option<&'static str>) {
        let above_others = link.kind.as_deref().is_some_and(|kind| ABOVE_OTHERS.contains(&kind));
        match self.mode {
            Mode::Auto if !link.ethernet => (Mode::Tc, Some("a layer-3 interface: XDP cannot send to it")),
            Mode::Auto if above_others => (Mode::Tc, Some("its packets come in on the devices below it")),
            mode => (mode, None),
        }
    }

    fn attach(&mut self, dataplane: &mut Dataplane, link: &Link) {
        if dataplane.is_attached(link.index) {
            return;
        }
        let (mode, reason) = self.mode_of(link);
        match dataplane.attach(&link.name, link.index, mode, reason).cloned() {
            Ok(attached) => {
                self.errors.remove(&link.name);
                log(&link.name, &attached);
            }
            Err(error) => self.note(link, error.to_string()),
        }
    }

    fn note(&mut self, link: &Link, error: String) {
        if self.errors.get(&link.name) != Some(&error) {
            error!(interface = link.name, "not attached: {error}");
        }
        self.errors.insert(link.name.clone(), error);
    }
}

fn log(interface: &str, attached: &Attached) {
    match &attached.reason {
        None => info!(interface, mode = attached.mode, "attached"),
        Some(reason) => info!(interface, mode = attached.mode, reason, "attached"),
    }
}

/// What to say of an interface that is not there.
pub fn missing(interface: &str) -> String {
    format!("interface {interface} does not exist: create it, the agent attaches as soon as it is there")
}

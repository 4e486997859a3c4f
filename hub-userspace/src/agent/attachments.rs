//! Which interfaces the program is attached to, and how. Pure.
//!
//! A TC program is behind every XDP program: it decides about what XDP passes, and sends what XDP cannot. Native XDP sends only to
//! devices that have native XDP themselves (`ndo_xdp_xmit`, net/core/filter.c), and a redirect to another one fails without
//! a word.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info};

use super::effect::Effect;
use crate::{
    api_types::status,
    datapath::{AttachMode, Attached},
    kernel::netlink::{HostState, Link},
};

/// Devices whose native program runs on the devices below them, where packets come in under another index
/// (`bond_xdp_set`, `drivers/net/bonding/bond_main.c`).
const ABOVE_OTHERS: [&str; 2] = ["bond", "team"];

#[derive(Debug)]
pub struct Attachments {
    mode: AttachMode,
    /// How interfaces are attached, by ifindex.
    attached: BTreeMap<u32, Attached>,
    /// Interfaces that an earlier agent has attached by TC alone: it has found that XDP does not work there.
    were_tc_only: BTreeSet<u32>,
    /// Why the program is not attached, or not as it should be, by the interface's name.
    errors: BTreeMap<String, String>,
}

impl Attachments {
    pub fn new(mode: AttachMode, were_tc_only: BTreeSet<u32>) -> Self {
        Self { mode, attached: BTreeMap::new(), were_tc_only, errors: BTreeMap::new() }
    }

    /// Indices of the interfaces, of these names, that are reached by TC alone, as far as is known before all are
    /// attached.
    pub fn tc_only(&self, host: &HostState, interfaces: &BTreeSet<String>) -> BTreeSet<u32> {
        let links = interfaces.iter().filter_map(|name| host.link(name));
        let is_tc = |link: &&Link| {
            if let Some(attached) = self.attached.get(&link.index) {
                return attached.is_tc();
            }
            let mode = self.mode_of(link).0;
            mode == AttachMode::Tc || (mode == AttachMode::Auto && self.were_tc_only.contains(&link.index))
        };
        links.filter(is_tc).map(|link| link.index).collect()
    }

    /// Attaches to the interfaces of these names as far as they are there, and then lets go of all others.
    pub fn update(&mut self, host: &HostState, interfaces: &BTreeSet<String>, effects: &mut Vec<Effect>) {
        let links: BTreeMap<u32, &Link> =
            interfaces.iter().filter_map(|name| host.link(name)).map(|link| (link.index, link)).collect();
        self.errors.retain(|name, _| interfaces.contains(name));
        self.attached.retain(|ifindex, _| links.contains_key(ifindex));
        for link in links.values().filter(|link| !self.is_attached(link.index)) {
            let (mode, reason) = self.mode_of(link);
            effects.push(Effect::Attach { name: link.name.clone(), ifindex: link.index, mode, reason });
        }
        effects.push(Effect::Keep(links.into_keys().collect()));
        for name in interfaces.iter().filter(|name| host.link(name).is_none()) {
            self.errors.insert(name.clone(), missing(name));
        }
    }

    /// What came of attaching.
    pub fn attached(&mut self, name: String, ifindex: u32, result: Result<Attached, String>) {
        match result {
            Ok(attached) => {
                match &attached.reason {
                    None => info!(interface = name, mode = attached.mode, "attached"),
                    Some(reason) => info!(interface = name, mode = attached.mode, reason, "attached"),
                }
                self.errors.remove(&name);
                self.attached.insert(ifindex, attached);
            }
            Err(error) => {
                if self.errors.get(&name) != Some(&error) {
                    error!(interface = name, "not attached: {error}");
                }
                self.errors.insert(name, error);
            }
        }
    }

    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&ifindex)
    }

    /// An interface went, and another or the same may have come back under its index.
    pub fn forget(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
        self.were_tc_only.remove(&ifindex);
    }

    /// Every interface that is there has its programs.
    pub fn is_complete(&self, host: &HostState) -> bool {
        self.errors.keys().all(|name| host.link(name).is_none())
    }

    /// What status shows for an interface.
    pub fn status(&self, host: &HostState, interface: &str) -> status::Attachment {
        match host.link(interface).and_then(|link| self.attached.get(&link.index)) {
            Some(attached) => {
                status::Attachment { attach: Some(attached.mode.to_owned()), attach_reason: attached.reason.clone() }
            }
            None => status::Attachment { attach: None, attach_reason: self.errors.get(interface).cloned() },
        }
    }

    /// How an interface is to be attached, and why it is not to be tried natively.
    fn mode_of(&self, link: &Link) -> (AttachMode, Option<&'static str>) {
        let above_others = link.kind.as_deref().is_some_and(|kind| ABOVE_OTHERS.contains(&kind));
        match self.mode {
            AttachMode::Auto if !link.ethernet => (AttachMode::Tc, Some("a layer-3 interface: XDP cannot send to it")),
            AttachMode::Auto if above_others => (AttachMode::Tc, Some("its packets come in on the devices below it")),
            mode => (mode, None),
        }
    }
}

/// What to say of an interface that is not there.
pub fn missing(interface: &str) -> String {
    format!("interface {interface} does not exist: create it, the agent attaches as soon as it is there")
}

//! Which interfaces the program is attached to, and in which mode.
//!
//! Native XDP sends only to devices that have native XDP themselves (`ndo_xdp_xmit`, net/core/filter.c), and a redirect
//! to another one fails without a word. So one interface that cannot be native makes all of them generic.

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
    /// Why the program is not attached, by the interface's name.
    errors: BTreeMap<String, String>,
    /// Why an interface cannot be native, by its index.
    not_native: BTreeMap<u32, String>,
}

impl Attachments {
    pub fn new(mode: Mode) -> Self {
        Self { mode, errors: BTreeMap::new(), not_native: BTreeMap::new() }
    }

    /// Attaches to the interfaces of these names as far as they are there, and lets go of all others.
    pub fn update(&mut self, dataplane: &mut Dataplane, host: &HostState, interfaces: &BTreeSet<&str>) {
        let links: BTreeMap<u32, &Link> =
            interfaces.iter().filter_map(|name| host.link(name)).map(|link| (link.index, link)).collect();
        let attached: Vec<u32> = dataplane.attached().map(|(ifindex, _)| ifindex).collect();
        for ifindex in attached.into_iter().filter(|ifindex| !links.contains_key(ifindex)) {
            dataplane.detach(ifindex);
        }
        self.not_native.retain(|ifindex, _| links.contains_key(ifindex));
        self.errors.retain(|name, _| interfaces.contains(name.as_str()));

        for link in links.values().copied() {
            self.attach(dataplane, link);
        }
        self.agree(dataplane, &links);
        for name in interfaces.iter().filter(|name| host.link(name).is_none()) {
            self.errors.insert((*name).to_owned(), missing(name));
        }
    }

    /// Every interface that is there has its program.
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

    fn attach(&mut self, dataplane: &mut Dataplane, link: &Link) {
        if dataplane.is_attached(link.index) {
            return;
        }
        let above_others = link.kind.as_deref().is_some_and(|kind| ABOVE_OTHERS.contains(&kind));
        let result = if self.mode == Mode::Auto && above_others {
            let reason = "its packets come in on the devices below it";
            dataplane.attach(link.index, Mode::Generic, Some(reason)).cloned()
        } else {
            dataplane.attach(link.index, self.mode, None).cloned()
        };
        match result {
            Ok(attached) => {
                self.errors.remove(&link.name);
                log(&link.name, &attached);
                if let (Mode::Auto, Some(reason)) = (self.mode, attached.reason) {
                    self.not_native.insert(link.index, reason);
                }
            }
            Err(error) => {
                let error = error.to_string();
                if self.errors.get(&link.name) != Some(&error) {
                    error!(interface = link.name, "not attached: {error}");
                }
                self.errors.insert(link.name.clone(), error);
            }
        }
    }

    /// Makes all generic where one cannot be native, and native again where that one has gone.
    fn agree(&mut self, dataplane: &mut Dataplane, links: &BTreeMap<u32, &Link>) {
        if self.mode != Mode::Auto {
            return;
        }
        let odd = self.not_native.keys().next().map(|ifindex| links[ifindex].name.clone());
        let mode = if odd.is_some() { Mode::Generic } else { Mode::Auto };
        let reason = odd.map(|name| format!("native XDP cannot send to {name}"));
        let others: Vec<u32> = dataplane
            .attached()
            .filter(|(ifindex, attached)| {
                !self.not_native.contains_key(ifindex) && attached.is_native() == (mode == Mode::Generic)
            })
            .map(|(ifindex, _)| ifindex)
            .collect();
        for ifindex in others {
            dataplane.detach(ifindex);
            let name = &links[&ifindex].name;
            match dataplane.attach(ifindex, mode, reason.as_deref()) {
                Ok(attached) => log(name, attached),
                Err(error) => {
                    error!(interface = name, "not attached: {error}");
                    self.errors.insert(name.clone(), error.to_string());
                }
            }
        }
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

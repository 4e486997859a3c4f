//! Which interfaces the program is attached to, and how.
//!
//! Native XDP sends only to devices that have native XDP themselves (`ndo_xdp_xmit`, net/core/filter.c), and a redirect
//! to another one fails without a word. What such a device sends or is sent is left to TC, which reaches every device: it
//! has the program there, and besides on each native interface, for what XDP hands over.

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
    pub fn by_tc(&self, dataplane: &Dataplane, host: &HostState, interfaces: &BTreeSet<&str>) -> BTreeSet<u32> {
        let attached: BTreeMap<u32, &Attached> = dataplane.attached().collect();
        let links = interfaces.iter().filter_map(|name| host.link(name));
        let is_tc = |link: &&Link| match attached.get(&link.index) {
            Some(attached) => attached.is_tc(),
            None => self.mode_of(link).0 == Mode::Tc,
        };
        links.filter(is_tc).map(|link| link.index).collect()
    }

    /// Attaches to the interfaces of these names as far as they are there, and lets go of all others.
    pub fn update(&mut self, dataplane: &mut Dataplane, host: &HostState, interfaces: &BTreeSet<&str>) {
        let links: BTreeMap<u32, &Link> =
            interfaces.iter().filter_map(|name| host.link(name)).map(|link| (link.index, link)).collect();
        let attached: Vec<u32> = dataplane.attached().map(|(ifindex, _)| ifindex).collect();
        for ifindex in attached.into_iter().filter(|ifindex| !links.contains_key(ifindex)) {
            dataplane.detach(ifindex);
        }
        self.errors.retain(|name, _| interfaces.contains(name.as_str()));

        if !self.by_tc(dataplane, host, interfaces).is_empty() {
            // It takes the verifier a while: in the meantime no interface is to be without its program.
            dataplane.load_tc();
        }
        for link in links.values().copied() {
            self.attach(dataplane, link);
        }
        self.hand_over(dataplane, &links);
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
                // Something may be wrong all the same.
                let reason = attached.reason.as_ref().or_else(|| self.errors.get(interface));
                status::Attachment { attach: Some(attached.mode.to_owned()), attach_reason: reason.cloned() }
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
            Err(error) => self.note(link, "not attached", error.to_string()),
        }
    }

    /// Has the native interfaces hand over to TC while there is one that only TC reaches.
    fn hand_over(&mut self, dataplane: &mut Dataplane, links: &BTreeMap<u32, &Link>) {
        if self.mode != Mode::Auto {
            return;
        }
        let odd = dataplane.attached().find(|(_, attached)| attached.is_tc()).map(|(ifindex, _)| &links[&ifindex].name);
        let reason = odd.map(|name| format!("and tc for what XDP cannot send, as to {name}"));
        let natives = dataplane.attached().filter(|(_, attached)| attached.is_native());
        for ifindex in natives.map(|(ifindex, _)| ifindex).collect::<Vec<_>>() {
            let link = links[&ifindex];
            match (dataplane.hand_over(&link.name, ifindex, reason.clone()), odd) {
                (Ok(()), _) => _ = self.errors.remove(&link.name),
                (Err(error), Some(odd)) => {
                    let error = format!("tc cannot be attached beside it, which is to send to {odd}: {error}");
                    self.note(link, "incomplete", error);
                }
                (Err(error), None) => self.note(link, "tc stays beside it", error.to_string()),
            }
        }
    }

    fn note(&mut self, link: &Link, what: &str, error: String) {
        if self.errors.get(&link.name) != Some(&error) {
            error!(interface = link.name, "{what}: {error}");
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

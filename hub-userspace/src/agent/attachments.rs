//! The interfaces that the program is attached to, and how. Pure.
//!
//! A TC program follows every XDP program: it handles packets that XDP passes, and sends to devices that XDP cannot
//! reach. Native XDP redirects only to devices with native XDP (`ndo_xdp_xmit`, net/core/filter.c). A redirect to any
//! other device fails silently. Where XDP has nowhere to send to, it would only make each packet dearer.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info};

use super::effect::Effect;
use crate::{
    api_types::status,
    datapath::{AttachMode, Attached, ToAttach},
    kernel::netlink::{HostState, Link},
};

/// Device kinds whose native program runs on the lower devices, where packets arrive with another ifindex
/// (`bond_xdp_set`, `drivers/net/bonding/bond_main.c`).
const ABOVE_OTHERS: [&str; 2] = ["bond", "team"];

const SPREADS: &str =
    "spread = \"xdp\" of [underlay] uses XDP of this interface, so the TC program forwards its packets";
const ALONE: &str = "no other attachment that XDP could send to";

/// What an interface is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Connections and the VPC.
    pub users: usize,
    /// One of the connections has translations.
    pub translates: bool,
    /// It is an underlay with `spread = "xdp"`, whose program has the only place for XDP. A chain of both programs would
    /// rarely gain anything: the traffic of a gateway with one NIC goes into tunnels, which XDP cannot send to.
    pub spreads: bool,
}

/// By name.
pub type Uses = BTreeMap<String, Use>;

/// Interfaces attached in one turn of the loop: takes some milliseconds.
const AT_ONCE: usize = 32;

#[derive(Debug)]
pub struct Attachments {
    mode: AttachMode,
    /// Attached interfaces, by ifindex.
    attached: BTreeMap<u32, Attached>,
    /// Interfaces that an earlier agent attached by TC only, because XDP does not work there.
    were_tc_only: BTreeSet<u32>,
    /// Those with XDP. They keep it: many drivers set up their queues anew when XDP comes or goes.
    had_xdp: BTreeSet<u32>,
    /// Those of them with translations.
    translating: BTreeSet<u32>,
    /// Indices of the interfaces to attach to.
    desired: BTreeMap<u32, Use>,
    /// Those of them that have not been tried since the last change.
    untried: BTreeSet<u32>,
    /// XDP has somewhere to send to.
    xdp_is_useful: bool,
    /// Why the program is not attached, or not as desired, by interface name.
    errors: BTreeMap<String, String>,
}

impl Attachments {
    pub fn new(mode: AttachMode, were_tc_only: BTreeSet<u32>, had_xdp: BTreeSet<u32>) -> Self {
        Self {
            mode,
            attached: BTreeMap::new(),
            were_tc_only,
            had_xdp,
            translating: BTreeSet::new(),
            desired: BTreeMap::new(),
            untried: BTreeSet::new(),
            xdp_is_useful: false,
            errors: BTreeMap::new(),
        }
    }

    /// Of these interfaces, the indices of those attached by TC only. Before attaching, this is a prediction.
    pub fn tc_only(&self, host: &HostState, interfaces: &Uses) -> BTreeSet<u32> {
        let links = interfaces.iter().filter_map(|(name, used)| Some((host.link(name)?, used)));
        let xdp_is_useful = is_xdp_useful(host, interfaces);
        let is_tc = |(link, used): &(&Link, &Use)| {
            if used.spreads {
                return true;
            }
            if let Some(attached) = self.attached.get(&link.index) {
                return attached.is_tc();
            }
            let mode = self.mode_of(link, **used, xdp_is_useful).0;
            mode == AttachMode::Tc || (mode == AttachMode::Auto && self.were_tc_only.contains(&link.index))
        };
        links.filter(is_tc).map(|(link, _)| link.index).collect()
    }

    /// Attaches to those of these interfaces that exist, then detaches from all others. If there are many,
    /// [`Self::attach_some`] continues, except `at_start`, when no failure is waiting in the loop.
    pub fn update(&mut self, host: &HostState, interfaces: &Uses, at_start: bool, effects: &mut Vec<Effect>) {
        let existing = interfaces.iter().filter_map(|(name, used)| Some((host.link(name)?.index, *used)));
        self.desired = existing.collect();
        self.errors.retain(|name, _| interfaces.contains_key(name));
        self.attached.retain(|ifindex, _| self.desired.contains_key(ifindex));
        self.had_xdp.retain(|ifindex| self.desired.contains_key(ifindex));
        self.xdp_is_useful = is_xdp_useful(host, interfaces);
        let is_to_attach = |(ifindex, used): &(&u32, &Use)| match self.attached.get(ifindex) {
            None => true,
            Some(_) if self.translating.contains(ifindex) != used.translates => true,
            Some(attached) if used.spreads => !attached.is_tc(),
            Some(attached) => match attached.reason.as_deref() {
                Some(SPREADS) => true,
                reason => self.xdp_is_useful && reason == Some(ALONE),
            },
        };
        self.untried = self.desired.iter().filter(is_to_attach).map(|(ifindex, _)| *ifindex).collect();
        for name in interfaces.keys().filter(|name| host.link(name).is_none()) {
            self.errors.insert(name.clone(), missing(name));
        }
        self.attach(host, if at_start { usize::MAX } else { AT_ONCE }, effects);
    }

    /// There are interfaces that have not been tried yet.
    pub fn has_work(&self) -> bool {
        !self.untried.is_empty()
    }

    /// Attaches to some more of the interfaces.
    pub fn attach_some(&mut self, host: &HostState, effects: &mut Vec<Effect>) {
        self.attach(host, AT_ONCE, effects);
    }

    fn attach(&mut self, host: &HostState, at_once: usize, effects: &mut Vec<Effect>) {
        for ifindex in std::iter::from_fn(|| self.untried.pop_first()).take(at_once).collect::<Vec<_>>() {
            let Some(link) = host.links.get(&ifindex) else { continue };
            let used = self.desired.get(&ifindex).copied().unwrap_or_default();
            let (mode, reason) = self.mode_of(link, used, self.xdp_is_useful);
            let translates = used.translates;
            effects.push(Effect::Attach(ToAttach { name: link.name.clone(), ifindex, mode, reason, translates }));
        }
        if self.untried.is_empty() {
            effects.push(Effect::Keep(self.desired.keys().copied().collect()));
        }
    }

    /// Records the result of attaching.
    pub fn attached(&mut self, name: String, ifindex: u32, result: Result<Attached, String>) {
        match result {
            Ok(attached) => {
                match &attached.reason {
                    None => info!(name: "attached", interface = name, mode = attached.mode, "attached"),
                    Some(reason) => info!(name: "attached", interface = name, mode = attached.mode, reason, "attached"),
                }
                self.errors.remove(&name);
                self.attached.insert(ifindex, attached);
                match self.desired.get(&ifindex) {
                    Some(Use { translates: true, .. }) => self.translating.insert(ifindex),
                    _ => self.translating.remove(&ifindex),
                };
            }
            Err(error) => {
                if self.errors.get(&name) != Some(&error) {
                    error!(name: "attach_failed", interface = name, json.reason = error, "not attached: {error}");
                }
                self.errors.insert(name, error);
            }
        }
    }

    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&ifindex)
    }

    /// Whether XDP of an interface is to be given to, or taken back from, the program of `spread = "xdp"`.
    pub fn is_moved(&self, link: Option<&Link>, used: &Use) -> bool {
        let desired = link.and_then(|link| self.desired.get(&link.index));
        desired.is_some_and(|desired| desired.spreads != used.spreads)
    }

    /// Whether packets are received by native XDP.
    pub fn is_native(&self, ifindex: u32) -> bool {
        self.attached.get(&ifindex).is_some_and(Attached::is_native)
    }

    /// Interfaces were removed. Their indices may be reused.
    pub fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        for ifindex in interfaces {
            self.attached.remove(ifindex);
            self.translating.remove(ifindex);
            self.were_tc_only.remove(ifindex);
            self.had_xdp.remove(ifindex);
        }
    }

    /// Every existing interface has its programs.
    pub fn is_complete(&self, host: &HostState) -> bool {
        self.errors.keys().all(|name| host.link(name).is_none())
    }

    /// The status of an interface.
    pub fn status(&self, host: &HostState, interface: &str) -> status::Attachment {
        match host.link(interface).and_then(|link| self.attached.get(&link.index)) {
            Some(attached) => {
                status::Attachment { attach: Some(attached.mode.to_owned()), attach_reason: attached.reason.clone() }
            }
            None => status::Attachment { attach: None, attach_reason: self.errors.get(interface).cloned() },
        }
    }

    /// How to attach to an interface, and the reason if not natively.
    fn mode_of(&self, link: &Link, used: Use, xdp_is_useful: bool) -> (AttachMode, Option<&'static str>) {
        match self.mode {
            _ if used.spreads => (AttachMode::Tc, Some(SPREADS)),
            AttachMode::Auto if !link.ethernet => (AttachMode::Tc, Some("a layer-3 interface: XDP cannot send to it")),
            AttachMode::Auto if is_above_others(link) => {
                (AttachMode::Tc, Some("its packets come in on the devices below it"))
            }
            AttachMode::Auto if !xdp_is_useful && !self.had_xdp.contains(&link.index) => (AttachMode::Tc, Some(ALONE)),
            mode => (mode, None),
        }
    }
}

/// Whether two of the connections and the VPC are on interfaces that may have native XDP, or both on one of them.
fn is_xdp_useful(host: &HostState, interfaces: &Uses) -> bool {
    let may_have = |link: &Link| link.ethernet && link.vlan.is_none() && !is_above_others(link);
    let may_use = |(name, used): &(&String, &Use)| !used.spreads && host.link(name).is_some_and(may_have);
    let users = interfaces.iter().filter(may_use).map(|(_, used)| used.users);
    users.sum::<usize>() > 1
}

fn is_above_others(link: &Link) -> bool {
    link.kind.as_deref().is_some_and(|kind| ABOVE_OTHERS.contains(&kind))
}

/// Error text for a missing interface.
pub fn missing(interface: &str) -> String {
    format!("interface {interface} does not exist: create it, the agent attaches as soon as it is there")
}

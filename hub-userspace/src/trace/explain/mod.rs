//! What each stage looks up for a packet, and which object answers: derived from the tables that the agent has written.
//! The verdict and the bytes are the program's own, see [`super::report`].

mod arrival;
mod egress;
mod policy;

use std::net::IpAddr;

use hub_common::maps::{
    Attachment, NO_REVERSE_PATH, NextHop, Remote, Rule, SHARED_SCOPE, VPC, link, segment_of, slot_of,
};
use ipnet::IpNet;

use super::{
    packet::{Frame, Ip},
    view::{Direction, Names, Paired, View},
};
use crate::{
    config::policy_routes::PolicyKey,
    connection::state::State,
    fib::tables::EgressTables,
    policy::ports::{Ports, ProtoPorts},
    routing::{
        members::{Weight, next_hops, weight_text},
        rib::{self, Target},
    },
};

/// The stages in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Parse,
    Translate,
    Selector,
    Route,
    NextHop,
    Rewrite,
    Redirect,
}

impl Stage {
    pub const ALL: [Self; 7] =
        [Self::Parse, Self::Translate, Self::Selector, Self::Route, Self::NextHop, Self::Rewrite, Self::Redirect];

    /// As the stage's file in hub-ebpf.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Translate => "translate",
            Self::Selector => "selector",
            Self::Route => "route",
            Self::NextHop => "nexthop",
            Self::Rewrite => "rewrite",
            Self::Redirect => "redirect",
        }
    }
}

/// A look-up and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub stage: Stage,
    pub what: &'static str,
    pub key: String,
    pub found: String,
    /// The objects that answered.
    pub objects: Vec<Object>,
}

/// An object of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A connection, and whether its selectors are those of its SAs.
    Connection {
        name: String,
        negotiated: bool,
    },
    Route {
        destination: IpNet,
        next_hop: String,
        is_learned: bool,
    },
    PolicyRoute {
        key: PolicyKey,
        next_hop: String,
    },
}

/// What the stages look up, up to the last one that the tables allow the packet to reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    pub lookups: Vec<Lookup>,
    pub names: Names,
    /// `COUNTERS` slot of the connection whose selectors admit it.
    pub admitted_by: Option<u32>,
    /// The destination has a route, other than to the hub itself.
    pub has_route: bool,
    /// The next hop that its bucket refers to.
    pub next_hop: Option<NextHop>,
    /// That next hop's connection admits it.
    pub egress_admits: bool,
    /// Slots that the packet is probably counted for.
    pub likely: Vec<u32>,
}

/// Explains a frame that arrives on an interface.
pub fn explain(view: View<'_>, ifindex: u32, frame: &Frame) -> Explanation {
    let mut explainer = Explainer { view, ifindex, made: Explanation::default() };
    explainer.stages(frame);
    explainer.made
}

struct Explainer<'a> {
    view: View<'a>,
    ifindex: u32,
    made: Explanation,
}

impl Explainer<'_> {
    /// `None`: the packet ends.
    fn stages(&mut self, frame: &Frame) -> Option<()> {
        let attachment = self.parse(frame)?;
        let ip = frame.ip.as_ref()?;
        let source = self.translate(ip, &attachment);
        let segment = self.selector(ip, source, &attachment)?;
        let target = self.route(ip, source)?;
        self.next_hop(ip, source, segment, &target)
    }

    fn add(&mut self, stage: Stage, what: &'static str, key: impl Into<String>, found: impl Into<String>) {
        self.with(stage, what, key, found, Vec::new());
    }

    fn with(
        &mut self,
        stage: Stage,
        what: &'static str,
        key: impl Into<String>,
        found: impl Into<String>,
        objects: Vec<Object>,
    ) {
        self.made.lookups.push(Lookup { stage, what, key: key.into(), found: found.into(), objects });
    }

    /// Name of the connection of a slot.
    fn name(&mut self, slot: u32) -> String {
        let slot = slot_of(slot);
        let name = self.view.name(slot);
        self.made.names.insert(slot, name.clone());
        self.made.likely.push(slot);
        name
    }

    fn connection(&mut self, slot: u32) -> Vec<Object> {
        let name = self.name(slot);
        let negotiated = self.view.inputs.negotiated.contains_key(&name);
        match slot_of(slot) {
            VPC => Vec::new(),
            _ => vec![Object::Connection { name, negotiated }],
        }
    }

    /// The segment of the connection whose selectors admit it.
    fn selector(&mut self, ip: &Ip, source: IpAddr, attachment: &Attachment) -> Option<u32> {
        let back = self.view.route(source);
        let back_text = self.route_text(back.as_ref());
        let objects = self.routes(back.as_ref());
        self.with(Stage::Selector, "source's route", source.to_string(), back_text, objects);
        let to = self.view.route(ip.destination);
        if is_special(source) || is_special(ip.destination) {
            self.special(source, ip.destination);
            return None;
        }
        if matches!(back, Some((_, Target::Hub))) {
            return None;
        }
        let remote = self.view.remote(source, attachment.scope);
        self.remote("source's selector", source, attachment.scope, remote);
        if matches!(to, Some((_, Target::Hub))) {
            let text = self.route_text(to.as_ref());
            self.add(Stage::Selector, "destination", ip.destination.to_string(), text);
            self.on_links(source, ip.destination);
            if let Some((_, remote)) = remote {
                self.reverse_path(source, back.as_ref(), remote.connection);
            }
            return None;
        }
        let (_, remote) = remote?;
        let paired = self.view.paired(remote, ip.destination, ip.transport(), Direction::FromSite);
        self.paired(Stage::Selector, ip.destination, remote, paired);
        let owner = paired.owner()?;
        if !self.reverse_path(source, back.as_ref(), owner) {
            return None;
        }
        self.made.admitted_by = Some(slot_of(owner));
        Some(segment_of(owner))
    }

    fn remote(&mut self, what: &'static str, address: IpAddr, scope: u32, found: Option<(IpNet, Remote)>) {
        let of = match scope {
            VPC => "the VPC's prefixes".to_owned(),
            SHARED_SCOPE.. => format!("remotes of the connections on {}", self.view.interface(self.ifindex)),
            _ => "remotes of the connection".to_owned(),
        };
        let key = format!("{address} in the {}", of.trim_start_matches("the "));
        match found {
            Some((prefix, remote)) => {
                let objects = self.connection(remote.connection);
                let name = self.name(remote.connection);
                self.with(Stage::Selector, what, key, format!("{prefix} of {name}"), objects);
            }
            None => self.add(Stage::Selector, what, key, "in none of them"),
        }
    }

    fn paired(&mut self, stage: Stage, local: IpAddr, remote: Remote, paired: Paired) {
        let first = self.name(remote.connection);
        let (found, slot) = match paired {
            Paired::Any(slot) => ("any local address is admitted".to_owned(), slot),
            Paired::Prefix(prefix, slot) => (format!("{prefix} admits it for {}", self.name(slot)), slot),
            Paired::Rule(prefix, slot, rule) => {
                (format!("{prefix} admits it for {}, limited to {}", self.name(slot), limit(&rule)), slot)
            }
            Paired::NoPrefix => (format!("in no local prefix that {first} has with this remote"), remote.connection),
            Paired::NoRule(prefix) => {
                (format!("{prefix} has limits, and none admits its protocol and ports"), remote.connection)
            }
        };
        let objects = self.connection(slot);
        let what = if stage == Stage::Selector { "destination's selector" } else { "egress: source's selector" };
        self.with(stage, what, local.to_string(), found, objects);
    }

    /// Whether the reverse path check lets the packet go on.
    fn reverse_path(&mut self, source: IpAddr, back: Option<&(IpNet, Target)>, owner: u32) -> bool {
        let name = self.name(owner);
        if owner & NO_REVERSE_PATH != 0 {
            let found = if slot_of(owner) == VPC { "not checked for the VPC" } else { "off" };
            self.add(Stage::Selector, "reverse path", source.to_string(), found);
            return true;
        }
        let leads_back = self.view.leads_to(back.map(|(_, target)| target), slot_of(owner));
        let found = match leads_back {
            true => format!("the source's route leads back to {name}"),
            false => format!("the source's route does not lead back to {name}"),
        };
        self.add(Stage::Selector, "reverse path", source.to_string(), found);
        leads_back
    }

    fn special(&mut self, source: IpAddr, destination: IpAddr) {
        for (what, address) in [("source", source), ("destination", destination)] {
            if is_special(address) {
                let found = "multicast, link-local, loopback or unspecified: it goes no further than the hub";
                self.add(Stage::Selector, what, address.to_string(), found);
            }
        }
        self.on_links(source, destination);
    }

    fn on_links(&mut self, source: IpAddr, destination: IpAddr) {
        let text = |bits: u32| match bits {
            0 => "not of this link",
            bits if bits & link::HUB != 0 => "an address of the hub on this link",
            bits if bits & link::SOURCE != 0 => "a neighbour on this link",
            _ => "of a link to a site",
        };
        for (what, address) in [("link of the source", source), ("link of the destination", destination)] {
            let bits = self.view.on_link(address, self.ifindex);
            self.add(Stage::Selector, what, address.to_string(), text(bits));
        }
    }

    fn route(&mut self, ip: &Ip, source: IpAddr) -> Option<Target> {
        if let Some(target) = self.policy_route(ip, source) {
            self.made.has_route = true;
            return Some(target);
        }
        let found = self.view.route(ip.destination);
        let (text, objects) = (self.route_text(found.as_ref()), self.routes(found.as_ref()));
        self.with(Stage::Route, "destination's route", ip.destination.to_string(), text, objects);
        let (_, target) = found?;
        self.made.has_route = true;
        Some(target)
    }

    fn route_text(&self, route: Option<&(IpNet, Target)>) -> String {
        let Some((prefix, target)) = route else { return "no route".to_owned() };
        format!("{prefix} to {}", self.by(target))
    }

    /// The ways to a target.
    fn by(&self, target: &Target) -> String {
        match target {
            Target::Hub => "the hub itself".to_owned(),
            Target::Vpc { gateway: Some(gateway) } => format!("the VPC, by {gateway}"),
            Target::Vpc { gateway: None } => "the VPC, on its link".to_owned(),
            Target::Connections(members) => {
                let states = self.view.inputs.states;
                let active = rib::active(members, states);
                let text = |(name, weight): (&String, &Weight)| {
                    let state = state_name(states.get(name));
                    let carries = if active.iter().any(|(other, _)| other == name) { "" } else { ", not used now" };
                    format!("{name} (weight {}, {state}{carries})", weight_text(name, *weight))
                };
                members.iter().map(text).collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn routes(&self, route: Option<&(IpNet, Target)>) -> Vec<Object> {
        let Some((destination, Target::Connections(members))) = route else { return Vec::new() };
        let is_learned = self.view.rib.is_learned(*destination);
        let object =
            |next_hop: &String| Object::Route { destination: *destination, next_hop: next_hop.clone(), is_learned };
        next_hops(members).keys().map(object).collect()
    }
}

/// An address that a router does not forward from or to.
fn is_special(address: IpAddr) -> bool {
    is_multicast(address)
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_loopback() || address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback() || address.is_unspecified(),
        }
}

/// Multicast, or the limited broadcast address.
fn is_multicast(address: IpAddr) -> bool {
    address.is_multicast() || matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

fn state_name(state: Option<&State>) -> &'static str {
    match state {
        Some(State::Up) => "up",
        Some(State::Degraded) => "degraded",
        Some(State::HoldDown | State::Down) | None => "down",
        Some(State::AdminDown) => "admin_down",
    }
}

pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A limit on protocol and ports.
fn limit(rule: &Rule) -> String {
    let ports = |[first, last]: [u16; 2]| Ports { first, last };
    let protocol = (rule.protocol != 0).then_some(rule.protocol);
    let limit = ProtoPorts { protocol, remote: ports(rule.remote), local: ports(rule.local) };
    format!("remote{} local{}", limit.text(limit.remote), limit.text(limit.local))
}

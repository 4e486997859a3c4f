//! The answer: the program's result with its explanation.

use hub_common::{
    Mark, Reason,
    maps::{UNATTRIBUTED, VPC},
};

use super::{
    changes::changes,
    explain::{Explanation, Lookup, Object, Stage},
    hex,
    packet::Frame,
    prepare::Prepared,
    slow_path::{marked_next_hop, slow_path},
};
use crate::{
    api_types::trace::{
        ProgramRun, StageOutcome, THE_VPC, Trace, TraceAction, TraceEgress, TraceLookup, TraceOrigin, TracePacket,
        TraceStage, TraceVerdict,
    },
    config::{Config, Origin, policy_routes::PolicyRoute},
    datapath::{Action, Hook, TraceRun},
};

/// Makes the answer.
pub fn report(prepared: &Prepared, run: &TraceRun) -> Trace {
    let Prepared { config, ingress, arrived, frame, explanation, egress_interface } = prepared;
    let stage = ended_at(run);
    let action = match run.reason {
        None => TraceAction::Forward,
        Some(reason) if reason.is_drop() => TraceAction::Drop,
        Some(_) => TraceAction::Pass,
    };
    let egress = run.egress.map(|slot| TraceEgress {
        connection: name(explanation, slot),
        interface: egress_interface.clone().unwrap_or_default(),
    });
    let leaves_on_ethernet = match (action, arrived.leaving) {
        (TraceAction::Forward, Some(leaving)) => leaving.is_ethernet,
        _ => ingress.ethernet,
    };
    let left = (action != TraceAction::Drop).then(|| Frame::parse(&run.frame, leaves_on_ethernet));
    Trace {
        packet: TracePacket { summary: frame.summary(), bytes: hex::encode(&arrived.frame) },
        after: left.as_ref().map(|left| TracePacket { summary: left.summary(), bytes: hex::encode(&run.frame) }),
        changes: left.map(|left| changes(frame, &left)).unwrap_or_default(),
        programs: run.hooks.iter().map(program).collect(),
        stages: stages(config, explanation, stage, run.reason.is_none()),
        verdict: TraceVerdict {
            action,
            reason: run.reason.map(|reason| reason.name().to_owned()),
            explanation: sentence(run, explanation, egress.as_ref()),
            stage: stage.name().to_owned(),
            connection: (run.connection != UNATTRIBUTED).then(|| name(explanation, run.connection)),
            egress,
        },
        slow_path: (action == TraceAction::Pass).then(|| slow_path(prepared, run)),
        disagreements: disagreements(config.dataplane.mark, explanation, run, stage),
        ingress: ingress.clone(),
    }
}

/// The stage where the packet ended, by the program's reason.
fn ended_at(run: &TraceRun) -> Stage {
    match run.reason {
        None | Some(Reason::RedirectFailed) => Stage::Redirect,
        Some(
            Reason::NotAttached
            | Reason::NotIp
            | Reason::OtherHost
            | Reason::OtherVlan
            | Reason::Malformed
            | Reason::TooManyTags
            | Reason::ProtocolMismatch,
        ) => Stage::Parse,
        // The egress connection's selectors come after the packet counts as received.
        Some(Reason::SelectorMismatch) if run.is_admitted => Stage::NextHop,
        Some(
            Reason::Multicast | Reason::LinkLocal | Reason::ToHub | Reason::SpoofedSource | Reason::SelectorMismatch,
        ) => Stage::Selector,
        Some(Reason::NoRoute | Reason::Isolated) => Stage::Route,
        Some(Reason::NextHopDown) => Stage::NextHop,
        Some(Reason::TtlExpired | Reason::TooBig | Reason::IpOptions | Reason::NoNeighbour | Reason::HandedOver) => {
            Stage::Rewrite
        }
    }
}

fn program((hook, action): &(Hook, Action)) -> ProgramRun {
    let hook = match hook {
        Hook::Xdp => "xdp",
        Hook::Tc => "tc",
        Hook::Egress => "egress",
        Hook::Spread => "spread",
    };
    let action = match action {
        Action::Pass => "pass".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Redirect => "redirect".to_owned(),
        Action::Other(code) => format!("code {code}"),
    };
    ProgramRun { hook: hook.to_owned(), action }
}

fn stages(config: &Config, explanation: &Explanation, ended: Stage, is_forwarded: bool) -> Vec<TraceStage> {
    let lookup = |Lookup { what, key, found, objects, .. }: &Lookup| TraceLookup {
        what: (*what).to_owned(),
        key: key.clone(),
        found: found.clone(),
        origins: objects.iter().filter_map(|object| origin(config, object)).collect(),
    };
    let of = |stage: Stage| {
        let outcome = match stage.cmp(&ended) {
            _ if is_forwarded => StageOutcome::Done,
            std::cmp::Ordering::Less => StageOutcome::Done,
            std::cmp::Ordering::Equal => StageOutcome::Stopped,
            std::cmp::Ordering::Greater => StageOutcome::NotReached,
        };
        let lookups = explanation.lookups.iter().filter(|lookup| lookup.stage == stage);
        let lookups = match outcome {
            StageOutcome::NotReached => Vec::new(),
            StageOutcome::Done | StageOutcome::Stopped => lookups.map(lookup).collect(),
        };
        TraceStage { stage: stage.name().to_owned(), outcome, lookups }
    };
    Stage::ALL.into_iter().map(of).collect()
}

fn origin(config: &Config, object: &Object) -> Option<TraceOrigin> {
    match object {
        Object::Connection { name, negotiated } => config.connections.contains_key(name).then(|| TraceOrigin {
            object: format!("connection {name}"),
            origin: config.provenance.connection(name),
            negotiated: *negotiated,
        }),
        Object::PolicyRoute { key, next_hop } => {
            let is_it = |route: &PolicyRoute| route.key() == *key && route.next_hop == *next_hop;
            let origin = config.provenance.policy_route(config.policy_routes.iter().position(is_it)?);
            let object = format!("policy route from {} to {} by {next_hop}", key.source, key.destination);
            Some(TraceOrigin { object, origin, negotiated: false })
        }
        Object::Route { destination, next_hop, is_learned } => {
            let is_it =
                |route: &crate::config::model::Route| route.destination == *destination && route.next_hop == *next_hop;
            let origin = match is_learned {
                true => Origin::Learned,
                false => config.provenance.route(config.routes.iter().position(is_it)?),
            };
            Some(TraceOrigin { object: format!("route {destination} to {next_hop}"), origin, negotiated: false })
        }
    }
}

pub fn name(explanation: &Explanation, slot: u32) -> String {
    match (explanation.names.get(&slot), slot) {
        (Some(name), _) => name.clone(),
        (None, VPC) => THE_VPC.to_owned(),
        (None, slot) => format!("slot {slot}"),
    }
}

/// The verdict in one sentence.
fn sentence(run: &TraceRun, explanation: &Explanation, egress: Option<&TraceEgress>) -> String {
    let Some(reason) = run.reason else {
        let egress = egress.map(|egress| format!("{} on {}", egress.connection, egress.interface));
        return format!("sent to {}", egress.unwrap_or_default());
    };
    let text = match reason {
        Reason::NotAttached => "the interface is not an attachment",
        Reason::NotIp => "not an IP packet: only for the hub itself",
        Reason::OtherHost => "the frame is addressed to another host on the link",
        Reason::OtherVlan => "the frame's VLAN has an interface of its own",
        Reason::Multicast => "multicast or broadcast: only for the hub itself",
        Reason::LinkLocal => "link-local: only for the hub itself",
        Reason::ToHub => "addressed to the hub itself",
        Reason::NoRoute => "the destination has no route",
        Reason::NextHopDown => "the next hop's interface does not exist or is down",
        Reason::TtlExpired => "its TTL or hop limit expires at the hub",
        Reason::TooBig => "longer than the MTU of the egress interface",
        Reason::IpOptions => "it has IP options, which only TC forwards",
        Reason::NoNeighbour => "the link address of the neighbour is not known yet",
        Reason::HandedOver => "XDP cannot send to the egress interface",
        Reason::Malformed => "truncated, or its lengths or headers contradict each other",
        Reason::TooManyTags => "more than two VLAN tags",
        Reason::ProtocolMismatch => "the kernel takes it for another protocol than its headers say",
        Reason::SpoofedSource => "the connection may not send from this source",
        Reason::SelectorMismatch if run.is_admitted => {
            "the selectors of the next hop's connection do not admit this pair of addresses, protocol and ports"
        }
        Reason::SelectorMismatch => {
            "the selectors of the connection do not admit this pair of addresses, protocol and ports"
        }
        Reason::Isolated => "segments that do not reach each other, or spoke_to_spoke = false",
        Reason::RedirectFailed => "the egress device is gone, or the frame has no room for the link header",
    };
    let next_hop = match ended_at(run) {
        Stage::NextHop | Stage::Rewrite => explanation.next_hop,
        _ => None,
    };
    let last = explanation.lookups.iter().rfind(|lookup| lookup.stage == Stage::Selector);
    match (next_hop, reason, last) {
        (Some(next_hop), ..) => format!("{text}; next hop: {}", name(explanation, next_hop.connection)),
        (None, Reason::SpoofedSource, Some(last)) => format!("{text}: {} {}", last.what, last.found),
        (None, ..) => text.to_owned(),
    }
}

/// Facts that both the program and the explanation have, and that differ.
fn disagreements(mark: Mark, explanation: &Explanation, run: &TraceRun, ended: Stage) -> Vec<String> {
    let mut found = Vec::new();
    let text = |slot: Option<u32>| slot.map_or_else(|| "nobody".to_owned(), |slot| name(explanation, slot));
    let is_past_selector = ended > Stage::Selector;
    let explained = explanation.admitted_by;
    if is_past_selector != explained.is_some() || (is_past_selector && explained != Some(run.connection)) {
        found.push(format!(
            "the program has admitted it for {}, by the tables {} admits it",
            text(is_past_selector.then_some(run.connection)),
            text(explained)
        ));
    }
    if run.reason == Some(Reason::NoRoute) && explanation.has_route {
        found.push("the program has found no route, the tables have one".to_owned());
    }
    if ended > Stage::Route && !explanation.has_route {
        found.push("the program has found a route, the tables have none".to_owned());
    }
    let next_hop = explanation.next_hop.map(|next_hop| next_hop.connection);
    if run.egress.is_some() && run.egress != next_hop {
        found.push(format!("the program has sent it to {}, its bucket is {}'s", text(run.egress), text(next_hop)));
    }
    let marked = marked_next_hop(mark, run).filter(|_| run.reason.is_some_and(|reason| !reason.is_drop()));
    if marked.is_some() && marked != next_hop {
        found.push(format!("the packet's mark is for {}, its bucket is {}'s", text(marked), text(next_hop)));
    }
    let is_past_egress_check = ended > Stage::NextHop || run.reason == Some(Reason::NextHopDown);
    if ended >= Stage::NextHop && is_past_egress_check != explanation.egress_admits {
        let verdict = |admits: bool| if admits { "admit" } else { "do not admit" };
        let (program, tables) = (verdict(is_past_egress_check), verdict(explanation.egress_admits));
        found.push(format!("by the program the egress selectors {program} it, by the tables they {tables} it"));
    }
    found
}

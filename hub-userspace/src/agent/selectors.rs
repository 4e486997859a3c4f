//! Selectors negotiated by the SAs: updated, logged and published.

use std::{collections::BTreeSet, mem, time::SystemTime};

use hub_common::maps::RULES_PER_ENTRY;
use tracing::{info, warn};

use super::{
    effect::{Effect, Notice},
    world::World,
};
use crate::{
    api_types::status,
    config::{ipsec::StartAction, model::SelectorSource},
    connection::affected::Affected,
    ipsec::{
        effective::{self, Sources, mark},
        vici::{
            fault::Fault,
            missing::{MissingSelectors, missing},
        },
        xfrm::wire::Sa,
    },
    policy::selectors::{NegotiatedSelectors, Pair},
};

impl World {
    /// Updates the negotiated selectors of connections from their SAs. Returns the connections whose selectors have
    /// changed. An SA that replaces another one, as in a rekey, changes nothing.
    pub(super) fn refresh_selectors(&mut self, affected: &Affected) -> Vec<String> {
        let Self { config, tunnels, policies, host, negotiated, dirty_selectors, .. } = self;
        let sources = Sources { ike: tunnels, xfrm: policies, host };
        let mut changed = Vec::new();
        for name in affected.names(config) {
            match effective::negotiated(config, name, sources, negotiated.get(name)) {
                Some(selectors) if negotiated.get(name) == Some(&selectors) => {}
                Some(selectors) => {
                    negotiated.insert(name.clone(), selectors);
                    dirty_selectors.insert(name.clone());
                    changed.push(name.clone());
                }
                None => changed.extend(negotiated.remove_entry(name).map(|(name, _)| name)),
            }
        }
        if affected.is_all() {
            changed.extend(negotiated.keys().filter(|name| !config.connections.contains_key(*name)).cloned());
            negotiated.retain(|name, _| config.connections.contains_key(name));
        }
        changed
    }

    /// Logs and publishes changed selectors, except those of connections that have just been published.
    pub(super) fn publish_selectors(&mut self, published: &BTreeSet<String>, effects: &mut Vec<Effect>) {
        for name in mem::take(&mut self.dirty_selectors) {
            let (Some(agreed), Some(state)) = (self.negotiated.get(&name), self.states.get(&name)) else { continue };
            let selectors = texts(agreed);
            if selectors.is_empty() {
                info!(name: "sa_missing", connection = name, "no SA: packets from the connection are dropped");
            } else {
                info!(name: "sa_selectors", connection = name, "SAs cover {}", selectors.join(", "));
            }
            for problem in self.selector_problems(&name) {
                warn!(name: "sa_selectors_not_admitted", connection = name, "{problem}");
            }
            if published.contains(&name) {
                continue;
            }
            let reason = self.state_reason(&name, *state);
            let (state, was) = (*state, Some(*state));
            let selectors = Some(selectors);
            let health = self.health_of(&name);
            effects.push(Effect::Notify(Notice { connection: name, state, health, was, reason, selectors }));
        }
    }

    /// Selectors in force, if SAs determine them.
    pub(super) fn selectors_of(&self, name: &str) -> Option<Vec<String>> {
        self.negotiated.get(name).map(texts)
    }

    /// Parts of a connection's SAs that are not admitted, with the reason.
    pub(super) fn selector_problems(&self, name: &str) -> Vec<String> {
        let unreadable = self.tunnels.tunnels.get(name).map(|tunnel| tunnel.unreadable()).unwrap_or_default();
        let unreadable = unreadable
            .into_iter()
            .map(|text| format!("the traffic selector {text} is not supported: its packets are dropped"));
        let cut = self.negotiated.get(name).filter(|agreed| agreed.is_cut).map(|agreed| {
            let most = agreed.pairs.len();
            format!("its SAs have more than {most} pairs of traffic selectors: packets of the others are dropped")
        });
        let slot = self.ids.policy.connections.get(name);
        let truncated = slot.filter(|slot| self.truncated.values().any(|slots| slots.contains(slot))).map(|_| {
            format!(
                "its SAs have more protocol and port restrictions than the kernel program has room for \
                 ({RULES_PER_ENTRY} for a pair of addresses): packets of the others are dropped"
            )
        });
        let follows =
            self.config.connections.get(name).is_some_and(|connection| connection.selectors == SelectorSource::Xfrm);
        let unread = self.policies.problem.clone().filter(|_| follows);
        // While it is down, this is the reason of its state.
        let refused = self.tunnels.problems.get(name).cloned();
        unreadable.chain(cut).chain(truncated).chain(unread).chain(refused).collect()
    }

    /// A peer that may be the site, if the site has never been heard from.
    pub(super) fn stranger_hint(&self, name: &str) -> Option<String> {
        let (tunnel, state) = (self.config.tunnel(name)?, self.tunnels.tunnels.get(name)?);
        let is_silent = !state.is_up() && matches!(state.fault, None | Some(Fault::Silent));
        let stranger = self.tunnels.stranger.as_ref();
        let stranger = stranger.filter(|_| is_silent && state.ike.as_deref() != Some("ESTABLISHED"))?;
        stranger.hint(tunnel.site, &tunnel.remote_id)
    }

    /// Selectors of a connection that no SA of charon admits, with the reason.
    pub(super) fn missing_selectors(&self, name: &str) -> Vec<status::MissingStatus> {
        let (Some(tunnel), Some(state)) = (self.config.tunnel(name), self.tunnels.tunnels.get(name)) else {
            return Vec::new();
        };
        if !self.tunnels.heard || self.tunnels.unreachable.is_some() {
            return Vec::new();
        }
        let next = match tunnel.ipsec.start {
            StartAction::Start => "the hub tries again by itself",
            StartAction::Trap => "the next packet to it initiates it",
            StartAction::None => "the site has to initiate it (start = \"none\")",
        };
        let status = |missing: MissingSelectors| {
            let why = match state.fault {
                _ if missing.is_narrowed => {
                    "the site admits less: compare local_cidrs and remote_cidrs with the site's remote and local ones"
                        .to_owned()
                }
                Some(fault) => fault.sentence(tunnel.site),
                None => "not negotiated yet".to_owned(),
            };
            let selectors = format!("{} === {}", missing.remote, missing.local);
            status::MissingStatus { selectors, reason: format!("{why}; {next}") }
        };
        missing(&tunnel, state).into_iter().map(status).collect()
    }

    /// The kernel's SAs of a connection whose SAs are managed externally.
    pub(super) fn kernel_sas(&self, name: &str) -> Option<status::IpsecStatus> {
        let connection = self.config.connections.get(name)?;
        if connection.selectors != SelectorSource::Xfrm || connection.ipsec.is_some() {
            return None;
        }
        let view = &self.policies;
        let (table, mark) = (view.table.as_deref()?, mark(&self.config, connection, &self.host)?);
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let selectors: Vec<String> = table.pairs(&mark).iter().map(Pair::to_string).collect();
        let child = |sa: &Sa| {
            let out = table.outbound(sa);
            status::ChildStatus {
                spi_in: format!("{:08x}", sa.spi),
                spi_out: out.map(|out| format!("{:08x}", out.spi)).unwrap_or_default(),
                bytes_in: sa.bytes,
                bytes_out: out.map_or(0, |out| out.bytes),
                seconds: seconds.saturating_sub(sa.added),
                local: Vec::new(),
                remote: Vec::new(),
                selectors: selectors.clone(),
                cpu: None,
            }
        };
        let children = table.inbound(&mark).into_iter().map(child).collect();
        let (problems, missing) = (Vec::new(), Vec::new());
        Some(status::IpsecStatus {
            ike: None,
            children,
            selectors: None,
            problems,
            fault: None,
            fault_code: None,
            cloud_code: None,
            missing,
            outside: None,
        })
    }
}

fn texts(agreed: &NegotiatedSelectors) -> Vec<String> {
    agreed.pairs.iter().map(Pair::to_string).collect()
}

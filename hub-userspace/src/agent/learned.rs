//! Learned routes: the table of a routing daemon, and what of it is in the RIB.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use tracing::warn;

use super::{effect::Effect, world::World};
use crate::{
    api_types::status::LearnedStatus,
    config::{
        difference::{Difference, LEARN},
        model::Learn,
        tunnels::connection_of,
    },
    kernel::netlink::TableChanges,
    routing::learned::Refusal,
};

/// Maximum number of texts about routes with unknown gateways in a status.
const MOST_TEXTS: usize = 8;

impl World {
    /// Takes over changes of the followed table. Without `[learn]`, what was still on its way is dropped: when a table is
    /// followed again, all its routes are reported again.
    pub(super) fn take_learned(&mut self, mut changes: TableChanges) {
        if self.config.learn.is_none() {
            changes.retain(|(_, hops)| hops.is_none());
        }
        self.learned.take(changes);
    }

    /// Takes over a change of the configuration, which is in force by now.
    pub(super) fn note_learned_change(&mut self, difference: &Difference, effects: &mut Vec<Effect>) {
        self.learned.note_configured(&difference.routes);
        if difference.settings.iter().any(|key| key.split('.').next() == Some(LEARN)) {
            effects.push(Effect::FollowTable(self.config.learn.as_ref().map(Learn::followed)));
        }
    }

    /// Brings the RIB's learned routes up to date. With `host`, links or addresses may have changed; with `carrier`, links
    /// have gone up or down; with `config`, the configuration has changed.
    pub(super) fn follow_learned(&mut self, host: bool, carrier: bool, config: bool, effects: &mut Vec<Effect>) {
        if self.config.learn.is_none() && self.learned.is_idle() {
            return;
        }
        if (host || carrier) && !self.is_starting {
            // The kernel drops routes by itself when a link or an address is removed.
            effects.push(Effect::RereadTable);
        }
        if config {
            self.learned.note_config(&self.config, &self.host);
        } else if host {
            self.learned.note_host(&self.config, &self.host);
        }
        if self.learned.has_changed() {
            // `make_mut` copies the RIB while a snapshot uses it.
            self.learned.follow(&self.config, Arc::make_mut(&mut self.rib));
        }
        for news in self.learned.take_news() {
            let (subject, prefix, reason) = (&*news.subject, news.prefix, &news.reason);
            if news.is_connection {
                warn!(name: "learned_route_refused", connection = subject, json.reason = %reason, "learned route {prefix} is refused: {reason}");
            } else {
                warn!(name: "learned_route_refused", interface = subject, json.reason = %reason, "learned route {prefix} is refused: {reason}");
            }
        }
    }

    /// The numbers of a connection's learned and refused routes; `None` without `[learn]`.
    pub(super) fn learned_status(&self, connection: &str) -> Option<LearnedStatus> {
        let limit = self.config.learn.as_ref()?.max_per_connection;
        let mut refused = BTreeMap::<Cow<'static, str>, usize>::new();
        for (_, refusal) in self.learned.refused(connection) {
            *refused.entry(refusal.kind().into()).or_default() += 1;
        }
        Some(LearnedStatus { routes: self.learned.admitted(connection), limit, refused })
    }

    /// Why learned routes of a connection, or of the one that this is a tunnel of, are refused: a text for each kind of reason.
    pub(super) fn learned_warnings(&self, connection: &str) -> Vec<String> {
        let mut kinds = BTreeMap::<&str, (IpNet, &Refusal, usize)>::new();
        for (prefix, refusal) in self.learned.refused(connection_of(connection)) {
            kinds.entry(refusal.kind()).or_insert((prefix, refusal, 0)).2 += 1;
        }
        let text = |(prefix, refusal, count): (IpNet, &Refusal, usize)| match count {
            1 => format!("learned route {prefix} is refused: {refusal}"),
            _ => format!("learned route {prefix} and {} others are refused: {refusal}", count - 1),
        };
        kinds.into_values().map(text).collect()
    }

    /// Texts about learned routes that lead to no known connection.
    pub(super) fn unknown_gateways(&self) -> Vec<String> {
        let all = self.learned.unidentified();
        let text = |(prefix, gateway)| format!("learned route {prefix} is refused: {gateway}");
        let more = all.len().saturating_sub(MOST_TEXTS);
        let more = (more > 0).then(|| format!("{more} more learned routes are refused for such reasons"));
        all.iter().take(MOST_TEXTS).map(text).chain(more).collect()
    }
}

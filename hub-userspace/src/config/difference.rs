//! The difference between two configurations, as reported for a change.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    model::{Config, Connection, Learn, Metrics, Route, SelectorSource, Vpc},
    policy_routes::PolicyRoute,
    role::Role,
};

/// Above this number, changes of one kind are counted instead of listed.
const MOST_LISTED: usize = 3;
/// The one key of `[dataplane]` that takes effect without a restart.
const ON_STOP: &str = "dataplane.on_stop";
const METRICS: &str = "metrics";
/// The section `[learn]`, and the first part of its keys.
pub const LEARN: &str = "learn";

/// All differences. Displays as one sentence without a full stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Difference {
    /// Changed keys of `[gateway]`, `[dataplane]`, `[metrics]`, `[learn]` and `[vpc]`, as `gateway.name`; the section's
    /// name if it was added or removed.
    pub settings: Vec<String>,
    /// Absent in recordings of earlier versions.
    #[serde(default)]
    pub underlays: NamedDifference,
    /// Absent in recordings of earlier versions.
    #[serde(default)]
    pub segments: NamedDifference,
    pub customer_gateways: NamedDifference,
    pub connections: NamedDifference,
    pub routes: Routes,
    /// By prefixes and next hop, with changed keys. Absent in recordings of earlier versions.
    #[serde(default)]
    pub policy_routes: NamedDifference,
    /// The new role of the hub. Absent in recordings of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Differences between named objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NamedDifference {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// With their changed keys.
    pub changed: BTreeMap<String, Vec<String>>,
}

/// Differences between routes, identified by destination and next hop; their order is ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Routes {
    pub added: Vec<Route>,
    pub removed: Vec<Route>,
    pub changed: Vec<ChangedRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ChangedRoute {
    pub from: Route,
    pub to: Route,
}

impl Config {
    /// Applies a small difference: routes, the role, and `enabled` of connections. Preserves the order of the routes.
    ///
    /// The difference must be relative to this configuration.
    pub fn apply(&mut self, difference: &Difference) {
        let Routes { added, removed, changed } = &difference.routes;
        let is =
            |route: &Route, other: &Route| route.destination == other.destination && route.next_hop == other.next_hop;
        for gone in removed {
            if let Some(index) = self.routes.iter().position(|route| is(route, gone)) {
                self.routes.remove(index);
            }
        }
        for ChangedRoute { to, .. } in changed {
            if let Some(route) = self.routes.iter_mut().find(|route| is(route, to)) {
                route.clone_from(to);
            }
        }
        self.routes.extend(added.iter().cloned());
        self.role = difference.role.unwrap_or(self.role);
        for (name, keys) in &difference.connections.changed {
            if let Some(connection) = self.connections.get_mut(name)
                && keys.iter().any(|key| key == "enabled")
            {
                // A boolean that differs must be negated.
                connection.enabled = !connection.enabled;
            }
        }
    }
}

impl Difference {
    pub fn between(old: &Config, new: &Config) -> Self {
        let (was, is) = (&old.gateway, &new.gateway);
        let gateway = [
            ("gateway.name", was.name != is.name),
            ("gateway.max_connections", was.max_connections != is.max_connections),
            ("gateway.max_policy_routes", was.max_policy_routes != is.max_policy_routes),
            ("gateway.spoke_to_spoke", was.spoke_to_spoke != is.spoke_to_spoke),
            ("gateway.allow_default_route", was.allow_default_route != is.allow_default_route),
            ("gateway.address", was.address != is.address),
            ("gateway.vici_socket", was.vici_socket != is.vici_socket),
            ("gateway.services", was.services != is.services),
            ("gateway.role_at_boot", was.role_at_boot != is.role_at_boot),
        ];
        let (was, is) = (&old.dataplane, &new.dataplane);
        let dataplane = [
            ("dataplane.lookup", was.lookup != is.lookup),
            ("dataplane.lookup_memory", was.lookup_memory != is.lookup_memory),
            (ON_STOP, was.on_stop != is.on_stop),
            ("dataplane.mark", was.mark != is.mark),
        ];
        let vpc = vpc(old.vpc.as_ref(), new.vpc.as_ref());
        let settings = differing(&gateway)
            .chain(differing(&dataplane))
            .chain(metrics(old.metrics, new.metrics))
            .chain(learn(old.learn.as_ref(), new.learn.as_ref()))
            .chain(vpc)
            .collect();
        Self {
            settings,
            underlays: NamedDifference::between(&old.underlays, &new.underlays, |old, new| {
                differing(&[("spread", old.spread != new.spread)]).collect()
            }),
            segments: NamedDifference::between(&old.segments, &new.segments, |old, new| {
                differing(&[("reaches", old.reaches != new.reaches)]).collect()
            }),
            customer_gateways: NamedDifference::between(&old.customer_gateways, &new.customer_gateways, |old, new| {
                differing(&[("address", old.address != new.address)]).collect()
            }),
            connections: NamedDifference::between(&old.connections, &new.connections, connection),
            routes: Routes::between(&old.routes, &new.routes),
            policy_routes: NamedDifference::between(
                &policy_routes(&old.policy_routes),
                &policy_routes(&new.policy_routes),
                |old, new| {
                    let keys = [
                        ("priority", old.priority != new.priority),
                        ("weight", old.weight != new.weight),
                        ("publish", old.publish != new.publish),
                    ];
                    differing(&keys).collect()
                },
            ),
            role: (old.role != new.role).then_some(new.role),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first changed key that takes effect only after a restart.
    pub fn needs_restart(&self) -> Option<&str> {
        self.settings.iter().map(String::as_str).find(|&key| key.starts_with("dataplane.") && key != ON_STOP)
    }

    /// Whether anything that the tables or strongSwan depend on differs, other than routes. They depend neither on
    /// underlays nor on the metrics.
    pub fn is_beyond_routes(&self) -> bool {
        let nothing = NamedDifference::default();
        let is_of_metrics = |key: &String| key.split('.').next() == Some(METRICS);
        !self.settings.iter().all(is_of_metrics)
            || self.role.is_some()
            || [&self.segments, &self.customer_gateways, &self.connections, &self.policy_routes]
                .into_iter()
                .any(|named| *named != nothing)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings.iter().map(|key| format!("{key} changed")).collect();
        let parts: Vec<String> = [
            settings,
            self.underlays.sentences("underlay"),
            self.segments.sentences("segment"),
            self.customer_gateways.sentences("customer gateway"),
            self.connections.sentences("connection"),
            self.routes.sentences(),
            self.policy_routes.sentences("policy route"),
            self.role.map(|role| format!("role {role}")).into_iter().collect(),
        ]
        .concat();
        f.write_str(&parts.join("; "))
    }
}

fn differing(keys: &[(&str, bool)]) -> impl Iterator<Item = String> {
    keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned())
}

fn metrics(old: Option<Metrics>, new: Option<Metrics>) -> Option<String> {
    match (old, new) {
        (Some(old), Some(new)) => (old.listen != new.listen).then(|| format!("{METRICS}.listen")),
        (None, None) => None,
        _ => Some(METRICS.to_owned()),
    }
}

fn learn(old: Option<&Learn>, new: Option<&Learn>) -> Vec<String> {
    match (old, new) {
        (None, None) => Vec::new(),
        (Some(old), Some(new)) => differing(&[
            ("learn.table", old.table != new.table),
            ("learn.protocols", old.protocols != new.protocols),
            ("learn.max_per_connection", old.max_per_connection != new.max_per_connection),
        ])
        .collect(),
        _ => vec![LEARN.to_owned()],
    }
}

fn vpc(old: Option<&Vpc>, new: Option<&Vpc>) -> Vec<String> {
    match (old, new) {
        (None, None) => Vec::new(),
        (Some(old), Some(new)) => differing(&[
            ("vpc.interface", old.interface != new.interface),
            ("vpc.cidrs", old.cidrs != new.cidrs),
            ("vpc.publish_table", old.publish_table != new.publish_table),
        ])
        .collect(),
        _ => vec!["vpc".to_owned()],
    }
}

/// By their texts.
fn policy_routes(routes: &[PolicyRoute]) -> BTreeMap<String, &PolicyRoute> {
    let text = |route: &PolicyRoute| format!("from {} to {} via {}", route.source, route.destination, route.next_hop);
    routes.iter().map(|route| (text(route), route)).collect()
}

fn connection(old: &Connection, new: &Connection) -> Vec<String> {
    let keys = [
        ("customer_gateway", old.customer_gateway != new.customer_gateway),
        ("segment", old.segment != new.segment),
        ("enabled", old.enabled != new.enabled),
        ("interface", old.interface != new.interface),
        ("peer", old.peer != new.peer),
        ("local_cidrs", old.local_cidrs != new.local_cidrs),
        ("remote_cidrs", old.remote_cidrs != new.remote_cidrs),
        ("translate", old.translate != new.translate),
        ("health_check", old.health_check != new.health_check),
        ("up_delay", old.up_delay != new.up_delay),
        ("ipsec", old.ipsec != new.ipsec),
        ("reverse_path", old.reverse_path != new.reverse_path),
        ("mss_clamp", old.mss_clamp != new.mss_clamp),
        ("tunnels.weight", old.tunnel_weight != new.tunnel_weight),
        ("selectors", old.selectors != new.selectors && !(has_default_source(old) && has_default_source(new))),
    ];
    differing(&keys).collect()
}

/// Whether `selectors` has its default, which depends on whether the connection has IPsec.
fn has_default_source(connection: &Connection) -> bool {
    connection.selectors == if connection.ipsec.is_some() { SelectorSource::Ike } else { SelectorSource::File }
}

impl NamedDifference {
    fn between<T: PartialEq>(
        old: &BTreeMap<String, T>,
        new: &BTreeMap<String, T>,
        keys: impl Fn(&T, &T) -> Vec<String>,
    ) -> Self {
        let only = |these: &BTreeMap<String, T>, those: &BTreeMap<String, T>| {
            these.keys().filter(|name| !those.contains_key(*name)).cloned().collect()
        };
        let both = old.iter().filter_map(|(name, old)| Some((name, old, new.get(name)?)));
        let changed = both.filter(|(_, old, new)| old != new).map(|(name, old, new)| (name.clone(), keys(old, new)));
        Self { added: only(new, old), removed: only(old, new), changed: changed.collect() }
    }

    fn sentences(&self, kind: &str) -> Vec<String> {
        let changed = self.changed.iter().map(|(name, keys)| format!("{name} ({})", keys.join(", "))).collect();
        let lists = [("added", self.added.clone()), ("removed", self.removed.clone()), ("changed", changed)];
        let sentence = |(what, names): &(&str, Vec<String>)| match names.len() {
            0 => None,
            1 => Some(format!("{kind} {} {what}", names[0])),
            2..=MOST_LISTED => Some(format!("{kind}s {} {what}", names.join(", "))),
            count => Some(format!("{count} {kind}s {what}")),
        };
        lists.iter().filter_map(sentence).collect()
    }
}

impl Routes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Truncates each kind to `most` routes; returns the number of routes removed.
    pub fn truncate(&mut self, most: usize) -> usize {
        let count = |routes: &Self| routes.added.len() + routes.removed.len() + routes.changed.len();
        let before = count(self);
        self.added.truncate(most);
        self.removed.truncate(most);
        self.changed.truncate(most);
        before - count(self)
    }

    /// The reverse difference.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let back = |ChangedRoute { from, to }: &ChangedRoute| ChangedRoute { from: to.clone(), to: from.clone() };
        Self {
            added: self.removed.clone(),
            removed: self.added.clone(),
            changed: self.changed.iter().map(back).collect(),
        }
    }

    pub fn between(old: &[Route], new: &[Route]) -> Self {
        let keyed = |routes: &[Route]| -> BTreeMap<(IpNet, String), Route> {
            routes.iter().map(|route| ((route.destination, route.next_hop.clone()), route.clone())).collect()
        };
        let (mut before, mut difference) = (keyed(old), Self::default());
        for (key, route) in keyed(new) {
            match before.remove(&key) {
                None => difference.added.push(route),
                Some(same) if same == route => {}
                Some(other) => difference.changed.push(ChangedRoute { from: other, to: route }),
            }
        }
        difference.removed = before.into_values().collect();
        difference
    }

    fn sentences(&self) -> Vec<String> {
        let name = |route: &Route| format!("route to {} via {}", route.destination, route.next_hop);
        let list = |what: &str, sentences: Vec<String>| match sentences.len() {
            ..=MOST_LISTED => sentences,
            count => vec![format!("{count} routes {what}")],
        };
        let added = self.added.iter().map(|route| {
            let published = if route.publish { ", published" } else { "" };
            format!("{} added (weight {}{published})", name(route), route.weight)
        });
        let removed = self.removed.iter().map(|route| format!("{} removed", name(route)));
        let changed = self.changed.iter().map(|ChangedRoute { from, to }| {
            let weight = (from.weight != to.weight).then(|| format!("weight {} instead of {}", to.weight, from.weight));
            let publish = (from.publish != to.publish)
                .then(|| if to.publish { "published" } else { "no longer published" }.to_owned());
            let values: Vec<String> = weight.into_iter().chain(publish).collect();
            format!("{} changed ({})", name(from), values.join(", "))
        });
        [list("added", added.collect()), list("removed", removed.collect()), list("changed", changed.collect())]
            .concat()
    }
}

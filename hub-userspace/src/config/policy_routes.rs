//! Policy routes: their keys and their rules.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
    draft::Draft,
    entries::weight,
    model::DEFAULT_WEIGHT,
    prefix::{self, Purpose},
    read::SectionReader,
    routes::{self, Coverage},
    section::Section,
    value,
};
use crate::store::{PolicyRouteId, PolicyRouteKeys};

/// Default priority.
pub const DEFAULT_PRIORITY: u8 = 10;
/// Default quota.
pub const DEFAULT_MAX_POLICY_ROUTES: usize = 20;
/// Maximum quota: each policy route is combined with all others.
pub(super) const MAX_POLICY_ROUTES: u32 = 1000;
const MAX_PRIORITY: u32 = 100;

pub(super) const KEYS: &[&str] = &["source", "destination", "next_hop", "priority", "weight", "publish"];

/// A policy route: packets from `source` to `destination`, before all destination routes.
///
/// Of several that match, the one with the smallest [`PolicyKey`] decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRoute {
    pub source: IpNet,
    /// Of the same family as `source`.
    pub destination: IpNet,
    /// Name of a connection.
    pub next_hop: String,
    /// 1..=100; the smallest comes first.
    pub priority: u8,
    /// 0..=100; 0 is standby.
    pub weight: u8,
    /// Whether the destination is also published to `publish_table`.
    pub publish: bool,
}

/// Priority and prefixes of policy routes, which share flows if they have the same. In the order in which they match:
/// of equal priorities the longest source comes first, then the longest destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyKey {
    pub priority: u8,
    pub source: IpNet,
    pub destination: IpNet,
}

impl PolicyKey {
    fn rank(&self) -> impl Ord + use<> {
        let longest_first = |prefix: IpNet| u8::MAX - prefix.prefix_len();
        let Self { priority, source, destination } = *self;
        (priority, longest_first(source), longest_first(destination), source, destination)
    }

    /// Whether it matches all packets that the other one matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.source.contains(&other.source) && self.destination.contains(&other.destination)
    }
}

impl Ord for PolicyKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for PolicyKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PolicyRoute {
    pub fn key(&self) -> PolicyKey {
        PolicyKey { priority: self.priority, source: self.source, destination: self.destination }
    }

    pub fn id(&self) -> PolicyRouteId {
        PolicyRouteId { source: self.source, destination: self.destination, next_hop: self.next_hop.clone() }
    }

    /// The keys that do not identify it.
    pub fn stored_keys(&self) -> PolicyRouteKeys {
        PolicyRouteKeys { priority: self.priority, weight: self.weight, publish: self.publish }
    }
}

#[derive(Debug, Clone)]
pub(super) struct PolicyRouteDraft {
    /// Its number among the policy routes, counted from 1.
    pub number: usize,
    pub at: usize,
    pub source: Option<Located<IpNet>>,
    pub destination: Option<Located<IpNet>>,
    pub next_hop: Option<Located<String>>,
    pub priority: Option<Located<u8>>,
    pub weight: Option<Located<u8>>,
    pub publish: Option<Located<bool>>,
}

impl PolicyRouteDraft {
    /// The path in messages.
    pub fn path(&self) -> String {
        format!("policy_route[{}]", self.number)
    }

    pub fn finish(self) -> Option<PolicyRoute> {
        Some(PolicyRoute {
            source: self.source?.value,
            destination: self.destination?.value,
            next_hop: self.next_hop?.value,
            priority: self.priority?.value,
            weight: self.weight?.value,
            publish: self.publish?.value,
        })
    }

    pub fn id(&self) -> Option<PolicyRouteId> {
        let (source, destination) = (self.source?.value, self.destination?.value);
        Some(PolicyRouteId { source, destination, next_hop: self.next_hop.as_ref()?.value.clone() })
    }

    fn key(&self) -> Option<PolicyKey> {
        let (source, destination) = (self.source?.value, self.destination?.value);
        Some(PolicyKey { priority: self.priority?.value, source, destination })
    }
}

impl SectionReader<'_, '_> {
    pub fn policy_route(&mut self, number: usize, section: &Section<'_>) -> PolicyRouteDraft {
        let report = &mut *self.report;
        let forwarded = |value| prefix::prefix(value, Purpose::Forwarding);
        PolicyRouteDraft {
            number,
            at: section.at,
            source: section.required("source", "\"10.10.10.0/24\"", report, forwarded),
            destination: section.required("destination", "\"172.16.0.0/12\"", report, forwarded),
            next_hop: section.required("next_hop", "\"NAME\" of a [connection.NAME]", report, value::reference),
            priority: section.or_default("priority", DEFAULT_PRIORITY, report, |value| {
                value::integer(value, 1..=MAX_PRIORITY)
                    .map(|priority| u8::try_from(priority).unwrap_or(DEFAULT_PRIORITY))
            }),
            weight: section.or_default("weight", DEFAULT_WEIGHT, report, weight),
            publish: section.or_default("publish", false, report, value::boolean),
        }
    }
}

/// Validates the policy routes. Their next hops are among the references of [`super::rules`].
pub(super) fn validate(draft: &Draft, may_be_default: bool, report: &mut DiagnosticReport<'_>) {
    if draft.policy_routes.is_empty() {
        return;
    }
    check_quota(draft, report);
    for route in &draft.policy_routes {
        if let (Some(source), Some(destination)) = (route.source, route.destination)
            && source.value.addr().is_ipv4() != destination.value.addr().is_ipv4()
        {
            let (source, at) = (source.value, destination.at);
            let problem =
                Problem::new(format!("{} and the source {source} are not of one IP version", destination.value));
            let path = join(&route.path(), "destination");
            report.error(at, path, problem.help("use IPv4 for both, or IPv6 for both"));
        }
        if !may_be_default && let Some(destination) = route.destination {
            routes::refuse_default(destination, &route.path(), report);
        }
    }
    check_duplicates(draft, report);
    check_selectors(draft, report);
    warn_of_unreachable(draft, report);
}

fn check_quota(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(quota) = draft.gateway.as_ref().and_then(|gateway| gateway.max_policy_routes) else { return };
    let count = draft.policy_routes.len();
    for (index, route) in draft.policy_routes.iter().skip(quota.value as usize).enumerate() {
        // The first of the files, and all of the store.
        if index > 0 && report.origin(route.at).is_some() {
            continue;
        }
        let problem =
            Problem::new(format!("{count} policy routes, and gateway.max_policy_routes allows {}", quota.value));
        let help = match u32::try_from(count) {
            Ok(count @ ..=MAX_POLICY_ROUTES) => {
                format!("set max_policy_routes = {count} in [gateway], or remove policy routes from here on")
            }
            _ => format!("remove policy routes from here on; the quota goes up to {MAX_POLICY_ROUTES}"),
        };
        report.too_many(route.at, route.path(), problem.help(help));
    }
}

/// Those with the same prefixes and next hop are duplicates, whatever their priorities.
fn check_duplicates(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let mut first = HashMap::new();
    for route in &draft.policy_routes {
        let (Some(source), Some(destination), Some(next_hop)) = (route.source, route.destination, &route.next_hop)
        else {
            continue;
        };
        let hop = next_hop.value.as_str();
        let Some(earlier) = first.insert((source.value, destination.value, hop), route.at) else { continue };
        first.insert((source.value, destination.value, hop), earlier);
        let (source, destination) = (source.value, destination.value);
        let problem = Problem::new(format!(
            "the policy route from {source} to {destination} via {} is already defined ({})",
            quoted(hop),
            report.place(route.at, earlier)
        ));
        let help = "remove one of the two, or change its next_hop";
        report.conflict(route.at, route.path(), problem.help(help), earlier);
    }
}

/// Warns of destinations outside the next hop's selectors.
fn check_selectors(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let coverage = routes::coverage(draft);
    for route in &draft.policy_routes {
        let (Some(destination), Some(next_hop)) = (route.destination, &route.next_hop) else { continue };
        let coverage = coverage.get(next_hop.value.as_str());
        if let Some(problem) =
            coverage.and_then(|coverage: &Coverage| coverage.check(&destination.value, &next_hop.value))
        {
            report.warning(destination.at, join(&route.path(), "destination"), problem);
        }
    }
}

/// Warns of policy routes that never match because another one comes first.
fn warn_of_unreachable(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let keys: Vec<_> = draft.policy_routes.iter().filter_map(|route| Some((route.key()?, route))).collect();
    for (key, route) in &keys {
        let before = keys.iter().find(|(first, _)| first < key && first.covers(key));
        if let Some((first, other)) = before {
            let problem = Problem::new(format!(
                "no packet gets to this policy route: that from {} to {} with priority {} ({}) comes first",
                first.source,
                first.destination,
                first.priority,
                report.place(route.at, other.at)
            ));
            let help = format!("give it a priority below {}, or remove it", first.priority);
            let help = if first.priority > 1 { help } else { "give the other one a larger priority".to_owned() };
            report.warning(route.at, route.path(), problem.help(help));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(priority: u8, source: &str, destination: &str) -> PolicyKey {
        let prefix = |text: &str| text.parse().expect("a prefix");
        PolicyKey { priority, source: prefix(source), destination: prefix(destination) }
    }

    #[test]
    fn policy_routes_are_ordered_by_priority_then_by_length_of_source_and_destination() {
        let mut keys = [
            key(10, "0.0.0.0/0", "10.1.0.0/16"),
            key(10, "10.0.0.0/8", "10.0.0.0/8"),
            key(10, "10.0.0.0/8", "10.1.0.0/16"),
            key(9, "0.0.0.0/0", "0.0.0.0/0"),
            key(10, "10.0.0.0/9", "0.0.0.0/0"),
        ];
        keys.sort();
        assert_eq!(
            keys.map(|key| (key.priority, key.source.prefix_len(), key.destination.prefix_len())),
            [(9, 0, 0), (10, 9, 0), (10, 8, 16), (10, 8, 8), (10, 0, 16),]
        );
    }
}

//! Destinations with next hops of several customer gateways.
//!
//! They are redundant paths to one site, or two sites that use the same addresses and would get each other's flows. An
//! explicit weight shows that the first is meant.

use std::collections::{HashMap, HashSet};

use super::{
    diagnostic::{DiagnosticReport, Problem, join, quoted},
    draft::Draft,
    model::{Config, DEFAULT_WEIGHT},
    tunnels::connection_of,
};

/// Warns of them, once for each pair of customer gateways.
pub(super) fn validate(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let gateways: HashMap<&str, Vec<&str>> = draft
        .connections
        .iter()
        .map(|connection| {
            (&*connection.name.value, connection.gateways().map(|gateway| gateway.value.as_str()).collect())
        })
        .collect();
    let mut by_destination = HashMap::new();
    let mut reported = HashSet::new();
    for route in &draft.routes {
        let (Some(destination), Some(next_hop), Some(weight)) = (route.destination, &route.next_hop, route.weight)
        else {
            continue;
        };
        let Some(own) = gateways.get(&*next_hop.value).filter(|_| weight.value == DEFAULT_WEIGHT) else { continue };
        let (first, at) = *by_destination.entry(destination.value).or_insert((own, destination.at));
        let (Some(gateway), Some(other)) = (own.first(), first.first()) else { continue };
        if !own.iter().any(|gateway| first.contains(gateway)) && reported.insert((*other, *gateway)) {
            let place = report.place(destination.at, at);
            let problem = Problem::new(format!(
                "{} leads to two customer gateways, {} ({place}) and {}, which share its flows",
                destination.value,
                quoted(other),
                quoted(gateway)
            ));
            let help = "if both lead to one site, give each route a weight other than 100, such as 50; \
                        otherwise change or translate the addresses of one";
            report.warning(destination.at, join(&route.path(), "destination"), problem.help(help));
        }
    }
}

/// Those of a destination's next hops that share its flows with another customer gateway, by name, with that customer
/// gateway. Empty if a weight is not the default, and if the next hops are the tunnels of one connection.
pub fn strangers<'a>(config: &'a Config, members: impl Iterator<Item = (&'a str, u8)>) -> Vec<(&'a str, &'a str)> {
    let members: Vec<(&str, u8)> = members.collect();
    // Tunnels of a connection lead to one site, whatever customer gateways they have.
    let gateway =
        |name: &str| config.any_member(connection_of(name)).map(|connection| connection.customer_gateway.as_str());
    let gateways: Vec<&str> = members.iter().filter_map(|(name, _)| gateway(name)).collect();
    let Some(first) = gateways.first() else { return Vec::new() };
    let Some(second) = gateways.iter().find(|gateway| *gateway != first) else { return Vec::new() };
    if members.iter().any(|(_, weight)| *weight != DEFAULT_WEIGHT) {
        return Vec::new();
    }
    let other = |name| if gateway(name) == Some(*first) { *second } else { *first };
    members.iter().map(|(name, _)| (*name, other(name))).collect()
}

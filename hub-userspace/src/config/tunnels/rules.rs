//! Rules between a connection and its tunnels, and between the tunnels.

use std::collections::HashMap;

use hub_common::maps::MAX_CONNECTIONS;

use super::{
    super::{
        diagnostic::{DiagnosticReport, Problem, join, quoted},
        draft::{ConnectionDraft, Draft},
        ipsec::identities,
        rules::too_many,
    },
    draft::TunnelDraft,
};

pub(in crate::config) fn validate(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    for connection in draft.connections.iter().filter(|connection| connection.tunnels.is_present) {
        check_own_keys(connection, report);
        if connection.ipsec.is_some() {
            check_if_ids(connection, report);
            check_distinct(draft, connection, report);
        }
    }
    check_number(draft, report);
}

/// Keys that each tunnel has for itself are not allowed in the connection.
fn check_own_keys(connection: &ConnectionDraft, report: &mut DiagnosticReport<'_>) {
    let path = connection.path();
    let moved = "a connection with tunnels has it in each tunnel";
    let keys = [
        ("interface", connection.interface.as_ref().map(|found| found.at)),
        ("peer", connection.peer.as_ref().map(|found| found.at)),
        ("ipsec.if_id", connection.ipsec.as_ref().and_then(|ipsec| ipsec.if_id).map(|found| found.at)),
    ];
    for (key, at) in keys.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        let problem = Problem::new(format!("{key} is beside tunnels: {moved}"));
        report.error(at, join(&path, key), problem.help(format!("move {key} to the tunnels")));
    }
    let all_have_own = connection.tunnels.items.iter().all(|tunnel| tunnel.customer_gateway.is_some());
    if let Some(unused) = connection.customer_gateway.as_ref().filter(|_| all_have_own && connection.tunnels.sound) {
        let problem = Problem::new("every tunnel has a customer_gateway of its own, so this one is for none");
        let help = "remove it, or the one of a tunnel for which it is meant";
        report.error(unused.at, join(&path, "customer_gateway"), problem.help(help));
    }
}

/// The SAs of all tunnels have the same selectors: only the `if_id` tells the kernel which policy is for which interface.
fn check_if_ids(connection: &ConnectionDraft, report: &mut DiagnosticReport<'_>) {
    for tunnel in &connection.tunnels.items {
        let if_id = tunnel.ipsec.as_ref().and_then(|ipsec| ipsec.if_id);
        // A wrong one is reported already.
        if if_id.is_none() && tunnel.ipsec.as_ref().is_none_or(|ipsec| !ipsec.has_if_id) {
            let problem = Problem::new("the tunnel has no if_id, and its SAs have the same selectors as the other's");
            let help = "add ipsec.if_id = 10, a number that no other interface has";
            report.error(tunnel.at, tunnel.path(&connection.path()), problem.help(help));
        }
    }
}

/// The IKE daemon, at either end, finds a connection by address and identities.
fn check_distinct(draft: &Draft, connection: &ConnectionDraft, report: &mut DiagnosticReport<'_>) {
    let sites = draft.sites();
    let mut first: HashMap<_, &TunnelDraft> = HashMap::new();
    let members = connection.clone().into_members();
    let named = connection.tunnels.items.iter().filter(|tunnel| tunnel.name.is_some());
    for (tunnel, member) in named.zip(&members) {
        let site = member.customer_gateway.as_ref().and_then(|name| sites.get(name.value.as_str()));
        let (Some(site), Some(ipsec)) = (site, &member.ipsec) else { continue };
        let Some(ids) = identities(draft, &sites, member, ipsec) else { continue };
        let Some(other) = first.get(&(&site.value, ids.clone())) else {
            first.insert((&site.value, ids), tunnel);
            continue;
        };
        let name = |tunnel: &TunnelDraft| tunnel.name.as_ref().map_or("", |name| &name.value).to_owned();
        let problem = Problem::new(format!(
            "the IKE daemons cannot tell tunnel {} from tunnel {}: both lead to {} with the same identities",
            quoted(&name(tunnel)),
            quoted(&name(other)),
            site.value
        ));
        let help = "give one of them a customer_gateway with another address, or ipsec.local_id or ipsec.remote_id of \
                    its own";
        report.error(tunnel.at, tunnel.path(&connection.path()), problem.help(help));
    }
}

/// The program has a number for each tunnel, and for each connection without tunnels.
fn check_number(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let most = MAX_CONNECTIONS as usize;
    let count: usize = draft.connections.iter().map(ConnectionDraft::numbers).sum();
    for connection in too_many(draft, most, ConnectionDraft::numbers, report) {
        let problem = Problem::new(format!(
            "{count} tunnels and connections without tunnels, and the kernel program has room for {most}"
        ));
        report.too_many(connection.name.at, connection.path(), problem.help("remove tunnels, or connections"));
    }
}

//! Replies to probes that arrive on another interface than the probes leave by, come from another address, or are dropped
//! by the program. Pure.

use std::collections::BTreeMap;

use super::facts::{Facts, StrayReply};
use crate::{
    api_types::{
        diagnose::{Area, Code, Finding},
        status::{ConnectionStatus, FullStatus},
    },
    config::tunnels::is_meant,
};

/// Judges all connections, or the one with this name.
pub fn judge(facts: &Facts, FullStatus { status, .. }: &FullStatus, only: Option<&str>) -> Vec<Finding> {
    let members = || status.connections.iter().flat_map(ConnectionStatus::members);
    let interfaces: BTreeMap<&str, &str> = members().map(|member| (&*member.name, &*member.interface)).collect();
    let replies = facts.stray_replies.iter().filter(|reply| only.is_none_or(|only| is_meant(only, &reply.connection)));
    let judged = replies.filter_map(|reply| {
        let own = interfaces.get(reply.connection.as_str())?;
        let mut on_it =
            members().filter(|member| member.interface == reply.interface).map(|member| member.name.as_str());
        let carrier = on_it.next().map(|name| format!(" (connection {name})")).unwrap_or_default();
        Some(finding(reply, own, &carrier))
    });
    judged.collect()
}

fn finding(reply: &StrayReply, own: &str, carrier: &str) -> Finding {
    let StrayReply { connection, source, destination, interface, dropped } = reply;
    let end = match dropped {
        Some(reason) => format!(", and are dropped there: {reason}"),
        None => ", where they do not count".to_owned(),
    };
    let (message, action) = if interface != own {
        (
            format!("replies of {source} to its probes arrive on {interface}{carrier} instead of {own}{end}"),
            format!(
                "let the site route {destination} into this tunnel; without IPsec, compare the routes of both ends"
            ),
        )
    } else if let Some(reason) = dropped {
        (
            format!("replies of {source} to its probes are dropped: {reason}"),
            format!(
                "compare remote_cidrs with {source}, local_cidrs with {destination}, and the route to {source} with this \
                 connection"
            ),
        )
    } else {
        (
            format!("its probes are answered by {source}, which is no destination of the health check"),
            format!(
                "name {source} in health_check.destination, or let the site answer with the address that is probed"
            ),
        )
    };
    Finding::warning(Area::Connection, connection, Code::AsymmetricReplies, message, action)
}

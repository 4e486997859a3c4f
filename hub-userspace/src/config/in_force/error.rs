//! Why a change is rejected.

use ipnet::IpNet;

use super::super::{diagnostic::quoted, provenance::Origin, suggest::nearest};
use crate::store::{ObjectId, PolicyRouteId};

/// Each message is one sentence with the remedy, except for the last variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("there is no {} {}{}", .kind.replace('_', " "), quoted(.name), advice(.kind, .name, .known))]
    Unknown { kind: &'static str, name: String, known: Vec<String> },
    #[error("there is no route to {destination}: see `vpnhub route list`")]
    NoRoute { destination: IpNet },
    #[error(
        "there is no route to {destination} via {}: its next hops are {}",
        quoted(.next_hop),
        .next_hops.join(", ")
    )]
    NoSuchHop { destination: IpNet, next_hop: String, next_hops: Vec<String> },
    #[error("there are several routes to {destination}: choose one with --next-hop: {}", .next_hops.join(", "))]
    Ambiguous { destination: IpNet, next_hops: Vec<String> },
    #[error(
        "the route to {destination} via {next_hop} already exists, with weight {weight}, {}published: change it with \
         `vpnhub route set {destination} --next-hop {next_hop}`",
        if *.publish { "" } else { "not " }
    )]
    RouteExists { destination: IpNet, next_hop: String, weight: u8, publish: bool },
    #[error("{id} already exists: change it with `vpnhub {} set {}`", .id.kind().replace('_', "-"), .id.name())]
    Exists { id: ObjectId },
    #[error("nothing to change: give a weight, publish, or a policy route's priority")]
    NothingAsked,
    #[error("a new policy route needs a next hop: name a connection")]
    NextHopMissing,
    #[error(
        "there is no policy route from {source_prefix} to {destination} with this next hop: see `vpnhub policy-route list`"
    )]
    NoPolicyRoute { source_prefix: IpNet, destination: IpNet },
    #[error(
        "there are several policy routes from {source_prefix} to {destination}: choose one with --next-hop: {}",
        .next_hops.join(", ")
    )]
    AmbiguousPolicyRoute { source_prefix: IpNet, destination: IpNet, next_hops: Vec<String> },
    #[error(
        "the policy route from {} to {} via {} already exists: change it with \
         `vpnhub policy-route set {} {} --next-hop {}`",
        .id.source, .id.destination, .id.next_hop, .id.source, .id.destination, .id.next_hop
    )]
    PolicyRouteExists { id: PolicyRouteId },
    /// Commands cannot change objects of the files.
    #[error("{id} is defined in {origin}: change it there and reload")]
    DefinedInFile { id: ObjectId, origin: Origin },
    /// The change would break rules; one line for each.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
}

fn advice(kind: &str, name: &str, known: &[String]) -> String {
    match (nearest(name, known.iter().map(String::as_str)), known.len()) {
        (Some(meant), _) => format!(": did you mean {}?", quoted(meant)),
        (None, 1..=8) => format!(": there are {}", known.join(", ")),
        _ => format!(": see `vpnhub {} list`", kind.replace('_', "-")),
    }
}

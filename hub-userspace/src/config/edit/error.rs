//! Why a change cannot be made.

use ipnet::IpNet;

use super::super::{diagnostic::quoted, suggest::nearest};

/// Each is one sentence with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("there is no connection {}{}", quoted(.name), advice(.name, .known))]
    NoConnection { name: String, known: Vec<String> },
    #[error("there is no route to {destination}: `vpnhub route list` shows those that there are")]
    NoRoute { destination: IpNet },
    #[error("there is no route to {destination} by {}: it has {}", quoted(.next_hop), .next_hops.join(", "))]
    NoSuchHop { destination: IpNet, next_hop: String, next_hops: Vec<String> },
    #[error("{destination} has several routes: name one with --next-hop, of {}", .next_hops.join(", "))]
    Ambiguous { destination: IpNet, next_hops: Vec<String> },
    #[error(
        "there is a route to {destination} by {next_hop} already, with weight {weight}, {}published: \
         change it with `vpnhub route set {destination} --next-hop {next_hop}`",
        if *.publish { "" } else { "not " }
    )]
    RouteExists { destination: IpNet, next_hop: String, weight: u8, publish: bool },
    #[error("nothing is asked for: give a new weight, or whether to publish")]
    NothingAsked,
    #[error("the file is not TOML: {0}")]
    NotToml(String),
}

fn advice(name: &str, known: &[String]) -> String {
    match (nearest(name, known.iter().map(String::as_str)), known.len()) {
        (Some(meant), _) => format!(": did you mean {}?", quoted(meant)),
        (None, 1..=8) => format!(": there are {}", known.join(", ")),
        _ => ": `vpnhub connection list` shows those that there are".to_owned(),
    }
}

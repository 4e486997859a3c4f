//! Commands for policy routes.

use anyhow::{Result, bail};
use clap::{Args, Subcommand, value_parser};
use ipnet::IpNet;

use super::{
    Output, changed, printed,
    table::{right, table},
};
use crate::{
    api::Client,
    api_types::status::PolicyRouteStatus,
    config::in_force::{ObjectChange, PolicyRouteChange, PutMode, parse_destination},
};

#[derive(Debug, Subcommand)]
pub enum PolicyRouteCommand {
    /// Lists the policy routes with their effective share, in the order in which they match.
    List,
    /// Shows those with these prefixes.
    Show {
        #[command(flatten)]
        prefixes: Prefixes,
    },
    /// Adds one.
    Add {
        #[command(flatten)]
        prefixes: Prefixes,
        /// Connection that the packets go to.
        #[arg(long, value_name = "NAME")]
        next_hop: String,
        #[command(flatten)]
        keys: PolicyKeys,
        /// Also install the destination in the host's routing table.
        #[arg(long)]
        publish: bool,
    },
    /// Changes keys of one; adds it if it does not exist.
    Set {
        #[command(flatten)]
        prefixes: Prefixes,
        /// Connection that the packets go to; required if there are several with these prefixes, or none.
        #[arg(long, value_name = "NAME")]
        next_hop: Option<String>,
        #[command(flatten)]
        keys: PolicyKeys,
        /// Whether the destination is installed in the host's routing table.
        #[arg(long, value_name = "BOOL")]
        publish: Option<bool>,
    },
    /// Removes one.
    Delete {
        #[command(flatten)]
        prefixes: Prefixes,
        /// Connection that the packets go to; required if there are several with these prefixes.
        #[arg(long, value_name = "NAME")]
        next_hop: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct Prefixes {
    /// Source of the packets.
    #[arg(value_name = "SOURCE", value_parser = parse_destination)]
    source: IpNet,
    /// Their destination.
    #[arg(value_name = "DESTINATION", value_parser = parse_destination)]
    destination: IpNet,
}

#[derive(Debug, Default, Args)]
pub struct PolicyKeys {
    /// The smallest matches first. Default 10.
    #[arg(long, value_name = "1..100", value_parser = value_parser!(u8).range(1..=100))]
    priority: Option<u8>,
    /// Relative share of the flows; 0 is standby. Default 100.
    #[arg(long, value_name = "0..100", value_parser = value_parser!(u8).range(0..=100))]
    weight: Option<u8>,
}

impl Prefixes {
    fn change(self, next_hop: Option<String>, keys: PolicyKeys, publish: Option<bool>) -> PolicyRouteChange {
        let (Self { source, destination }, PolicyKeys { priority, weight }) = (self, keys);
        PolicyRouteChange { source, destination, next_hop, priority, weight, publish }
    }
}

/// Runs a command and returns its output.
pub async fn run(command: PolicyRouteCommand, client: &Client, output: Output) -> Result<String> {
    let change = match command {
        PolicyRouteCommand::List => return printed(&*client.policy_routes().await?, table_of, output),
        PolicyRouteCommand::Show { prefixes: Prefixes { source, destination } } => {
            let mut routes = client.policy_routes().await?;
            routes.retain(|route| route.source == source && route.destination == destination);
            if routes.is_empty() {
                bail!("there is no policy route from {source} to {destination}: see `vpnhub policy-route list`");
            }
            return printed(&*routes, table_of, output);
        }
        PolicyRouteCommand::Add { prefixes, next_hop, keys, publish } => {
            ObjectChange::PutPolicyRoute(prefixes.change(Some(next_hop), keys, Some(publish)), PutMode::Add)
        }
        PolicyRouteCommand::Set { prefixes, next_hop, keys, publish } => {
            ObjectChange::PutPolicyRoute(prefixes.change(next_hop, keys, publish), PutMode::Merge)
        }
        PolicyRouteCommand::Delete { prefixes, next_hop } => {
            ObjectChange::DeletePolicyRoute(prefixes.change(next_hop, PolicyKeys::default(), None))
        }
    };
    changed(&client.change(&change).await?, output)
}

/// The policy routes in the order in which they match.
pub fn table_of(routes: &[PolicyRouteStatus]) -> String {
    let longest_first = |prefix: IpNet| u8::MAX - prefix.prefix_len();
    let mut ordered: Vec<&PolicyRouteStatus> = routes.iter().collect();
    ordered.sort_by_key(|route| {
        let (source, destination) = (route.source, route.destination);
        (route.priority, longest_first(source), longest_first(destination), source, destination)
    });
    let mut rows = table(&["PRIORITY", "SOURCE", "DESTINATION", "NEXT HOP", "WEIGHT", "PUBLISHED", "SHARE", "ORIGIN"]);
    for route in ordered {
        rows.add_row([
            route.priority.to_string(),
            route.source.to_string(),
            route.destination.to_string(),
            route.next_hop.clone(),
            route.weight.to_string(),
            if route.publish { "yes" } else { "no" }.to_owned(),
            format!("{:.0} %", route.share * 100.0),
            route.origin.to_string(),
        ]);
    }
    right(&mut rows, &[0, 4, 6]);
    format!("{rows}\n")
}

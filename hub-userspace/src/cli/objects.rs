//! Commands for the objects of the configuration.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args, Subcommand, value_parser};
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Output, changed,
    keys::{ConnectionKeys, CustomerGatewayKeys, NamedObject, SegmentKeys},
    printed, table,
};
use crate::{
    api::Client,
    config::in_force::{AddRoute, Admin, DeleteRoute, ObjectChange, PutMode, PutObject, SetRoute, parse_destination},
    store::{Keys, ObjectId},
};

#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Lists the routes with their effective share.
    List {
        /// Only those of a routing daemon.
        #[arg(long)]
        learned: bool,
    },
    /// Shows the routes to a destination, with their origins.
    Show {
        /// Destination.
        #[arg(value_name = "PREFIX", value_parser = parse_destination)]
        destination: IpNet,
    },
    /// Adds a route.
    Add {
        /// Destination.
        #[arg(value_name = "PREFIX", value_parser = parse_destination)]
        destination: IpNet,
        /// Connection that leads there.
        #[arg(long, value_name = "NAME")]
        next_hop: String,
        /// Relative share of the destination's flows; 0 is standby. Default 100.
        #[arg(long, value_name = "0..100", value_parser = value_parser!(u8).range(0..=100))]
        weight: Option<u8>,
        /// Also install it in the host's routing table.
        #[arg(long)]
        publish: bool,
    },
    /// Removes a route.
    Delete {
        /// Destination.
        #[arg(value_name = "PREFIX", value_parser = parse_destination)]
        destination: IpNet,
        /// Connection that leads there; required if the destination has several routes.
        #[arg(long, value_name = "NAME")]
        next_hop: Option<String>,
    },
    /// Changes a route's weight, or whether it is published; adds the route if it does not exist.
    #[command(group(ArgGroup::new("value").required(true).multiple(true).args(["weight", "publish"])))]
    Set {
        /// Destination.
        #[arg(value_name = "PREFIX", value_parser = parse_destination)]
        destination: IpNet,
        /// Connection that leads there; required if the destination has several routes, or none.
        #[arg(long, value_name = "NAME")]
        next_hop: Option<String>,
        /// Relative share of the destination's flows; 0 is standby.
        #[arg(long, value_name = "0..100", value_parser = value_parser!(u8).range(0..=100))]
        weight: Option<u8>,
        /// Whether it is installed in the host's routing table.
        #[arg(long, value_name = "BOOL")]
        publish: Option<bool>,
    },
}

/// What can be done with objects that have a name and the keys `K`.
#[derive(Debug, Subcommand)]
pub enum NamedCommand<K: Args> {
    /// Lists all, with their state or their origin.
    List,
    /// Shows the keys of one, and its origin.
    Show {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Adds one.
    Add {
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        keys: K,
        #[command(flatten)]
        from: From,
    },
    /// Changes keys of one and leaves the others; adds it if it does not exist. With --from, removes all other keys.
    Set {
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        keys: K,
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        unset: Unset,
    },
    /// Removes one.
    Delete {
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum ConnectionCommand {
    #[command(flatten)]
    Named(NamedCommand<ConnectionKeys>),
    /// Lets a connection carry traffic again, regardless of its `enabled` key.
    Up {
        #[arg(value_name = "NAME")]
        connection: String,
    },
    /// Drains a connection: its traffic uses the other next hops of its routes, also after a restart.
    Down {
        #[arg(value_name = "NAME")]
        connection: String,
    },
    /// Negotiates SAs for the selectors that lack one, without an interruption.
    Renegotiate {
        #[arg(value_name = "NAME")]
        connection: String,
        /// Also rekey the existing child SAs.
        #[arg(long)]
        child: bool,
    },
}

pub type CustomerGatewayCommand = NamedCommand<CustomerGatewayKeys>;
pub type SegmentCommand = NamedCommand<SegmentKeys>;

/// Source of the keys that have no flag.
#[derive(Debug, Args)]
pub struct From {
    /// TOML file with the keys, including `[ipsec]`; - is standard input. Flags take precedence.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(Debug, Default, Args)]
pub struct Unset {
    /// Remove this key, such as peer or ipsec; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

/// Reads keys from a file, with or without their configuration file header.
fn fragment(id: &ObjectId, file: &Path) -> Result<Keys> {
    let shown = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    match file == Path::new("-") {
        true => io::stdin().read_to_string(&mut text).map(drop),
        false => fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text)).map(drop),
    }
    .with_context(|| format!("cannot read {shown}"))?;
    let root: Value =
        toml::from_str(&text).map_err(|error| anyhow::anyhow!("{shown}: {}", error.to_string().trim()))?;
    let Value::Object(mut root) = root else { bail!("{shown} has no keys") };
    let name = id.name();
    let below = root.get_mut(id.kind()).and_then(Value::as_object_mut);
    match below.map(|below| below.remove(&name)) {
        None => {}
        Some(Some(Value::Object(keys))) => root = keys,
        Some(_) => bail!("{shown} has a {} with another name than {name}", id.kind().replace('_', " ")),
    }
    Ok(root)
}

/// Runs a route command and returns its output.
pub async fn route(command: RouteCommand, client: &Client, output: Output) -> Result<String> {
    let change = match command {
        RouteCommand::List { learned: false } => return printed(&*client.routes().await?, table::routes, output),
        RouteCommand::List { learned: true } => {
            return printed(&*client.learned_routes().await?, table::routes, output);
        }
        RouteCommand::Show { destination } => {
            let routes = client.routes_to(destination).await?;
            if routes.is_empty() {
                bail!("there is no route to {destination}: see `vpnhub route list`");
            }
            return printed(&*routes, table::routes, output);
        }
        RouteCommand::Add { destination, next_hop, weight, publish } => {
            ObjectChange::AddRoute(AddRoute { destination, next_hop, weight, publish })
        }
        RouteCommand::Delete { destination, next_hop } => {
            ObjectChange::DeleteRoute(DeleteRoute { destination, next_hop })
        }
        RouteCommand::Set { destination, next_hop, weight, publish } => {
            ObjectChange::SetRoute(SetRoute { destination, next_hop, weight, publish, replace: false })
        }
    };
    changed(&client.change(&change).await?, output)
}

/// Runs a connection command and returns its output.
pub async fn connection(command: ConnectionCommand, client: &Client, output: Output) -> Result<String> {
    let admin = match command {
        ConnectionCommand::Named(command) => return named(command, client, output).await,
        ConnectionCommand::Up { connection } => Admin { connection, up: true },
        ConnectionCommand::Down { connection } => Admin { connection, up: false },
        ConnectionCommand::Renegotiate { connection, child } => {
            let answer = client.renegotiate(&connection, child).await?;
            return printed(&answer, |answer| answer.message.clone() + "\n", output);
        }
    };
    changed(&client.change(&ObjectChange::Admin(admin)).await?, output)
}

/// Runs a customer gateway command and returns its output.
pub async fn customer_gateway(command: CustomerGatewayCommand, client: &Client, output: Output) -> Result<String> {
    named(command, client, output).await
}

/// Runs a segment command and returns its output.
pub async fn segment(command: SegmentCommand, client: &Client, output: Output) -> Result<String> {
    named(command, client, output).await
}

async fn named<K: NamedObject>(command: NamedCommand<K>, client: &Client, output: Output) -> Result<String> {
    let change = match command {
        NamedCommand::List => return printed(&*K::list(client).await?, K::table, output),
        NamedCommand::Show { name } => return printed(&client.object(&K::id(name)).await?, table::object, output),
        NamedCommand::Add { name, keys, from } => put(K::id(name), keys.keys(), &from, Unset::default(), PutMode::Add)?,
        NamedCommand::Set { name, keys, from, unset } => {
            let mode = if from.from.is_some() { PutMode::Replace } else { PutMode::Merge };
            put(K::id(name), keys.keys(), &from, unset, mode)?
        }
        NamedCommand::Delete { name } => ObjectChange::Delete(K::id(name)),
    };
    changed(&client.change(&change).await?, output)
}

/// Builds an object from the keys in a file and the flags. Flags take precedence.
fn put(id: ObjectId, flags: Keys, from: &From, Unset { unset }: Unset, mode: PutMode) -> Result<ObjectChange> {
    let mut keys = match &from.from {
        None => Keys::new(),
        Some(file) => fragment(&id, file)?,
    };
    keys.extend(flags);
    keys.extend(unset.into_iter().map(|key| (key, Value::Null)));
    Ok(ObjectChange::Put(PutObject { id, keys, mode }))
}

//! Commands for the objects of the configuration.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args, Subcommand, value_parser};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Output, changed, printed, table};
use crate::{
    api::{Client, CustomerGatewayEntry},
    api_types::status::ConnectionStatus,
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

/// The keys of `[connection.NAME]`.
#[derive(Debug, Args)]
pub struct ConnectionKeys {
    /// Customer gateway at the other end.
    #[arg(long, value_name = "NAME")]
    customer_gateway: Option<String>,
    /// Whether it carries traffic, unless overridden by `up` or `down`.
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// Interface that carries the decrypted traffic.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Link neighbour; Ethernet-type interfaces only.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<String>,
    /// Prefixes of the hub's side and all behind it, separated by commas.
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    local_cidrs: Option<Vec<String>>,
    /// Prefixes of the site, separated by commas.
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    remote_cidrs: Option<Vec<String>>,
    /// How the hub sees the site's own prefixes, as SITE=HUB, separated by commas: 192.168.1.0/24=10.201.1.0/24.
    #[arg(long, value_name = "SITE=HUB", value_delimiter = ',', value_parser = translation)]
    translate: Option<Vec<Value>>,
    /// Source of the selectors: file, ike or xfrm.
    #[arg(long, value_name = "SOURCE")]
    selectors: Option<String>,
    /// strict or off.
    #[arg(long, value_name = "MODE")]
    reverse_path: Option<String>,
    /// Limit on the TCP maximum segment size: auto, off or bytes.
    #[arg(long, value_name = "LIMIT", value_parser = word_or_number)]
    mss_clamp: Option<Value>,
    /// Hold-down: healthy time after a failure before it carries traffic again, such as 1s.
    #[arg(long, value_name = "TIME")]
    up_delay: Option<String>,
    /// An inline table, such as '{ source = "192.168.0.1", destination = "10.10.10.1" }'.
    #[arg(long, value_name = "TOML", value_parser = inline_table)]
    health_check: Option<Value>,
}

/// The keys of `[customer_gateway.NAME]`.
#[derive(Debug, Args)]
pub struct CustomerGatewayKeys {
    /// Public address or DNS name of the site's device, or `any`: then `remote_id` alone identifies it.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

/// A kind of named objects, with the keys that flags can set.
trait NamedObject: Args {
    /// An entry in a list.
    type Listed: Serialize;

    fn id(name: String) -> ObjectId;
    /// The keys set by flags.
    fn keys(self) -> Keys;
    async fn list(client: &Client) -> Result<Vec<Self::Listed>>;
    fn table(listed: &[Self::Listed]) -> String;
}

impl NamedObject for ConnectionKeys {
    type Listed = ConnectionStatus;

    fn id(name: String) -> ObjectId {
        ObjectId::Connection(name)
    }

    fn keys(self) -> Keys {
        let Self {
            customer_gateway,
            enabled,
            interface,
            peer,
            local_cidrs,
            remote_cidrs,
            translate,
            selectors,
            reverse_path,
            mss_clamp,
            up_delay,
            health_check,
        } = self;
        let texts = [
            ("customer_gateway", customer_gateway),
            ("interface", interface),
            ("peer", peer),
            ("selectors", selectors),
            ("reverse_path", reverse_path),
            ("up_delay", up_delay),
        ];
        let texts = texts.into_iter().map(|(key, value)| (key, value.map(Value::from)));
        let others = [
            ("enabled", enabled.map(Value::from)),
            ("local_cidrs", local_cidrs.map(Value::from)),
            ("remote_cidrs", remote_cidrs.map(Value::from)),
            ("translate", translate.map(Value::from)),
            ("health_check", health_check),
            ("mss_clamp", mss_clamp),
        ];
        texts.chain(others).filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    async fn list(client: &Client) -> Result<Vec<ConnectionStatus>> {
        client.connections().await
    }

    fn table(listed: &[ConnectionStatus]) -> String {
        table::connections(listed)
    }
}

impl NamedObject for CustomerGatewayKeys {
    type Listed = CustomerGatewayEntry;

    fn id(name: String) -> ObjectId {
        ObjectId::CustomerGateway(name)
    }

    fn keys(self) -> Keys {
        self.address.map(|address| ("address".to_owned(), Value::from(address))).into_iter().collect()
    }

    async fn list(client: &Client) -> Result<Vec<CustomerGatewayEntry>> {
        client.customer_gateways().await
    }

    fn table(listed: &[CustomerGatewayEntry]) -> String {
        table::customer_gateways(listed)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn word_or_number(text: &str) -> Result<Value, String> {
    Ok(text.parse::<u32>().map_or_else(|_| Value::from(text), Value::from))
}

/// A table of `translate`; the agent validates the prefixes.
fn translation(text: &str) -> Result<Value, String> {
    let (site, hub) = text.split_once('=').ok_or("write SITE=HUB, such as 192.168.1.0/24=10.201.1.0/24")?;
    Ok(json!({ "site": site, "hub": hub }))
}

fn inline_table(text: &str) -> Result<Value, String> {
    let root = toml::from_str::<Value>(&format!("value = {text}")).map_err(|error| error.message().to_owned())?;
    Ok(root.get("value").cloned().unwrap_or_default())
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

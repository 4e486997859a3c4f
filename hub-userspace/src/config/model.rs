//! What a valid configuration file says, in Rust types.
//!
//! Values of these types hold every rule of `config/read.rs`: prefixes have no host bits, names refer to something,
//! interface names fit the kernel. Code that receives a [`Config`] does not check again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use hub_common::mark::Mark;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ipsec::Ipsec, provenance::Provenance};

/// `up_delay` of a connection that has none in the file.
pub const DEFAULT_UP_DELAY: Duration = Duration::from_secs(1);
/// Weight of a route that has none in the file.
pub const DEFAULT_WEIGHT: u8 = 100;
/// Where strongSwan listens when the file does not say.
pub const DEFAULT_VICI_SOCKET: &str = "/run/charon.vici";
/// Connections a gateway may have when the file does not say.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10;
/// `lookup_memory` when the file does not say, in MiB.
pub const DEFAULT_LOOKUP_MEMORY: u32 = 1024;
/// `main`, the kernel table that published routes go to when the file does not say (`RT_TABLE_MAIN`, rtnetlink(7)).
pub const DEFAULT_PUBLISH_TABLE: u32 = 254;

/// One gateway, all of it. Two are equal if they say the same, wherever that is defined.
#[derive(Debug, Clone)]
pub struct Config {
    pub gateway: Gateway,
    pub dataplane: DataplaneSettings,
    pub vpc: Option<Vpc>,
    /// By name.
    pub customer_gateways: BTreeMap<String, CustomerGateway>,
    /// By name.
    pub connections: BTreeMap<String, Connection>,
    /// Those of the files in their order, then those of the store, oldest first; (destination, next hop) is unique.
    pub routes: Vec<Route>,
    /// Where all of it is defined.
    pub provenance: Arc<Provenance>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { gateway, dataplane, vpc, customer_gateways, connections, routes, provenance: _ } = self;
        *gateway == other.gateway
            && *dataplane == other.dataplane
            && *vpc == other.vpc
            && *customer_gateways == other.customer_gateways
            && *connections == other.connections
            && *routes == other.routes
    }
}

impl Eq for Config {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub name: String,
    pub max_connections: usize,
    /// `false` isolates the sites from each other.
    pub spoke_to_spoke: bool,
    pub allow_default_route: bool,
    /// Public address, that the sites know.
    pub address: Option<IpAddr>,
    /// Where the IKE daemon (strongSwan's charon) is asked.
    pub vici_socket: PathBuf,
    /// What sites may reach on the hub itself; replies to what the hub sends are always admitted.
    pub services: BTreeSet<Service>,
}

/// Something on the hub that sites may reach. Written as `icmp`, `tcp/179`, `udp/53`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// ICMP and `ICMPv6`.
    Icmp,
    /// A port, from 1 on.
    Tcp(u16),
    /// A port, from 1 on.
    Udp(u16),
}

impl Service {
    /// The list of a gateway that has none in the file.
    pub fn defaults() -> BTreeSet<Self> {
        BTreeSet::from([Self::Icmp])
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("icmp"),
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
        }
    }
}

/// The text names no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither icmp, tcp/PORT nor udp/PORT")]
pub struct NoService;

impl FromStr for Service {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let (protocol, port) = text.split_once('/').ok_or(NoService)?;
        // `u16::from_str` takes a sign, too.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|&port| digits && port != 0).ok_or(NoService)?;
        match protocol {
            "tcp" => Ok(Self::Tcp(port)),
            "udp" => Ok(Self::Udp(port)),
            _ => Err(NoService),
        }
    }
}

/// How the kernel program works; all but `on_stop` is fixed while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneSettings {
    pub lookup: LookupKind,
    /// MiB that the compiled look-up may take.
    pub lookup_memory: u32,
    /// What an agent that is stopped does with it.
    pub on_stop: OnStop,
    /// Bits of `skb->mark` that tell the kernel's rules what the program has admitted.
    pub mark: Mark,
}

impl Default for DataplaneSettings {
    fn default() -> Self {
        Self {
            lookup: LookupKind::Compiled,
            lookup_memory: DEFAULT_LOOKUP_MEMORY,
            on_stop: OnStop::Keep,
            mark: Mark::default(),
        }
    }
}

/// What becomes of the datapath when the agent is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Forwarding and every check go on.
    Keep,
    /// It is taken away.
    Detach,
}

/// How routes and selectors are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupKind {
    /// In tables compiled from them: takes about the same time however many there are.
    Compiled,
    /// In LPM tries of the kernel: less memory, more time.
    Lpm,
}

/// The cloud side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vpc {
    pub interface: String,
    pub cidrs: Vec<IpNet>,
    /// Kernel table that published routes go to.
    pub publish_table: u32,
}

/// A site's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerGateway {
    /// Public address of the device.
    pub address: IpAddr,
}

/// One IPsec connection to a customer gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub customer_gateway: String,
    /// `false` takes it down by hand: its traffic goes by the other next hops of its routes.
    pub enabled: bool,
    /// Interface that carries the decrypted traffic; several connections may share one.
    pub interface: String,
    /// Link neighbour, for Ethernet-type interfaces.
    pub peer: Option<IpAddr>,
    /// Prefixes of the hub's side and all behind it, of the SA selectors.
    pub local_cidrs: Vec<IpNet>,
    /// Prefixes of the site, of the SA selectors.
    pub remote_cidrs: Vec<IpNet>,
    pub health_check: Option<HealthCheck>,
    /// For how long it must be well after a failure before it carries traffic again.
    pub up_delay: Duration,
    /// Its SAs, if the agent makes them.
    pub ipsec: Option<Ipsec>,
    /// What says whom packets may be from and to.
    pub selectors: SelectorSource,
    /// Whether the route back to a packet's source must be by this connection.
    pub reverse_path: ReversePath,
}

/// How a connection's packets are held against the routes to their sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReversePath {
    /// The connection must be among the next hops of the longest route to the source, whatever its weight or state.
    Strict,
    /// Not at all: for sites whose traffic takes different ways there and back.
    Off,
}

/// Where a connection's selectors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectorSource {
    /// `local_cidrs` and `remote_cidrs`.
    File,
    /// What the IKE daemon has negotiated.
    Ike,
    /// The kernel's own policies and SAs, whoever made them.
    Xfrm,
}

/// ICMP echo through the connection's own interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    pub source: IpAddr,
    /// Of the same family as `source`.
    pub destination: IpAddr,
    pub interval: Duration,
    /// Misses in a row that take the connection down.
    pub retries: u32,
}

/// A destination route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    /// Name of a connection.
    pub next_hop: String,
    /// 0..=100; 0 is standby.
    pub weight: u8,
    /// Also in `publish_table`.
    pub publish: bool,
}

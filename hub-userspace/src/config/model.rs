//! The validated configuration as Rust types.
//!
//! Values of these types satisfy every rule of `config/read.rs`: prefixes have no host bits, references resolve,
//! interface names are valid for the kernel. Code that receives a [`Config`] does not check again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use hub_common::mark::Mark;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use super::health_check::{Degraded, HealthCheck, Require, WhenDown};
use super::{
    address::SiteAddress, ipsec::Ipsec, learn::RouteProtocol, policy_routes::PolicyRoute, provenance::Provenance,
    role::Role, segments::Segment, translate::Translations,
};
use crate::kernel::netlink::FollowedTable;

/// Default `up_delay` of a connection.
pub const DEFAULT_UP_DELAY: Duration = Duration::from_secs(1);
/// Default weight of a route.
pub const DEFAULT_WEIGHT: u8 = 100;
/// Default socket of strongSwan's charon.
pub const DEFAULT_VICI_SOCKET: &str = "/run/charon.vici";
/// Default quota of connections.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10;
/// Default `lookup_memory`, in MiB.
pub const DEFAULT_LOOKUP_MEMORY: u32 = 1024;
/// Default kernel table for published routes: `main` (`RT_TABLE_MAIN`, rtnetlink(7)).
pub const DEFAULT_PUBLISH_TABLE: u32 = 254;

/// The configuration of one gateway. Equality ignores the provenance.
#[derive(Debug, Clone)]
pub struct Config {
    pub gateway: Gateway,
    pub dataplane: DataplaneSettings,
    /// `None`: no listener for Prometheus.
    pub metrics: Option<Metrics>,
    /// `None`: no routes are learned.
    pub learn: Option<Learn>,
    pub vpc: Option<Vpc>,
    /// Interfaces on which encrypted packets arrive, by name.
    pub underlays: BTreeMap<String, Underlay>,
    /// By name.
    pub segments: BTreeMap<String, Segment>,
    /// By name.
    pub customer_gateways: BTreeMap<String, CustomerGateway>,
    /// By name. Each tunnel of a connection with several is one for itself ([`super::tunnels`]).
    pub connections: BTreeMap<String, Connection>,
    /// Routes of the files in file order, then those of the store, oldest first; (destination, next hop) is unique.
    pub routes: Vec<Route>,
    /// In the same order; (source, destination, next hop) is unique.
    pub policy_routes: Vec<PolicyRoute>,
    /// Not part of the files: a command changes it.
    pub role: Role,
    /// Where each object is defined.
    pub provenance: Arc<Provenance>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            gateway,
            dataplane,
            metrics,
            learn,
            vpc,
            underlays,
            segments,
            customer_gateways,
            connections,
            routes,
            policy_routes,
            role,
            provenance: _,
        } = self;
        *gateway == other.gateway
            && *dataplane == other.dataplane
            && *metrics == other.metrics
            && *learn == other.learn
            && *vpc == other.vpc
            && *underlays == other.underlays
            && *segments == other.segments
            && *customer_gateways == other.customer_gateways
            && *connections == other.connections
            && *routes == other.routes
            && *policy_routes == other.policy_routes
            && *role == other.role
    }
}

impl Eq for Config {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub name: String,
    pub max_connections: usize,
    pub max_policy_routes: usize,
    /// `false` isolates the sites from each other.
    pub spoke_to_spoke: bool,
    pub allow_default_route: bool,
    /// Public address, as configured on the sites' devices.
    pub address: Option<IpAddr>,
    /// Control socket of the IKE daemon (strongSwan's charon).
    pub vici_socket: PathBuf,
    /// Services on the hub itself that sites may reach. Replies to the hub's own traffic are always allowed.
    pub services: BTreeSet<Service>,
    /// Role of an agent that starts after a boot, [`Role::Active`] or [`Role::Standby`].
    pub role_at_boot: Role,
}

/// A service on the hub that sites may reach. Written as `icmp`, `tcp/179`, `udp/53`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// ICMP and `ICMPv6`.
    Icmp,
    /// A port, at least 1.
    Tcp(u16),
    /// A port, at least 1.
    Udp(u16),
}

impl Service {
    /// The default services.
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

/// The text is not a valid service.
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
        // `u16::from_str` also accepts a sign.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|&port| digits && port != 0).ok_or(NoService)?;
        match protocol {
            "tcp" => Ok(Self::Tcp(port)),
            "udp" => Ok(Self::Udp(port)),
            _ => Err(NoService),
        }
    }
}

/// Settings of the kernel program. Only `on_stop` can change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneSettings {
    pub lookup: LookupKind,
    /// MiB limit of the compiled look-up.
    pub lookup_memory: u32,
    /// What happens to the datapath when the agent stops.
    pub on_stop: OnStop,
    /// Bits of `skb->mark` that show the kernel's rules which packets the program admitted.
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

/// What happens to the datapath when the agent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Forwarding and all checks continue.
    Keep,
    /// The datapath is removed.
    Detach,
}

/// Data structure for the look-up of routes and selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupKind {
    /// Compiled tables: the look-up time is nearly independent of the number of entries.
    Compiled,
    /// LPM tries of the kernel: less memory, more time.
    Lpm,
}

/// The listener for Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// The port is at least 1.
    pub listen: SocketAddr,
}

/// Routes of a routing daemon, which it writes to a kernel table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learn {
    /// The kernel table to follow.
    pub table: u32,
    /// Only their routes are learned.
    pub protocols: Vec<RouteProtocol>,
    /// Quota of learned routes of each connection.
    pub max_per_connection: usize,
}

impl Learn {
    /// What to follow in the kernel.
    pub fn followed(&self) -> FollowedTable {
        let protocols = self.protocols.iter().map(|protocol| protocol.0).collect();
        FollowedTable { table: self.table, protocols, most: self.max_per_connection }
    }
}

/// The cloud side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vpc {
    pub interface: String,
    pub cidrs: Vec<IpNet>,
    /// Kernel table for published routes.
    pub publish_table: u32,
}

/// An interface on which encrypted packets arrive: ESP, or UDP port 4500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    pub spread: Spread,
}

/// How packets of few receive queues are distributed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// By RPS, if there are fewer receive queues than CPUs. Queues that another program has set up are left alone.
    Auto,
    /// By RPS.
    Rps,
    /// By an XDP program: ESP in UDP, too.
    Xdp,
    /// Not by the agent.
    Off,
}

impl Spread {
    /// As in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rps => "rps",
            Self::Xdp => "xdp",
            Self::Off => "off",
        }
    }
}

/// A site's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerGateway {
    /// Where the device is.
    pub address: SiteAddress,
}

/// One IPsec connection to a customer gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub customer_gateway: String,
    /// Name of its segment; [`super::segments::DEFAULT`] if it names none.
    pub segment: String,
    /// `false` takes it down administratively: its traffic uses the other next hops of its routes.
    pub enabled: bool,
    /// Interface that carries the decrypted traffic; several connections may share one.
    pub interface: String,
    /// Link neighbour, for Ethernet-type interfaces.
    pub peer: Option<IpAddr>,
    /// Local prefixes of the SA selectors: the hub's side and the networks behind it.
    pub local_cidrs: Vec<IpNet>,
    /// Remote prefixes of the SA selectors: the site, by its own addresses.
    pub remote_cidrs: Vec<IpNet>,
    /// How the hub sees the site's own addresses, where it does not see them as they are.
    pub translate: Translations,
    pub health_check: Option<HealthCheck>,
    /// How long the connection must be healthy after a failure before it carries traffic again.
    pub up_delay: Duration,
    /// Its SAs, if the agent manages them.
    pub ipsec: Option<Ipsec>,
    /// Source of the selectors that packets are checked against.
    pub selectors: SelectorSource,
    /// Whether the reverse route to a packet's source must use this connection.
    pub reverse_path: ReversePath,
    pub mss_clamp: MssClamp,
    /// Weight among the tunnels of its connection, 0..=100, where 0 is standby; `None` if it is no tunnel of another one
    /// ([`super::tunnels`]).
    pub tunnel_weight: Option<u8>,
}

impl Connection {
    /// `remote_cidrs` as the hub sees them. Without translations in the order of `remote_cidrs`; otherwise as the fewest
    /// prefixes, sorted.
    pub fn remotes_at_hub(&self) -> Vec<IpNet> {
        if self.translate.is_empty() {
            return self.remote_cidrs.clone();
        }
        let at_hub = self.remote_cidrs.iter().flat_map(|remote| self.translate.prefixes_at_hub(*remote));
        IpNet::aggregate(&at_hub.collect())
    }
}

/// Reverse-path check of a connection's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReversePath {
    /// The connection must be a next hop of the longest matching route to the source, regardless of its weight or
    /// state.
    Strict,
    /// No check: for sites with asymmetric routing.
    Off,
}

/// Limit on the maximum segment size that a TCP SYN from or to a connection announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MssClamp {
    /// The MTU of the connection's interface less the headers.
    #[default]
    Auto,
    /// No limit from this connection.
    Off,
    /// This many bytes, IPv4 and IPv6. Within [`MssLimits::LOWEST`] and [`MssLimits::HIGHEST`].
    ///
    /// [`MssLimits::LOWEST`]: hub_common::maps::MssLimits::LOWEST
    /// [`MssLimits::HIGHEST`]: hub_common::maps::MssLimits::HIGHEST
    Bytes(u16),
}

/// Where a connection's selectors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectorSource {
    /// `local_cidrs` and `remote_cidrs`.
    File,
    /// The selectors that the IKE daemon has negotiated.
    Ike,
    /// The kernel's own policies and SAs, regardless of their creator.
    Xfrm,
}

/// A destination route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Route {
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Name of a connection, not of one of its tunnels.
    pub next_hop: String,
    /// 0..=100; 0 is standby.
    pub weight: u8,
    /// Whether it is also published to `publish_table`.
    pub publish: bool,
}

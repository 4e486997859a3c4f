//! The model's inputs: the hub's interfaces, its connections, its VPC side, its routes.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use super::Translations;

/// Everything that a verdict depends on.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub interfaces: Vec<Interface>,
    pub connections: Vec<Connection>,
    pub vpc: Option<Vpc>,
    pub routes: Vec<Route>,
    pub policy_routes: Vec<PolicyRoute>,
    /// Whether sites may reach each other.
    pub spoke_to_spoke: bool,
    pub segments: Vec<Segment>,
}

/// A network interface of the hub, attachment or not.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// Whether frames have an Ethernet header; otherwise they start with the IP header.
    pub ethernet: bool,
    /// XDP cannot send to it.
    pub tc_only: bool,
    pub mac: [u8; 6],
    /// Maximum size of an IP packet, in bytes.
    pub mtu: u32,
    pub up: bool,
    /// For an 802.1Q interface: index of its parent, and the VLAN.
    pub vlan: Option<(u32, u16)>,
    /// Own addresses with their prefix lengths, including host bits.
    pub addresses: Vec<IpNet>,
    /// Known link addresses.
    pub neighbours: BTreeMap<IpAddr, [u8; 6]>,
    /// Routers behind this interface, by the prefix that the kernel routes to them.
    pub gateways: Vec<(IpNet, IpAddr)>,
}

/// A site and its tunnel.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub name: String,
    /// Name of its segment; `None`: the default one.
    pub segment: Option<String>,
    /// Name of the attachment, which may not exist.
    pub interface: String,
    /// Of a tunnel of another connection, whose name is the part before `/`: its weight among these tunnels, 0..=100;
    /// 0 is standby.
    pub tunnel_weight: Option<u8>,
    /// The neighbour for all packets. Without one, on Ethernet, each destination is a neighbour.
    pub peer: Option<IpAddr>,
    /// Negotiated, healthy, and not disabled by an operator.
    pub up: bool,
    /// Prefixes of the site; each paired with each of `locals`.
    pub remotes: Vec<IpNet>,
    pub locals: Vec<IpNet>,
    /// The selectors of its SAs, if known; otherwise the prefixes above apply.
    pub agreement: Option<Agreement>,
    pub reverse_path: ReversePath,
    pub mss_clamp: MssClamp,
    /// `remotes` and `agreement` have the site's own addresses.
    pub translations: Translations,
}

/// The name of the connection that routes lead to.
pub fn connection_of(one: &Connection) -> &str {
    match one.tunnel_weight {
        Some(_) => one.name.split('/').next().expect("there is a first part"),
        None => &one.name,
    }
}

/// A group of connections.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    pub name: String,
    /// `vpc`, `default` and names of segments.
    pub reaches: Vec<String>,
}

/// Limit on the MSS of SYNs from and to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MssClamp {
    /// By the MTU of its interface.
    #[default]
    Auto,
    Off,
    Bytes(u16),
}

/// Whether a site's sources must be routed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReversePath {
    #[default]
    Strict,
    Off,
}

/// The selectors of a connection's SAs.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    /// Empty: there is no SA.
    pub pairs: Vec<Pair>,
    /// Whether a packet to the site may trigger another negotiation.
    pub on_demand: bool,
}

/// The selectors of one SA.
#[derive(Debug, Clone)]
pub struct Pair {
    pub remote: IpNet,
    pub local: IpNet,
    /// `None`: any protocol.
    pub protocol: Option<u8>,
    /// Ports of the site's side and of the hub's. For ICMP: type and code, as one number.
    pub remote_ports: RangeInclusive<u16>,
    pub local_ports: RangeInclusive<u16>,
}

/// The cloud side.
#[derive(Debug, Clone, Default)]
pub struct Vpc {
    pub interface: String,
    pub cidrs: Vec<IpNet>,
}

/// A destination route.
#[derive(Debug, Clone)]
pub struct Route {
    pub destination: IpNet,
    /// Name of a connection.
    pub next_hop: String,
    /// 0..=100; 0 is standby.
    pub weight: u8,
}

/// A policy route.
#[derive(Debug, Clone)]
pub struct PolicyRoute {
    pub source: IpNet,
    pub destination: IpNet,
    /// Name of a connection.
    pub next_hop: String,
    /// 1..=100; the smallest comes first.
    pub priority: u8,
    /// 0..=100; 0 is standby.
    pub weight: u8,
}

impl World {
    pub(super) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The tunnels of a connection, by name; or the connection itself, if it has none.
    pub(super) fn tunnels(&self, name: &str) -> Vec<&Connection> {
        let mut tunnels: Vec<_> = self.connections.iter().filter(|one| connection_of(one) == name).collect();
        tunnels.sort_by_key(|tunnel| &tunnel.name);
        tunnels
    }

    pub(super) fn connection(&self, name: &str) -> &Connection {
        self.connections.iter().find(|connection| connection.name == name).expect("routes lead to connections")
    }

    /// Connections whose traffic arrives on an interface, by name.
    pub(super) fn carried_by(&self, interface: &Interface) -> Vec<&Connection> {
        let mut carried: Vec<_> =
            self.connections.iter().filter(|connection| connection.interface == interface.name).collect();
        carried.sort_by_key(|connection| &connection.name);
        carried
    }
}

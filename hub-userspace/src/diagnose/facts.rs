//! What a diagnosis is made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use crate::{
    api_types::status::{FullStatus, WithoutAgent},
    config::{Config, Diagnostic, ipsec::Invalid},
    kernel::netlink::{ForeignRule, Link, XdpFeatures},
};

/// All facts.
#[derive(Debug, Default)]
pub struct Facts {
    /// `None`: no agent answers.
    pub status: Option<FullStatus>,
    /// Why no agent answers, in a sentence.
    pub no_agent: Option<String>,
    pub datapath: DatapathFacts,
    /// The configuration in force.
    pub config: Option<ConfigFacts>,
    pub host: HostFacts,
    /// `None` without traffic, or on a host with one CPU.
    pub cpu_load: Option<CpuLoad>,
    /// Replies to probes that do not arrive as they should. Only looked for if probes were lost.
    pub stray_replies: BTreeSet<StrayReply>,
    /// Checks that could not be made, with the reason.
    pub unchecked: Vec<String>,
}

/// What the CPUs process while the diagnosis is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuLoad {
    /// Packets that the program processes, by number of the CPU.
    pub packets_per_second: BTreeMap<u32, u64>,
}

/// A reply to a probe that its check does not accept, or that the program drops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StrayReply {
    /// The connection of the check.
    pub connection: String,
    pub source: IpAddr,
    /// The probe's source.
    pub destination: IpAddr,
    /// The interface that it came in by.
    pub interface: String,
    /// The reason for which the program has dropped it; `None` if it left it to the kernel.
    pub dropped: Option<String>,
}

/// The datapath in the kernel.
#[derive(Debug, Default)]
pub enum DatapathFacts {
    /// Not read: an agent answers, or this user may not.
    #[default]
    Unknown,
    Missing,
    Running(WithoutAgent),
}

/// The configuration in force.
#[derive(Debug)]
pub struct ConfigFacts {
    pub config: Config,
    /// Warnings of its validation. Their lines are those of `vpnhub config show`.
    pub warnings: Vec<Diagnostic>,
    /// By connection and file.
    pub certificates: BTreeMap<(String, PathBuf), CertificateFacts>,
    /// `None` without a connection that needs strongSwan.
    pub ike: Option<IkeFacts>,
}

/// The certificates in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFacts {
    /// Valid for at least 30 days.
    Valid,
    Invalid(Invalid),
    /// Why the file cannot be read.
    Missing(String),
    /// This user may not read it.
    Denied,
}

/// Whether strongSwan listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IkeFacts {
    Listens,
    /// Why its socket cannot be used.
    Silent(String),
    /// This user may not use its socket.
    Unknown,
}

/// The host. `None` if unknown.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// As `uname -r`.
    pub kernel: Option<String>,
    /// `net.core.bpf_jit_enable`, which only the initial network namespace shows.
    pub jit: Option<u32>,
    /// The kernel describes its types.
    pub has_btf: bool,
    /// Types of programs and maps that the datapath needs and that the kernel lacks; `None`: only root may try.
    pub missing_bpf: Option<Vec<&'static str>>,
    /// The kernel's clock is synchronized (`adjtimex(2)`).
    pub is_synchronized: Option<bool>,
    pub memory: Option<MemoryFacts>,
    /// `None`: the agent runs in another network namespace than this process.
    pub network: Option<NetworkFacts>,
}

/// In KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryFacts {
    pub total: u64,
    pub available: u64,
}

/// The agent's network namespace.
#[derive(Debug, Clone, Default)]
pub struct NetworkFacts {
    /// `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`.
    pub forwarding: [Option<bool>; 2],
    /// Of IPv4 and IPv6. The kernel has one of each for all network namespaces, and shows it in the initial one.
    pub neighbours: [Option<NeighbourFacts>; 2],
    /// Rules that are neither the kernel's nor the agent's.
    pub rules: Vec<ForeignRule>,
    /// Whether there are rules of the agent: it needs them for policy routes.
    pub has_own_rules: bool,
    /// Whether the table `inet vpnhub` exists; `None` without the permission to read it.
    pub has_table: Option<bool>,
    /// Interfaces of connections, of the VPC and of underlays, by name.
    pub interfaces: BTreeMap<String, InterfaceFacts>,
    /// By name of the connection or tunnel.
    pub paths: BTreeMap<String, PathFacts>,
    /// Number of online CPUs.
    pub cpus: Option<usize>,
}

/// The neighbour table of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourFacts {
    pub entries: u64,
    /// `gc_thresh3`.
    pub limit: u64,
}

/// An existing interface.
#[derive(Debug, Clone, Default)]
pub struct InterfaceFacts {
    pub link: Link,
    /// The larger one of `rp_filter` of `all` and of the interface, which is in force (ip-sysctl.rst).
    pub rp_filter: u32,
    /// Settings that the agent disables, and that are on: name and value.
    pub enabled_settings: Vec<(String, String)>,
    /// A device with a driver, not a virtual interface.
    pub is_hardware: bool,
    /// Receive and transmit queues in use, if known.
    pub queues: Option<[usize; 2]>,
    /// The driver's name, of a device.
    pub driver: Option<String>,
    /// `None` before Linux 6.3.
    pub xdp_features: Option<XdpFeatures>,
    /// Names of the offloads in force, as `ethtool -k` shows the kernel's.
    pub offloads: Option<BTreeSet<String>>,
    /// The VLAN interfaces above it.
    pub vlans: Vec<String>,
    /// Of a veth interface.
    pub other_end: Option<OtherEndFacts>,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherEndFacts {
    /// `None`: it is in another network namespace.
    pub name: Option<String>,
    /// It has GRO or native XDP, so that it takes frames from XDP; `None` if unknown.
    pub has_napi: Option<bool>,
}

/// The paths of a connection's packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathFacts {
    /// Of its encrypted packets, to the site's public address.
    pub outside: Option<PathMtu>,
    /// Of packets in the tunnel, to a destination of its health check.
    pub inside: Option<PathMtu>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtu {
    pub destination: IpAddr,
    /// The interface by which packets leave.
    pub interface: String,
    /// Its MTU.
    pub link: u32,
    /// A smaller MTU that the kernel knows: of a router's "fragmentation needed", or of the route.
    pub known: Option<u32>,
}

//! Output of `vpnhub status` and the control socket. The JSON is a contract: fields may be added, never changed.

mod cpus;
mod health;
mod outside;
mod routes;
mod tunnels;
pub mod warning;
mod without_agent;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use hub_common::Reason;
use serde::{Deserialize, Serialize};

pub use self::{
    cpus::{CpuStatus, InterruptStatus, InterruptsOfCpu, PacketsOfCpu, QueueStatus, ReceiveStatus},
    health::{Health, HealthTarget},
    outside::OutsideStatus,
    routes::{LearnedStatus, PolicyRouteStatus, RouteStatus},
    without_agent::{RunningConnectionStatus, RunningInterfaceStatus, WithoutAgent},
};
use crate::{
    config::{Confirmation, Origin, Role, SetAside},
    connection::state::State,
    datapath::Counters,
    ipsec::{
        effective::MOST_PAIRS,
        vici::{fault::Fault, selector::TrafficSelector, table::Tunnel},
    },
    kernel::netlink::GuardCounters,
    policy::selectors::Pair,
    store::WriteState,
};

/// Counts by name of the [`Reason`], including zeros. The names are not copied: a status has some twenty for each
/// connection.
pub type Reasons = BTreeMap<Cow<'static, str>, u64>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    pub gateway: GatewayStatus,
    pub vpc: Option<VpcStatus>,
    /// Interfaces on which encrypted packets arrive, ordered by name.
    #[serde(default)]
    pub underlays: Vec<UnderlayStatus>,
    /// Online CPUs, and others with packets, ascending: the 64 with most packets.
    #[serde(default)]
    pub cpus: Vec<CpuStatus>,
    /// Number of CPUs that `cpus` omits.
    #[serde(default)]
    pub cpus_omitted: usize,
    /// Ordered by name; tunnels are below their connection.
    pub connections: Vec<ConnectionStatus>,
    /// Routes of the files in file order, then those of the store, oldest first, then the learned ones that carry
    /// traffic, by destination.
    pub routes: Vec<RouteStatus>,
    /// Those of the files in file order, then those of the store, oldest first.
    #[serde(default)]
    pub policy_routes: Vec<PolicyRouteStatus>,
    /// Objects of the store that are not in force, because they conflict with a file or an older object.
    #[serde(default)]
    pub set_aside: Vec<SetAside>,
    /// State of a reload that awaits confirmation, or was not confirmed.
    #[serde(default)]
    pub confirmation: Option<Confirmation>,
    /// Neighbours that the kernel does not have as desired, and why.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Of all connections, the VPC and unattributed packets.
    pub drops: Reasons,
    /// As `drops`: packets passed to the kernel.
    pub passes: Reasons,
    /// Packets that the nftables table has prevented the kernel from forwarding, delivering or sending, by counter.
    #[serde(default)]
    pub kernel_drops: Reasons,
    /// Of these, packets to a site from interfaces that belong to no site, by interface name.
    #[serde(default)]
    pub strangers: Reasons,
}

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FullStatus {
    #[serde(flatten)]
    pub status: Status,
    /// `None` from agents of earlier versions.
    #[serde(default)]
    pub store: Option<StoreStatus>,
    /// `None` without a listener for Prometheus.
    #[serde(default)]
    pub metrics: Option<MetricsStatus>,
}

/// The listener for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MetricsStatus {
    /// Address and port.
    pub listen: String,
    /// Why it does not listen there, and what to do.
    pub problem: Option<String>,
}

/// The store's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StoreStatus {
    pub path: String,
    /// Why changes are rejected, and how to fix it, as of the last change.
    pub problem: Option<String>,
}

impl From<&WriteState> for StoreStatus {
    fn from(state: &WriteState) -> Self {
        Self { path: state.file().display().to_string(), problem: state.problem() }
    }
}

/// Packets that the nftables table has dropped.
#[derive(Debug, Clone, Default)]
pub struct KernelDrops {
    pub drops: Reasons,
    pub strangers: Reasons,
}

impl From<GuardCounters> for KernelDrops {
    fn from(counters: GuardCounters) -> Self {
        let drops = [
            ("unmarked", counters.unmarked),
            ("no_route", counters.no_route),
            ("input_not_local", counters.input_not_local),
            ("input_no_service", counters.input_no_service),
            ("forward_from_site", counters.forward_from_site),
            ("forward_to_site", counters.forward_to_site),
            ("output", counters.output),
        ];
        let strangers = counters.strangers.into_iter().map(|(name, counter)| (Cow::Owned(name), counter.packets));
        let drops = drops.map(|(name, counter)| (Cow::Borrowed(name), counter.packets));
        Self { drops: drops.into_iter().collect(), strangers: strangers.collect() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GatewayStatus {
    pub name: String,
    /// Inode of the agent's network namespace (`/proc/PID/ns/net`).
    #[serde(default)]
    pub network_namespace: Option<u64>,
    /// Whether it publishes routes and has its tunnels.
    #[serde(default)]
    pub role: Role,
}

/// The VPC side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VpcStatus {
    pub interface: String,
    /// As [`ConnectionStatus::warnings`].
    #[serde(default)]
    pub warnings: Vec<String>,
    #[serde(flatten)]
    pub attachment: Attachment,
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Packets from it, by the CPU that processed them, without those counted by earlier versions of the program: the
    /// eight CPUs with most.
    #[serde(default)]
    pub cpu_packets: Vec<PacketsOfCpu>,
}

/// How received packets of few receive queues are distributed over the CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UnderlayStatus {
    pub interface: String,
    /// As configured: `auto`, `rps`, `xdp` or `off`.
    pub spread: String,
    /// `rps` if the kernel distributes the packets of every receive queue, `xdp-native` or `xdp-generic` if the agent's
    /// program does; at most a minute old.
    pub spread_in_force: Option<String>,
    /// Why it is not in force, not by the agent, or not natively.
    pub spread_reason: Option<String>,
    /// Why `xdp` would distribute packets that RPS does not, if so.
    #[serde(default)]
    pub spread_hint: Option<String>,
    /// Number of receive queues, if known.
    pub rx_queues: Option<usize>,
    /// Number of online CPUs, if known.
    pub cpus: Option<u32>,
    /// Queues and interrupts; `None` if unknown.
    #[serde(default)]
    pub receive: Option<ReceiveStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConnectionStatus {
    pub name: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// Its segment; empty from agents of earlier versions.
    #[serde(default)]
    pub segment: String,
    pub interface: String,
    pub state: State,
    /// Reason why it is not up, or degraded.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// Time in this state.
    #[serde(default)]
    pub state_seconds: f64,
    /// Conditions that may lose packets although the connection is up, each with a remedy.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Stable names of `warnings`, in the same order.
    #[serde(default)]
    pub warning_codes: Vec<String>,
    /// Number of state changes since the agent started.
    #[serde(default)]
    pub state_changes: u64,
    /// `None` without a health check.
    #[serde(default)]
    pub health: Option<Health>,
    /// `None` without IPsec.
    #[serde(default)]
    pub ipsec: Option<IpsecStatus>,
    /// `None` without `[learn]`.
    #[serde(default)]
    pub learned: Option<LearnedStatus>,
    #[serde(flatten)]
    pub attachment: Attachment,
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Packets from it, by the CPU that processed them, without those counted by earlier versions of the program: the
    /// eight CPUs with most.
    #[serde(default)]
    pub cpu_packets: Vec<PacketsOfCpu>,
    /// Its tunnels, ordered by name, each named `CONNECTION/TUNNEL`; empty if it has no `tunnels`. The connection has the
    /// sums of their counters, and the best of their states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<Self>,
    /// Of a tunnel: its weight among those of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_weight: Option<u8>,
}

impl ConnectionStatus {
    /// Its tunnels, or itself if it has none.
    pub fn members(&self) -> &[Self] {
        if self.tunnels.is_empty() { std::slice::from_ref(self) } else { &self.tunnels }
    }
}

/// A connection's tunnel, as reported by strongSwan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct IpsecStatus {
    /// State of the IKE SA, such as `ESTABLISHED`; `None` if there is none.
    pub ike: Option<String>,
    /// Child SAs that carry traffic.
    pub children: Vec<ChildStatus>,
    /// Selectors that the kernel program admits by them, such as `10.10.10.0/24[tcp/22] === 192.168.0.0/24[tcp]`: the
    /// site's side, then the hub's. `None` if the file's selectors are in force.
    #[serde(default)]
    pub selectors: Option<Vec<String>>,
    /// Parts of the SAs that the program does not admit, with the reason.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Error of the last attempt.
    pub fault: Option<String>,
    /// A stable name of that error, such as `ike_proposal`.
    #[serde(default)]
    pub fault_code: Option<String>,
    /// The error code of the cloud product's diagnosis for it, such as `AlgorithmMismatch`, if it has one.
    #[serde(default)]
    pub cloud_code: Option<String>,
    /// Selectors of the configuration that no SA admits.
    #[serde(default)]
    pub missing: Vec<MissingStatus>,
    /// The packets of the newest child SA, as they leave; `None` without one.
    #[serde(default)]
    pub outside: Option<OutsideStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MissingStatus {
    /// The site's side, then the hub's.
    pub selectors: String,
    /// Why, and what happens next.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ChildStatus {
    /// Hexadecimal.
    pub spi_in: String,
    pub spi_out: String,
    /// Some seconds old.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Age in seconds, some seconds old.
    pub seconds: u64,
    /// Negotiated traffic selectors: the hub's side, and the site's. Restrictions to a protocol and ports follow in
    /// brackets.
    pub local: Vec<String>,
    pub remote: Vec<String>,
    /// The same as pairs: the site's side, then the hub's. 4096 at most.
    #[serde(default)]
    pub selectors: Vec<String>,
    /// The CPU whose packets it carries, with `per_cpu_sas`; `None`: any.
    #[serde(default)]
    pub cpu: Option<u32>,
}

/// How the program is attached to an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attachment {
    /// `xdp-native`, `xdp-generic`, or `None` if it is not attached.
    pub attach: Option<String>,
    /// Why it is not attached natively, or not at all.
    #[serde(default)]
    pub attach_reason: Option<String>,
}

/// Packets and bytes (IP packet lengths) since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Traffic {
    /// Received from it and admitted by its selectors.
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Forwarded to it by the kernel program.
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Received from it and dropped.
    pub drops: Reasons,
    /// Received from it and passed to the kernel.
    pub passes: Reasons,
}

impl From<&Tunnel> for IpsecStatus {
    fn from(tunnel: &Tunnel) -> Self {
        let texts = |selectors: &[TrafficSelector]| selectors.iter().map(ToString::to_string).collect();
        let children = tunnel.children.iter().map(|child| ChildStatus {
            spi_in: child.spi_in.clone(),
            spi_out: child.spi_out.clone(),
            bytes_in: child.bytes_in,
            bytes_out: child.bytes_out,
            seconds: child.age,
            local: texts(&child.local),
            remote: texts(&child.remote),
            selectors: child.pairs().take(MOST_PAIRS).collect::<BTreeSet<_>>().iter().map(Pair::to_string).collect(),
            cpu: child.cpu,
        });
        Self {
            ike: tunnel.ike.clone(),
            children: children.collect(),
            selectors: None,
            problems: Vec::new(),
            fault: tunnel.fault.map(|fault| fault.to_string()),
            fault_code: tunnel.fault.map(|fault| fault.name().to_owned()),
            cloud_code: tunnel.fault.and_then(Fault::cloud_code).map(str::to_owned),
            missing: Vec::new(),
            outside: tunnel.children.last().map(|child| (&child.outside).into()),
        }
    }
}

impl From<&Counters> for Traffic {
    fn from(counters: &Counters) -> Self {
        Self {
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            drops: reasons(counters, true),
            passes: reasons(counters, false),
        }
    }
}

/// The counts of drops, or of passes, by name.
pub fn reasons(counters: &Counters, drops: bool) -> Reasons {
    let of_kind = Reason::ALL.into_iter().filter(|reason| reason.is_drop() == drops);
    of_kind.map(|reason| (Cow::Borrowed(reason.name()), counters.reasons[reason as usize])).collect()
}

#[cfg(test)]
mod tests;

//! What `vpnhub status` and the control socket show. The JSON is a contract: fields may be added, never changed.

use std::collections::BTreeMap;

use hub_common::Reason;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Confirmation, Origin, SetAside},
    connection::state::State,
    datapath::{self, Counters, Running},
    ipsec::vici::{selector::TrafficSelector, table::Tunnel},
    kernel::netlink::GuardCounters,
    policy::selectors::Pair,
    store::WriteState,
};

/// Counts by name of the [`Reason`], zeros included.
pub type Reasons = BTreeMap<String, u64>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    pub gateway: GatewayStatus,
    pub vpc: Option<VpcStatus>,
    /// In order of their names.
    pub connections: Vec<ConnectionStatus>,
    /// Those of the files in their order, then those of the store, oldest first.
    pub routes: Vec<RouteStatus>,
    /// Objects of the store that are not in force, because they conflict with a file or an older one.
    #[serde(default)]
    pub set_aside: Vec<SetAside>,
    /// Of a reload that is to be confirmed, or was not.
    #[serde(default)]
    pub confirmation: Option<Confirmation>,
    /// Of all connections, the VPC and what cannot be attributed.
    pub drops: Reasons,
    /// As `drops`: what was left to the kernel.
    pub passes: Reasons,
    /// What the nftables table has kept the kernel from forwarding, delivering or sending, by its counters.
    #[serde(default)]
    pub kernel_drops: Reasons,
    /// Of these: packets to a site from interfaces that are no site's, by the interface's name.
    #[serde(default)]
    pub strangers: Reasons,
}

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FullStatus {
    #[serde(flatten)]
    pub status: Status,
    /// An agent of an earlier version does not say.
    #[serde(default)]
    pub store: Option<StoreStatus>,
}

/// The store's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoreStatus {
    pub path: String,
    /// Why changes are refused, and what to do: as of the last change.
    pub problem: Option<String>,
}

impl From<&WriteState> for StoreStatus {
    fn from(state: &WriteState) -> Self {
        Self { path: state.file().display().to_string(), problem: state.problem() }
    }
}

/// What a datapath does that runs without an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WithoutAgent {
    /// Always `false`.
    pub agent: bool,
    pub interfaces: Vec<RunningInterfaceStatus>,
    /// In order of their names, with the counters that the next agent goes on with.
    pub connections: Vec<RunningConnectionStatus>,
    pub drops: Reasons,
    pub passes: Reasons,
}

/// An interface with the program on it; nameless where it is in another network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunningInterfaceStatus {
    pub name: Option<String>,
    pub attach: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunningConnectionStatus {
    pub name: String,
    #[serde(flatten)]
    pub traffic: Traffic,
}

impl From<Running> for WithoutAgent {
    fn from(running: Running) -> Self {
        let Running { interfaces, connections, vpc, unattributed } = running;
        let total = connections.values().map(|connection| connection.counters).sum::<Counters>() + vpc + unattributed;
        let of = |(name, connection): (String, datapath::RunningConnection)| RunningConnectionStatus {
            name,
            traffic: (&connection.counters).into(),
        };
        Self {
            agent: false,
            interfaces: (interfaces.into_iter())
                .map(|interface| RunningInterfaceStatus { name: interface.name, attach: interface.mode })
                .collect(),
            connections: connections.into_iter().map(of).collect(),
            drops: reasons(&total, true),
            passes: reasons(&total, false),
        }
    }
}

/// What the nftables table has dropped.
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
        let strangers = counters.strangers.into_iter().map(|(name, counter)| (name, counter.packets));
        let drops = drops.map(|(name, counter)| (name.to_owned(), counter.packets));
        Self { drops: drops.into_iter().collect(), strangers: strangers.collect() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GatewayStatus {
    pub name: String,
}

/// The VPC side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VpcStatus {
    pub interface: String,
    #[serde(flatten)]
    pub attachment: Attachment,
    #[serde(flatten)]
    pub traffic: Traffic,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConnectionStatus {
    pub name: String,
    #[serde(flatten)]
    pub origin: Origin,
    pub interface: String,
    pub state: State,
    /// Why it is not up.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// For how long it has been so.
    #[serde(default)]
    pub state_seconds: f64,
    /// How often its state changed since the agent started.
    #[serde(default)]
    pub state_changes: u64,
    /// Of a connection with a health check.
    #[serde(default)]
    pub health: Option<Health>,
    /// Of a connection with IPsec.
    #[serde(default)]
    pub ipsec: Option<IpsecStatus>,
    #[serde(flatten)]
    pub attachment: Attachment,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// A connection's tunnel, as strongSwan tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpsecStatus {
    /// State of the IKE SA, as `ESTABLISHED`; nothing where there is none.
    pub ike: Option<String>,
    /// Child SAs that carry traffic.
    pub children: Vec<ChildStatus>,
    /// What the kernel program admits by them, as `10.10.10.0/24[tcp/22] === 192.168.0.0/24[tcp]`: the site's side, and
    /// the hub's. Nothing where the file's selectors are in force.
    #[serde(default)]
    pub selectors: Option<Vec<String>>,
    /// What of that the program does not admit, and why.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What was in the way when it was tried last.
    pub fault: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChildStatus {
    /// Hexadecimal.
    pub spi_in: String,
    pub spi_out: String,
    /// As of some seconds ago.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Age, as of some seconds ago.
    pub seconds: u64,
    /// What was agreed on: the hub's side, and the site's. A protocol and ports, where it is for these alone, follow in
    /// brackets.
    pub local: Vec<String>,
    pub remote: Vec<String>,
    /// The same as pairs: the site's side, and the hub's.
    #[serde(default)]
    pub selectors: Vec<String>,
}

/// How a health check is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Health {
    pub healthy: bool,
    /// Probes that left.
    pub sent: u64,
    pub received: u64,
    /// Round trip of the last reply, seconds.
    pub round_trip: Option<f64>,
}

/// How the program is attached to an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attachment {
    /// `xdp-native`, `xdp-generic`, or nothing where it is not attached.
    pub attach: Option<String>,
    /// Why it is not native, or not at all.
    #[serde(default)]
    pub attach_reason: Option<String>,
}

/// Packets and bytes, the latter of IP packets, since the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traffic {
    /// Came in from it, its selectors admitting them.
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Forwarded to it by the kernel program.
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Came in from it and were dropped.
    pub drops: Reasons,
    /// Came in from it and were left to the kernel.
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
            selectors: child.pairs().iter().map(Pair::to_string).collect(),
        });
        let fault = tunnel.fault.map(|fault| fault.to_string());
        let children = children.collect();
        Self { ike: tunnel.ike.clone(), children, selectors: None, problems: Vec::new(), fault }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RouteStatus {
    #[cfg_attr(test, schemars(with = "String"))]
    pub destination: IpNet,
    pub next_hop: String,
    /// 0..=100.
    pub weight: u8,
    pub publish: bool,
    /// The part of the destination's flows that takes this route now, 0..=1.
    pub share: f64,
    /// `"origin"`: `"file"`, with `"file"` and `"line"`, or `"store"`.
    #[serde(flatten)]
    pub origin: Origin,
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
    of_kind.map(|reason| (reason.name().to_owned(), counters.reasons[reason as usize])).collect()
}

#[cfg(test)]
mod tests;

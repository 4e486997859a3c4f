//! Request and answer of `vpnhub trace`. The JSON is a contract: fields and values may be added, never changed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Origin;

/// The packet to trace: either `packet` or `frame`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The connection that it comes from, or [`THE_VPC`].
    #[serde(rename = "in")]
    pub ingress: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketRequest>,
    /// Bytes in hexadecimal, from the Ethernet header on, or from the IP header on where the interface has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// Whether `frame` begins with an Ethernet header. Default: as on the interface. The agent adds or removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethernet: Option<bool>,
}

/// Name of the VPC in a request; a connection of this name is preferred.
pub const THE_VPC: &str = "vpc";

/// A packet by its fields. The agent adds link header and checksums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PacketRequest {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IP protocol number. Default: 1 with IPv4, 58 with IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Default: 40000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Default: 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Bytes of the IP packet. Default: as few as its headers need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u16>,
    /// TTL or hop limit. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// The flags byte of the TCP header (RFC 9293 section 3.1). Default: 2, a SYN, which has an MSS of 1460.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<u8>,
}

/// What happens to the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Trace {
    pub ingress: TraceIngress,
    /// As it arrives.
    pub packet: TracePacket,
    /// As it leaves the program, unless it is dropped.
    pub after: Option<TracePacket>,
    /// The differences between both.
    pub changes: Vec<FieldChange>,
    /// The kernel programs that ran, in order.
    pub programs: Vec<ProgramRun>,
    /// All stages, in order.
    pub stages: Vec<TraceStage>,
    pub verdict: TraceVerdict,
    /// What the kernel does with a packet that the program passes.
    pub slow_path: Option<SlowPath>,
    /// Contradictions between the program's result and the explanation. The tables have changed meanwhile, or it is a
    /// bug: please report it.
    pub disagreements: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TraceIngress {
    /// As in the request.
    pub name: String,
    pub interface: String,
    pub ifindex: u32,
    /// Frames have an Ethernet header.
    pub ethernet: bool,
    /// As in the status: `xdp-native`, `xdp-generic` or `tc`.
    pub attach: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TracePacket {
    /// In one line.
    pub summary: String,
    /// The frame in hexadecimal.
    pub bytes: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FieldChange {
    /// Such as `ttl`, `source_mac`, `destination`, `mss`.
    pub field: String,
    pub before: String,
    pub after: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProgramRun {
    /// `xdp` or `tc`.
    pub hook: String,
    /// `pass`, `drop` or `redirect`.
    pub action: String,
}

/// A stage of the program: `parse`, `translate`, `selector`, `route`, `nexthop`, `rewrite` or `redirect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TraceStage {
    pub stage: String,
    pub outcome: StageOutcome,
    /// What it looked up, in order.
    pub lookups: Vec<TraceLookup>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageOutcome {
    /// The packet went on.
    Done,
    /// The packet ended here.
    Stopped,
    NotReached,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TraceLookup {
    /// Such as `source's selector` or `bucket`.
    pub what: String,
    /// What was looked up.
    pub key: String,
    /// What was found, in one sentence.
    pub found: String,
    /// Where the objects that answered are defined.
    pub origins: Vec<TraceOrigin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TraceOrigin {
    /// The object: a route's prefix and next hop, or a connection.
    pub object: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// The selectors are those of the connection's SAs, within the configured ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub negotiated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TraceVerdict {
    pub action: TraceAction,
    /// Name of the reason in counters and metrics, unless it is forwarded.
    pub reason: Option<String>,
    /// In one sentence.
    pub explanation: String,
    /// The stage where it ended.
    pub stage: String,
    /// The connection that it is counted for; [`THE_VPC`] for the VPC. `None`: unknown.
    pub connection: Option<String>,
    /// Where it is sent to, if it is forwarded.
    pub egress: Option<TraceEgress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceAction {
    /// Sent out of another attachment.
    Forward,
    /// Left to the kernel.
    Pass,
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TraceEgress {
    /// The connection; [`THE_VPC`] for the VPC.
    pub connection: String,
    pub interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SlowPath {
    /// `skb->mark` of the packet, in hexadecimal, the agent's bits.
    pub mark: String,
    /// What the kernel may do with it, in one sentence.
    pub meaning: String,
    /// The connection by which the kernel must send or answer it; [`THE_VPC`] for the VPC.
    pub next_hop: Option<String>,
}

/// What happens to the packets of a capture: `vpnhub trace --pcap`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CaptureTrace {
    /// Packets of the capture.
    pub packets: usize,
    /// Those of which the capture has only the first bytes; zeros replaced the others.
    pub truncated: usize,
    /// The most frequent first.
    pub verdicts: Vec<VerdictCount>,
    /// Packets that could not be traced.
    pub untraced: Vec<UntracedCount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VerdictCount {
    pub action: TraceAction,
    pub reason: Option<String>,
    /// Where the packets are sent to, if they are forwarded.
    pub egress: Option<TraceEgress>,
    pub packets: usize,
    /// Number of the first of them, counted from 1.
    pub first: usize,
    /// The first of them.
    pub example: Trace,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UntracedCount {
    /// Why, in one sentence.
    pub error: String,
    pub packets: usize,
    /// Number of the first of them, counted from 1.
    pub first: usize,
}

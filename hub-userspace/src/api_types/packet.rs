//! Packets for listeners on the control socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A line of the answer to `/v1/packets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum PacketLine {
    Packet(PacketEvent),
    LeftOut(LeftOut),
}

/// A packet that the program has dropped, passed or forwarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PacketEvent {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time: f64,
    pub verdict: PacketVerdict,
    /// Why it was dropped or passed; `None` for a forwarded packet.
    pub reason: Option<String>,
    /// The connection that sent it, or `vpc`; `None` if no connection has this packet.
    pub connection: Option<String>,
    /// The connection that it was forwarded to, or `vpc`.
    pub next_hop: Option<String>,
    /// The interface that it came in by; where it was forwarded, the one that it left by.
    pub interface: String,
    pub link: PacketLink,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// IP protocol; behind IPv6 extension headers the last that could be read.
    pub protocol: Option<u8>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// Bytes of the packet, with its link header.
    pub length: u32,
    /// Its first bytes, as hexadecimal digits.
    pub bytes: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PacketVerdict {
    Drop,
    /// Left to the kernel.
    Pass,
    Forward,
}

/// The start of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PacketLink {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Raw,
}

/// Packets that are missing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeftOut {
    pub left_out: u64,
    /// The reason of these packets, or `forward`.
    pub reason: String,
    pub cause: LeftOutCause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutCause {
    /// The program records no more of this reason in that time.
    RateLimit,
    /// This client does not read fast enough.
    SlowReader,
}

//! Reads the headers of a frame like the program's first stage, for the explanation. Never decides anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hub_common::flow;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
const DCCP: u8 = 33;
const FRAGMENT_HEADER: u8 = 44;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// More-fragments flag and fragment offset (RFC 791).
const FRAGMENT: u16 = 0x3fff;
/// Tags that the program parses.
const MAX_TAGS: usize = 2;

/// A frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// Destination and source of the Ethernet header.
    pub macs: Option<([u8; 6], [u8; 6])>,
    /// VLAN ids of its tags.
    pub tags: Vec<u16>,
    /// The last `EtherType`; `None` without a complete link header.
    pub ether_type: Option<u16>,
    /// The IP packet, if it is a complete one.
    pub ip: Option<Ip>,
    /// `skb->protocol` of a packet without link header, if it does not follow from the packet.
    pub taken_for: Option<u16>,
}

/// An IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Bytes, by its own header.
    pub length: usize,
    pub hop_limit: u8,
    /// Protocol, or the fixed header's next header.
    pub protocol: u8,
    /// It has options that a router must process.
    pub has_options: bool,
    pub is_fragment: bool,
    /// Offset of the transport header in the IP packet, without IPv6 extension headers.
    header: usize,
    /// The first bytes behind the header.
    transport: Vec<u8>,
}

/// The fields that limits of selectors are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    pub protocol: u8,
    /// Source and destination; for ICMP, type and code twice.
    pub ports: Option<(u16, u16)>,
}

impl Frame {
    pub fn parse(frame: &[u8], is_ethernet: bool) -> Self {
        if !is_ethernet {
            return Self { ip: Ip::parse(frame), ..Self::default() };
        }
        let Some(header) = frame.first_chunk::<ETHERNET>() else { return Self::default() };
        let mac = |from: usize| [0, 1, 2, 3, 4, 5].map(|byte| header[from + byte]);
        let mut parsed = Self { macs: Some((mac(0), mac(6))), ..Self::default() };
        let mut ether_type = u16::from_be_bytes([header[12], header[13]]);
        let mut rest = &frame[ETHERNET..];
        while parsed.tags.len() < MAX_TAGS && matches!(ether_type, 0x8100 | 0x88a8) {
            let Some((tag, behind)) = rest.split_first_chunk::<4>() else { return parsed };
            parsed.tags.push(u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff);
            ether_type = u16::from_be_bytes([tag[2], tag[3]]);
            rest = behind;
        }
        parsed.ether_type = Some(ether_type);
        let version = rest.first().map(|byte| byte >> 4);
        if matches!((ether_type, version), (IPV4, Some(4)) | (IPV6, Some(6))) {
            parsed.ip = Ip::parse(rest);
        }
        parsed
    }

    /// Whether the kernel takes it for what its headers say.
    pub fn is_taken_right(&self) -> bool {
        let by_version = |ip: &Ip| if ip.source.is_ipv4() { IPV4 } else { IPV6 };
        self.taken_for.is_none_or(|protocol| self.ip.as_ref().map(by_version) == Some(protocol))
    }

    /// In one line.
    pub fn summary(&self) -> String {
        match (&self.ip, self.ether_type) {
            (Some(ip), _) => {
                let tags: Vec<String> = self.tags.iter().map(|id| format!("VLAN {id}, ")).collect();
                format!("{}{}", tags.concat(), ip.summary())
            }
            (None, Some(IPV4 | IPV6)) => "malformed IP packet".to_owned(),
            (None, Some(other)) => format!("EtherType {other:#06x}"),
            (None, None) => "no IP packet".to_owned(),
        }
    }
}

impl Ip {
    fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::v4(packet),
            6 => Self::v6(packet),
            _ => None,
        }
    }

    fn v4(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<20>()?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header < 20 || length < header || packet.len() < length {
            return None;
        }
        let address = |from: usize| Ipv4Addr::from([0, 1, 2, 3].map(|byte| fixed[from + byte])).into();
        Some(Self {
            source: address(12),
            destination: address(16),
            length,
            hop_limit: fixed[8],
            protocol: fixed[9],
            has_options: header > 20,
            is_fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & FRAGMENT != 0,
            header,
            transport: packet[header..length].iter().copied().take(64).collect(),
        })
    }

    fn v6(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<40>()?;
        let length = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        // A jumbogram, or malformed.
        if (length == 40 && fixed[6] == 0) || packet.len() < length {
            return None;
        }
        let address = |from: usize| {
            let bytes: [u8; 16] = std::array::from_fn(|byte| fixed[from + byte]);
            Ipv6Addr::from(bytes).into()
        };
        Some(Self {
            source: address(8),
            destination: address(24),
            length,
            hop_limit: fixed[7],
            protocol: fixed[6],
            has_options: fixed[6] == 0,
            is_fragment: fixed[6] == FRAGMENT_HEADER,
            header: 40,
            transport: packet[40..length].iter().copied().take(64).collect(),
        })
    }

    fn word(&self, at: usize) -> Option<u16> {
        let bytes = self.transport.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Source and destination port, 0 without.
    fn ports(&self) -> u32 {
        let has_ports = matches!(self.protocol, TCP | UDP | DCCP | SCTP | UDP_LITE) && !self.is_fragment;
        match (has_ports, self.word(0), self.word(2)) {
            (true, Some(source), Some(destination)) => u32::from(source) << 16 | u32::from(destination),
            _ => 0,
        }
    }

    /// The flow hash, with the source by which the hub knows it.
    pub fn flow_hash(&self, source: IpAddr) -> u32 {
        let halves = |address: Ipv6Addr| [(address.to_bits() >> 64) as u64, address.to_bits() as u64];
        match (source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                flow::hash_v4(source.to_bits(), destination.to_bits(), self.protocol, self.ports())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                flow::hash_v6(halves(source), halves(destination), self.protocol, self.ports())
            }
            _ => unreachable!("both are of the packet's version"),
        }
    }

    pub fn transport(&self) -> Transport {
        let message = || {
            let number = self.word(0)?;
            Some((number, number))
        };
        let ports = match self.ports() {
            0 => None,
            ports => Some(((ports >> 16) as u16, ports as u16)),
        };
        match (self.source, self.protocol) {
            (IpAddr::V4(_), ICMP) if !self.is_fragment => Transport { protocol: ICMP, ports: message() },
            (IpAddr::V6(_), ICMPV6) => Transport { protocol: ICMPV6, ports: message() },
            (IpAddr::V6(_), FRAGMENT_HEADER) => {
                Transport { protocol: self.transport.first().copied().unwrap_or(FRAGMENT_HEADER), ports }
            }
            _ => Transport { protocol: self.protocol, ports },
        }
    }

    /// The flags of a TCP header.
    pub fn tcp_flags(&self) -> Option<u8> {
        if self.protocol != TCP || self.is_fragment { None } else { self.transport.get(13).copied() }
    }

    /// The MSS option of a SYN.
    pub fn mss(&self) -> Option<u16> {
        self.tcp_flags().filter(|flags| flags & 2 != 0)?;
        let end = usize::from(self.transport.get(12)? >> 4) * 4;
        let mut at = 20;
        while at < end {
            match (self.transport.get(at)?, self.transport.get(at + 1)) {
                (0, _) => return None,
                (1, _) => at += 1,
                (2, Some(4)) => return self.word(at + 2),
                (_, Some(length)) if *length >= 2 => at += usize::from(*length),
                _ => return None,
            }
        }
        None
    }

    fn summary(&self) -> String {
        let Self { source, destination, length, hop_limit, .. } = self;
        let Transport { protocol, ports } = self.transport();
        let protocol = match protocol {
            TCP => "tcp".to_owned(),
            UDP => "udp".to_owned(),
            ICMP => "icmp".to_owned(),
            ICMPV6 => "icmpv6".to_owned(),
            other => format!("protocol {other}"),
        };
        let fragment = if self.is_fragment { ", fragment" } else { "" };
        let flags = self.tcp_flags().map(flags).unwrap_or_default();
        let mss = self.mss().map(|mss| format!(", mss {mss}")).unwrap_or_default();
        let (from, to) = match ports {
            Some((from, to)) if self.ports() != 0 => (format!(" port {from}"), format!(" port {to}")),
            _ => Default::default(),
        };
        let kind = match ports {
            Some((number, _)) if self.ports() == 0 => format!(" type {} code {}", number >> 8, number & 0xff),
            _ => String::new(),
        };
        format!(
            "{source}{from} > {destination}{to}, {protocol}{kind}{flags}{mss}{fragment}, {length} bytes, ttl {hop_limit}"
        )
    }
}

/// Names of the bits of a TCP header's flags byte, from the lowest on.
pub const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

fn flags(flags: u8) -> String {
    let names: Vec<&str> =
        FLAGS.into_iter().enumerate().filter(|(bit, _)| flags & 1 << bit != 0).map(|(_, name)| name).collect();
    if names.is_empty() { String::new() } else { format!(" {}", names.join(",")) }
}

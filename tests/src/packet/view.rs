//! Reads back a packet that was sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::number::{
    AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, IPV4, IPV6, ROUTING, SERVICE_VLAN, TCP,
    UDP, VLAN,
};
use crate::lab::Mac;

/// The fields of an IP packet in an Ethernet frame, or of a raw one. All numbers are in host byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// Source and destination of the Ethernet header, if there is one.
    pub macs: Option<(Mac, Mac)>,
    /// Tag protocol and control information, outermost first.
    pub tags: Vec<(u16, u16)>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// IPv4's identification.
    pub identification: Option<u16>,
    /// IPv4's DF.
    pub dont_fragment: bool,
    /// A fragment: the first or another.
    pub fragment: bool,
    /// An unfragmented packet or the first fragment: it begins with a transport header.
    pub first: bool,
    /// The protocol behind all extension headers.
    pub protocol: u8,
    /// The IP packet, cut to its own length without padding.
    pub packet: &'a [u8],
    /// The bytes after the IP headers.
    pub transport: &'a [u8],
}

impl<'a> View<'a> {
    /// # Errors
    /// Why the frame is not a complete IP packet.
    pub fn ethernet(frame: &'a [u8]) -> Result<Self, String> {
        let header: &[u8; 12] = frame.first_chunk().ok_or("shorter than an Ethernet header")?;
        let (destination, source) = header.split_at(6);
        let mac = |bytes: &[u8]| Mac(bytes.try_into().expect("six bytes"));
        let macs = Some((mac(source), mac(destination)));
        let mut tags = Vec::new();
        let mut at = 12;
        loop {
            let ether_type = number16(frame, at)?;
            at += 2;
            match ether_type {
                VLAN | SERVICE_VLAN => tags.push((ether_type, number16(frame, at)?)),
                IPV4 | IPV6 => {
                    let view = Self::ip(&frame[at..])?;
                    if view.source.is_ipv4() != (ether_type == IPV4) {
                        return Err(format!("EtherType {ether_type:#06x} before another IP version"));
                    }
                    return Ok(Self { macs, tags, ..view });
                }
                other => return Err(format!("EtherType {other:#06x} is not IP")),
            }
            at += 2;
        }
    }

    /// A raw IP packet, with or without padding behind it.
    ///
    /// # Errors
    /// Why it is not a complete IP packet.
    pub fn ip(bytes: &'a [u8]) -> Result<Self, String> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::ipv4(bytes),
            Some(6) => Self::ipv6(bytes),
            Some(version) => Err(format!("IP version {version}")),
            None => Err("no IP packet".into()),
        }
    }

    /// Source and destination ports of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = self.first && matches!(self.protocol, TCP | UDP);
        let ports: &[u8; 4] = has_ports.then(|| self.transport.first_chunk())??;
        Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
    }

    /// The maximum segment size that a TCP segment announces, in bytes.
    pub fn mss(&self) -> Option<u16> {
        let size = self.tcp_header_size()?;
        let mut options = self.transport.get(20..size)?;
        while let [kind, rest @ ..] = options {
            options = match (kind, rest) {
                (0, _) => return None,
                (1, _) => rest,
                (2, [4, high, low, ..]) => return Some(u16::from_be_bytes([*high, *low])),
                (_, [length, ..]) => options.get(usize::from(*length).max(2)..)?,
                (_, []) => return None,
            };
        }
        None
    }

    /// The bytes after the transport header of TCP, UDP, ICMP and `ICMPv6`; for other protocols, after the IP headers.
    pub fn payload(&self) -> &'a [u8] {
        let header = match self.protocol {
            _ if !self.first => 0,
            TCP => self.tcp_header_size().unwrap_or(usize::MAX),
            UDP | ICMP | ICMPV6 => 8,
            _ => 0,
        };
        self.transport.get(header..).unwrap_or_default()
    }

    /// Type and code of ICMP or `ICMPv6`.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let is = self.first
            && match self.source {
                IpAddr::V4(_) => self.protocol == ICMP,
                IpAddr::V6(_) => self.protocol == ICMPV6,
            };
        is.then(|| Some((*self.transport.first()?, *self.transport.get(1)?)))?
    }

    /// The MTU that an ICMP "fragmentation needed" or an `ICMPv6` "packet too big" reports, in bytes.
    pub fn reported_mtu(&self) -> Option<u32> {
        let bytes: [u8; 4] = self.transport.get(4..8)?.try_into().ok()?;
        match (self.source, self.icmp()?) {
            // RFC 1191 section 4: the low half.
            (IpAddr::V4(_), (3, 4)) => Some(u32::from_be_bytes(bytes) & 0xffff),
            (IpAddr::V6(_), (2, 0)) => Some(u32::from_be_bytes(bytes)),
            _ => None,
        }
    }

    pub(super) fn ipv4_header(&self) -> Option<&'a [u8]> {
        self.source.is_ipv4().then(|| &self.packet[..self.packet.len() - self.transport.len()])
    }

    fn tcp_header_size(&self) -> Option<usize> {
        let is = self.protocol == TCP && self.first;
        is.then(|| self.transport.get(12).map(|byte| usize::from(byte >> 4) * 4))?
    }

    fn ipv4(bytes: &'a [u8]) -> Result<Self, String> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or("shorter than an IPv4 header")?;
        let size = usize::from(header[0] & 0xf) * 4;
        let length = usize::from(number16(header, 2)?);
        if size < 20 || length < size || bytes.len() < length {
            return Err(format!("IPv4 header of {size} bytes, total length {length}, but {} are there", bytes.len()));
        }
        let fragment = number16(header, 6)?;
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Ok(Self {
            macs: None,
            tags: Vec::new(),
            source: address(12).into(),
            destination: address(16).into(),
            hops: header[8],
            traffic_class: header[1],
            identification: Some(number16(header, 4)?),
            dont_fragment: fragment & 0x4000 != 0,
            fragment: fragment & 0x3fff != 0,
            first: fragment << 3 == 0,
            protocol: header[9],
            packet: &bytes[..length],
            transport: &bytes[size..length],
        })
    }

    fn ipv6(bytes: &'a [u8]) -> Result<Self, String> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or("shorter than an IPv6 header")?;
        let length = 40 + usize::from(number16(header, 4)?);
        let packet =
            bytes.get(..length).ok_or_else(|| format!("IPv6 length {length}, but {} are there", bytes.len()))?;
        let address = |at: usize| Ipv6Addr::from(*header[at..].first_chunk::<16>().expect("16 bytes"));
        let mut view = Self {
            macs: None,
            tags: Vec::new(),
            source: address(8).into(),
            destination: address(24).into(),
            hops: header[7],
            traffic_class: number16(header, 0)?.to_be_bytes()[0] << 4 | header[1] >> 4,
            identification: None,
            dont_fragment: false,
            fragment: false,
            first: true,
            protocol: header[6],
            packet,
            transport: &packet[40..],
        };
        view.skip_extensions()?;
        Ok(view)
    }

    fn skip_extensions(&mut self) -> Result<(), String> {
        while self.first {
            let length = |unit: usize, more: usize| Ok((usize::from(byte(self.transport, 1)?) + more) * unit);
            let size: Result<usize, String> = match self.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => length(8, 1),
                AUTHENTICATION => length(4, 2),
                FRAGMENT => Ok(8),
                _ => return Ok(()),
            };
            let size = size?;
            if self.protocol == FRAGMENT {
                self.fragment = true;
                self.first = number16(self.transport, 2)? & 0xfff8 == 0;
            }
            self.protocol = byte(self.transport, 0)?;
            self.transport = self.transport.get(size..).ok_or("an extension header is cut off")?;
        }
        Ok(())
    }
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, String> {
    bytes.get(at).copied().ok_or_else(|| format!("cut off after {} bytes", bytes.len()))
}

fn number16(bytes: &[u8], at: usize) -> Result<u16, String> {
    Ok(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}

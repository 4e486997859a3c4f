//! The builder, which assembles a packet from the inside out.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::link::LinkHeader;
use super::literal::Literal;
use super::network::{Common, Ipv4, Ipv6};
use super::number::{ARP, NO_NEXT_HEADER};
use super::transport::Transport;
use crate::lab::Mac;

#[derive(Debug, Clone)]
pub(super) enum Network {
    V4(Ipv4),
    V6(Ipv6),
    /// No network header: the payload follows a link header with this `EtherType`.
    Other(u16),
}

/// A packet to be [built](Self::build). Methods may be called in any order, with two exceptions: call a transport
/// before its options, and VLAN tags and IPv6 extension headers in their order in the packet.
#[derive(Debug, Clone)]
pub struct Packet {
    pub(super) link: LinkHeader,
    pub(super) network: Network,
    pub(super) common: Common,
    pub(super) transport: Transport,
    pub(super) transport_checksum: Option<u16>,
    payload: Vec<u8>,
    padding: usize,
    cut: Option<usize>,
}

impl Packet {
    /// An IPv4 packet: source, destination; values or text.
    pub fn ipv4(source: impl Literal<Ipv4Addr>, destination: impl Literal<Ipv4Addr>) -> Self {
        Self::new(Network::V4(Ipv4 {
            source: source.value(),
            destination: destination.value(),
            identification: 0,
            dont_fragment: false,
            options: Vec::new(),
        }))
    }

    /// An IPv6 packet: source, destination; values or text.
    pub fn ipv6(source: impl Literal<Ipv6Addr>, destination: impl Literal<Ipv6Addr>) -> Self {
        Self::new(Network::V6(Ipv6 {
            source: source.value(),
            destination: destination.value(),
            flow_label: 0,
            extensions: Vec::new(),
        }))
    }

    /// A frame with neither: its payload follows the link header.
    pub fn other(ether_type: u16) -> Self {
        Self::new(Network::Other(ether_type))
    }

    /// An ARP request (RFC 826) for `target` from `sender`, broadcast.
    pub fn arp_request(
        sender_mac: impl Literal<Mac>,
        sender: impl Literal<Ipv4Addr>,
        target: impl Literal<Ipv4Addr>,
    ) -> Self {
        let mac = sender_mac.value();
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
        body.extend(mac.0);
        body.extend(sender.value().octets());
        body.extend([0; 6]);
        body.extend(target.value().octets());
        Self::other(ARP).bytes(body).ethernet(mac, [0xff; 6])
    }

    fn new(network: Network) -> Self {
        Self {
            link: LinkHeader::default(),
            network,
            common: Common::default(),
            transport: Transport::None,
            transport_checksum: None,
            payload: Vec::new(),
            padding: 0,
            cut: None,
        }
    }

    /// Sets the payload's length in bytes; each byte is its index modulo 256.
    #[must_use]
    pub fn payload(self, length: usize) -> Self {
        self.bytes((0..length).map(|i| i.to_le_bytes()[0]).collect::<Vec<_>>())
    }

    /// Sets the payload's bytes.
    #[must_use]
    pub fn bytes(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Adds zero bytes after the packet, not counted in its lengths: like Ethernet's padding of short frames.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// Truncates the result to this length in bytes, link header included.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.cut = Some(length);
        self
    }

    /// The bytes: a frame if it has an Ethernet header, else raw IP.
    pub fn build(&self) -> Vec<u8> {
        let body = self.transport.bytes(self.network.addresses(), &self.payload, self.transport_checksum);
        let protocol = self.common.protocol.or(self.transport.protocol()).unwrap_or(NO_NEXT_HEADER);
        let mut bytes = self.link.bytes(self.network.ether_type());
        bytes.extend(self.network.bytes(&self.common, protocol, body.len()));
        bytes.extend(body);
        bytes.resize(bytes.len() + self.padding, 0);
        if let Some(length) = self.cut {
            bytes.truncate(length);
        }
        bytes
    }
}

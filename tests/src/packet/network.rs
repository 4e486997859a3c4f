//! The network header: IPv4, IPv6 and its extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::build::{Network, Packet};
use super::checksum::internet_checksum;
use super::number::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, IPV4, IPV6, ROUTING};

#[derive(Debug, Clone)]
pub(super) struct Ipv4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub identification: u16,
    pub dont_fragment: bool,
    pub options: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) struct Ipv6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub flow_label: u32,
    /// Number and body after the next-header byte, in order.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

/// Fields that both versions have, and overrides for malformed packets.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub hops: u8,
    pub traffic_class: u8,
    /// Offset in units of 8 bytes, more fragments, identification.
    pub fragment: Option<(u16, bool, u32)>,
    pub version: Option<u8>,
    pub header_words: Option<u8>,
    pub length: Option<u16>,
    pub checksum: Option<u16>,
    pub protocol: Option<u8>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            hops: 64,
            traffic_class: 0,
            fragment: None,
            version: None,
            header_words: None,
            length: None,
            checksum: None,
            protocol: None,
        }
    }
}

impl Packet {
    /// TTL, or hop limit. 64 by default.
    #[must_use]
    pub fn ttl(mut self, hops: u8) -> Self {
        self.common.hops = hops;
        self
    }

    /// TOS, or traffic class.
    #[must_use]
    pub fn tos(mut self, class: u8) -> Self {
        self.common.traffic_class = class;
        self
    }

    /// IPv4 identification. 0 by default.
    #[must_use]
    pub fn identification(mut self, id: u16) -> Self {
        self.ipv4_mut("identification").identification = id;
        self
    }

    /// IPv4's DF.
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.ipv4_mut("DF").dont_fragment = true;
        self
    }

    /// IPv4 options, padded with zeroes (end of options) to a multiple of 4 bytes; 40 bytes at most.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        assert!(options.len() <= 40, "IPv4 options are 40 bytes at most");
        let header = self.ipv4_mut("options");
        header.options = options.to_vec();
        header.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Makes it a fragment: offset in units of 8 bytes, whether more fragments follow, and identification. For IPv6,
    /// the fragment header goes after the extension headers added so far.
    ///
    /// A transport header is complete, if present. Make fragments other than the first with
    /// [`protocol`](Self::protocol) and a payload instead.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool, identification: u32) -> Self {
        assert!(offset < 1 << 13, "a fragment's offset has 13 bits");
        match &mut self.network {
            Network::V6(header) => {
                let mut body = vec![0];
                body.extend((offset << 3 | u16::from(more)).to_be_bytes());
                body.extend(identification.to_be_bytes());
                header.extensions.push((FRAGMENT, body));
            }
            _ => self.common.fragment = Some((offset, more, identification)),
        }
        self
    }

    #[must_use]
    pub fn flow_label(mut self, label: u32) -> Self {
        assert!(label < 1 << 20, "a flow label has 20 bits");
        self.ipv6_mut("flow labels").flow_label = label;
        self
    }

    /// An IPv6 hop-by-hop options header with these options, padded to a multiple of 8 bytes.
    #[must_use]
    pub fn hop_by_hop(self, options: &[u8]) -> Self {
        self.extension(HOP_BY_HOP, options)
    }

    /// An IPv6 destination options header.
    #[must_use]
    pub fn destination_options(self, options: &[u8]) -> Self {
        self.extension(DESTINATION_OPTIONS, options)
    }

    /// An IPv6 routing header: routing type, segments left, data.
    #[must_use]
    pub fn routing(self, kind: u8, segments_left: u8, data: &[u8]) -> Self {
        self.extension(ROUTING, &[&[kind, segments_left], data].concat())
    }

    /// An IPv6 extension header of the usual form (next header, length, body), after those already there. The body is
    /// padded to a multiple of 8 bytes less 2, with options of padding (RFC 8200 section 4.2).
    #[must_use]
    pub fn extension(mut self, number: u8, content: &[u8]) -> Self {
        let mut body = vec![0];
        body.extend(content);
        match (body.len() + 1).next_multiple_of(8) - (body.len() + 1) {
            0 => {}
            1 => body.push(0),
            pad => {
                body.extend([1, u8::try_from(pad - 2).expect("less than 8")]);
                body.resize(body.len() + pad - 2, 0);
            }
        }
        body[0] = u8::try_from((body.len() + 1) / 8 - 1).expect("an extension header is 2048 bytes at most");
        self.ipv6_mut("extension headers").extensions.push((number, body));
        self
    }

    /// The version field, right or wrong.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.common.version = Some(version);
        self
    }

    /// IPv4's header length in 32-bit words, right or wrong.
    #[must_use]
    pub fn header_words(mut self, words: u8) -> Self {
        self.common.header_words = Some(words);
        self
    }

    /// IPv4's total length or IPv6's payload length in bytes, right or wrong.
    #[must_use]
    pub fn ip_length(mut self, length: u16) -> Self {
        self.common.length = Some(length);
        self
    }

    /// The IPv4 header checksum, right or wrong.
    #[must_use]
    pub fn ip_checksum(mut self, checksum: u16) -> Self {
        self.common.checksum = Some(checksum);
        self
    }

    /// The protocol, or the last next-header number. Default: the transport's, or 59 (no next header).
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.common.protocol = Some(protocol);
        self
    }

    fn ipv4_mut(&mut self, what: &str) -> &mut Ipv4 {
        match &mut self.network {
            Network::V4(header) => header,
            _ => panic!("only IPv4 has {what}"),
        }
    }

    fn ipv6_mut(&mut self, what: &str) -> &mut Ipv6 {
        match &mut self.network {
            Network::V6(header) => header,
            _ => panic!("only IPv6 has {what}"),
        }
    }
}

impl Network {
    pub fn ether_type(&self) -> u16 {
        match self {
            Self::V4(_) => IPV4,
            Self::V6(_) => IPV6,
            Self::Other(ether_type) => *ether_type,
        }
    }

    /// Source and destination.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match self {
            Self::V4(header) => Some((header.source.into(), header.destination.into())),
            Self::V6(header) => Some((header.source.into(), header.destination.into())),
            Self::Other(_) => None,
        }
    }

    /// The header, with extension headers, before `carried` bytes of `protocol`.
    pub fn bytes(&self, common: &Common, protocol: u8, carried: usize) -> Vec<u8> {
        match self {
            Self::V4(header) => header.bytes(common, protocol, carried),
            Self::V6(header) => header.bytes(common, protocol, carried),
            Self::Other(_) => Vec::new(),
        }
    }
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("an IP packet is 65535 bytes at most: set a length for longer ones")
}

impl Ipv4 {
    fn bytes(&self, common: &Common, protocol: u8, carried: usize) -> Vec<u8> {
        let size = 20 + self.options.len();
        let words = common.header_words.unwrap_or_else(|| u8::try_from(size / 4).expect("60 bytes at most"));
        let (offset, more, id) = common.fragment.unwrap_or((0, false, self.identification.into()));
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13;
        let mut bytes = vec![common.version.unwrap_or(4) << 4 | words & 0xf, common.traffic_class];
        bytes.extend(common.length.unwrap_or_else(|| length(size + carried)).to_be_bytes());
        // IPv4's identification is the low half.
        bytes.extend(&id.to_be_bytes()[2..]);
        bytes.extend((flags | offset).to_be_bytes());
        bytes.extend([common.hops, protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let checksum = common.checksum.unwrap_or_else(|| internet_checksum(&[&bytes]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Ipv6 {
    fn bytes(&self, common: &Common, protocol: u8, carried: usize) -> Vec<u8> {
        let extensions: usize = self.extensions.iter().map(|(_, body)| 1 + body.len()).sum();
        let first =
            u32::from(common.version.unwrap_or(6)) << 28 | u32::from(common.traffic_class) << 20 | self.flow_label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(common.length.unwrap_or_else(|| length(extensions + carried)).to_be_bytes());
        // Each header names the one after it.
        let mut next = self.extensions.iter().map(|(number, _)| *number).chain([protocol]);
        bytes.extend(next.next());
        bytes.push(common.hops);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        for (_, body) in &self.extensions {
            bytes.extend(next.next());
            bytes.extend(body);
        }
        bytes
    }
}

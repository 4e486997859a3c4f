//! The transport header: UDP, TCP, ICMP and `ICMPv6`.

use std::net::IpAddr;

use super::build::{Network, Packet};
use super::checksum::{internet_checksum, pseudo_header};
use super::number::{ICMP, ICMPV6, SYN, TCP, UDP};

#[derive(Debug, Clone)]
pub(super) enum Transport {
    /// Nothing: the payload follows the network header.
    None,
    Udp {
        ports: [u16; 2],
        length: Option<u16>,
    },
    Tcp {
        ports: [u16; 2],
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
        header_words: Option<u8>,
    },
    Icmp {
        protocol: u8,
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
}

impl Packet {
    /// UDP with these ports, source first.
    #[must_use]
    pub fn udp(mut self, source: u16, destination: u16) -> Self {
        self.transport = Transport::Udp { ports: [source, destination], length: None };
        self
    }

    /// UDP's length field, right or wrong.
    #[must_use]
    pub fn udp_length(mut self, bytes: u16) -> Self {
        match &mut self.transport {
            Transport::Udp { length, .. } => *length = Some(bytes),
            _ => panic!("udp_length() comes after udp()"),
        }
        self
    }

    /// TCP with these ports, source first; a SYN, with no options and a window of 65535 by default.
    #[must_use]
    pub fn tcp(mut self, source: u16, destination: u16) -> Self {
        self.transport = Transport::Tcp {
            ports: [source, destination],
            sequence: 1,
            acknowledgement: 0,
            flags: SYN,
            window: 65_535,
            options: Vec::new(),
            header_words: None,
        };
        self
    }

    /// TCP flags, such as `SYN | ACK` of [`number`](super::number).
    #[must_use]
    pub fn flags(mut self, set: u8) -> Self {
        match &mut self.transport {
            Transport::Tcp { flags, .. } => *flags = set,
            _ => panic!("flags() comes after tcp()"),
        }
        self
    }

    /// TCP sequence and acknowledgement numbers.
    #[must_use]
    pub fn sequence(mut self, of_this: u32, of_the_other: u32) -> Self {
        match &mut self.transport {
            Transport::Tcp { sequence, acknowledgement, .. } => (*sequence, *acknowledgement) = (of_this, of_the_other),
            _ => panic!("sequence() comes after tcp()"),
        }
        self
    }

    /// A TCP maximum segment size option (RFC 9293 section 3.7.1), after the options already there.
    #[must_use]
    pub fn mss(self, bytes: u16) -> Self {
        let [high, low] = bytes.to_be_bytes();
        self.tcp_options(&[2, 4, high, low])
    }

    /// TCP options, after those already there; all are padded with zeroes (end of options) to a multiple of 4 bytes.
    #[must_use]
    pub fn tcp_options(mut self, more: &[u8]) -> Self {
        match &mut self.transport {
            Transport::Tcp { options, .. } => options.extend(more),
            _ => panic!("TCP options come after tcp()"),
        }
        self
    }

    /// TCP's data offset in 32-bit words, right or wrong.
    #[must_use]
    pub fn data_offset(mut self, words: u8) -> Self {
        match &mut self.transport {
            Transport::Tcp { header_words, .. } => *header_words = Some(words),
            _ => panic!("data_offset() comes after tcp()"),
        }
        self
    }

    /// An ICMP message, or an `ICMPv6` one in an IPv6 packet: type, code and the four bytes after the checksum.
    #[must_use]
    pub fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        let protocol = if matches!(self.network, Network::V6(_)) { ICMPV6 } else { ICMP };
        self.transport = Transport::Icmp { protocol, kind, code, rest };
        self
    }

    /// An echo request (ping).
    #[must_use]
    pub fn echo(self, identifier: u16, sequence: u16) -> Self {
        let kind = if matches!(self.network, Network::V6(_)) { 128 } else { 8 };
        let [a, b] = identifier.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        self.icmp(kind, 0, [a, b, c, d])
    }

    /// The TCP, UDP, ICMP or `ICMPv6` checksum, right or wrong. 0 in UDP over IPv4 means none.
    #[must_use]
    pub fn transport_checksum(mut self, checksum: u16) -> Self {
        self.transport_checksum = Some(checksum);
        self
    }
}

impl Transport {
    pub fn protocol(&self) -> Option<u8> {
        match self {
            Self::None => None,
            Self::Udp { .. } => Some(UDP),
            Self::Tcp { .. } => Some(TCP),
            Self::Icmp { protocol, .. } => Some(*protocol),
        }
    }

    /// Header and payload.
    pub fn bytes(&self, addresses: Option<(IpAddr, IpAddr)>, payload: &[u8], checksum: Option<u16>) -> Vec<u8> {
        let (mut bytes, checksum_at) = self.header(payload.len());
        bytes.extend(payload);
        let Some(at) = checksum_at else { return bytes };
        let checksum = checksum.unwrap_or_else(|| {
            let protocol = self.protocol().expect("what has a checksum has a protocol");
            // Only ICMP covers no addresses.
            let pseudo = match addresses {
                Some((source, destination)) if protocol != ICMP => {
                    pseudo_header(source, destination, protocol, bytes.len())
                }
                _ => Vec::new(),
            };
            match internet_checksum(&[&pseudo, &bytes]) {
                // RFC 768: zero would mean no checksum.
                0 if protocol == UDP => 0xffff,
                sum => sum,
            }
        });
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// The header with a checksum of zero, and the checksum's offset.
    fn header(&self, payload: usize) -> (Vec<u8>, Option<usize>) {
        let mut bytes = Vec::new();
        match self {
            Self::None => (bytes, None),
            Self::Udp { ports, length } => {
                bytes.extend(ports.map(u16::to_be_bytes).concat());
                let right = || u16::try_from(8 + payload).expect("a UDP datagram is 65535 bytes at most");
                bytes.extend(length.unwrap_or_else(right).to_be_bytes());
                bytes.extend([0, 0]);
                (bytes, Some(6))
            }
            Self::Tcp { ports, sequence, acknowledgement, flags, window, options, header_words } => {
                let size = 20 + options.len().next_multiple_of(4);
                let words = header_words.unwrap_or_else(|| u8::try_from(size / 4).expect("60 bytes at most"));
                bytes.extend(ports.map(u16::to_be_bytes).concat());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([words << 4, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.resize(size, 0);
                (bytes, Some(16))
            }
            Self::Icmp { kind, code, rest, .. } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest);
                (bytes, Some(2))
            }
        }
    }
}

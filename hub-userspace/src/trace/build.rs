//! Builds a packet by its fields.

use std::net::IpAddr;

use super::packet::{ICMP, ICMPV6, TCP, UDP};
use crate::api_types::trace::PacketRequest;

const SYN: u8 = 2;
const MSS: u16 = 1460;

/// Why a packet cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("--src and --dst are of different IP versions: give two IPv4 or two IPv6 addresses")]
    Families,
    #[error("protocol {protocol} has no ports: leave out --sport and --dport, or give --proto tcp or udp")]
    Ports { protocol: u8 },
    #[error("only TCP has flags: leave out --tcp-flags, or give --proto tcp")]
    Flags,
    #[error("--len {length} is too short: the headers of this packet take {least} bytes")]
    Short { length: u16, least: u16 },
    #[error("--len {length} is too long for a test run in the kernel: give {MOST} at most")]
    Long { length: u16 },
}

/// Longest packet: a test run needs room for the headers within a page (`bpf_prog_test_run_skb`, `net/bpf/test_run.c`).
pub const MOST: u16 = 3000;

/// Builds the IP packet, with valid checksums.
pub fn build(request: &PacketRequest) -> Result<Vec<u8>, BuildError> {
    let PacketRequest { source, destination, .. } = *request;
    let protocol = request.protocol.unwrap_or(if source.is_ipv4() { ICMP } else { ICMPV6 });
    let has_ports = matches!(protocol, TCP | UDP);
    if !has_ports && (request.source_port.is_some() || request.destination_port.is_some()) {
        return Err(BuildError::Ports { protocol });
    }
    if protocol != TCP && request.tcp_flags.is_some() {
        return Err(BuildError::Flags);
    }
    let (mut header, addresses) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 0, protocol, 0, 0];
            let addresses = [source.octets(), destination.octets()].concat();
            header.extend(&addresses);
            (header, addresses)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 0];
            let addresses = [source.octets(), destination.octets()].concat();
            header.extend(&addresses);
            (header, addresses)
        }
        _ => return Err(BuildError::Families),
    };
    let mut transport = transport(request, protocol);
    let least = (header.len() + transport.len()) as u16;
    let length = request.length.unwrap_or(least);
    if length < least {
        return Err(BuildError::Short { length, least });
    }
    if length > MOST {
        return Err(BuildError::Long { length });
    }
    transport.resize(usize::from(length) - header.len(), 0);
    let ttl = request.ttl.unwrap_or(64);
    if source.is_ipv4() {
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[8] = ttl;
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum);
    } else {
        header[4..6].copy_from_slice(&(length - 40).to_be_bytes());
        header[7] = ttl;
    }
    if let Some((at, has_pseudo_header)) = checksum_of(protocol) {
        if protocol == UDP {
            let length = (transport.len() as u16).to_be_bytes();
            transport[4..6].copy_from_slice(&length);
        }
        let mut summed = if has_pseudo_header { addresses } else { Vec::new() };
        if has_pseudo_header {
            summed.extend(u32::from(protocol).to_be_bytes());
            summed.extend((transport.len() as u32).to_be_bytes());
        }
        summed.extend(&transport);
        let sum = match checksum(&summed) {
            [0, 0] if protocol == UDP => [0xff, 0xff],
            sum => sum,
        };
        transport[at..at + 2].copy_from_slice(&sum);
    }
    header.extend(transport);
    Ok(header)
}

/// The transport header without lengths and checksum.
fn transport(request: &PacketRequest, protocol: u8) -> Vec<u8> {
    let source = request.source_port.unwrap_or(40_000).to_be_bytes();
    let destination = request.destination_port.unwrap_or(80).to_be_bytes();
    let ports = [source, destination].concat();
    match protocol {
        TCP => {
            let flags = request.tcp_flags.unwrap_or(SYN);
            let is_syn = flags & SYN != 0;
            let words = if is_syn { 6 } else { 5 };
            let mut header = ports;
            header.extend([0, 0, 0, 1, 0, 0, 0, 0, words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            if is_syn {
                let [high, low] = MSS.to_be_bytes();
                header.extend([2, 4, high, low]);
            }
            header
        }
        UDP => [&ports[..], &[0; 4]].concat(),
        // Echo requests.
        ICMP => vec![8, 0, 0, 0, 0, 1, 0, 1],
        ICMPV6 => vec![128, 0, 0, 0, 0, 1, 0, 1],
        _ => Vec::new(),
    }
}

/// Offset of a checksum, and whether it covers the addresses.
const fn checksum_of(protocol: u8) -> Option<(usize, bool)> {
    match protocol {
        TCP => Some((16, true)),
        UDP => Some((6, true)),
        ICMP => Some((2, false)),
        ICMPV6 => Some((2, true)),
        _ => None,
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

//! A router's changes to a packet that it forwards (RFC 1812, RFC 8200).

use std::net::IpAddr;

use super::{Hook, Interface, Verdict, parse::Packet};

/// Shortest payload of an Ethernet frame (IEEE 802.3): shorter packets are padded to it.
const MINIMAL_PAYLOAD: usize = 46;

/// The frame to send, if it may be sent.
pub fn rewrite(
    hook: Hook,
    frame: &[u8],
    packet: &Packet,
    egress: &Interface,
    neighbour: IpAddr,
) -> Result<Vec<u8>, Verdict> {
    if packet.hops <= 1 {
        return Err(Verdict::Pass("ttl_expired"));
    }
    if packet.length > egress.mtu as usize {
        return Err(Verdict::Pass("too_big"));
    }
    // TC forwards options unchanged.
    if packet.options && hook == Hook::Xdp {
        return Err(Verdict::Pass("ip_options"));
    }
    let mut bytes = Vec::new();
    if egress.ethernet {
        bytes.extend(egress.neighbours.get(&neighbour).ok_or(Verdict::Pass("no_neighbour"))?);
        bytes.extend(egress.mac);
        bytes.extend(if packet.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    }
    let carried = &frame[packet.offset..];
    let (ip, padding) = carried.split_at(packet.length);
    bytes.extend(one_hop_later(ip));
    // A minimal frame keeps its padding, as the next minimal frame needs it again.
    if egress.ethernet && carried.len() <= MINIMAL_PAYLOAD {
        bytes.extend(padding);
    }
    Ok(bytes)
}

fn one_hop_later(ip: &[u8]) -> Vec<u8> {
    let mut ip = ip.to_vec();
    if ip[0] >> 4 == 6 {
        ip[7] -= 1;
        return ip;
    }
    let header = usize::from(ip[0] & 0xf) * 4;
    let before = ip[..header].to_vec();
    ip[8] -= 1;
    let checksum = if sum(&before) == 0xffff {
        ip[10..12].fill(0);
        !sum(&ip[..header])
    } else {
        // A wrong checksum stays wrong by the same amount, so that the destination detects it. RFC 1624, equation 3.
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        !folded(u64::from(!word(&before, 10)) + u64::from(!word(&before, 8)) + u64::from(word(&ip, 8)))
    };
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip
}

/// The one's complement sum of 16-bit words (RFC 1071).
fn sum(header: &[u8]) -> u16 {
    folded(header.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum())
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded to 16 bits")
}

//! Packets with a tag that identifies them, also inside an ICMP error.

use std::net::IpAddr;

/// Length of a tag in bytes.
pub const TAG: usize = 12;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

#[derive(Debug, Clone, Copy)]
pub enum What {
    /// Source and destination port.
    Udp(u16, u16),
    /// Destination port and flags.
    Tcp(u16, u8),
    /// Type of ICMP or `ICMPv6`.
    Icmp(u8),
    /// Protocol number.
    Other(u8),
    /// The first eight bytes of UDP to that port, in IPv6, with more fragments; or the last fragment.
    FirstFragment(u16),
    LastFragment,
}

/// An IP packet without options.
pub fn packet(source: IpAddr, destination: IpAddr, what: What, tag: &str) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let (protocol, mut message) = message(what, source.is_ipv6());
    let is_last = matches!(what, What::LastFragment);
    if !is_last && !matches!(what, What::FirstFragment(_)) {
        message.extend(tag.as_bytes());
    }
    let (source, destination) = (octets(source), octets(destination));
    if source.len() == 4 {
        let length = (20 + message.len()) as u16;
        let [high, low] = length.to_be_bytes();
        let mut header = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0];
        header.extend([source, destination].concat());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        if protocol == 1 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum);
        }
        return [header, message].concat();
    }
    if matches!(what, What::FirstFragment(_) | What::LastFragment) {
        let offset: u16 = if is_last { 8 } else { 1 };
        if is_last {
            message.extend(tag.as_bytes());
        }
        message = [&[protocol, 0][..], &offset.to_be_bytes(), &[0, 0, 0, 9], &message].concat();
        return header6(FRAGMENT, &source, &destination, &message);
    }
    // ICMPv6 and UDP.
    if let Some(at) = [(58, 2), (17, 6)].iter().find_map(|(kind, at)| (*kind == protocol).then_some(*at)) {
        let pseudo = [&source[..], &destination, &(message.len() as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat();
        let sum = checksum(&[pseudo, message.clone()].concat());
        message[at..at + 2].copy_from_slice(&sum);
    }
    header6(protocol, &source, &destination, &message)
}

fn header6(protocol: u8, source: &[u8], destination: &[u8], message: &[u8]) -> Vec<u8> {
    let [high, low] = (message.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, protocol, 64][..], source, destination, message].concat()
}

/// Without the tag and checksums; no test here needs TCP's.
fn message(what: What, v6: bool) -> (u8, Vec<u8>) {
    match what {
        What::Udp(source, destination) => {
            let length = (8 + TAG) as u16;
            (17, [source, destination, length, 0].into_iter().flat_map(u16::to_be_bytes).collect())
        }
        What::Tcp(destination, flags) => {
            let mut header: Vec<u8> = [40000, destination].into_iter().flat_map(u16::to_be_bytes).collect();
            header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0]);
            (6, header)
        }
        What::Icmp(kind) => (if v6 { 58 } else { 1 }, vec![kind, 0, 0, 0, 0, 0, 0, 0]),
        What::Other(protocol) => (protocol, vec![0; 8]),
        What::FirstFragment(_) if !v6 => panic!("IPv6 only"),
        What::FirstFragment(port) => message(What::Udp(5000, port), true),
        What::LastFragment => (17, Vec::new()),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |word: &[u8]| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

//! Settings of the generator and the sink.

use std::net::IpAddr;

use anyhow::{Result, bail};
use hub_tests::lab::Mac;
use ipnet::IpNet;

use crate::shape::{
    Base, DESTINATION_PORT, FIRST_SOURCE_PORT, Head, IPV4, IPV6, IPV6_NETWORKS, LongHead, MAGIC, Settings, fold,
};

/// How many flows there can be: source ports.
pub const MAX_FLOWS: u32 = 0x1_0000 - FIRST_SOURCE_PORT as u32;

/// Frames that may be between generator and sink. Each veth on the way queues 256 (`VETH_RING_SIZE`,
/// drivers/net/veth.c) and loses what comes on top.
const WINDOW: u32 = 192;
/// The generator does not wait: for a stream with a pace, whose losses are measured.
pub const NO_WINDOW: u32 = u32::MAX;

/// The shortest Ethernet frame, without the frame check sequence.
const SHORTEST: u32 = 60;
/// A test run has one page for a frame, its headroom and the kernel's books.
const LONGEST: u32 = 3072;

const ETHERNET_HEADER: usize = 14;
/// Where an IPv6 destination begins, in halves: after 14 bytes of Ethernet and 24 of IPv6.
const IPV6_DESTINATION: usize = 19;
const IPV4_HEADER: usize = 20;
const UDP: u8 = 17;
const TTL: u8 = 64;

/// Link addresses along the way.
#[derive(Clone, Copy)]
pub struct Macs {
    /// The sending device's.
    pub from: Mac,
    /// The hub's, on the sender's link.
    pub gateway: Mac,
    /// The far device's.
    pub to: Mac,
}

/// Which addresses of the destination prefix the frames go to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// The first hosts, one after the other.
    Hosts,
    /// From the prefix's own address on, so far apart: IPv4 addresses, or IPv6 networks of 64 bits.
    Apart(u32),
}

/// The traffic to send.
#[derive(Clone, Copy)]
pub struct Traffic {
    pub source: IpAddr,
    pub destination: IpNet,
    pub spread: Spread,
    /// How many addresses; as many as there are when there are fewer.
    pub destinations: u32,
    pub flows: u32,
    /// Of a frame from the Ethernet header on, without the frame check sequence.
    pub bytes: u32,
    /// Whether frames come out as they were sent, MACs and TTL too.
    pub untouched: bool,
    /// Source and destinations of the frames as they come out, if the hub translates them.
    pub translated: Option<(IpAddr, IpNet)>,
}

/// # Errors
/// When there can be no such frames: families mixed, too short, too long, no flow, no destination.
pub fn settings(traffic: &Traffic, macs: Macs) -> Result<Settings> {
    let &Traffic { destination, destinations, flows, bytes, untouched, .. } = traffic;
    let range = |destination: IpNet| match traffic.spread {
        Spread::Hosts => hosts(destination),
        Spread::Apart(stride) => (destination.network(), networks(destination) / stride.max(1)),
    };
    let (first, available) = range(destination);
    let (layout, version) = match (first, traffic.spread) {
        (IpAddr::V4(_), _) => (&IPV4, 4),
        (IpAddr::V6(_), Spread::Hosts) => (&IPV6, 6),
        (IpAddr::V6(_), Spread::Apart(_)) => (&IPV6_NETWORKS, 6),
    };
    let shortest = SHORTEST.max(u32::try_from(layout.words * 8)?);
    if !(shortest..=LONGEST).contains(&bytes) {
        bail!("--bytes {bytes}: IPv{version} frames have {shortest} to {LONGEST}");
    }
    if !(1..=MAX_FLOWS).contains(&flows) {
        bail!("--flows {flows}: 1 to {MAX_FLOWS} are possible");
    }
    if destinations == 0 || available == 0 {
        bail!("--destinations {destinations} of {available} in {destination}: at least 1 is needed");
    }

    let sent = head(traffic, macs.gateway, macs.from, TTL)?;
    let (source, arrival) = traffic.translated.filter(|_| !untouched).unwrap_or((traffic.source, destination));
    let translated = Traffic { source, destination: arrival, ..*traffic };
    let arrives = if untouched { sent } else { head(&translated, macs.to, macs.from, TTL - 1)? };
    // Bytes 6 to 12, the source MAC, and the header's checksum are not compared.
    let mut checked = [0xff; size_of::<LongHead>()];
    checked[6..12].fill(0);
    if let Some((_, checksum)) = layout.header {
        checked[checksum * 2..][..2].fill(0);
    }
    let udp = layout.udp * 2;
    let addresses = if version == 4 { udp - 2 * 4 } else { udp - 2 * 16 };
    // RFC 768, RFC 8200: addresses, protocol and UDP's length, then UDP itself, which has the length once more.
    let udp_sum =
        |head: &[u8]| sum(&head[addresses..]) + u32::from(u16::from(UDP).to_be()) + sum(&head[udp + 4..udp + 6]);
    let base = |head: &[u8], first: IpAddr| Base {
        udp_sum: u32::from(fold(udp_sum(head))),
        first_destination: match first {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => (address.to_bits() >> (96 - (layout.destination - IPV6_DESTINATION) * 16)) as u32,
        },
    };
    let header_sum = layout.header.map_or(0, |(header, _)| sum(&sent[header * 2..][..IPV4_HEADER]));
    Ok(Settings {
        sent: words(sent),
        arrives: words(arrives),
        checked: words(checked),
        header_sum: u32::from(fold(header_sum)),
        sent_base: base(&sent, first),
        arrives_base: base(&arrives, range(arrival).0),
        destinations: destinations.min(available),
        stride: match traffic.spread {
            Spread::Hosts => 1,
            Spread::Apart(stride) => stride.max(1),
        },
        flows,
        length: bytes,
        version,
        networks: u32::from(version == 6 && traffic.spread != Spread::Hosts),
        window: WINDOW,
    })
}

/// The same for frames that come out of a device without link headers: theirs is not compared.
pub fn without_link_header(mut settings: Settings) -> Settings {
    let mut checked: [u8; size_of::<LongHead>()] = bytes(settings.checked);
    checked[..ETHERNET_HEADER].fill(0);
    settings.checked = words(checked);
    settings
}

/// The first host of a prefix, and how many there are, at most 2^32 - 1. No address wraps in its low 32 bits.
fn hosts(prefix: IpNet) -> (IpAddr, u32) {
    let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let addresses = 1_u64 << bits.min(32);
    let capped = |hosts: u64| u32::try_from(hosts).unwrap_or(u32::MAX);
    match prefix.network() {
        // RFC 3021: on a link of two, both are hosts.
        network if bits < 2 => (network, capped(addresses)),
        // The lowest address is the subnet's own, and in IPv4 the highest is the broadcast address.
        IpAddr::V4(network) => (IpAddr::V4((network.to_bits() + 1).into()), capped(addresses - 2)),
        IpAddr::V6(network) => (IpAddr::V6((network.to_bits() + 1).into()), capped(addresses - 1)),
    }
}

/// How many addresses (IPv4) or networks of 64 bits (IPv6) a prefix has.
fn networks(prefix: IpNet) -> u32 {
    let bits = match prefix {
        IpNet::V4(prefix) => 32 - prefix.prefix_len(),
        // Only the second 32 bits of the address are counted through.
        IpNet::V6(prefix) => 64_u8.saturating_sub(prefix.prefix_len()),
    };
    u32::try_from(1_u64 << bits.min(32)).unwrap_or(u32::MAX)
}

/// The head of all frames; zero where the number decides, and in the checksums.
fn head(traffic: &Traffic, to: Mac, from: Mac, ttl: u8) -> Result<[u8; size_of::<LongHead>()]> {
    let mut bytes = [to.0, from.0].concat();
    let above_ethernet = u16::try_from(traffic.bytes as usize - ETHERNET_HEADER)?;
    let udp_length = match (traffic.source, traffic.destination.network()) {
        (IpAddr::V4(source), IpAddr::V4(_)) => {
            bytes.extend([0x08, 0x00]);
            // Without options; not to be fragmented.
            bytes.extend([0x45, 0]);
            bytes.extend(above_ethernet.to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, ttl, UDP, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend([0; 4]);
            above_ethernet - 20
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let payload = above_ethernet - 40;
            bytes.extend([0x86, 0xdd]);
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(payload.to_be_bytes());
            bytes.extend([UDP, ttl]);
            bytes.extend(source.octets());
            let mut destination = destination.octets();
            match traffic.spread {
                Spread::Hosts => destination[12..].fill(0),
                Spread::Apart(_) => {
                    destination[4..8].fill(0);
                    // The first host: address 0 of a network is any router there (RFC 4291 section 2.6.1).
                    destination[15] = 1;
                }
            }
            bytes.extend(destination);
            payload
        }
        (source, destination) => bail!("--source {source} and --destination {destination}: one is IPv4, one IPv6"),
    };
    bytes.extend([0, 0]);
    bytes.extend(DESTINATION_PORT.to_be_bytes());
    bytes.extend(udp_length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(MAGIC);

    let mut head = [0; size_of::<LongHead>()];
    head[..bytes.len()].copy_from_slice(&bytes);
    Ok(head)
}

fn words(bytes: [u8; size_of::<LongHead>()]) -> LongHead {
    let (words, _) = bytes.as_chunks::<8>();
    Head(std::array::from_fn(|index| u64::from_ne_bytes(words[index])))
}

fn bytes(words: LongHead) -> [u8; size_of::<LongHead>()] {
    std::array::from_fn(|index| words.0[index / 8].to_ne_bytes()[index % 8])
}

/// One's-complement sum, not folded, over halves in memory order.
fn sum(bytes: &[u8]) -> u32 {
    let (halves, _) = bytes.as_chunks::<2>();
    halves.iter().map(|half| u32::from(u16::from_ne_bytes(*half))).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::shape::Layout;

    const MACS: Macs =
        Macs { from: Mac([2, 0, 0, 0, 0, 1]), gateway: Mac([2, 0, 0, 0, 0, 2]), to: Mac([2, 0, 0, 0, 0, 3]) };

    fn traffic(source: &str, destination: &str, bytes: u32) -> Traffic {
        Traffic {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            spread: Spread::Hosts,
            destinations: 100,
            flows: 7,
            bytes,
            untouched: false,
            translated: None,
        }
    }

    /// The frame as the generator makes it.
    fn frame<const WORDS: usize>(settings: &Settings, layout: &Layout, number: u32) -> Vec<u8> {
        let mut head: Head<WORDS> = settings.sent.first();
        layout.number(&mut head, settings.sent_base, settings, number);
        layout.sum_header(&mut head, settings);
        assert!(layout.header_sum_verifies(&head));
        assert_eq!(layout.generated(&head), Some(number));
        let mut bytes: Vec<u8> = head.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(settings.length as usize, 0);
        bytes
    }

    /// RFC 1071 by the book: 0xffff where the checksum in it is right.
    fn verify(parts: &[&[u8]]) -> u16 {
        let mut sum: u64 = 0;
        for part in parts {
            for pair in part.chunks(2) {
                sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            }
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn ipv4_frames_have_valid_lengths_and_checksums() {
        for bytes in [60, 64, 65, 1414] {
            let settings = settings(&traffic("10.10.10.1", "10.10.20.0/24", bytes), MACS).unwrap();
            for number in (0..200_000).step_by(37).chain([u32::MAX]) {
                let frame = frame::<{ IPV4.words }>(&settings, &IPV4, number);
                let udp = &frame[34..];
                assert_eq!(verify(&[&frame[14..34]]), 0xffff, "header of {number}");
                assert_eq!(verify(&[&frame[26..34], &[0, 17], &udp[4..6], udp]), 0xffff, "UDP of {number}");
                assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
                assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
                assert_ne!(udp[6..8], [0, 0], "no checksum");
                assert!((1..=100).contains(&frame[33]) && frame[30..33] == [10, 10, 20], "{:?}", &frame[30..34]);
            }
        }
    }

    #[test]
    fn ipv6_frames_have_valid_lengths_and_checksums() {
        for bytes in [72, 73, 1414] {
            let settings = settings(&traffic("fd00:10::1", "fd00:20::/64", bytes), MACS).unwrap();
            for number in (0..200_000).step_by(37).chain([u32::MAX]) {
                let frame = frame::<{ IPV6.words }>(&settings, &IPV6, number);
                let udp = &frame[54..];
                assert_eq!(verify(&[&frame[22..54], &[0, 17], &udp[4..6], udp]), 0xffff, "UDP of {number}");
                assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), udp.len());
                assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
                assert_eq!(frame[38..44], [0xfd, 0, 0, 0x20, 0, 0]);
                assert!((1..=100).contains(&frame[53]), "{:?}", &frame[38..54]);
            }
        }
    }

    #[test]
    fn frame_without_link_header_is_compared_from_ip_header_on() {
        let whole = settings(&traffic("fd00:10::1", "fd00:20::/64", 72), MACS).unwrap();
        let raw = without_link_header(whole);
        let frame = frame::<{ IPV6.words }>(&whole, &IPV6, 5);
        let mut arrived: [u8; 72] = frame.try_into().unwrap();
        // The hop limit, as a hub has it.
        arrived[21] -= 1;
        arrived[..14].fill(0);
        assert!(!IPV6.is_right(&words(arrived), &whole, 5));
        assert!(IPV6.is_right(&words(arrived), &raw, 5));
        arrived[14] ^= 1;
        assert!(!IPV6.is_right(&words(arrived), &raw, 5));
    }

    #[test]
    fn spread_destinations_lie_on_stride() {
        let four = Traffic { spread: Spread::Apart(512), ..traffic("10.10.10.1", "16.0.0.0/4", 64) };
        let settings4 = settings(&four, MACS).unwrap();
        let six = Traffic { spread: Spread::Apart(512), ..traffic("fd00:10::1", "fd64:1:1000::/36", 72) };
        let settings6 = settings(&six, MACS).unwrap();
        for number in (0..200_000).step_by(37) {
            let frame4 = frame::<{ IPV4.words }>(&settings4, &IPV4, number);
            let udp = &frame4[34..];
            assert_eq!(verify(&[&frame4[14..34]]), 0xffff);
            assert_eq!(verify(&[&frame4[26..34], &[0, 17], &udp[4..6], udp]), 0xffff);
            let address = u32::from_be_bytes([frame4[30], frame4[31], frame4[32], frame4[33]]);
            assert!(
                (16 << 24..(16 << 24) + 100 * 512).contains(&address) && address.is_multiple_of(512),
                "{address:#x}"
            );

            let frame6 = frame::<{ IPV6.words }>(&settings6, &IPV6_NETWORKS, number);
            let udp = &frame6[54..];
            assert_eq!(verify(&[&frame6[22..54], &[0, 17], &udp[4..6], udp]), 0xffff);
            assert_eq!((&frame6[38..42], &frame6[46..54]), (&[0xfd, 0x64, 0, 1][..], &[0, 0, 0, 0, 0, 0, 0, 1][..]));
            let network = u32::from_be_bytes([frame6[42], frame6[43], frame6[44], frame6[45]]);
            assert_eq!(network - (0x1000 << 16), address - (16 << 24));
        }
        assert!(settings(&Traffic { spread: Spread::Apart(1 << 31), ..four }, MACS).is_err());
    }

    #[test]
    fn frames_use_all_destinations_and_flows_scattered() {
        let settings = settings(&traffic("10.10.10.1", "10.10.20.0/24", 64), MACS).unwrap();
        let frames: Vec<_> = (0..5000).map(|number| frame::<{ IPV4.words }>(&settings, &IPV4, number)).collect();
        let destinations: HashSet<_> = frames.iter().map(|frame| frame[33]).collect();
        let ports: HashSet<_> = frames.iter().map(|frame| [frame[34], frame[35]]).collect();
        let pairs: HashSet<_> = frames.iter().map(|frame| (frame[33], frame[35])).collect();
        assert_eq!((destinations.len(), ports.len(), pairs.len()), (100, 7, 700));
        assert!(frames.windows(2).all(|pair| pair[0][33].abs_diff(pair[1][33]) > 10));
    }

    #[test]
    fn prefix_yields_first_host_and_count() {
        for (prefix, first, count) in [
            ("10.0.0.0/24", "10.0.0.1", 254),
            ("10.0.0.4/30", "10.0.0.5", 2),
            ("10.0.0.4/31", "10.0.0.4", 2),
            ("10.0.0.4/32", "10.0.0.4", 1),
            ("0.0.0.0/0", "0.0.0.1", u32::MAX - 1),
            ("fd00::/64", "fd00::1", u32::MAX),
            ("fd00::/120", "fd00::1", 255),
            ("fd00::4/127", "fd00::4", 2),
            ("fd00::4/128", "fd00::4", 1),
        ] {
            assert_eq!(hosts(prefix.parse().unwrap()), (first.parse().unwrap(), count), "{prefix}");
        }
    }

    #[test]
    fn impossible_traffic_is_rejected() {
        let good = traffic("10.10.10.1", "10.10.20.0/24", 64);
        for wrong in [
            Traffic { bytes: 59, ..good },
            Traffic { bytes: LONGEST + 1, ..good },
            Traffic { flows: 0, ..good },
            Traffic { flows: MAX_FLOWS + 1, ..good },
            Traffic { destinations: 0, ..good },
            Traffic { source: "fd00::1".parse().unwrap(), ..good },
            traffic("fd00:10::1", "fd00:20::/64", 71),
        ] {
            assert!(settings(&wrong, MACS).is_err());
        }
    }
}

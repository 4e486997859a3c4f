//! Translation: the hub knows a site's addresses by others, of the same host bits. Addresses in the packets of the
//! site's connection are the site's own; everywhere else they are those at the hub.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Interface, World, prefix::contains};

/// Prefixes of a site, and those of the same lengths at the hub.
pub type Translations = Vec<(IpNet, IpNet)>;

/// To which view.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Hub,
    Site,
}

/// What was translated in a packet.
#[derive(Default)]
pub(super) struct Translated {
    pub address: bool,
    /// That of the packet inside an ICMP error.
    pub inner: bool,
}

impl World {
    /// The translations of all connections on an interface.
    pub(super) fn translations(&self, interface: &Interface) -> Translations {
        self.carried_by(interface).iter().flat_map(|connection| connection.translations.clone()).collect()
    }
}

/// An address in the other view; `None` if it means nothing there.
pub(super) fn counterpart(translations: &Translations, address: IpAddr, view: View) -> Option<IpAddr> {
    let sides = |(site, hub): &(IpNet, IpNet)| if view == View::Hub { (*site, *hub) } else { (*hub, *site) };
    for (from, to) in translations.iter().map(sides) {
        if contains(from, address) {
            return Some(with_host_bits(to, address));
        }
    }
    let is_taken = translations.iter().map(sides).any(|(_, to)| contains(to, address));
    (!is_taken).then_some(address)
}

fn with_host_bits(net: IpNet, address: IpAddr) -> IpAddr {
    let length = u32::from(net.prefix_len());
    match (net.addr(), address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
            Ipv4Addr::from(u32::from(net) & !hosts | u32::from(address) & hosts).into()
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => {
            let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
            Ipv6Addr::from(u128::from(net) & !hosts | u128::from(address) & hosts).into()
        }
        _ => unreachable!("it contains the address"),
    }
}

/// Translates an IP packet: the source to the hub's view, or the destination to the site's; in an ICMP error the
/// opposite address of the packet inside.
pub(super) fn translate(packet: &mut [u8], translations: &Translations, view: View) -> Translated {
    let mut done = Translated::default();
    let Some(transport) = Transport::of(packet) else { return done };
    let own_place = place(packet, view == View::Hub);
    let Some(new) = counterpart(translations, address(packet, own_place), view) else { return done };
    if new != address(packet, own_place) {
        done.address = true;
        let before = transport.kept(packet, Changed::Address);
        set_address(packet, own_place, new);
        transport.restore(packet, before);
    }
    if let (Some(at), true) = (transport.at, transport.is_error(packet))
        && let Some(inside) = packet.get(at + 8..).map(<[u8]>::to_vec)
    {
        let before = transport.kept(packet, Changed::Data);
        done.inner = translate_inside(&mut packet[at + 8..], translations, view);
        if done.inner {
            transport.restore(packet, before);
        } else {
            packet[at + 8..].copy_from_slice(&inside);
        }
    }
    done
}

fn translate_inside(packet: &mut [u8], translations: &Translations, view: View) -> bool {
    let minimum = match packet.first().map(|first| first >> 4) {
        Some(4) => 20,
        Some(6) => 40,
        _ => return false,
    };
    if packet.len() < minimum {
        return false;
    }
    let place = place(packet, view == View::Site);
    let old = address(packet, place);
    let Some(new) = counterpart(translations, old, view).filter(|new| *new != old) else { return false };
    // The packet may be cut off anywhere behind its first header.
    let Some(transport) = Transport::of(packet) else { return false };
    let before = transport.kept(packet, Changed::Address);
    set_address(packet, place, new);
    transport.restore(packet, before);
    true
}

/// Offset of the source or destination.
fn place(packet: &[u8], source: bool) -> usize {
    match (packet[0] >> 4, source) {
        (4, true) => 12,
        (4, false) => 16,
        (_, true) => 8,
        (_, false) => 24,
    }
}

fn address(packet: &[u8], at: usize) -> IpAddr {
    match packet[0] >> 4 {
        4 => IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("16 bytes")),
    }
}

fn set_address(packet: &mut [u8], at: usize, address: IpAddr) {
    match address {
        IpAddr::V4(address) => packet[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => packet[at..at + 16].copy_from_slice(&address.octets()),
    }
}

/// The header behind the IP headers.
struct Transport {
    is_v4: bool,
    protocol: u8,
    /// `None` where there is none: in other fragments than the first.
    at: Option<usize>,
}

/// Sums modulo 65535 that must not change: of an IPv4 header, and of what a transport checksum covers.
#[derive(Clone, Copy)]
struct Kept {
    header: Option<u64>,
    covered: Option<u64>,
}

/// What is about to change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Address,
    Data,
}

const ALL: u64 = 0xffff;

impl Transport {
    /// `None` for a packet whose IP header is cut off.
    fn of(packet: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        if packet.first()? >> 4 == 4 {
            let offset = number(6)? & 0x1fff;
            let at = usize::from(packet[0] & 0xf) * 4;
            return Some(Self { is_v4: true, protocol: *packet.get(9)?, at: (offset == 0).then_some(at) });
        }
        let (mut protocol, mut at) = (*packet.get(6)?, 40);
        for _ in 0..9 {
            let length = match protocol {
                0 | 43 | 60 => packet.get(at + 3).and(packet.get(at + 1)).map(|units| (usize::from(*units) + 1) * 8),
                51 => packet.get(at + 3).and(packet.get(at + 1)).map(|units| (usize::from(*units) + 2) * 4),
                44 => number(at + 2).filter(|offset| offset & 0xfff8 == 0).map(|_| 8),
                _ => return Some(Self { is_v4: false, protocol, at: Some(at) }),
            };
            let Some(length) = length else { break };
            protocol = packet[at];
            at += length;
        }
        Some(Self { is_v4: false, protocol, at: None })
    }

    fn is_error(&self, packet: &[u8]) -> bool {
        let kind = self.at.and_then(|at| packet.get(at..at + 2)).map(|bytes| bytes[0]);
        match (self.is_v4, self.protocol, kind) {
            (true, 1, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (false, 58, Some(kind)) => kind < 128,
            _ => false,
        }
    }

    /// Offset of the checksum, and whether it covers the addresses.
    fn checksum(&self, packet: &[u8]) -> Option<(usize, bool)> {
        let (offset, covers_addresses) = match (self.protocol, self.is_v4) {
            (6, _) => (16, true),
            (17 | 33 | 136, _) => (6, true),
            (58, _) => (2, true),
            (1, true) => (2, false),
            _ => return None,
        };
        let at = self.at? + offset;
        let field = packet.get(at..at + 2)?;
        let is_none = self.protocol == 17 && field == [0, 0];
        (!is_none).then_some((at, covers_addresses))
    }

    fn kept(&self, packet: &[u8], changed: Changed) -> Kept {
        let header = (self.is_v4 && changed == Changed::Address).then(|| sum(&packet[..20]) % ALL);
        let checksum =
            self.checksum(packet).filter(|(_, covers_addresses)| *covers_addresses || changed == Changed::Data);
        let covered = checksum.map(|(_, covers_addresses)| {
            let addresses = match (covers_addresses, self.is_v4) {
                (false, _) => 0,
                (true, true) => sum(&packet[12..20]),
                (true, false) => sum(&packet[8..40]),
            };
            (addresses + sum(&packet[self.at.expect("it has a checksum")..])) % ALL
        });
        Kept { header, covered }
    }

    /// Sets the checksums so that the sums are as they were: a wrong one stays wrong by the same amount.
    fn restore(&self, packet: &mut [u8], before: Kept) {
        if let Some(header) = before.header {
            packet[10..12].fill(0);
            set(packet, 10, (header + ALL - sum(&packet[..20]) % ALL) % ALL);
        }
        let (Some(covered), Some((at, _))) = (before.covered, self.checksum_place(packet)) else { return };
        packet[at..at + 2].fill(0);
        let now = self.sum_without(packet);
        let value = (covered + ALL - now) % ALL;
        set(packet, at, if value == 0 && self.protocol == 17 { ALL } else { value });
    }

    /// As [`Self::checksum`], whatever its value.
    fn checksum_place(&self, packet: &[u8]) -> Option<(usize, bool)> {
        let at = self.at?;
        let offset = match self.protocol {
            6 => 16,
            17 | 33 | 136 => 6,
            _ => 2,
        };
        packet.get(at + offset..at + offset + 2).map(|_| (at + offset, !(self.protocol == 1 && self.is_v4)))
    }

    fn sum_without(&self, packet: &[u8]) -> u64 {
        let covers_addresses = !(self.protocol == 1 && self.is_v4);
        let addresses = match (covers_addresses, self.is_v4) {
            (false, _) => 0,
            (true, true) => sum(&packet[12..20]),
            (true, false) => sum(&packet[8..40]),
        };
        (addresses + sum(&packet[self.at.expect("it has a checksum")..])) % ALL
    }
}

fn set(packet: &mut [u8], at: usize, value: u64) {
    packet[at..at + 2].copy_from_slice(&u16::try_from(value).expect("below 65536").to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

//! ICMP errors: the start of a packet within another.

use std::net::IpAddr;

use hub_tests::{
    model::{Interface, World},
    packet::Packet,
};
use rand::{Rng, rngs::SmallRng};

use crate::{
    draw::{one_of, percent},
    packets::{any, network, source, transport},
};

/// The header of an ICMP error, or of another message.
pub fn outside(rng: &mut SmallRng, packet: Packet, v6: bool) -> Packet {
    let kind = if v6 { one_of(rng, &[1, 2, 3, 4, 127, 128]) } else { one_of(rng, &[3, 4, 5, 11, 12, 0]) };
    packet.icmp(kind, 0, [0; 4])
}

/// The start of a packet that an error is about, mostly one between the error's receiver and the sender's site.
pub fn inside(rng: &mut SmallRng, world: &World, interface: &Interface, error: (IpAddr, IpAddr)) -> Vec<u8> {
    let (sender, receiver) = error;
    let v6 = sender.is_ipv6();
    let mut of_site = || {
        let found = (0..4).map(|_| source(rng, world, interface)).find(|address| address.is_ipv6() == v6);
        found.unwrap_or(sender)
    };
    let (mut from, mut to) = (receiver, of_site());
    if percent(rng, 20) {
        from = any(rng, world, v6);
        from = if from.is_ipv6() == v6 { from } else { receiver };
    }
    if percent(rng, 5) {
        (from, to) = (to, from);
    }
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Packet::ipv4(from, to),
        (IpAddr::V6(from), IpAddr::V6(to)) => Packet::ipv6(from, to),
        _ => unreachable!("both are of the error's family"),
    };
    packet = network(rng, packet, v6);
    packet = transport(rng, packet).payload(rng.random_range(0..40));
    if percent(rng, 30) {
        packet = packet.transport_checksum(one_of(rng, &[0, 0xffff, 0x1234]));
    }
    let mut bytes = packet.build();
    if percent(rng, 30) {
        bytes.truncate(rng.random_range(0..bytes.len()));
    }
    bytes
}

//! Frames into the hub, and everything that leaves it, with the ids that it contains.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use hub_tests::lab::{FrameSocket, HUB, World};
use hub_tests::packet::Packet;
use hub_tests::packet::number::{IPV4, IPV6};

use crate::dual::{Dual, Tunnel};
use crate::places::{ALL, FAR_DEVICE, Place};
use crate::raw::RawLink;
use crate::reading::Reading;

/// Prefix of every id.
const MAGIC: [u8; 4] = *b"HuN\xa5";
/// The first byte of numbers that a TCP reset returns; the rest is the end of the id.
const TCP_MARK: u32 = 0xa5 << 24;
/// Ids of markers, which prove that everything sent before them has been processed.
pub const MARKER: u64 = 1 << 63;

/// A payload of at least `length` bytes, filled with the id, so that each fragment and each quotation contains it.
pub fn payload(id: u64, length: usize) -> Vec<u8> {
    let mut one = MAGIC.to_vec();
    one.extend(check(id));
    one.extend(id.to_be_bytes());
    one.iter().copied().cycle().take(length.max(one.len())).collect()
}

/// A number for TCP's sequence and acknowledgement fields, which an answer repeats.
pub fn tcp_mark(id: u64) -> u32 {
    TCP_MARK | u32::try_from(id & 0x00ff_ffff).expect("24 bits")
}

/// The id in some bytes.
pub fn id_in(bytes: &[u8]) -> Option<u64> {
    bytes.windows(16).filter(|window| window[..4] == MAGIC).find_map(|window| {
        let id = u64::from_be_bytes(*window.last_chunk().expect("16 bytes"));
        (window[4..8] == check(id)).then_some(id)
    })
}

/// Tells an id from one that was changed: behind an odd header, the checksum that translation updates is within a payload.
fn check(id: u64) -> [u8; 4] {
    let mixed = (id ^ id >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as u32).to_be_bytes()
}

/// A packet that left the hub.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub place: Place,
    pub tunnel: Tunnel,
    pub id: u64,
    pub bytes: Vec<u8>,
    /// From its IP header; `None` without one.
    pub source: Option<IpAddr>,
}

impl Arrival {
    fn of(place: Place, tunnel: Tunnel, bytes: Vec<u8>) -> Option<Self> {
        let reading = Reading::of(place, &bytes);
        let id = id_in(&bytes).or_else(|| reading.as_ref().and_then(|reading| id_of_reset(reading, &bytes)))?;
        Some(Self { place, tunnel, id, bytes, source: reading.map(|reading| reading.source) })
    }
}

/// The id of a TCP packet without payload.
fn id_of_reset(reading: &Reading, bytes: &[u8]) -> Option<u64> {
    let header = reading.header;
    if reading.protocol != 6 || reading.length < header + 20 {
        return None;
    }
    // The frame is no longer than the packet, except for padding of a short one.
    let at = match reading.to_mac {
        Some(_) => 14 + 4 * reading.tags + header,
        None => bytes.len().checked_sub(reading.length)? + header,
    };
    let number = |at: usize| bytes.get(at..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk));
    // Acknowledgement first: a sequence number may collide with another id, less its length.
    let marks = [number(at + 8)?, number(at + 4)?];
    let mark = marks.into_iter().find(|mark| mark & 0xff00_0000 == TCP_MARK)?;
    Some(u64::from(mark & 0x00ff_ffff))
}

enum Wire {
    Ethernet(Option<FrameSocket>),
    Raw(RawLink),
}

/// All far ends of the hub: one for each place in their order, then a second tunnel's.
pub struct Wires(Vec<(Place, Tunnel, Wire)>);

impl Wires {
    /// Starts capturing everywhere.
    pub fn open(world: &World, raw: [RawLink; 2], dual: Option<Dual>) -> anyhow::Result<Self> {
        let mut raw = raw.into_iter();
        let open = |place: Place| {
            let wire = match place.is_ethernet() {
                true => Wire::Ethernet(Some(FrameSocket::open(&world[place.name()], FAR_DEVICE)?)),
                false => Wire::Raw(raw.next().context("a link for each site without Ethernet")?),
            };
            Ok((place, Tunnel::First, wire))
        };
        let mut wires = ALL.into_iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(Dual { site, .. }) = dual {
            let socket = FrameSocket::open(&world[site.name()], Tunnel::Second.far_device())?;
            wires.push((site, Tunnel::Second, Wire::Ethernet(Some(socket))));
        }
        Ok(Self(wires))
    }

    /// Makes bytes enter the hub from a place. Returns whether they did: not if they are too long or no packet at all,
    /// or while the link is down.
    pub fn send(&mut self, (place, tunnel): (Place, Tunnel), bytes: &[u8]) -> bool {
        let at = match tunnel {
            Tunnel::First => place as usize,
            Tunnel::Second => ALL.len(),
        };
        match &mut self.0[at].2 {
            Wire::Ethernet(socket) => socket.as_ref().is_some_and(|socket| socket.send(bytes).is_ok()),
            Wire::Raw(link) => link.send(bytes).is_ok(),
        }
    }

    /// All arrivals with ids so far. If a device is gone, its socket is opened again on the next one.
    pub fn drain(&mut self, world: &World, mut sink: impl FnMut(Arrival)) {
        for (place, tunnel, wire) in &mut self.0 {
            let arrival = |bytes| Arrival::of(*place, *tunnel, bytes);
            match wire {
                Wire::Ethernet(socket) => {
                    while let Some(open) = socket {
                        match open.receive(Duration::ZERO) {
                            Ok(Some(frame)) => arrival(frame.bytes).into_iter().for_each(&mut sink),
                            Ok(None) => break,
                            Err(_) => *socket = None,
                        }
                    }
                    if socket.is_none() {
                        *socket = FrameSocket::open(&world[place.name()], tunnel.far_device()).ok();
                    }
                }
                Wire::Raw(link) => {
                    while let Some(bytes) = link.receive() {
                        arrival(bytes).into_iter().for_each(&mut sink);
                    }
                }
            }
        }
    }
}

/// Link addresses of both ends: the hub's and the far one's.
pub type Macs = [[u8; 6]; 2];

/// Those of every Ethernet link, by place.
pub fn macs(world: &World) -> anyhow::Result<Vec<Option<Macs>>> {
    let of = |place: Place| {
        let ends = || Ok([world[HUB].mac(place.device())?.0, world[place.name()].mac(FAR_DEVICE)?.0]);
        place.is_ethernet().then(ends).transpose()
    };
    ALL.into_iter().map(of).collect()
}

/// A packet as it enters the hub from a place: with the correct Ethernet header, or with packet information.
pub fn framed(place: Place, packet: &Packet, macs: &[Option<Macs>]) -> Vec<u8> {
    match macs[place as usize] {
        Some([hub, far]) => packet.clone().ethernet(far, hub).build(),
        None => raw(place, packet.build()),
    }
}

/// A raw IP packet in the form that the place's TUN device expects.
pub fn raw(place: Place, packet: Vec<u8>) -> Vec<u8> {
    let ether_type = if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 };
    match place {
        Place::Epsilon => informed(ether_type, &packet),
        _ => packet,
    }
}

/// With packet information in front (`linux/if_tun.h`, struct `tun_pi`): flags and `EtherType`.
pub fn informed(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(packet);
    bytes
}

//! What the hub forwards and drops. Its kernel does not forward (`ip_forward` is off), so only the program can have
//! done it. Delivery is observed at the far end, and counters must match it exactly.

mod bulk;
mod dual;
mod frames;
mod layer3;
mod mss;
mod neighbours;
mod pairs;
mod policy;
mod shared;
mod weights;

use std::net::IpAddr;
use std::time::Duration;

use hub_tests::lab::{FrameSocket, HANGZHOU, HUB, NINGBO, Namespace, SHANGHAI, Site, VPC, World};
use hub_tests::packet::{Packet, View, number};

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];
const WAIT: Duration = Duration::from_secs(5);

/// A place's end of its link to the hub: to send and to receive frames.
struct Wire {
    socket: FrameSocket,
    /// Own address and the hub's.
    macs: [[u8; 6]; 2],
}

impl Wire {
    fn open(world: &World, place: &Namespace, device: &str, hub_device: &str) -> Self {
        let macs = [place.mac(device).unwrap().0, world[HUB].mac(hub_device).unwrap().0];
        Self { socket: FrameSocket::open(place, device).unwrap(), macs }
    }

    fn of_site(world: &World, site: &Site) -> Self {
        Self::of_link(world, site, 0)
    }

    fn of_link(world: &World, site: &Site, link: u8) -> Self {
        Self::open(world, &world[&site.place], &Site::device(link), &site.hub_device(link))
    }

    fn of_vpc(world: &World) -> Self {
        Self::open(world, &world[VPC.place], VPC.device, VPC.hub_device)
    }

    /// Sends a packet to the hub.
    fn send(&self, packet: Packet) {
        self.socket.send(&packet.ethernet(self.macs[0], self.macs[1]).build()).unwrap();
    }

    /// Ports of all packets that arrive from the hub until the one that comes with `last`.
    fn ports_until(&self, last: (u16, u16)) -> Vec<(u16, u16)> {
        let mut seen = Vec::new();
        let found = self.socket.find(WAIT, |frame| {
            let ports = View::ethernet(frame).ok().and_then(|view| view.ports());
            seen.extend(ports.filter(|ports| *ports != last));
            ports == Some(last)
        });
        assert!(found.unwrap().is_some(), "{last:?} did not arrive; these did: {seen:?}");
        seen
    }
}

/// A UDP packet between two addresses of one family.
fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Packet {
    let packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Packet::ipv4(source, destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Packet::ipv6(source, destination),
        _ => panic!("{source} and {destination} are of two families"),
    };
    packet.udp(ports.0, ports.1).payload(32)
}

/// A packet that no kernel answers: a TCP reset. For tests that count packets.
fn probe(source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Packet {
    udp(source, destination, ports).tcp(ports.0, ports.1).flags(number::RST)
}

/// Both addresses of the VPC's host.
fn vpc_hosts() -> [IpAddr; 2] {
    [VPC.host4.into(), VPC.host6.into()]
}

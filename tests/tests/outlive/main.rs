//! The datapath keeps forwarding when its agent is killed, stopped or replaced. The hub's kernel does not forward
//! (`ip_forward` is off), so only the programs can have done it.

mod bulk;
mod changed;
mod cleanup;
mod flows;
mod full;
mod interfaces;
mod states;
mod stream;
mod translating;
mod upgrade;

use std::net::IpAddr;
use std::time::Duration;

use hub_tests::lab::{
    Agent, AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Options, Rig, SHANGHAI, Scratch, Site, World,
    agent_binary,
};
use hub_tests::packet::{Packet, View, number};
use nix::sys::signal::Signal;

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];
const WAIT: Duration = Duration::from_secs(20);

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
}

const ENDS: [End; 2] = [End::Killed, End::Stopped];

impl End {
    fn end(self, agent: Agent) -> Scratch {
        match self {
            Self::Killed => agent.kill(),
            Self::Stopped => agent.stop_with(Signal::SIGTERM),
        }
        .unwrap()
    }
}

fn start_again(world: &World, scratch: Scratch) -> Agent {
    AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap()
}

fn warm_hub() -> Rig {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

/// A site's end of its link to the hub: to send and to receive frames.
struct Wire {
    socket: FrameSocket,
    /// Own address and the hub's.
    macs: [[u8; 6]; 2],
}

impl Wire {
    fn open(world: &World, site: &Site, link: u8) -> Self {
        let (place, device) = (&world[&site.place], Site::device(link));
        let macs = [place.mac(&device).unwrap().0, world[HUB].mac(&site.hub_device(link)).unwrap().0];
        Self { socket: FrameSocket::open(place, &device).unwrap(), macs }
    }

    /// Sends a packet to the hub.
    fn send(&self, packet: Packet) {
        self.socket.send(&packet.ethernet(self.macs[0], self.macs[1]).build()).unwrap();
    }

    /// Ports of a packet of the test's that arrives.
    fn receive(&self, time: Duration) -> Option<(u16, u16)> {
        let mut ports = None;
        let found = self.socket.find(time, |frame| {
            ports = ports_of(frame);
            ports.is_some()
        });
        found.unwrap().and(ports)
    }
}

/// A packet that no kernel answers: a TCP reset.
fn probe(source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Packet {
    let packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Packet::ipv4(source, destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Packet::ipv6(source, destination),
        _ => panic!("{source} and {destination} are of two families"),
    };
    packet.tcp(ports.0, ports.1).flags(number::RST).payload(32)
}

/// Those of a [`probe`]: its destination port is [`PORT`] or above.
fn ports_of(frame: &[u8]) -> Option<(u16, u16)> {
    View::ethernet(frame).ok()?.ports().filter(|(_, destination)| *destination >= PORT)
}

const PORT: u16 = 40_000;

//! `vpnhub monitor --packets` and `vpnhub capture` beside a running agent: each packet with the right reason, connection
//! and bytes, for every client its own.

mod capture;
mod clients;
mod filters;
mod floods;
mod reasons;

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use hub_tests::lab::{Agent, FrameSocket, HANGZHOU, HUB, NINGBO, Namespace, SHANGHAI, Site, VPC, World, agent_binary};
use hub_tests::packet::Packet;
use serde_json::Value;

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];
/// The full time passes only on failure.
const WAIT: Duration = Duration::from_secs(30);
/// No site has this address.
const FOREIGN: &str = "172.16.0.1";

/// A place's end of its link to the hub.
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
        Self::open(world, &world[&site.place], &Site::device(0), &site.hub_device(0))
    }

    fn of_vpc(world: &World) -> Self {
        Self::open(world, &world[VPC.place], VPC.device, VPC.hub_device)
    }

    /// Sends a packet to the hub; returns the frame.
    fn send(&self, packet: &Packet) -> Vec<u8> {
        let frame = packet.clone().ethernet(self.macs[0], self.macs[1]).build();
        self.socket.send(&frame).unwrap();
        frame
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A UDP packet between two addresses of one family.
fn udp(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, ports: (u16, u16)) -> Packet {
    let packet = match (source.into(), destination.into()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Packet::ipv4(source, destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Packet::ipv6(source, destination),
        (source, destination) => panic!("{source} and {destination} are of two families"),
    };
    packet.udp(ports.0, ports.1).payload(32)
}

/// A packet that Shanghai must not send.
fn spoofed(ports: (u16, u16)) -> Packet {
    udp(address(FOREIGN), VPC.host4, ports)
}

/// `vpnhub monitor --packets`, running. Dropping it ends the program.
struct Listener {
    child: Child,
    lines: Receiver<String>,
}

impl Listener {
    /// Returns once the program records for it.
    fn start(agent: &Agent, filter: &[&str]) -> Self {
        Self::of(agent, &[&["--output", "json", "monitor", "--packets"], filter].concat())
    }

    /// Any command that says on standard error that it has begun.
    fn of(agent: &Agent, arguments: &[&str]) -> Self {
        let mut child = spawn(agent, arguments);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The next line.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(WAIT).expect("a line within 30 s");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
    }

    /// The next line that `filter` accepts. Skips others: the lab's kernels send packets of their own.
    fn find(&self, filter: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.next();
            if filter(&line) {
                return line;
            }
        }
    }

    /// The next packet with this source port.
    fn packet_from(&self, port: u16) -> Value {
        self.find(|line| line["source_port"] == port)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have exited already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command of the agent's program; returns once it has said something on standard error.
fn spawn(agent: &Agent, arguments: &[&str]) -> Child {
    let mut command = Command::new(agent_binary());
    command.arg("--socket").arg(agent.socket()).args(arguments);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut begun = String::new();
    stderr.read_line(&mut begun).unwrap();
    assert!(begun.starts_with("listening") || begun.starts_with("capturing"), "{begun}");
    thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(drop));
    child
}

//! An underlay interface `wan0` of the hub, the packets that arrive there, and the CPUs that receive them.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use hub_tests::{
    lab::{
        AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Options, SHANGHAI, World, agent_binary,
    },
    packet::{Packet, number::ESP},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;

/// Of the sender and the hub.
pub const MACS: [&str; 2] = ["02:00:00:00:99:01", "02:00:00:00:99:02"];
/// For what must arrive.
const WAIT: Duration = Duration::from_secs(10);
/// Frames that may be on their way: less than the 256 of a veth's ring.
const WINDOW: usize = 64;

fn body(spi: u32, sequence: u32) -> Vec<u8> {
    [&spi.to_be_bytes()[..], &sequence.to_be_bytes(), &[0xe5; 56]].concat()
}

pub fn esp(spi: u32, sequence: u32) -> Packet {
    Packet::ipv4("192.0.2.1", "203.0.113.1").protocol(ESP).bytes(body(spi, sequence))
}

pub fn esp6(spi: u32, sequence: u32) -> Packet {
    Packet::ipv6("2001:db8::1", "2001:db8::2").protocol(ESP).bytes(body(spi, sequence))
}

pub fn in_udp(spi: u32, sequence: u32) -> Packet {
    Packet::ipv4("192.0.2.1", "203.0.113.1").udp(4500, 4500).bytes(body(spi, sequence))
}

pub fn in_udp6(spi: u32, sequence: u32) -> Packet {
    Packet::ipv6("2001:db8::1", "2001:db8::2").udp(4500, 4500).bytes(body(spi, sequence))
}

/// The non-ESP marker, and the start of an IKE header.
pub fn ike() -> Packet {
    Packet::ipv4("192.0.2.1", "203.0.113.1").udp(4500, 4500).bytes([&[0; 4][..], &[0xa1; 28]].concat())
}

pub fn keepalive() -> Packet {
    Packet::ipv4("192.0.2.1", "203.0.113.1").udp(4500, 4500).bytes([0xff])
}

/// The CPUs over which the agent distributes: online and not isolated.
pub fn cpus() -> Vec<u32> {
    let list = |name: &str| -> Vec<u32> {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).unwrap_or_default();
        let number = |text: &str| text.parse::<u32>().ok();
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(number(first)?..=number(last)?)
        };
        text.trim().split(',').filter_map(range).flatten().collect()
    };
    let taken = [list("isolated"), list("nohz_full")].concat();
    let cpus: Vec<u32> = list("online").into_iter().filter(|cpu| !taken.contains(cpu)).collect();
    assert!(cpus.len() > 1, "this test needs two CPUs");
    cpus
}

/// The CPU that must receive an SPI.
pub fn cpu_of(spi: u32) -> u32 {
    let cpus = cpus();
    cpus[hub_common::spread::bucket(spi) as usize % cpus.len()]
}

/// The hub's configuration without underlays.
pub fn config() -> String {
    HubConfig::offices(&[SHANGHAI, HANGZHOU, NINGBO]).to_string()
}

pub fn with_xdp(interface: &str) -> String {
    format!("{}[underlay.\"{interface}\"]\nspread = \"xdp\"\n", config())
}

/// The three offices. The hub has `wan0`; the other end is `wan1` in the same place.
pub fn world() -> World {
    let world = World::three_offices(&Options::default()).unwrap();
    add_wan(&world[HUB]);
    world
}

pub fn add_wan(hub: &Namespace) {
    hub.batch(&format!(
        "link add wan0 address {} type veth peer name wan1 address {}\nlink set wan0 up\nlink set wan1 up",
        MACS[1], MACS[0]
    ))
    .unwrap();
}

pub fn agent() -> AgentCommand {
    AgentCommand::new(agent_binary())
}

/// Mode (1 native, 2 generic) and name of the XDP program of an interface.
pub fn xdp(place: &Namespace, interface: &str) -> Option<(u64, u64)> {
    let links: Value = serde_json::from_str(&place.ip(&format!("-d -j link show dev {interface}")).unwrap()).unwrap();
    let xdp = &links[0]["xdp"];
    Some((xdp["mode"].as_u64()?, xdp["prog"]["id"].as_u64()?))
}

/// Names of the pinned links of the program, without the interface's index.
pub fn pins(place: &Namespace) -> Vec<String> {
    let entries = fs::read_dir(place.pins()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix("spread-")?.split_once('-')?.0.to_owned())).collect()
}

pub fn underlay(status: &Value, name: &str) -> Value {
    let all = status["underlays"].as_array().unwrap();
    all.iter().find(|underlay| underlay["interface"] == name).unwrap().clone()
}

/// Sends frames from CPU 0, on `wan1`, and receives them, on `wan0`.
pub struct Wire {
    sender: FrameSocket,
    /// By CPU.
    receivers: Vec<FrameSocket>,
}

impl Wire {
    pub fn open(hub: &Namespace) -> Self {
        Self::between(hub, "wan1", "wan0")
    }

    pub fn between(hub: &Namespace, from: &str, to: &str) -> Self {
        let highest = *cpus().iter().max().unwrap();
        let receivers = FrameSocket::open_by_cpu(hub, to, highest as usize + 1).unwrap();
        Self { sender: FrameSocket::open(hub, from).unwrap(), receivers }
    }

    /// Sends packets with Ethernet headers, and returns those that arrived, by CPU and in order. All must arrive.
    pub fn exchange(&self, packets: impl IntoIterator<Item = Packet>) -> BTreeMap<u32, Vec<Vec<u8>>> {
        // The driver hands a frame to the stack on the CPU that sends it.
        let mut first = CpuSet::new();
        first.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &first).unwrap();
        let frames: Vec<Vec<u8>> =
            packets.into_iter().map(|packet| packet.ethernet(MACS[0], MACS[1]).build()).collect();
        let mut arrived = BTreeMap::<u32, Vec<Vec<u8>>>::new();
        for batch in frames.chunks(WINDOW) {
            for frame in batch {
                self.sender.send(frame).unwrap();
            }
            let deadline = Instant::now() + WAIT;
            let mut missing = batch.len();
            while missing > 0 {
                assert!(Instant::now() < deadline, "{missing} frames have not arrived");
                for (cpu, receiver) in (0..).zip(&self.receivers) {
                    let ours = |frame: &[u8]| frame[6..12] == [2, 0, 0, 0, 0x99, 1];
                    while let Some(frame) = receiver.find(Duration::ZERO, ours).unwrap() {
                        arrived.entry(cpu).or_default().push(frame.bytes);
                        missing = missing.checked_sub(1).expect("no more frames than were sent");
                    }
                }
            }
        }
        let mut sent = frames;
        let mut received: Vec<Vec<u8>> = arrived.values().flatten().cloned().collect();
        sent.sort();
        received.sort();
        assert!(sent == received, "frames have changed");
        arrived
    }
}

//! A stream of packets across restarts of the agent: all arrive, and all are counted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, Rig, SHANGHAI, World};

use crate::{ENDS, End, PORT, SITES, WAIT, Wire, probe, start_again, warm_hub};

const RESTARTS: usize = 20;
/// Maximum number of packets in flight. The queue between the ends of a veth holds 256 (`VETH_RING_SIZE`,
/// drivers/net/veth.c): with more in flight, a busy CPU would lose packets in the lab.
const WINDOW: u64 = 200;

/// Numbered packets from Shanghai to Hangzhou, and which arrived.
pub struct Stream {
    sent: AtomicU64,
    received: AtomicU64,
    done: AtomicBool,
}

impl Stream {
    const fn new() -> Self {
        Self { sent: AtomicU64::new(0), received: AtomicU64::new(0), done: AtomicBool::new(false) }
    }

    /// Sends for the duration of `work`. Returns the number sent, and the numbers of those that arrived.
    pub fn during<T: Send>(world: &World, work: impl FnOnce(&Self) -> T + Send) -> (T, u64, HashSet<u64>) {
        let stream = Self::new();
        let sender = Wire::open(world, &SHANGHAI, 0);
        let receiver = Wire::open(world, &HANGZHOU, 0);
        let (result, arrived) = thread::scope(|scope| {
            let sending = scope.spawn(|| stream.send(&sender));
            let receiving = scope.spawn(|| stream.receive(&receiver));
            let result = work(&stream);
            stream.done.store(true, Ordering::SeqCst);
            sending.join().unwrap();
            (result, receiving.join().unwrap())
        });
        (result, stream.sent.load(Ordering::SeqCst), arrived)
    }

    fn send(&self, wire: &Wire) {
        let mut progress = (0, Instant::now());
        while !self.done.load(Ordering::SeqCst) {
            let (sent, received) = (self.sent.load(Ordering::SeqCst), self.received.load(Ordering::SeqCst));
            if sent - received >= WINDOW {
                if received > progress.0 {
                    progress = (received, Instant::now());
                }
                assert!(progress.1.elapsed() < WAIT, "nothing arrives any more after {received} of {sent}");
                thread::yield_now();
                continue;
            }
            progress = (received, Instant::now());
            wire.send(probe(SHANGHAI.host4().into(), HANGZHOU.host4().into(), ports(sent)));
            self.sent.store(sent + 1, Ordering::SeqCst);
        }
    }

    /// Receives until every sent packet has arrived, or none arrives any more.
    fn receive(&self, wire: &Wire) -> HashSet<u64> {
        let mut arrived = HashSet::new();
        loop {
            match wire.receive(Duration::from_millis(500)) {
                Some(ports) => {
                    assert!(arrived.insert(number(ports)), "{ports:?} arrived twice");
                    self.received.fetch_add(1, Ordering::SeqCst);
                }
                None if self.done.load(Ordering::SeqCst) => return arrived,
                None => {}
            }
        }
    }

    /// Waits for this many more arrivals, which prove that the datapath works.
    pub fn wait_for(&self, more: u64) {
        let (start, deadline) = (self.received.load(Ordering::SeqCst), Instant::now() + WAIT);
        while self.received.load(Ordering::SeqCst) < start + more {
            assert!(Instant::now() < deadline, "packets do not arrive any more");
            thread::yield_now();
        }
    }
}

const PORTS: u64 = 20_000;

fn ports(number: u64) -> (u16, u16) {
    let port = |number: u64| u16::try_from(number).unwrap();
    (port(1 + number % PORTS), PORT + port(number / PORTS))
}

fn number((source, destination): (u16, u16)) -> u64 {
    u64::from(source) - 1 + u64::from(destination - PORT) * PORTS
}

fn goes_on(end: End) {
    let Rig { agent, world } = warm_hub();
    let before = agent.status().unwrap();
    assert_eq!(before.connection("shanghai")["attach"], "xdp-native");
    let (agent, sent, arrived) = Stream::during(&world, |stream| {
        let mut agent = agent;
        for _ in 0..RESTARTS {
            stream.wait_for(100);
            let scratch = end.end(agent);
            // Without an agent.
            stream.wait_for(1000);
            agent = start_again(&world, scratch);
        }
        stream.wait_for(100);
        agent
    });
    println!("{end:?}: {RESTARTS} restarts, {sent} packets");
    assert_eq!(u64::try_from(arrived.len()).unwrap(), sent, "{end:?}: of {sent} packets");
    let after = agent.status().unwrap();
    for (name, path) in [("shanghai", "rx_packets"), ("hangzhou", "tx_packets")] {
        assert_eq!(after.since(&before, name, path), sent, "{name} {path}");
    }
    // 32 bytes of payload, a TCP and an IPv4 header.
    assert_eq!(after.since(&before, "shanghai", "rx_bytes"), sent * (32 + 20 + 20));
    assert!(after["drops"].as_object().unwrap().values().all(|count| *count == 0), "{:#}", after["drops"]);
    assert_eq!(after.connection("shanghai")["state_changes"], before.connection("shanghai")["state_changes"]);
    agent.stop().unwrap();
}

#[test]
fn agents_killed_under_stream_lose_no_packet_or_count() {
    goes_on(End::Killed);
}

#[test]
fn agents_stopped_under_stream_lose_no_packet_or_count() {
    goes_on(End::Stopped);
}

/// Killed at successive moments of its start, from before its first action until it is ready.
#[test]
fn agents_killed_during_start_lose_no_packet() {
    const MOMENTS: u32 = 25;
    let Rig { agent, world } = warm_hub();
    let before = agent.status().unwrap();
    let (agent, sent, arrived) = Stream::during(&world, |stream| {
        let mut scratch = agent.kill().unwrap();
        let command = hub_tests::lab::AgentCommand::new(hub_tests::lab::agent_binary());
        let started = Instant::now();
        scratch = command.start_in(&world[HUB], scratch).unwrap().kill().unwrap();
        let whole = started.elapsed();
        for moment in 0..MOMENTS {
            let agent = command.spawn_in(&world[HUB], scratch).unwrap();
            let at = Instant::now() + whole * moment / MOMENTS;
            while Instant::now() < at {
                thread::yield_now();
            }
            scratch = agent.kill().unwrap();
            stream.wait_for(100);
        }
        start_again(&world, scratch)
    });
    assert_eq!(u64::try_from(arrived.len()).unwrap(), sent, "of {sent} packets");
    let after = agent.status().unwrap();
    for (name, path) in [("shanghai", "rx_packets"), ("hangzhou", "tx_packets")] {
        assert_eq!(after.since(&before, name, path), sent, "{name} {path}");
    }
    agent.stop().unwrap();
}

/// The source checks continue, too.
#[test]
fn spoofed_packets_without_agent_are_dropped_and_counted() {
    for end in ENDS {
        let Rig { agent, world } = warm_hub();
        let before = agent.status().unwrap();
        let scratch = end.end(agent);
        let (sender, receiver) = (Wire::open(&world, &SHANGHAI, 0), Wire::open(&world, &HANGZHOU, 0));
        let from = |source, port| sender.send(probe(source, HANGZHOU.host4().into(), (port, PORT)));
        for port in 1..=10 {
            from(SITES[2].host4().into(), port);
        }
        from(SHANGHAI.host4().into(), 11);
        assert_eq!(receiver.receive(WAIT), Some((11, PORT)), "only what is Shanghai's own arrives");
        let agent = start_again(&world, scratch);
        let after = agent.status().unwrap();
        assert_eq!(after.since(&before, "shanghai", "drops/spoofed_source"), 10, "{end:?}");
        agent.stop().unwrap();
    }
}

/// A slot has the counters of its connection only, whatever is configured between two agents.
#[test]
fn connections_changed_between_agents_keep_their_counters() {
    let Rig { agent, world } = warm_hub();
    let before = agent.status().unwrap();
    let ningbo = before.counter("ningbo", "rx_packets");
    assert!(ningbo > 0);
    let with = |agent: hub_tests::lab::Agent, sites: &[hub_tests::lab::Site]| {
        let scratch = agent.kill().unwrap();
        std::fs::write(scratch.file("vpnhub.toml"), HubConfig::offices(sites).to_string()).unwrap();
        start_again(&world, scratch)
    };
    // Without the first by name, which frees its slot.
    let agent = with(agent, &[SHANGHAI, SITES[2].clone()]);
    assert_eq!(agent.status().unwrap().counter("ningbo", "rx_packets"), ningbo);
    let agent = with(agent, &SITES);
    let after = agent.status().unwrap();
    assert_eq!(after.counter("ningbo", "rx_packets"), ningbo);
    assert_eq!(after.counter("hangzhou", "rx_packets"), 0, "it is new");
    agent.stop().unwrap();
}

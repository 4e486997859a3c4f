//! Very many interfaces: a first start attaches filters to them, and TCX links replace these one by one. Each packet is
//! checked and counted exactly once meanwhile, and `unload` denies before it detaches.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use hub_tests::lab::{Agent, AgentCommand, Namespace, Status, Tun, agent_binary, retry, retry_within, unique_prefix};
use hub_tests::packet::{Packet, View};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TUNS: usize = 100;
/// Detaching takes 10 ms and more for each.
const TUNS_TO_UNLOAD: usize = 200;
/// Replacing a filter takes 50 ms on an idle machine.
const PATIENCE: Duration = Duration::from_secs(100);
const LINK: &str = "tcx-";
const FILTER: &str = "clsact-";
const BURST: u64 = 50;
const MARKER: &[u8] = b"admitted";
const LIE: &[u8] = b"spoofed!";

/// A hub whose kernel does not forward, with a connection on each of its TUN devices.
struct Crowd {
    hub: Namespace,
    tuns: Vec<Tun>,
    ifindices: Vec<u32>,
    /// Packets sent of each kind, on each device.
    rounds: u64,
    /// Further packets whose TTL ends here, by device.
    expired: Vec<u64>,
    arrived: Vec<u64>,
}

fn device(number: usize) -> String {
    format!("many{number}")
}

fn host(number: usize) -> String {
    format!("10.{}.{}.1", number / 256, number % 256)
}

fn packet(from: usize, to: usize, payload: &[u8]) -> Packet {
    Packet::ipv4(host(from).as_str(), host(to).as_str()).udp(7, 7).bytes(payload)
}

impl Crowd {
    fn new(count: usize) -> Self {
        let hub = Namespace::create(&unique_prefix()).unwrap();
        let tuns = (0..count).map(|number| Tun::create(&hub, &device(number)).unwrap()).collect();
        let up: Vec<String> = (0..count).map(|number| format!("link set dev {} up", device(number))).collect();
        hub.batch(&up.join("\n")).unwrap();
        let ifindices = (0..count).map(|number| hub.ifindex(&device(number)).unwrap()).collect();
        Self { hub, tuns, ifindices, rounds: 0, expired: vec![0; count], arrived: vec![0; count] }
    }

    fn start(&self) -> Agent {
        let count = self.tuns.len();
        let mut config = format!("[gateway]\nname = \"crowd\"\nmax_connections = {count}\n");
        for number in 0..count {
            let prefix = format!("10.{}.{}.0/24", number / 256, number % 256);
            write!(
                config,
                "[customer_gateway.c{number}]\naddress = \"203.0.{}.{}\"\n[connection.c{number}]\ncustomer_gateway = \
                 \"c{number}\"\ninterface = \"{}\"\nlocal_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"{prefix}\"]\n\
                 [[route]]\ndestination = \"{prefix}\"\nnext_hop = \"c{number}\"\n",
                113 + number / 256,
                number % 256,
                device(number)
            )
            .unwrap();
        }
        AgentCommand::new(agent_binary()).start_with(&self.hub, &config).unwrap()
    }

    /// On each device: a packet to the next site, one with another site's source, and one whose TTL ends here, which the
    /// program passes to the kernel.
    fn round(&mut self) {
        let count = self.tuns.len();
        for from in 0..count {
            let (next, other) = ((from + 1) % count, (from + 2) % count);
            for packet in [packet(from, next, MARKER), packet(other, next, LIE), packet(from, next, LIE).ttl(1)] {
                self.tuns[from].send(&packet.build()).unwrap();
            }
        }
        self.rounds += 1;
        self.receive();
    }

    /// Counts what has arrived.
    fn receive(&mut self) {
        for (tun, arrived) in self.tuns.iter_mut().zip(&mut self.arrived) {
            while let Some(packet) = tun.receive(Duration::ZERO).unwrap() {
                // The kernel sends packets of its own.
                let payload = View::ip(&packet).ok().map(|view| view.payload().to_vec()).unwrap_or_default();
                assert_ne!(payload, LIE, "it was not admitted, or its TTL had ended");
                *arrived += u64::from(payload == MARKER);
            }
        }
    }

    /// Indices of the interfaces with such a program.
    fn with(&self, kind: &str) -> BTreeSet<u32> {
        let names = fs::read_dir(self.hub.pins()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.to_str()?.strip_prefix(kind)?.parse().ok()).collect()
    }

    fn links(&self) -> usize {
        self.with(LINK).len()
    }

    /// Sends until the number of TCX links is reached.
    fn send_until(&mut self, links: usize) {
        retry_within(PATIENCE, "too few TCX links", || {
            self.round();
            // Filters are replaced in order: at some of these packets the next interface has both.
            while let Some(number) = self.with(FILTER).first().and_then(|first| self.number_of(*first)) {
                let packet = packet(number, (number + 1) % self.tuns.len(), LIE).ttl(1).build();
                (0..BURST).for_each(|_| self.tuns[number].send(&packet).unwrap());
                self.expired[number] += BURST;
                if self.links() >= links {
                    break;
                }
            }
            Ok((self.links() >= links).then_some(()))
        })
        .unwrap();
    }

    fn number_of(&self, ifindex: u32) -> Option<usize> {
        self.ifindices.iter().position(|other| *other == ifindex)
    }

    fn must_have_counted_all(&mut self, agent: &Agent) {
        let rounds = self.rounds;
        let expected: Vec<[u64; 4]> =
            self.expired.iter().map(|more| [2 * rounds + more, rounds, rounds, rounds + more]).collect();
        let counted = |status: &Status, number: usize| {
            let connection = status.connection(&format!("c{number}"));
            ["rx_packets", "tx_packets", "drops/spoofed_source", "passes/ttl_expired"]
                .map(|path| connection.pointer(&format!("/{path}")).and_then(serde_json::Value::as_u64).unwrap_or(0))
        };
        let mut last = Vec::new();
        let all = retry("not counted", || {
            self.receive();
            let status = agent.status()?;
            last = (0..self.tuns.len()).map(|number| counted(&status, number)).collect();
            Ok((last == expected && self.arrived.iter().all(|arrived| *arrived == self.rounds)).then_some(()))
        });
        if all.is_err() {
            assert_eq!(last, expected, "received, sent, spoofed, TTL expired");
            assert_eq!(self.arrived, vec![self.rounds; self.tuns.len()]);
        }
    }

    /// Whether a packet of the first site arrives at the second.
    fn forwards(&mut self) -> bool {
        self.receive();
        let before = self.arrived[1];
        self.tuns[0].send(&packet(0, 1, MARKER).build()).unwrap();
        self.receive();
        self.arrived[1] > before
    }

    fn unload(&self) -> Child {
        let mut command = self.hub.command(agent_binary());
        command.args(["unload", "--instance", &self.hub.instance()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// TCX came with Linux 6.6.
pub fn has_tcx() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

#[test]
fn tcx_links_that_replace_filters_count_each_packet_once() {
    let mut crowd = Crowd::new(TUNS);
    let agent = crowd.start();
    crowd.round();
    assert!(!crowd.with(FILTER).is_empty(), "{} links at once: nothing is handed over", crowd.links());
    if has_tcx() {
        crowd.send_until(TUNS);
    }
    (0..10).for_each(|_| crowd.round());
    crowd.must_have_counted_all(&agent);
    agent.stop().unwrap();
}

#[test]
fn agent_killed_during_handover_loses_and_repeats_no_packet() {
    let mut crowd = Crowd::new(TUNS);
    let mut agent = crowd.start();
    for part in 1..4 {
        if has_tcx() {
            crowd.send_until(TUNS * part / 4);
        }
        let files = agent.kill().unwrap();
        crowd.round();
        let starting = AgentCommand::new(agent_binary()).spawn_in(&crowd.hub, files).unwrap();
        retry("not ready", || {
            crowd.round();
            Ok(starting.status().is_ok().then_some(()))
        })
        .unwrap();
        agent = starting;
    }
    if has_tcx() {
        crowd.send_until(TUNS);
    }
    crowd.must_have_counted_all(&agent);
    agent.stop().unwrap();
}

#[test]
fn interrupted_unload_of_many_interfaces_leaves_all_denied() {
    let mut crowd = Crowd::new(TUNS_TO_UNLOAD);
    let agent = crowd.start();
    if has_tcx() {
        crowd.send_until(TUNS_TO_UNLOAD);
    }
    agent.kill().unwrap();
    assert!(crowd.forwards());
    let mut unloading = crowd.unload();
    retry("still forwarded", || Ok((!crowd.forwards()).then_some(()))).unwrap();
    if has_tcx() {
        let links = crowd.links();
        assert!(links > TUNS_TO_UNLOAD / 2, "only {links} links are left: detached before denied");
        kill(Pid::from_raw(unloading.id().cast_signed()), Signal::SIGINT).unwrap();
    }
    unloading.wait().unwrap();
    assert!(!crowd.forwards());
    let mut unloading = crowd.unload();
    retry("still unloading", || {
        assert!(!crowd.forwards());
        Ok(unloading.try_wait()?)
    })
    .unwrap();
    assert!(!crowd.hub.pins().exists());
}

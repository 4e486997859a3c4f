//! TCX links that replace filters at egress translate each packet exactly once.
//!
//! Each site has two translations in a row: what the first one gives is what the second one takes. So a packet that is
//! translated twice arrives with another address.

use std::{fmt::Write as _, fs, net::Ipv4Addr, time::Duration};

use hub_tests::lab::{Agent, AgentCommand, Namespace, Tun, agent_binary, retry_within, unique_prefix};
use hub_tests::packet::{Packet, View};

use crate::bulk::has_tcx;

/// More than get TCX links at once.
const TUNS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(100);
const BURST: usize = 50;
const PAYLOAD: &[u8] = b"translated";

/// A site's own address.
const OWN: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

struct Sites {
    hub: Namespace,
    tuns: Vec<Tun>,
}

fn device(number: usize) -> String {
    format!("many{number}")
}

/// What [`OWN`] is at the hub, and for the site an address of its own, too.
fn first(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, number as u8, 1)
}

/// What [`first`] is at the hub.
fn second(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, number as u8, 1)
}

impl Sites {
    fn new() -> Self {
        let hub = Namespace::create(&unique_prefix()).unwrap();
        let tuns = (0..TUNS).map(|number| Tun::create(&hub, &device(number)).unwrap()).collect();
        let up: Vec<String> = (0..TUNS).map(|number| format!("link set dev {} up", device(number))).collect();
        hub.batch(&up.join("\n")).unwrap();
        Self { hub, tuns }
    }

    fn start(&self) -> Agent {
        let mut config = format!("[gateway]\nname = \"translating\"\nmax_connections = {TUNS}\n");
        for number in 0..TUNS {
            let device = device(number);
            write!(
                config,
                "[customer_gateway.c{number}]\naddress = \"203.0.113.{number}\"\n[connection.c{number}]\n\
                 customer_gateway = \"c{number}\"\ninterface = \"{device}\"\nlocal_cidrs = [\"0.0.0.0/0\"]\n\
                 remote_cidrs = [\"172.16.0.0/24\", \"10.1.{number}.0/24\"]\n\
                 translate = [{{ site = \"172.16.0.0/24\", hub = \"10.1.{number}.0/24\" }}, \
                 {{ site = \"10.1.{number}.0/24\", hub = \"10.2.{number}.0/24\" }}]\n"
            )
            .unwrap();
            for net in [1, 2] {
                let destination = format!("10.{net}.{number}.0/24");
                write!(config, "[[route]]\ndestination = \"{destination}\"\nnext_hop = \"c{number}\"\n").unwrap();
            }
        }
        AgentCommand::new(agent_binary()).start_with(&self.hub, &config).unwrap()
    }

    /// Sends packets to a site, which must all arrive with the right addresses.
    fn send_to(&mut self, number: usize, count: usize) {
        let from = (number + 1) % TUNS;
        let packet = Packet::ipv4(OWN.to_string().as_str(), second(number).to_string().as_str());
        let packet = packet.udp(7, 7).bytes(PAYLOAD).build();
        (0..count).for_each(|_| self.tuns[from].send(&packet).unwrap());
        let mut arrived = 0;
        retry_within(PATIENCE, "not all packets arrive", || {
            while let Some(packet) = self.tuns[number].receive(Duration::ZERO).unwrap() {
                // The kernel sends packets of its own.
                let Ok(view) = View::ip(&packet) else { continue };
                if view.payload() == PAYLOAD {
                    let addresses = (view.source, view.destination);
                    assert_eq!(addresses, (first(from).into(), first(number).into()));
                    arrived += 1;
                }
            }
            Ok((arrived == count).then_some(()))
        })
        .unwrap();
    }

    /// Indices of the sites whose interface has such a program.
    fn with(&self, kind: &str) -> Vec<usize> {
        let names = fs::read_dir(self.hub.pins()).unwrap().map(|entry| entry.unwrap().file_name());
        let indices: Vec<u32> = names.filter_map(|name| name.to_str()?.strip_prefix(kind)?.parse().ok()).collect();
        (0..TUNS).filter(|number| indices.contains(&self.hub.ifindex(&device(*number)).unwrap())).collect()
    }

    /// Sends to the sites whose filter is replaced next, until so many are left.
    fn send_until(&mut self, left: usize) {
        retry_within(PATIENCE, "the filters stay", || {
            let waiting = self.with("egress-");
            if let Some(next) = waiting.first() {
                self.send_to(*next, BURST);
            }
            Ok((waiting.len() <= left).then_some(()))
        })
        .unwrap();
    }

    fn send_to_all(&mut self) {
        (0..TUNS).for_each(|number| self.send_to(number, 2));
    }
}

#[test]
fn replaced_filters_at_egress_translate_each_packet_once() {
    let mut sites = Sites::new();
    let mut agent = sites.start();
    sites.send_to_all();
    if has_tcx() {
        assert!(!sites.with("egress-").is_empty(), "nothing is replaced");
        sites.send_until(TUNS / 2);
    }
    // The next agent continues.
    let scratch = agent.kill().unwrap();
    sites.send_to_all();
    agent = AgentCommand::new(agent_binary()).start_in(&sites.hub, scratch).unwrap();
    if has_tcx() {
        sites.send_until(0);
        assert_eq!(sites.with("tcx-egress-").len(), TUNS);
    }
    sites.send_to_all();
    agent.stop().unwrap();
}

//! temporary
use std::{fmt::Write as _, sync::Arc, time::Instant};

use super::sim::Agent;
use crate::{
    agent::{event::Event, step::step},
    config::parse,
    ipsec::vici::{event::ChildSa, selector::TrafficSelector, table::Tunnel, tunnels::Tunnels},
    kernel::netlink::{Changes, HostState, Link},
};

fn up(number: u32) -> Arc<Tunnel> {
    let selectors = |text: &str| vec![TrafficSelector::parse(text).expect("a selector")];
    let child = ChildSa {
        id: 1,
        state: "INSTALLED".into(),
        local: selectors("192.168.0.0/24"),
        remote: selectors(&format!("10.{}.{}.0/24", number / 256, number % 256)),
        ..ChildSa::default()
    };
    Arc::new(Tunnel { children: vec![child], ..Tunnel::default() })
}

fn probe(count: u32, shared: bool) {
    let mut text = "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\nmax_connections = 4000\n[customer_gateway.site]\naddress = \"198.51.100.1\"\n".to_owned();
    let mut host = HostState::default();
    let add = |host: &mut HostState, index, name: String| {
        host.links.insert(Link { index, name, mtu: 1400, admin_up: true, running: true, ..Link::default() });
        host.addresses
            .entry(index)
            .or_default()
            .insert(format!("169.254.{}.{}/32", index / 256, index % 256).parse().unwrap());
    };
    for n in 0..count {
        let interface = if shared { "ipsec0".to_owned() } else { format!("tun{n}") };
        if !shared || n == 0 {
            add(&mut host, 10 + n, interface.clone());
        }
        let (a, b) = (n / 256, n % 256);
        write!(text, "[connection.site-{n}]\ncustomer_gateway = \"site\"\ninterface = \"{interface}\"\nlocal_cidrs = [\"192.168.0.0/24\"]\nremote_cidrs = [\"10.{a}.{b}.0/24\"]\n[connection.site-{n}.ipsec]\npsk_file = \"/nowhere\"\nremote_id = \"s{n}\"\nstart = \"start\"\n[[route]]\ndestination = \"10.{a}.{b}.0/24\"\nnext_hop = \"site-{n}\"\n").unwrap();
    }
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut agent = Agent::new(config, &host, Instant::now());
    let mut tunnels = Tunnels {
        tunnels: (0..count).map(|n| (format!("site-{n}"), up(n))).collect(),
        heard: true,
        ..Tunnels::default()
    };
    agent.take(Event::Tunnels(Arc::new(tunnels.clone()))).unwrap();
    agent.start().unwrap();
    let mut times = Vec::new();
    let mut steps = Vec::new();
    for round in 0..60u32 {
        let n = (round / 2) % count;
        let tunnel = if round % 2 == 0 { Arc::default() } else { up(n) };
        tunnels.tunnels.insert(format!("site-{n}"), tunnel);
        let begin = Instant::now();
        agent.take(Event::Tunnels(Arc::new(tunnels.clone()))).unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        agent.settle();
        drop(agent.log());
        agent.take(Event::GraceOver).unwrap();
    }
    let mut links = Vec::new();
    for round in 0..20u32 {
        host.links.change(10, |link| link.running = round % 2 == 1);
        let mut changes = Changes::default();
        changes.carrier = true;
        let now = agent.now;
        let begin = Instant::now();
        let effects = step(&mut agent.world, Event::Host { host: host.clone(), changes: changes.clone() }, now);
        steps.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(effects);
        agent.world.retry(now);
        let begin = Instant::now();
        agent.see(host.clone(), changes).unwrap();
        links.push(begin.elapsed().as_secs_f64() * 1e3);
        agent.settle();
        agent.take(Event::GraceOver).unwrap();
    }
    for v in [&mut times, &mut links, &mut steps] {
        v.sort_by(f64::total_cmp);
    }
    println!(
        "{count} shared={shared}: tunnel event median {:.2} max {:.2} ms; first step of carrier {:.2} max {:.2}; all of carrier {:.2}",
        times[times.len() / 2],
        times[times.len() - 1],
        steps[10],
        steps[19],
        links[10]
    );
}

#[test]
fn probe_steps() {
    for count in [100, 1000, 3900] {
        for shared in [true, false] {
            probe(count, shared);
        }
    }
}

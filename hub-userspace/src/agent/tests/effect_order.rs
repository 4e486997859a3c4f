//! Tests of the order of effects.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use hub_common::maps::MssLimits;

use super::sim::Agent;
use crate::{
    agent::{Transition, event::Event},
    config::{Config, difference::Difference, parse},
    connection::state::State,
    ipsec::vici::{event::ChildSa, selector::TrafficSelector, table::Tunnel, tunnels::Tunnels},
    kernel::netlink::{Changes, HostState, Link},
};

pub fn config(sites: &[&str]) -> Config {
    parse(&text(sites)).unwrap_or_else(|errors| panic!("{errors:#?}")).0
}

pub fn text(sites: &[&str]) -> String {
    let mut text = "[gateway]\nname = \"hub\"\n[customer_gateway.site]\naddress = \"198.51.100.1\"\n".to_owned();
    for (number, site) in sites.iter().enumerate() {
        write!(
            text,
            "[connection.{site}]\ncustomer_gateway = \"site\"\ninterface = \"{site}0\"\nlocal_cidrs = [\"0.0.0.0/0\"]\n\
             remote_cidrs = [\"10.{number}.0.0/16\", \"10.200.0.0/16\"]\n[[route]]\n\
             destination = \"10.{number}.0.0/16\"\nnext_hop = \"{site}\"\n[[route]]\n\
             destination = \"10.200.0.0/16\"\nnext_hop = \"{site}\"\n"
        )
        .unwrap();
    }
    text
}

pub fn host(sites: &[&str]) -> HostState {
    let mut host = HostState::default();
    for (index, site) in (10..).zip(sites) {
        host.links.insert(Link {
            index,
            name: format!("{site}0"),
            mtu: 1400,
            admin_up: true,
            running: true,
            ..Link::default()
        });
    }
    host
}

pub fn agent(sites: &[&str]) -> Agent {
    let mut agent = Agent::new(config(sites), &host(sites), Instant::now());
    agent.start().expect("it does not fail");
    agent.log();
    agent
}

fn change(agent: &Agent, sites: &[&str]) -> Event {
    change_to(agent, config(sites))
}

pub fn change_to(agent: &Agent, new: Config) -> Event {
    let difference = Difference::between(&agent.world.config, &new);
    Event::Change(Arc::new(Transition { difference, config: Some(Arc::new(new)) }))
}

pub fn links() -> Changes {
    let mut changes = Changes::default();
    changes.links = true;
    changes
}

#[test]
fn link_down_moves_flows_first() {
    let mut agent = agent(&["a", "b"]);
    let mut host = host(&["a", "b"]);
    host.links.change(10, |link| link.running = false);
    agent.see(host, links()).expect("it does not fail");
    let log = agent.log();
    assert_eq!(log[..3], ["write NextHops", "write Buckets", "write NextHops"], "{log:?}");
    assert!(!log[3..].iter().any(|line| line == "write Buckets"), "{log:?}");
}

#[test]
fn changed_mtu_changes_mss_limits() {
    let mut agent = agent(&["a", "b"]);
    let limits =
        |agent: &Agent| -> Vec<MssLimits> { agent.state.borrow().tables.policy.mss_limits.values().copied().collect() };
    let large = MssLimits { v4: 1360, v6: 1340 };
    assert_eq!(limits(&agent), [large; 2]);
    let mut host = host(&["a", "b"]);
    host.links.change(10, |link| link.mtu = 1300);
    agent.see(host, links()).expect("it does not fail");
    assert_eq!(limits(&agent), [MssLimits { v4: 1260, v6: 1240 }, large]);
    assert_eq!(agent.log().iter().filter(|line| *line == "write MssLimits").count(), 1);
}

#[test]
fn link_down_compiles_no_policy() {
    let mut agent = agent(&["a", "b"]);
    agent.settle();
    agent.log();
    let mut host = host(&["a", "b"]);
    host.links.change(10, |link| link.running = false);
    let mut changes = Changes::default();
    changes.carrier = true;
    agent.see(host, changes).expect("it does not fail");
    let log = agent.log();
    assert_eq!(log[..3], ["write NextHops", "write Buckets", "write NextHops"], "{log:?}");
    assert!(!log.iter().any(|line| line == "guard" || line.starts_with("attach")), "{log:?}");
}

#[test]
fn link_down_while_interfaces_wait_for_attachment_moves_flows_first() {
    let mut agent = agent(&["a", "b"]);
    let new: Vec<String> = (0..100).map(|number| format!("new{number}x")).collect();
    let names: Vec<&str> = ["a", "b"].into_iter().chain(new.iter().map(String::as_str)).collect();
    let mut text = String::new();
    for (number, name) in names.iter().enumerate() {
        write!(
            text,
            "[connection.{name}]\ncustomer_gateway = \"site\"\ninterface = \"{name}0\"\nlocal_cidrs = [\"0.0.0.0/0\"]\n\
             remote_cidrs = [\"10.{number}.0.0/16\", \"10.200.0.0/16\"]\n[[route]]\n\
             destination = \"10.{number}.0.0/16\"\nnext_hop = \"{name}\"\n"
        )
        .unwrap();
    }
    let routes = "[[route]]\ndestination = \"10.200.0.0/16\"\nnext_hop = \"a\"\n\
                  [[route]]\ndestination = \"10.200.0.0/16\"\nnext_hop = \"b\"\n";
    let gateway =
        "[gateway]\nname = \"hub\"\nmax_connections = 200\n[customer_gateway.site]\naddress = \"198.51.100.1\"\n";
    let config = parse(&format!("{gateway}{text}{routes}")).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut host = host(&names);
    agent.see(host.clone(), links()).expect("it does not fail");
    agent.take(change_to(&agent, config)).expect("it does not fail");
    let attached = |log: &[String]| log.iter().filter(|line| line.starts_with("attach new")).count();
    let before = attached(&agent.log());
    assert!(0 < before && before < new.len(), "{before}");
    host.links.change(10, |link| link.running = false);
    agent.see(host, links()).expect("it does not fail");
    let log = agent.log();
    assert_eq!(log[..3], ["write NextHops", "write Buckets", "write NextHops"], "{log:?}");
    agent.settle();
    assert_eq!(before + attached(&log) + attached(&agent.log()), new.len());
    assert_eq!(agent.state.borrow().attached.len(), names.len());
}

#[test]
fn new_site_is_guarded_before_attachment_and_routes() {
    let mut agent = agent(&["a"]);
    agent.see(host(&["a", "b"]), links()).expect("it does not fail");
    agent.log();
    agent.take(change(&agent, &["a", "b"])).expect("it does not fail");
    agent.settle();
    let log = agent.log();
    let at = |what: &str| log.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what}: {log:?}"));
    assert!(at("guard") < at("attach b0") && at("guard") < at("routes"), "{log:?}");
    assert!(at("write Attachments") < at("attach b0"), "{log:?}");
}

#[test]
fn removed_site_is_guarded_until_routes_are_gone() {
    let mut agent = agent(&["a", "b"]);
    agent.take(change(&agent, &["a"])).expect("it does not fail");
    let log = agent.log();
    assert!(log.contains(&"detach b0".to_owned()), "{log:?}");
    let denied = |agent: &Agent| agent.state.borrow().guard.as_ref().is_some_and(|guard| guard.sites.contains("b0"));
    assert!(denied(&agent), "its program is gone, and its routes may be there");
    agent.settle();
    assert!(!denied(&agent));
    let log = agent.log();
    assert_eq!(log.iter().filter(|line| *line == "leave group").count(), 1, "{log:?}");
}

#[test]
fn failed_device_group_join_is_retried() {
    let mut agent = agent(&["a", "b"]);
    agent.take(change(&agent, &["a"])).expect("it does not fail");
    agent.see(host(&["a", "b"]), links()).expect("it does not fail");
    agent.state.borrow_mut().group_fails = true;
    assert!(agent.take(change(&agent, &["a", "b"])).is_err());
    agent.state.borrow_mut().group_fails = false;
    agent.settle();
    assert!(agent.state.borrow().group.contains(&10), "a was in it and stays there");
    agent.now += Duration::from_secs(5);
    agent.take(Event::Due).expect("it does not fail any more");
    assert_eq!(agent.state.borrow().group, [10, 11].into());
}

#[test]
fn failed_attachment_is_retried() {
    let mut agent = agent(&["a"]);
    agent.see(host(&["a", "b"]), links()).expect("it does not fail");
    agent.state.borrow_mut().attach_fails = true;
    agent.take(change(&agent, &["a", "b"])).expect("the others stay");
    agent.settle();
    assert!(!agent.state.borrow().attached.contains_key(&11));
    agent.state.borrow_mut().attach_fails = false;
    agent.now += Duration::from_secs(5);
    agent.take(Event::Due).expect("it does not fail");
    agent.settle();
    assert_eq!(agent.state.borrow().attached.get(&11), Some(&("b0".to_owned(), false)));
}

#[test]
fn only_ethernet_interface_gets_xdp_once_there_is_another_and_keeps_it() {
    let ethernet = |sites: &[&str]| {
        let mut host = host(sites);
        for (index, _) in (10..).zip(sites) {
            host.links.change(index, |link| link.ethernet = true);
        }
        host
    };
    let mut agent = Agent::new(config(&["a"]), &ethernet(&["a"]), Instant::now());
    agent.start().expect("it does not fail");
    let modes = |agent: &Agent| {
        let status = |name: &str| agent.world.attachments.status(&agent.world.host, name).attach;
        [status("a0"), status("b0")].map(Option::unwrap_or_default)
    };
    assert_eq!(modes(&agent), ["tc", ""]);
    agent.see(ethernet(&["a", "b"]), links()).expect("it does not fail");
    agent.take(change(&agent, &["a", "b"])).expect("it does not fail");
    agent.settle();
    assert_eq!(modes(&agent), ["xdp-native", "xdp-native"]);
    let log = agent.log();
    let at = |what: &str| log.iter().rposition(|line| line == what).unwrap_or_else(|| panic!("{what}: {log:?}"));
    assert!(at("attach a0") < at("write NextHops"), "then b's XDP may send to a: {log:?}");
    agent.take(change(&agent, &["a"])).expect("it does not fail");
    agent.settle();
    assert_eq!(modes(&agent), ["xdp-native", ""]);
}

#[test]
fn start_without_nftables_attaches_nothing() {
    let mut agent = Agent::new(config(&["a"]), &host(&["a"]), Instant::now());
    agent.state.borrow_mut().guard_fails = true;
    let error = agent.take(Event::Start).expect_err("there is no table").to_string();
    assert_eq!(error, "no nf_tables");
    assert_eq!(agent.log(), ["guard"]);
}

#[test]
fn failed_write_is_retried() {
    let mut agent = agent(&["a"]);
    agent.see(host(&["a", "b"]), links()).expect("it does not fail");
    agent.state.borrow_mut().fails_in = Some(3);
    assert!(agent.take(change(&agent, &["a", "b"])).is_err());
    agent.state.borrow_mut().fails_in = None;
    agent.log();
    agent.now += Duration::from_secs(5);
    agent.take(Event::Due).expect("it does not fail any more");
    assert!(agent.log().iter().any(|line| line == "write Attachments"));
    assert!(agent.state.borrow().routes.len() > 2);
}

#[test]
fn periodic_audit_rewrites_guard() {
    let mut agent = agent(&["a"]);
    agent.now = agent.world.due();
    agent.take(Event::Due).expect("it does not fail");
    let log = agent.log();
    assert!(log.contains(&"audit".to_owned()) && log.contains(&"guard".to_owned()), "{log:?}");
    assert!(agent.world.due() > agent.now);
}

/// Connections with IPsec, each up by an SA except those named.
fn tunnels(config: &Config, down: &[&str]) -> Event {
    let selectors = |text: &str| vec![TrafficSelector::parse(text).expect("a selector")];
    let tunnel = |(number, name): (usize, &String)| {
        let child = ChildSa {
            id: number as u64,
            name: format!("vpnhub-{name}"),
            state: "INSTALLED".into(),
            local: selectors("192.168.0.0/24"),
            remote: selectors(&format!("10.{number}.0.0/24")),
            ..ChildSa::default()
        };
        let children = if down.contains(&name.as_str()) { Vec::new() } else { vec![child] };
        (name.clone(), Arc::new(Tunnel { children, ..Tunnel::default() }))
    };
    let tunnels = config.connections.keys().enumerate().map(tunnel).collect();
    Event::Tunnels(Arc::new(Tunnels { tunnels, heard: true, ..Tunnels::default() }))
}

fn ipsec_agent(sites: &[&str]) -> Agent {
    let ipsec = |site: &&str| format!("[connection.{site}.ipsec]\npsk_file = \"/nowhere\"\nremote_id = \"{site}\"\n");
    let text =
        text(sites).replace("name = \"hub\"\n", "name = \"hub\"\naddress = \"203.0.113.1\"\nmax_connections = 100\n");
    let text = text + &sites.iter().map(ipsec).collect::<String>();
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut agent = Agent::new(config, &host(sites), Instant::now());
    agent.start().expect("it does not fail");
    while agent.reported().is_some() {}
    agent.log();
    agent
}

#[test]
fn tunnel_that_comes_up_with_its_selectors_is_reported_once() {
    let mut agent = ipsec_agent(&["a", "b"]);
    let up = tunnels(&agent.world.config, &["b"]);
    agent.take(up).expect("it does not fail");
    let reported: Vec<_> = std::iter::from_fn(|| agent.reported()).collect();
    let of = |name: &str| reported.iter().filter(|event| event.connection == name).collect::<Vec<_>>();
    let [event] = of("a")[..] else { panic!("{reported:#?}") };
    assert_eq!(event.state, State::Up);
    assert_eq!(event.selectors, Some(vec!["10.0.0.0/24 === 192.168.0.0/24".to_owned()]));
    assert_eq!(of("b").len(), 1, "it has no SA: {reported:#?}");
    // New selectors without a new state.
    let up = tunnels(&agent.world.config, &[]);
    agent.take(up).expect("it does not fail");
    let reported: Vec<_> = std::iter::from_fn(|| agent.reported()).collect();
    assert_eq!(reported.len(), 1, "{reported:#?}");
}

#[test]
fn tunnels_that_differ_in_counters_alone_cause_no_work() {
    let names: Vec<String> = (0..60).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut agent = ipsec_agent(&names);
    let config = Arc::clone(&agent.world.config);
    agent.take(tunnels(&config, &[])).expect("it does not fail");
    agent.settle();
    while agent.reported().is_some() {}
    agent.log();
    agent.take(tunnels(&config, &[])).expect("it does not fail");
    assert_eq!((agent.log(), agent.reported().is_none()), (vec![], true));
    // One of them goes down: nothing of the others is reported or stored.
    agent.take(tunnels(&config, &["s7"])).expect("it does not fail");
    let reported: Vec<String> = std::iter::from_fn(|| agent.reported()).map(|event| event.connection).collect();
    assert_eq!(reported, ["s7"]);
}

#[test]
fn state_change_is_reported_once_with_reason() {
    let mut agent = agent(&["a"]);
    let reported = agent.reported().expect("of the start");
    assert_eq!((reported.connection.as_str(), reported.state, reported.was), ("a", State::Up, None));
    let mut host = host(&["a"]);
    host.links.change(10, |link| link.admin_up = false);
    agent.see(host, links()).expect("it does not fail");
    let reported = agent.reported().expect("of the link");
    assert_eq!((reported.state, reported.was), (State::Down, Some(State::Up)));
    assert_eq!(reported.reason.expect("one"), "interface a0 is down: `ip link set a0 up`");
    assert!(agent.reported().is_none());
}

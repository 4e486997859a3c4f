//! `interface_mtu = "auto"`: which events change the xfrm interfaces.

use std::{sync::Arc, time::Instant};

use super::sim::Agent;
use crate::{
    agent::event::Event,
    config::parse,
    ipsec::vici::{
        event::{ChildSa, Outside},
        table::Tunnel,
        tunnels::Tunnels,
    },
    kernel::netlink::{Changes, HostState, Link},
};

fn agent(mtu: &str) -> Agent {
    let text = format!(
        "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\n[customer_gateway.site]\naddress = \"198.51.100.1\"\n\
         [connection.a]\ncustomer_gateway = \"site\"\ninterface = \"xf0\"\nlocal_cidrs = [\"0.0.0.0/0\"]\n\
         remote_cidrs = [\"10.1.0.0/16\"]\n[connection.a.ipsec]\npsk_file = \"/nowhere\"\nif_id = 1\n\
         create_interface = true\ninterface_mtu = {mtu}\n"
    );
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut agent = Agent::new(config, &host(1500, 1400), Instant::now());
    agent.take(tunnels(None)).expect("it does not fail");
    agent.start().expect("it does not fail");
    agent.log();
    agent
}

/// The underlay eth0, and the xfrm interface.
fn host(underlay: u32, interface: u32) -> HostState {
    let up = Link { admin_up: true, running: true, ..Link::default() };
    let eth0 = Link { index: 2, name: "eth0".into(), ethernet: true, mtu: underlay, ..up.clone() };
    let xfrm = Some("xfrm".to_owned());
    let xf0 = Link { index: 10, name: "xf0".into(), kind: xfrm, if_id: Some(1), mtu: interface, ..up };
    let mut host = HostState::default();
    host.links = [eth0, xf0].into_iter().collect();
    host.addresses.insert(2, ["203.0.113.1/24".parse().expect("an address")].into());
    host
}

/// The tunnel's SA, in UDP or not.
fn tunnels(is_in_udp: Option<bool>) -> Event {
    let child = |is_in_udp| {
        let outside = Outside { is_in_udp, encryption: Some("AES_GCM_16".into()), ..Outside::default() };
        ChildSa { id: 1, state: "INSTALLED".into(), outside, ..ChildSa::default() }
    };
    let tunnel = Tunnel { children: is_in_udp.map(child).into_iter().collect(), ..Tunnel::default() };
    let tunnels = [("a".to_owned(), Arc::new(tunnel))].into_iter().collect();
    Event::Tunnels(Arc::new(Tunnels { tunnels, heard: true, ..Tunnels::default() }))
}

fn links() -> Changes {
    let mut changes = Changes::default();
    changes.links = true;
    changes
}

/// The MTU, and how often the interfaces were set since the last call.
fn state(agent: &Agent) -> (u32, usize) {
    let sets = agent.log().iter().filter(|line| *line == "links").count();
    (agent.state.borrow().links["xf0"].mtu, sets)
}

#[test]
fn auto_mtu_follows_sas_and_underlay_without_loop() {
    let mut agent = agent("\"auto\"");
    assert_eq!(state(&agent), (1422, 0));
    let mut mtu = 1422;
    for (what, event, expected) in [
        ("a tunnel", tunnels(Some(false)), 1446),
        ("NAT appears", tunnels(Some(true)), 1438),
        ("NAT is gone", tunnels(Some(false)), 1446),
        ("a smaller link", Event::Host { host: host(1400, 1446), changes: links() }, 1346),
        ("no tunnel", tunnels(None), 1310),
        ("a larger link", Event::Host { host: host(1500, 1310), changes: links() }, 1422),
    ] {
        agent.take(event).expect("it does not fail");
        assert_eq!(state(&agent), (expected, 1), "{what}");
        assert_ne!(mtu, expected);
        mtu = expected;
        // The kernel reports the agent's own change.
        let underlay = agent.world.host.links[&2].mtu;
        agent.see(host(underlay, mtu), links()).expect("it does not fail");
        assert_eq!(state(&agent), (mtu, 0), "{what}: the agent's own change");
    }
    agent.settle();
    assert_eq!(state(&agent), (mtu, 0));
}

#[test]
fn address_and_gateway_events_find_the_underlay() {
    let mut agent = agent("\"auto\"");
    agent.take(tunnels(Some(false))).expect("it does not fail");
    let mut host = host(1500, 1446);
    host.links.insert(Link { index: 3, name: "ppp0".into(), mtu: 1492, ..host.links[&2].clone() });
    agent.see(host.clone(), links()).expect("it does not fail");
    assert_eq!(state(&agent), (1446, 1), "a link without an address");
    // The address moves there.
    let addresses = host.addresses.remove(&2).expect("they are there");
    host.addresses.insert(3, addresses);
    let mut changes = Changes::default();
    changes.addresses = true;
    agent.see(host.clone(), changes).expect("it does not fail");
    assert_eq!(state(&agent), (1438, 1));
    // Behind NAT the hub does not have it: the route to the site counts.
    host.addresses.insert(3, ["172.16.0.1/24".parse().expect("an address")].into());
    host.addresses.insert(2, ["10.9.0.1/24".parse().expect("an address")].into());
    let mut changes = Changes::default();
    changes.addresses = true;
    agent.see(host.clone(), changes).expect("it does not fail");
    assert_eq!(state(&agent), (1446, 1), "nothing is known");
    host.gateways.insert((3, "0.0.0.0/0".parse().expect("a prefix")), "172.16.0.2".parse().expect("an address"));
    let mut changes = Changes::default();
    changes.gateways = true;
    agent.see(host, changes).expect("it does not fail");
    assert_eq!(state(&agent), (1438, 1));
}

#[test]
fn fixed_mtu_follows_nothing() {
    let mut agent = agent("1300");
    for event in [tunnels(Some(true)), tunnels(None), Event::Host { host: host(1400, 1300), changes: links() }] {
        agent.take(event).expect("it does not fail");
        assert_eq!(state(&agent), (1300, 0));
    }
}

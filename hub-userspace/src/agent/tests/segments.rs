//! Segments that change: their connections get new numbers.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use hub_common::maps::{ADMITS_NOTHING, MAX_PORT_RULES};

use super::{
    effect_order::{change_to, host},
    sim::Agent,
};
use crate::{
    agent::event::Event,
    config::{Config, parse},
    ipsec::vici::{event::ChildSa, selector::TrafficSelector, table::Tunnel, tunnels::Tunnels},
};

const SITES: [&str; 2] = ["a", "b"];

/// Two connections in one of two segments.
fn config(segment: &str) -> Config {
    let mut text = "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\n\
                    [customer_gateway.site]\naddress = \"198.51.100.1\"\n\
                    [segment.s]\nreaches = [\"t\"]\n[segment.t]\nreaches = [\"s\"]\n"
        .to_owned();
    for (number, name) in (0..).zip(SITES) {
        write!(
            text,
            "[connection.{name}]\ncustomer_gateway = \"site\"\ninterface = \"{name}0\"\nsegment = \"{segment}\"\n\
             local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.{number}.0.0/16\"]\n\
             [connection.{name}.ipsec]\npsk_file = \"/nowhere\"\nremote_id = \"{name}\"\n"
        )
        .unwrap();
    }
    parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
}

/// SAs with so many sets of port rules each, all of them different.
fn limited(sets: u32) -> Event {
    let selector = |text: &str| TrafficSelector::parse(text).expect("a selector");
    let tunnel = |(number, name): (u32, &str)| {
        let port = |set: u32| 1 + number * sets + set;
        let remote = |set| selector(&format!("10.{number}.{}.{}/32[tcp/{}]", set >> 8, set & 0xff, port(set)));
        let child = ChildSa {
            name: format!("vpnhub-{name}"),
            state: "INSTALLED".into(),
            local: vec![selector("0.0.0.0/0")],
            remote: (0..sets).map(remote).collect(),
            ..ChildSa::default()
        };
        (name.to_owned(), Arc::new(Tunnel { children: vec![child], ..Tunnel::default() }))
    };
    let tunnels = (0..).zip(SITES).map(tunnel).collect();
    Event::Tunnels(Arc::new(Tunnels { tunnels, heard: true, ..Tunnels::default() }))
}

/// Entries for local prefixes, and those that admit nothing because there is no room for their port rules.
fn entries(agent: &Agent) -> (usize, usize) {
    let state = agent.state.borrow();
    let rules = || state.tables.policy.v4.locals.values().map(|local| local.rules);
    (rules().count(), rules().filter(|rules| *rules == ADMITS_NOTHING).count())
}

#[test]
fn port_rules_of_a_renumbered_segment_are_complete_after_the_grace_period() {
    const SETS: u32 = MAX_PORT_RULES / 2 - 50;
    let mut agent = Agent::new(config("s"), &host(&SITES), Instant::now());
    agent.start().expect("it does not fail");
    agent.take(limited(SETS)).expect("it does not fail");
    agent.settle();
    assert_eq!(entries(&agent), (2 * SETS as usize, 0));
    // Both sets of rules have no room beside each other.
    agent.take(change_to(&agent, config("t"))).expect("it does not fail");
    agent.settle();
    assert!(entries(&agent).1 > 0, "the test does not test");
    while std::mem::take(&mut agent.state.borrow_mut().grace) {
        agent.take(Event::GraceOver).expect("it does not fail");
        agent.settle();
    }
    assert_eq!(entries(&agent), (2 * SETS as usize, 0));
    assert!(agent.world.truncated.is_empty());
}

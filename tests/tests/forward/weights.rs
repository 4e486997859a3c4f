//! Several connections to one site share its flows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, Status};
use hub_tests::packet::View;

use crate::{SITES, WAIT, Wire, probe};

const FLOWS: u16 = 1000;
const FIRST_PORT: u16 = 10_000;
const PORT: u16 = 9;
const LINKS: [&str; 2] = ["shanghai", "shanghai-2"];

/// The world with two links to Shanghai, all of it warm.
fn two_links(weights: [u8; 2]) -> Rig {
    let config = HubConfig::offices(&SITES).second_link(&SHANGHAI, weights);
    let rig = Rig::start(&Options::default().second_link("shanghai"), &config).unwrap();
    rig.warm_up(&SITES).unwrap();
    // No ping chooses its link: see that the second's neighbour is known, too.
    let second = SHANGHAI.peer4(1);
    hub_tests::lab::retry("the second link's neighbour stays unknown", || {
        Ok(rig.world[HUB].ip(&format!("neigh show {second}"))?.contains("REACHABLE").then_some(()))
    })
    .unwrap();
    rig.agent.status().unwrap();
    rig
}

/// Sends a packet of each flow from Hangzhou to Shanghai; by source port, the link it arrived on. All must arrive.
fn spread(rig: &Rig, [source, destination]: [IpAddr; 2]) -> BTreeMap<u16, usize> {
    let sender = Wire::of_site(&rig.world, &HANGZHOU);
    let receivers = [0, 1].map(|link| Wire::of_link(&rig.world, &SHANGHAI, link));
    let before = rig.agent.status().unwrap();
    for flow in 0..FLOWS {
        sender.send(probe(source, destination, (FIRST_PORT + flow, PORT)));
    }
    let sent = u64::from(FLOWS);
    // Each went one of the two ways; then the sockets have them.
    let after = rig
        .agent
        .wait_for_status(WAIT, |status| {
            LINKS.map(|name| status.since(&before, name, "tx_packets")).iter().sum::<u64>() >= sent
        })
        .unwrap();
    let mut links = BTreeMap::new();
    for (link, receiver) in receivers.iter().enumerate() {
        for _ in 0..after.since(&before, LINKS[link], "tx_packets") {
            let mut port = None;
            receiver
                .socket
                .expect(WAIT, |frame| {
                    port = flow_of(frame);
                    port.is_some()
                })
                .unwrap();
            assert_eq!(links.insert(port.unwrap(), link), None, "a flow's packet arrived twice");
        }
    }
    assert_eq!(links.len(), usize::from(FLOWS));
    links
}

fn flow_of(frame: &[u8]) -> Option<u16> {
    let (source, destination) = View::ethernet(frame).ok()?.ports()?;
    (destination == PORT).then_some(source)
}

fn on_link(flows: &BTreeMap<u16, usize>, link: usize) -> usize {
    flows.values().filter(|on| **on == link).count()
}

/// Whether the two links have these shares of Shanghai's routes.
fn shares_are(status: &Status, wanted: [f64; 2]) -> bool {
    ["10.10.10.0/24", "fd00:10:10:10::/64"].iter().all(|destination| {
        let shares = LINKS.map(|name| status.share(destination, name));
        shares.iter().zip(wanted).all(|(share, wanted)| (share - wanted).abs() < 1e-9)
    })
}

/// Both families: from Hangzhou, to Shanghai.
fn ends() -> [[IpAddr; 2]; 2] {
    [[HANGZHOU.host4().into(), SHANGHAI.host4().into()], [HANGZHOU.host6().into(), SHANGHAI.host6().into()]]
}

#[test]
fn equal_weights_halve_the_flows_and_a_link_that_goes_leaves_all_to_the_other() {
    let rig = two_links([50, 50]);
    assert!(shares_are(&rig.agent.status().unwrap(), [0.5, 0.5]));
    let before = ends().map(|ends| spread(&rig, ends));
    for flows in &before {
        let second = on_link(flows, 1);
        assert!((400..=600).contains(&second), "{second} of {FLOWS} on the second link");
    }
    let again = ends().map(|ends| spread(&rig, ends));
    assert!(again == before, "a flow stays on its link");

    rig.world[HUB].set_link("tun-sh", false).unwrap();
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [0.0, 1.0])).unwrap();
    for ends in ends() {
        assert_eq!(on_link(&spread(&rig, ends), 1), usize::from(FLOWS));
    }
    rig.world[HUB].set_link("tun-sh", true).unwrap();
    rig.world[HUB].ip("addr replace fe80::1/64 dev tun-sh nodad").unwrap();
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [0.5, 0.5])).unwrap();
    rig.warm_up(&SITES).unwrap();
    for ends in ends() {
        let second = on_link(&spread(&rig, ends), 1);
        assert!((400..=600).contains(&second), "{second} of {FLOWS} on the second link");
    }
    rig.stop().unwrap();
}

#[test]
fn unequal_weights_share_the_flows_in_proportion() {
    let rig = two_links([25, 75]);
    assert!(shares_are(&rig.agent.status().unwrap(), [0.25, 0.75]));
    for ends in ends() {
        let second = on_link(&spread(&rig, ends), 1);
        assert!((675..=825).contains(&second), "{second} of {FLOWS} on the second link");
    }
    rig.stop().unwrap();
}

#[test]
fn standby_carries_nothing_until_the_active_link_goes() {
    let rig = two_links([100, 0]);
    assert!(shares_are(&rig.agent.status().unwrap(), [1.0, 0.0]));
    for ends in ends() {
        assert_eq!(on_link(&spread(&rig, ends), 0), usize::from(FLOWS));
    }
    // The far end goes: no carrier.
    rig.world["shanghai"].set_link("wan0", false).unwrap();
    rig.world[HUB].notice_carrier("tun-sh").unwrap();
    let down = rig.agent.wait_for_status(WAIT, |status| shares_are(status, [0.0, 1.0])).unwrap();
    assert_eq!(down.connection("shanghai")["state"], "down");
    assert_eq!(down.connection("shanghai-2")["state"], "up");
    let flows = spread_on_second(&rig);
    assert_eq!(flows, usize::from(FLOWS));
    rig.stop().unwrap();
}

/// As [`spread`], when the first link's far end is down and no socket can listen there.
fn spread_on_second(rig: &Rig) -> usize {
    let sender = Wire::of_site(&rig.world, &HANGZHOU);
    let receiver = Wire::of_link(&rig.world, &SHANGHAI, 1);
    let [source, destination] = ends()[0];
    for flow in 0..FLOWS {
        sender.send(probe(source, destination, (FIRST_PORT + flow, PORT)));
    }
    sender.send(probe(source, destination, (1, 1)));
    let mut seen = receiver.ports_until((1, 1));
    seen.sort_unstable();
    seen.dedup();
    seen.len()
}

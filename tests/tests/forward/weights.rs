//! Several connections to one site share its flows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, Status};
use hub_tests::packet::View;

use crate::{SITES, WAIT, Wire, probe};

pub const FLOWS: u16 = 1000;
const FIRST_PORT: u16 = 10_000;
const PORT: u16 = 9;
const LINKS: [&str; 2] = ["shanghai", "shanghai-2"];

/// The world with two links to Shanghai, with all neighbours resolved.
fn two_links(weights: [u8; 2]) -> Rig {
    start(&HubConfig::offices(&SITES).second_link(&SHANGHAI, weights))
}

pub fn start(config: &HubConfig) -> Rig {
    let rig = Rig::start(&Options::default().second_link("shanghai"), config).unwrap();
    rig.warm_up(&SITES).unwrap();
    // A ping cannot select its link: make sure that the second's neighbour is known, too.
    let second = SHANGHAI.peer4(1);
    hub_tests::lab::retry("the second link's neighbour stays unknown", || {
        Ok(rig.world[HUB].ip(&format!("neigh show {second}"))?.contains("REACHABLE").then_some(()))
    })
    .unwrap();
    rig.agent.status().unwrap();
    rig
}

fn spread(rig: &Rig, ends: [IpAddr; 2]) -> BTreeMap<u16, usize> {
    spread_over(rig, LINKS, ends)
}

/// Sends a packet of each flow from Hangzhou to Shanghai; by source port, the link it arrived on. All must arrive. `names`:
/// the connections or tunnels over the links.
pub fn spread_over(rig: &Rig, names: [&str; 2], [source, destination]: [IpAddr; 2]) -> BTreeMap<u16, usize> {
    let sender = Wire::of_site(&rig.world, &HANGZHOU);
    let receivers = [0, 1].map(|link| Wire::of_link(&rig.world, &SHANGHAI, link));
    let before = rig.agent.status().unwrap();
    for flow in 0..FLOWS {
        sender.send(probe(source, destination, (FIRST_PORT + flow, PORT)));
    }
    let sent = u64::from(FLOWS);
    // Each took one of the two links; then the sockets have them.
    let after = rig
        .agent
        .wait_for_status(WAIT, |status| {
            names.map(|name| status.since(&before, name, "tx_packets")).iter().sum::<u64>() >= sent
        })
        .unwrap();
    let mut links = BTreeMap::new();
    for (link, receiver) in receivers.iter().enumerate() {
        for _ in 0..after.since(&before, names[link], "tx_packets") {
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

pub fn on_link(flows: &BTreeMap<u16, usize>, link: usize) -> usize {
    flows.values().filter(|on| **on == link).count()
}

/// Whether the two links have these shares of Shanghai's routes.
fn shares_are(status: &Status, expected: [f64; 2]) -> bool {
    ["10.10.10.0/24", "fd00:10:10:10::/64"].iter().all(|destination| {
        let shares = LINKS.map(|name| status.share(destination, name));
        shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 1e-9)
    })
}

/// Both families: from Hangzhou, to Shanghai.
pub fn ends() -> [[IpAddr; 2]; 2] {
    [[HANGZHOU.host4().into(), SHANGHAI.host4().into()], [HANGZHOU.host6().into(), SHANGHAI.host6().into()]]
}

#[test]
fn equal_weights_halve_flows_and_failover_moves_all() {
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
fn unequal_weights_share_flows_in_proportion() {
    let rig = two_links([30, 70]);
    assert!(shares_are(&rig.agent.status().unwrap(), [0.3, 0.7]));
    for ends in ends() {
        let second = on_link(&spread(&rig, ends), 1);
        assert!((625..=775).contains(&second), "{second} of {FLOWS} on the second link");
    }
    rig.stop().unwrap();
}

#[test]
fn standby_only_links_share_evenly_and_failover_moves_own() {
    let rig = two_links([0, 0]);
    assert!(shares_are(&rig.agent.status().unwrap(), [0.5, 0.5]));
    let before = ends().map(|ends| spread(&rig, ends));
    for flows in &before {
        let second = on_link(flows, 1);
        assert!((400..=600).contains(&second), "{second} of {FLOWS} on the second link");
    }
    rig.world[HUB].set_link(&SHANGHAI.hub_device(1), false).unwrap();
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [1.0, 0.0])).unwrap();
    for (ends, before) in ends().into_iter().zip(before) {
        let after = spread(&rig, ends);
        assert_eq!(on_link(&after, 0), usize::from(FLOWS));
        let stayed = before.iter().filter(|(flow, link)| after[flow] == **link).count();
        assert_eq!(stayed, on_link(&before, 0), "the flows of the first link stayed there");
    }
    rig.stop().unwrap();
}

#[test]
fn standby_carries_nothing_until_active_link_fails() {
    let rig = two_links([100, 0]);
    assert!(shares_are(&rig.agent.status().unwrap(), [1.0, 0.0]));
    for ends in ends() {
        assert_eq!(on_link(&spread(&rig, ends), 0), usize::from(FLOWS));
    }
    // The far end goes down: no carrier.
    rig.world["shanghai"].set_link("wan0", false).unwrap();
    rig.world[HUB].notice_carrier("tun-sh").unwrap();
    let down = rig.agent.wait_for_status(WAIT, |status| shares_are(status, [0.0, 1.0])).unwrap();
    assert_eq!(down.connection("shanghai")["state"], "down");
    assert_eq!(down.connection("shanghai-2")["state"], "up");
    let flows = spread_on_second(&rig);
    assert_eq!(flows, usize::from(FLOWS));

    rig.world["shanghai"].set_link("wan0", true).unwrap();
    rig.world[HUB].notice_carrier("tun-sh").unwrap();
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [1.0, 0.0])).unwrap();
    rig.warm_up(&SITES).unwrap();
    for ends in ends() {
        assert_eq!(on_link(&spread(&rig, ends), 0), usize::from(FLOWS), "the standby has handed back");
    }
    rig.stop().unwrap();
}

#[test]
fn returned_link_waits_for_up_delay_unless_alone_or_forced() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    config.connection(LINKS[0]).up_delay = Some("1h".into());
    let rig = start(&config);
    let events = rig.agent.monitor().unwrap();
    for _ in 0..=SITES.len() {
        assert_eq!(events.next(WAIT).unwrap()["state"], "up", "how it was before anything happened");
    }
    let set = |device: &str, up| rig.world[HUB].set_link(device, up).unwrap();
    let [first, second] = [0, 1].map(|link| SHANGHAI.hub_device(link));
    let wait = |what: &str, shares| {
        let status = rig.agent.wait_for_status(WAIT, |status| shares_are(status, shares));
        status.unwrap_or_else(|error| panic!("{what}: {error:#}"))
    };

    set(&first, false);
    wait("the standby steps in", [0.0, 1.0]);
    set(&first, true);
    let is_held = |status: &Status| {
        let connection = status.connection(LINKS[0]);
        connection["state"] == "down" && connection["state_reason"].as_str().unwrap().contains("up_delay")
    };
    let status = rig.agent.wait_for_status(WAIT, is_held).unwrap();
    assert!(shares_are(&status, [0.0, 1.0]), "it is held back");

    set(&second, false);
    wait("it is held, but nothing else is up", [1.0, 0.0]);
    set(&second, true);
    wait("the standby is up, after the default delay", [0.0, 1.0]);

    assert!(rig.agent.cli(&["connection", "down", LINKS[0]]).unwrap().status.success());
    assert!(rig.agent.cli(&["connection", "up", LINKS[0]]).unwrap().status.success());
    let status = wait("who takes it up by hand does not wait", [1.0, 0.0]);
    assert_eq!(status.connection(LINKS[0])["state_changes"], 3, "down, taken down, up");

    // Every change was reported, in order and with its reason.
    let mut received = Vec::new();
    while received.last().is_none_or(|last| *last != (LINKS[0].to_owned(), "up".to_owned())) {
        let event = events.next(WAIT).unwrap();
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("state") == "up", event["reason"].is_null(), "{event}");
        received.push((text("connection"), text("state")));
    }
    let of = |name: &str| -> Vec<&str> {
        let mut sequence: Vec<_> =
            received.iter().filter(|(connection, _)| connection == name).map(|(_, state)| state.as_str()).collect();
        // Down for successive reasons: disabled, no carrier yet, hold-down.
        sequence.dedup();
        sequence
    };
    assert_eq!(of(LINKS[0]), ["down", "admin_down", "up"]);
    assert_eq!(of(LINKS[1]), ["down", "up"]);
    rig.stop().unwrap();
}

/// Like [`spread`], with the first link's far end down, where no socket can listen.
pub fn spread_on_second(rig: &Rig) -> usize {
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

#[test]
fn dead_path_on_live_link_fails_over_and_returns() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    for name in LINKS {
        config.connection(name).health_check = true;
    }
    let rig = start(&config);
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [1.0, 0.0])).unwrap();

    let far_end = format!("{}/30 dev {}", SHANGHAI.peer4(0), hub_tests::lab::Site::device(0));
    rig.world["shanghai"].ip(&format!("addr del {far_end}")).unwrap();
    let status = rig.agent.wait_for_status(WAIT, |status| shares_are(status, [0.0, 1.0])).unwrap();
    let connection = status.connection(LINKS[0]);
    assert_eq!(connection["state"], "down", "{connection}");
    let reason = connection["state_reason"].as_str().unwrap();
    assert!(reason.starts_with("health check: 169.254.10.2 no reply to 3 probes"), "{reason}");
    assert!(rig.world[HUB].ip("-brief link show dev tun-sh").unwrap().contains("LOWER_UP"), "the link itself is up");
    for ends in ends() {
        assert_eq!(on_link(&spread(&rig, ends), 1), usize::from(FLOWS), "all on the standby");
    }

    rig.world["shanghai"].ip(&format!("addr add {far_end}")).unwrap();
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, [1.0, 0.0])).unwrap();
    for ends in ends() {
        assert_eq!(on_link(&spread(&rig, ends), 0), usize::from(FLOWS), "all on the first again");
    }
    rig.stop().unwrap();
}

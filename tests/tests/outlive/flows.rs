//! Flows stay on their links across restarts of the agent.

use std::{collections::BTreeMap, time::Duration};

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, Status, World, retry};

use crate::{ENDS, PORT, SITES, WAIT, Wire, probe, start_again};

const FLOWS: u16 = 10_000;
/// Flows whose packets are on their way at once: all fit the receivers' buffers.
const AT_ONCE: usize = 250;
/// Failovers of each link, with two restarts each.
const ROUNDS: u32 = 1;

/// By source port, the link on which a flow's packet arrives. All must arrive.
fn spread(world: &World) -> BTreeMap<u16, usize> {
    let sender = Wire::open(world, &HANGZHOU, 0);
    let receivers = [0, 1].map(|link| Wire::open(world, &SHANGHAI, link));
    let mut links = BTreeMap::new();
    for flows in (1..=FLOWS).collect::<Vec<_>>().chunks(AT_ONCE) {
        for flow in flows {
            sender.send(probe(HANGZHOU.host4().into(), SHANGHAI.host4().into(), (*flow, PORT)));
        }
        retry("not every flow arrives", || {
            for (link, receiver) in receivers.iter().enumerate() {
                while let Some((flow, _)) = receiver.receive(Duration::ZERO) {
                    assert_eq!(links.insert(flow, link), None, "a flow's packet arrives twice");
                }
            }
            Ok((links.len() == usize::from(flows[flows.len() - 1])).then_some(()))
        })
        .unwrap();
    }
    links
}

fn shares_are(status: &Status, expected: [f64; 2]) -> bool {
    ["shanghai", "shanghai-2"]
        .iter()
        .zip(expected)
        .all(|(name, expected)| (status.share("10.10.10.0/24", name) - expected).abs() < 1e-9)
}

/// A link goes down and comes back: the buckets then differ from those of a fresh start.
fn fail_over(rig: &Rig, link: u8, shares: [f64; 2]) {
    let device = SHANGHAI.hub_device(link);
    rig.world[HUB].set_link(&device, false).unwrap();
    let without = if link == 0 { [0.0, 1.0] } else { [1.0, 0.0] };
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, without)).unwrap();
    rig.world[HUB].set_link(&device, true).unwrap();
    rig.world[HUB].ip(&format!("addr replace fe80::1/64 dev {device} nodad")).unwrap();
    rig.agent.wait_for_status(WAIT, |status| shares_are(status, shares)).unwrap();
    warm_up(rig);
}

fn warm_up(rig: &Rig) {
    rig.warm_up(&SITES).unwrap();
    for link in [0, 1] {
        let peer = SHANGHAI.peer4(link);
        retry("a link's neighbour stays unknown", || {
            Ok(rig.world[HUB].ip(&format!("neigh show {peer}"))?.contains("REACHABLE").then_some(()))
        })
        .unwrap();
    }
    rig.agent.status().unwrap();
}

#[test]
fn flows_stay_on_links_across_restart_after_failover() {
    let config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [50, 50]);
    let mut rig = Rig::start(&Options::default().second_link("shanghai"), &config).unwrap();
    warm_up(&rig);
    let fresh = spread(&rig.world);
    let rounds = std::env::var("VPNHUB_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    for link in (0..rounds).flat_map(|_| [0, 1]) {
        fail_over(&rig, link, [0.5, 0.5]);
        let before = spread(&rig.world);
        assert_ne!(before, fresh, "the test does not test: after a failover, all is as after a fresh start");
        for end in ENDS {
            let scratch = end.end(rig.agent);
            assert_eq!(spread(&rig.world), before, "without an agent, {end:?}");
            rig = Rig { agent: start_again(&rig.world, scratch), world: rig.world };
            assert_eq!(spread(&rig.world), before, "with another agent, {end:?}");
        }
    }
    // Another weight moves no more flows than necessary.
    let before = spread(&rig.world);
    let scratch = ENDS[0].end(rig.agent);
    let text = HubConfig::offices(&SITES).second_link(&SHANGHAI, [25, 75]).to_string();
    std::fs::write(scratch.file("vpnhub.toml"), text).unwrap();
    rig = Rig { agent: start_again(&rig.world, scratch), world: rig.world };
    let after = spread(&rig.world);
    let moved: Vec<_> = before.iter().filter(|(flow, link)| after[flow] != **link).collect();
    assert!(!moved.is_empty() && moved.iter().all(|(_, link)| **link == 0), "from the lighter to the heavier alone");
    rig.stop().unwrap();
}

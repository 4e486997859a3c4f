//! Every place reaches every other.

use std::net::IpAddr;
use std::thread;

use hub_tests::lab::{HubConfig, Options, Ping, Rig, Status, VPC, VPC_SIDE, World};

use crate::{SITES, vpc_hosts};

const PINGS: u16 = 5;
/// Size of each ping's ICMP message; its packet is 28 bytes longer with IPv4 and 48 with IPv6.
const PAYLOAD: u16 = 100;

#[test]
fn all_pairs_by_native_xdp_reach_each_other_and_are_counted() {
    all_pairs(&[], "xdp-native");
}

#[test]
fn all_pairs_by_generic_xdp_reach_each_other_and_are_counted() {
    all_pairs(&["--attach", "generic"], "xdp-generic");
}

#[test]
fn all_pairs_by_tc_reach_each_other_and_are_counted() {
    all_pairs(&["--attach", "tc"], "tc");
}

/// Name in status, place, addresses.
fn places() -> Vec<(String, String, [IpAddr; 2])> {
    let sites = SITES.iter().map(|site| (site.place.to_string(), site.place.to_string(), site.hosts()));
    sites.chain([(VPC_SIDE.to_owned(), VPC.place.to_owned(), vpc_hosts())]).collect()
}

fn all_pairs(arguments: &[&str], attach: &str) {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let places = places();
    let before = rig.agent.status().unwrap();
    for (name, ..) in &places {
        assert_eq!(before.connection(name)["attach"], attach, "{name}");
    }
    thread::scope(|scope| {
        for (_, from, _) in &places {
            let others = places.iter().filter(|(_, to, _)| to != from);
            for to in others.flat_map(|(.., addresses)| addresses) {
                let from = &rig.world[from];
                scope.spawn(move || {
                    let report = Ping::new(*to).count(PINGS).size(PAYLOAD.into()).run(from).unwrap();
                    assert!(report.complete(), "{} to {to}: {report:?}", from.name());
                });
            }
        }
    });
    let after = rig.agent.status().unwrap();
    // Each place sends to the three others, and answers them: as much in as out, for each family.
    let packets = u64::from(PINGS) * 3 * 2;
    let bytes = packets * u64::from(PAYLOAD + 28 + PAYLOAD + 48);
    for (name, ..) in &places {
        let grown = |path: &str| after.since(&before, name, path);
        for direction in ["rx", "tx"] {
            assert_eq!(grown(&format!("{direction}_packets")), 2 * packets, "{name} {direction}");
            assert_eq!(grown(&format!("{direction}_bytes")), bytes, "{name} {direction}");
        }
    }
    assert_nothing_but_link_upkeep(&before, &after);
    rig.stop().unwrap();
}

fn assert_nothing_but_link_upkeep(before: &Status, after: &Status) {
    let upkeep = ["not_ip", "multicast", "link_local", "to_hub"];
    let unexpected = |status: &Status| {
        let others = status.reasons().into_iter().filter(|(reason, _)| !upkeep.contains(reason));
        others.map(|(reason, count)| (reason.to_owned(), count)).collect::<Vec<_>>()
    };
    assert_eq!(unexpected(before), unexpected(after), "dropped or left to the kernel");
}

//! Packets that must not pass: foreign sources, destinations outside the sender's selectors, isolated sites.

use std::net::IpAddr;
use std::time::Duration;

use hub_tests::lab::{self, HANGZHOU, HubConfig, NINGBO, Options, Ping, Rig, SHANGHAI, Status, VPC, VPC_SIDE};

use crate::{SITES, WAIT, Wire, probe, vpc_hosts};

/// Number of copies of each packet that must not pass.
const COPIES: u16 = 10;
const BAD: u16 = 4000;
const GOOD: (u16, u16) = (4999, 4999);

/// Sends packets that must be dropped, then one that must pass, all from one wire to another. Later packets arrive
/// later, so none of the others can follow the last one.
fn only_the_last_arrives(from: &Wire, to: &Wire, bad: &[(IpAddr, IpAddr)], good: (IpAddr, IpAddr)) {
    for (source, destination) in bad {
        for copy in 0..COPIES {
            from.send(probe(*source, *destination, (BAD + copy, BAD)));
        }
    }
    from.send(probe(good.0, good.1, GOOD));
    assert_eq!(to.ports_until(GOOD), []);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn drops(before: &Status, after: &Status, connection: &str) -> Vec<(String, u64)> {
    let reasons = after.connection(connection)["drops"].as_object().unwrap().keys();
    let counts = reasons.map(|reason| (reason.clone(), after.since(before, connection, &format!("drops/{reason}"))));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn spoofed_source_is_dropped_and_counted() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, vpc) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_vpc(&rig.world));
    let before = rig.agent.status().unwrap();
    let [vpc4, vpc6] = vpc_hosts();
    // Another site's address, the VPC's, and one in no selector.
    let spoofed = [
        (HANGZHOU.host4().into(), vpc4),
        (address("192.168.0.77"), vpc4),
        (address("172.16.0.1"), vpc4),
        (HANGZHOU.host6().into(), vpc6),
        (address("fd00:192:168::77"), vpc6),
        (address("2001:db8::1"), vpc6),
    ];
    only_the_last_arrives(&shanghai, &vpc, &spoofed, (SHANGHAI.host4().into(), vpc4));
    // The VPC may not use a site's source either.
    let spoofed =
        [(HANGZHOU.host4().into(), SHANGHAI.host4().into()), (HANGZHOU.host6().into(), SHANGHAI.host6().into())];
    only_the_last_arrives(&vpc, &shanghai, &spoofed, (vpc4, SHANGHAI.host4().into()));

    let after = rig.agent.status().unwrap();
    assert_eq!(drops(&before, &after, "shanghai"), [("spoofed_source".to_owned(), 6 * u64::from(COPIES))]);
    assert_eq!(drops(&before, &after, VPC_SIDE), [("spoofed_source".to_owned(), 2 * u64::from(COPIES))]);
    // Dropped packets do not count as received.
    assert_eq!(after.since(&before, "shanghai", "rx_packets"), 1);
    assert_eq!(after.since(&before, VPC_SIDE, "rx_packets"), 1);
    rig.stop().unwrap();
}

#[test]
fn destination_outside_selectors_is_dropped_and_counted() {
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").local_cidrs = vec!["192.168.0.0/24".into(), "fd00:192:168::/64".into()];
    let rig = Rig::start(&Options::default(), &config).unwrap();
    rig.warm_up(&SITES).unwrap();
    let shanghai = Wire::of_site(&rig.world, &SHANGHAI);
    let (hangzhou, vpc) = (Wire::of_site(&rig.world, &HANGZHOU), Wire::of_vpc(&rig.world));
    let before = rig.agent.status().unwrap();
    // To another site, and without a route.
    let foreign = [
        (SHANGHAI.host4().into(), HANGZHOU.host4().into()),
        (SHANGHAI.host4().into(), address("172.16.0.1")),
        (SHANGHAI.host6().into(), HANGZHOU.host6().into()),
        (SHANGHAI.host6().into(), address("2001:db8::1")),
    ];
    only_the_last_arrives(&shanghai, &vpc, &foreign, (SHANGHAI.host4().into(), VPC.host4.into()));
    let after = rig.agent.status().unwrap();
    assert_eq!(drops(&before, &after, "shanghai"), [("selector_mismatch".to_owned(), 4 * u64::from(COPIES))]);
    assert_eq!(after.since(&before, "hangzhou", "tx_packets"), 0);

    // In the other direction the egress connection does not allow it.
    let to_shanghai = Wire::of_site(&rig.world, &SHANGHAI);
    let foreign =
        [(HANGZHOU.host4().into(), SHANGHAI.host4().into()), (HANGZHOU.host6().into(), SHANGHAI.host6().into())];
    for (source, destination) in foreign {
        for copy in 0..COPIES {
            hangzhou.send(probe(source, destination, (BAD + copy, BAD)));
        }
    }
    hangzhou.send(probe(HANGZHOU.host4().into(), VPC.host4.into(), GOOD));
    assert_eq!(vpc.ports_until(GOOD), []);
    let last = rig.agent.status().unwrap();
    assert_eq!(drops(&after, &last, "hangzhou"), [("selector_mismatch".to_owned(), 2 * u64::from(COPIES))]);
    assert_eq!(last.since(&after, "shanghai", "tx_packets"), 0);
    vpc.send(probe(VPC.host4.into(), SHANGHAI.host4().into(), GOOD));
    assert_eq!(to_shanghai.ports_until(GOOD), []);
    rig.stop().unwrap();
}

#[test]
fn isolated_sites_reach_vpc_only() {
    let mut config = HubConfig::offices(&SITES);
    config.spoke_to_spoke = false;
    let rig = Rig::start(&Options::default(), &config).unwrap();
    rig.warm_up(&SITES).unwrap();
    let before = rig.agent.status().unwrap();
    for site in &SITES {
        for (own, vpc) in site.hosts().into_iter().zip(vpc_hosts()) {
            assert!(lab::ping(&rig.world[&site.place], vpc, 3).unwrap().complete(), "{own} to {vpc}");
            assert!(lab::ping(&rig.world[VPC.place], own, 3).unwrap().complete(), "{vpc} to {own}");
        }
        let wire = Wire::of_site(&rig.world, site);
        let vpc = Wire::of_vpc(&rig.world);
        let others = SITES.iter().filter(|other| *other != site);
        let pairs: Vec<_> = others.flat_map(|other| site.hosts().into_iter().zip(other.hosts())).collect();
        only_the_last_arrives(&wire, &vpc, &pairs, (site.host4().into(), VPC.host4.into()));
    }
    let after = rig.agent.status().unwrap();
    for site in &SITES {
        let isolated = 2 * 2 * u64::from(COPIES);
        assert_eq!(drops(&before, &after, &site.place), [("isolated".to_owned(), isolated)]);
        // Requests and answers of the VPC, and no packets of the other sites.
        assert_eq!(after.since(&before, &site.place, "tx_packets"), 12);
    }
    let ping = Ping::new(NINGBO.host4().into()).timeout(Duration::from_millis(100)).run(&rig.world["shanghai"]);
    assert_eq!(ping.unwrap().received, 0);
    rig.stop().unwrap();
}

#[test]
fn isolated_site_reaches_hub_itself() {
    let mut config = HubConfig::offices(&SITES);
    config.spoke_to_spoke = false;
    let rig = Rig::start(&Options::default(), &config).unwrap();
    for hub in [VPC.hub4.into(), VPC.hub6.into(), IpAddr::from(SHANGHAI.hub4(0))] {
        let report = Ping::new(hub).timeout(WAIT).run(&rig.world["shanghai"]).unwrap();
        assert!(report.complete(), "{hub}");
    }
    rig.stop().unwrap();
}

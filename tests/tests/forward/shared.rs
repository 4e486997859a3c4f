//! Several connections on one interface: the source selector distinguishes them.

use hub_tests::lab::{HubConfig, NINGBO, Options, Rig, SHANGHAI, VPC};

use crate::{SITES, Wire, probe};

/// Halves of Shanghai's networks, and an address in each.
const HALVES: [(&str, [&str; 2], u8); 2] = [
    ("shanghai", ["10.10.10.0/25", "fd00:10:10:10::/65"], 1),
    ("shanghai-upper", ["10.10.10.128/25", "fd00:10:10:10:8000::/65"], 200),
];

fn config() -> HubConfig {
    HubConfig::offices(&SITES).split(&SHANGHAI, &HALVES.map(|(name, prefixes, _)| (name, prefixes)))
}

#[test]
fn connections_on_shared_interface_are_counted_by_source() {
    let rig = Rig::start(&Options::default(), &config()).unwrap();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, ningbo, vpc) =
        (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_site(&rig.world, &NINGBO), Wire::of_vpc(&rig.world));
    let before = rig.agent.status().unwrap();
    let last = (1, 1);
    for (index, (_, _, host)) in HALVES.iter().enumerate() {
        // This many from the half, twice as many to it.
        let count = 10 * (u16::try_from(index).unwrap() + 1);
        for port in 0..count {
            shanghai.send(probe(SHANGHAI.nth4(*host).into(), NINGBO.host4().into(), (port, 5)));
        }
        for port in 0..2 * count {
            vpc.send(probe(VPC.host4.into(), SHANGHAI.nth4(*host).into(), (port, 6)));
        }
    }
    shanghai.send(probe(SHANGHAI.host4().into(), NINGBO.host4().into(), last));
    assert_eq!(ningbo.ports_until(last).len(), 30);
    vpc.send(probe(VPC.host4.into(), SHANGHAI.host4().into(), last));
    assert_eq!(shanghai.ports_until(last).len(), 60);
    let after = rig.agent.status().unwrap();
    for (connection, rx, tx) in [("shanghai", 10 + 1, 20 + 1), ("shanghai-upper", 20, 40)] {
        assert_eq!(after.since(&before, connection, "rx_packets"), rx, "{connection}");
        assert_eq!(after.since(&before, connection, "tx_packets"), tx, "{connection}");
    }
    rig.stop().unwrap();
}

#[test]
fn connections_on_shared_interface_reach_each_other() {
    let rig = Rig::start(&Options::default(), &config()).unwrap();
    rig.warm_up(&SITES).unwrap();
    let shanghai = Wire::of_site(&rig.world, &SHANGHAI);
    let before = rig.agent.status().unwrap();
    let (upper, lower) = (SHANGHAI.nth4(200), SHANGHAI.nth4(1));
    for port in 0..10 {
        shanghai.send(probe(upper.into(), lower.into(), (port, 7)));
    }
    shanghai.send(probe(upper.into(), lower.into(), (1, 1)));
    // They leave by their ingress interface.
    assert_eq!(shanghai.ports_until((1, 1)).len(), 10);
    let after = rig.agent.status().unwrap();
    assert_eq!(after.since(&before, "shanghai-upper", "rx_packets"), 11);
    assert_eq!(after.since(&before, "shanghai", "tx_packets"), 11);
    rig.stop().unwrap();
}

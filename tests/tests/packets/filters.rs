//! Each condition of a filter, for several clients at once.

use hub_tests::lab::{HANGZHOU, HubConfig, Options, Rig, SHANGHAI, VPC, World};

use crate::{Listener, SITES, Wire, address, spoofed, udp};

#[test]
fn each_client_gets_what_its_filter_admits_at_xdp() {
    filtered(&[]);
}

#[test]
fn each_client_gets_what_its_filter_admits_at_tc() {
    filtered(&["--attach", "tc"]);
}

/// The packets are in this order; a client whose filter does not admit one gets a later one first.
fn filtered(arguments: &[&str]) {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, hangzhou) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_site(&rig.world, &HANGZHOU));
    let foreign = address("172.16.5.1");
    let packets = [
        (&shanghai, spoofed((1000, 1))),
        (&shanghai, spoofed((1001, 7777))),
        (&shanghai, udp(foreign, VPC.host4, (1002, 1))),
        (&shanghai, udp(foreign, HANGZHOU.host4(), (1003, 1))),
        (&shanghai, spoofed((1004, 1)).tcp(1004, 1)),
        (&shanghai, udp(address("2001:db8::1"), VPC.host6, (1005, 1))),
        (&shanghai, udp(SHANGHAI.host4(), VPC.host4, (1006, 1)).ip_length(1200)),
        (&hangzhou, spoofed((1007, 1))),
        (&shanghai, udp(address("2001:db8:1::1"), address("fd00:192:168::10"), (1008, 9)).destination_options(&[])),
    ];
    let cases: [(&[&str], &[u16]); 13] = [
        (&["--reason", "malformed"], &[1006]),
        (&["--reason", "malformed,spoofed_source", "--dst", "192.168.0.10"], &[1000, 1001, 1002, 1004, 1006, 1007]),
        (&["--connection", "hangzhou", "--src", "172.16.0.0/16"], &[1007]),
        (&["--src", "172.16.4.0/22"], &[1002, 1003]),
        (&["--dst", "10.10.20.0/24", "--src", "172.16.0.0/12"], &[1003]),
        (&["--src", "2001:db8::/48"], &[1005]),
        (&["--src", "2001:db8::/32"], &[1005, 1008]),
        (&["--protocol", "tcp", "--src", "172.16.0.0/12"], &[1004]),
        (&["--protocol", "17", "--src", "172.16.0.0/12"], &[1000, 1001, 1002, 1003, 1007]),
        (&["--sport", "1003"], &[1003]),
        (&["--dport", "7777"], &[1001]),
        (&["--dport", "9", "--protocol", "udp"], &[1008]),
        (
            &[
                "--reason",
                "spoofed_source",
                "--connection",
                "shanghai",
                "--dport",
                "1",
                "--protocol",
                "udp",
                "--src",
                "172.16.0.0/30",
                "--dst",
                "192.168.0.0/24",
            ],
            &[1000],
        ),
    ];
    let listeners: Vec<_> = cases.iter().map(|(filter, _)| Listener::start(&rig.agent, filter)).collect();
    for (wire, packet) in &packets {
        wire.send(packet);
    }
    for ((filter, expected), listener) in cases.iter().zip(&listeners) {
        for port in *expected {
            let line = listener.next();
            assert_eq!(line["source_port"], *port, "{filter:?}: {line}");
        }
    }
    // Nothing else has come: a packet for all of them is next.
    for (number, ((filter, _), listener)) in cases.iter().zip(&listeners).enumerate() {
        assert!(listener.lines.try_recv().is_err(), "{number}: {filter:?} admits more");
    }
    rig.stop().unwrap();
}

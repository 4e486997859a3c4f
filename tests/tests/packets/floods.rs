//! A flood of one reason costs the others nothing, nor the health checks, and what is left out is counted exactly.

use std::collections::BTreeMap;

use hub_tests::lab::{HubConfig, Options, Rig, SHANGHAI, VPC, World};

use crate::{Listener, SITES, Wire, spawn, spoofed, udp};

const FLOOD: u64 = 6000;
const RARE: u64 = 200;
const LAST: u16 = 60_000;

/// Sends the flood with some packets of another reason in between.
fn send(wire: &Wire) {
    for number in 0..FLOOD {
        wire.send(&spoofed((1, 1)));
        if number % (FLOOD / RARE) == 0 {
            wire.send(&udp(SHANGHAI.host4(), VPC.host4, (2, 2)).ip_length(1400));
        }
    }
}

/// Packets and packets left out by reason, until all of the flood are accounted for.
fn account(listener: &Listener) -> BTreeMap<(String, &'static str), u64> {
    let mut counts = BTreeMap::new();
    let total = |counts: &BTreeMap<(String, &str), u64>, reason: &str| {
        counts.iter().filter(|((of, _), _)| of == reason).map(|(_, count)| count).sum::<u64>()
    };
    while total(&counts, "spoofed_source") < FLOOD || total(&counts, "malformed") < RARE {
        let line = listener.next();
        let reason = line["reason"].as_str().unwrap().to_owned();
        match line["left_out"].as_u64() {
            Some(packets) => *counts.entry((reason, "left out")).or_default() += packets,
            None => *counts.entry((reason, "shown")).or_default() += 1,
        }
    }
    counts
}

#[test]
fn flood_of_a_reason_loses_no_packet_of_another_at_xdp() {
    flooded(&[]);
}

#[test]
fn flood_of_a_reason_loses_no_packet_of_another_at_tc() {
    flooded(&["--attach", "tc"]);
}

fn flooded(arguments: &[&str]) {
    let world = World::three_offices(&Options::default()).unwrap();
    let mut config = HubConfig::offices(&SITES);
    config.connection("hangzhou").health_check = true;
    let rig = Rig::start_in(world, &config, arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let filter = ["--reason", "spoofed_source,malformed"];
    let both = Listener::start(&rig.agent, &filter);
    let rare = Listener::start(&rig.agent, &["--reason", "malformed"]);
    // This one does not read, and holds up nobody.
    let mut silent = spawn(&rig.agent, &[&["--output", "json", "monitor", "--packets"], &filter[..]].concat());
    let wire = Wire::of_site(&rig.world, &SHANGHAI);
    send(&wire);
    let counts = account(&both);
    let count = |reason: &str, what| counts.get(&(reason.to_owned(), what)).copied().unwrap_or(0);
    assert_eq!((count("malformed", "shown"), count("malformed", "left out")), (RARE, 0), "{counts:?}");
    assert_eq!(count("spoofed_source", "shown") + count("spoofed_source", "left out"), FLOOD, "{counts:?}");
    assert!(count("spoofed_source", "left out") > 0, "{counts:?}");
    for _ in 0..RARE {
        assert_eq!(rare.next()["reason"], "malformed");
    }
    wire.send(&udp(SHANGHAI.host4(), VPC.host4, (LAST, 2)).ip_length(1400));
    assert_eq!(rare.next()["source_port"], LAST);
    // Neither did the listeners delay a probe, or its reply.
    let health = rig.agent.status().unwrap().connection("hangzhou")["health"].clone();
    assert!(health["recent_lost"] == 0 && health["recent_probes"].as_u64() > Some(0), "{health}");
    silent.kill().unwrap();
    silent.wait().unwrap();
    rig.stop().unwrap();
}

//! Real packets on a veth pair: the CPU that receives each, and their order.

use std::collections::{BTreeMap, BTreeSet};

use hub_tests::{
    lab::{HUB, retry},
    packet::{Packet, View, number::VLAN},
};

use crate::underlay::{
    MACS, Wire, agent, config, cpu_of, cpus, esp, esp6, ike, in_udp, in_udp6, keepalive, pins, underlay, with_xdp,
    world, xdp,
};

/// As strongSwan chooses them: random. They have more than one CPU for any number of CPUs.
const SPIS: [u32; 8] =
    [0xc3a1_5e07, 0xc99e_0b12, 0xc44d_71f8, 0xcf20_9a63, 0xc81b_c6d4, 0xce75_02b9, 0xc2f8_4d90, 0xc60c_e84b];
const EACH: u32 = 200;

/// Makes a packet of an SPI and a sequence number.
type Kind = fn(u32, u32) -> Packet;

/// SPI and sequence number of ESP, with or without UDP.
fn esp_of(frame: &[u8]) -> (u32, u32) {
    let view = View::ethernet(frame).unwrap();
    let start = view.packet.len() - 64;
    let word = |at: usize| u32::from_be_bytes(view.packet[at..at + 4].try_into().unwrap());
    (word(start), word(start + 4))
}

fn assert_distributed(arrived: &BTreeMap<u32, Vec<Vec<u8>>>) {
    let mut order = BTreeMap::<u32, Vec<u32>>::new();
    for (cpu, frames) in arrived {
        for (spi, sequence) in frames.iter().map(|frame| esp_of(frame)) {
            assert_eq!(*cpu, cpu_of(spi), "SPI {spi:#x}");
            order.entry(spi).or_default().push(sequence);
        }
    }
    assert_eq!(order.keys().copied().collect::<BTreeSet<_>>(), SPIS.into_iter().collect());
    for (spi, sequences) in order {
        assert_eq!(sequences, (1..=EACH).collect::<Vec<_>>(), "SPI {spi:#x}");
    }
    assert!(arrived.len() > 1, "one CPU has received everything");
}

fn all(packet: impl Fn(u32, u32) -> Packet) -> Vec<Packet> {
    (1..=EACH).flat_map(|sequence| SPIS.map(|spi| packet(spi, sequence))).collect()
}

#[test]
fn spis_of_one_address_pair_are_received_on_several_cpus_in_order() {
    let world = world();
    let agent = agent().start_with(&world[HUB], &with_xdp("wan0")).unwrap();
    assert_eq!(underlay(&agent.status().unwrap(), "wan0")["spread_in_force"], "xdp-native");
    let wire = Wire::open(&world[HUB]);
    let kinds: [(&str, Kind); 4] =
        [("NAT-T", in_udp), ("NAT-T over IPv6", in_udp6), ("ESP", esp), ("ESP over IPv6", esp6)];
    for (name, kind) in kinds {
        println!("{name}");
        assert_distributed(&wire.exchange(all(kind)));
    }
    println!("NAT-T behind a tag without an interface");
    assert_distributed(&wire.exchange(all(|spi, sequence| in_udp(spi, sequence).tag(VLAN, 77))));
    agent.stop().unwrap();
    println!("without an agent");
    assert_distributed(&wire.exchange(all(in_udp)));
}

#[test]
fn other_packets_stay_on_receiving_cpu_unchanged() {
    let world = world();
    let agent = agent().start_with(&world[HUB], &with_xdp("wan0")).unwrap();
    let wire = Wire::open(&world[HUB]);
    let spi = *SPIS.iter().find(|spi| cpu_of(**spi) != 0).unwrap();
    let others = || {
        [
            ike(),
            keepalive(),
            esp(spi, 1).fragment(0, true, 9),
            esp(spi, 1).fragment(5, false, 9),
            in_udp(0, 1),
            Packet::ipv4("192.0.2.1", "203.0.113.1").udp(500, 500).payload(100),
            Packet::ipv4("192.0.2.1", "203.0.113.1").udp(53, 53).payload(100),
            Packet::ipv4("192.0.2.1", "203.0.113.1").tcp(4500, 4500).payload(100),
            Packet::ipv4("192.0.2.1", "203.0.113.1").echo(1, 2).payload(100),
            Packet::ipv6("2001:db8::1", "2001:db8::2").echo(1, 2).payload(100),
        ]
    };
    let sent: Vec<Packet> = (0..20).flat_map(|_| others()).collect();
    let arrived = wire.exchange(sent.clone());
    let expected: Vec<Vec<u8>> = sent.into_iter().map(|packet| packet.ethernet(MACS[0], MACS[1]).build()).collect();
    assert_eq!(arrived, BTreeMap::from([(0, expected)]), "all on the CPU that receives, in order");
    // And together with ESP of the same address pair.
    let mixed = (0..20).flat_map(|sequence| others().into_iter().chain([in_udp(spi, sequence + 1)]));
    let arrived = wire.exchange(mixed);
    let counts: BTreeMap<u32, usize> = arrived.iter().map(|(cpu, frames)| (*cpu, frames.len())).collect();
    assert_eq!(counts, BTreeMap::from([(0, 200), (cpu_of(spi), 20)]));
    agent.stop().unwrap();
}

/// The control of the tests above: without the program one CPU receives everything.
#[test]
fn without_xdp_one_cpu_receives_everything() {
    let world = world();
    let agent = agent().start_with(&world[HUB], &config()).unwrap();
    let wire = Wire::open(&world[HUB]);
    assert_eq!(xdp(&world[HUB], "wan0"), None);
    let arrived = wire.exchange(all(in_udp));
    assert_eq!(arrived.keys().copied().collect::<Vec<_>>(), [0]);
    assert!(cpus().len() > 1);
    agent.stop().unwrap();
}

/// A veth refuses native XDP while the other end's frames do not fit a page.
#[test]
fn generic_xdp_distributes_where_driver_refuses_native() {
    let world = world();
    world[HUB].ip("link set wan1 mtu 9000").unwrap();
    let agent = agent().start_with(&world[HUB], &with_xdp("wan0")).unwrap();
    let status = underlay(&agent.status().unwrap(), "wan0");
    assert_eq!(status["spread_in_force"], "xdp-generic");
    let reason = status["spread_reason"].as_str().unwrap();
    assert!(reason.starts_with("the driver refuses native XDP"), "{reason}");
    let program = xdp(&world[HUB], "wan0").unwrap();
    assert_eq!((program.0, pins(&world[HUB])), (2, vec!["generic".to_owned()]));
    let wire = Wire::open(&world[HUB]);
    assert_distributed(&wire.exchange(all(in_udp)));
    assert_distributed(&wire.exchange(all(esp6)));
    assert_distributed(&wire.exchange(all(|spi, sequence| esp(spi, sequence).tag(VLAN, 77))));
    // The next agent does not ask the driver again.
    let agent = crate::underlay::agent().start_in(&world[HUB], agent.kill().unwrap()).unwrap();
    assert_eq!(underlay(&agent.status().unwrap(), "wan0")["spread_in_force"], "xdp-generic");
    assert_ne!(xdp(&world[HUB], "wan0"), Some(program));
    assert_distributed(&wire.exchange(all(in_udp)));
    agent.stop().unwrap();
}

/// Packets of a VLAN interface at the far end have their tag beside the frame, as if a NIC had removed it.
#[test]
#[ignore = "needs the kernel's VLAN interfaces: cargo xtask vm-test"]
fn tags_beside_frames_are_not_lost() {
    let world = world();
    let hub = &world[HUB];
    let agent = agent().start_with(hub, &with_xdp("wan0")).unwrap();
    assert_eq!(underlay(&agent.status().unwrap(), "wan0")["spread_in_force"], "xdp-native");
    hub.batch(
        "link add link wan0 name wan0.5 type vlan id 5\nlink add link wan1 name wan1.5 type vlan id 5\n\
         link set wan0.5 up\nlink set wan1.5 up",
    )
    .unwrap();
    retry("generic XDP", || Ok(xdp(hub, "wan0").filter(|(mode, _)| *mode == 2))).unwrap();
    let status = underlay(&agent.status().unwrap(), "wan0");
    assert!(status["spread_reason"].as_str().unwrap().contains("VLAN interfaces"), "{status}");
    assert_distributed(&Wire::between(hub, "wan1.5", "wan0.5").exchange(all(in_udp)));
    assert_distributed(&Wire::open(hub).exchange(all(esp6)));
    // Without them natively again.
    hub.ip("link del wan0.5").unwrap();
    retry("native XDP", || Ok(xdp(hub, "wan0").filter(|(mode, _)| *mode == 1))).unwrap();
    assert_distributed(&Wire::open(hub).exchange(all(in_udp)));
    agent.stop().unwrap();
}

//! Interfaces without Ethernet headers, which TC serves, next to others that XDP serves.

use std::net::IpAddr;

use hub_tests::lab::{HUB, HubConfig, NINGBO, Options, Rig, SHANGHAI, Status, Tun, VPC, World};
use hub_tests::packet::{Packet, hex};

use crate::{SITES, WAIT, Wire, probe, vpc_hosts};

const DEVICE: &str = "l3";
/// Smaller than the other tunnels'.
const MTU: usize = 1300;
/// The two connections on the device, each with an address in IPv4 and IPv6.
const HALVES: [(&str, [&str; 2], [&str; 2]); 2] = [
    ("ningbo", ["10.10.30.0/25", "fd00:10:10:30::/65"], ["10.10.30.1", "fd00:10:10:30::1"]),
    ("ningbo-upper", ["10.10.30.128/25", "fd00:10:10:30:8000::/65"], ["10.10.30.200", "fd00:10:10:30:8000::1"]),
];

fn config() -> HubConfig {
    let halves = HALVES.map(|(name, prefixes, _)| (name, prefixes));
    let mut config = HubConfig::offices(&SITES).split(&NINGBO, &halves);
    for (name, ..) in HALVES {
        let connection = config.connection(name);
        connection.interface = DEVICE.into();
        connection.peer = None;
    }
    config
}

/// The rig, and the far end of the device.
fn start() -> (Rig, Tun) {
    let (world, tun) = world();
    let rig = Rig::start_in(world, &config(), &[]).unwrap();
    rig.warm_up(&SITES[..2]).unwrap();
    (rig, tun)
}

fn world() -> (World, Tun) {
    let world = World::three_offices(&Options::default()).unwrap();
    let tun = Tun::create(&world[HUB], DEVICE).unwrap();
    world[HUB].batch(&format!("link set dev {DEVICE} mtu {MTU} up")).unwrap();
    (world, tun)
}

fn addresses(half: usize) -> [IpAddr; 2] {
    HALVES[half].2.map(|address| address.parse().unwrap())
}

/// Expects a packet from the device, and ignores the kernel's own.
fn expect(tun: &mut Tun, expected: &Packet, what: &str) {
    let expected = expected.build();
    let mut others = Vec::new();
    while let Some(packet) = tun.receive(WAIT).unwrap() {
        if packet == expected {
            return;
        }
        others.push(hex(&packet));
    }
    panic!("{what}: expected\n{}but received\n{}", hex(&expected), others.join("\n"));
}

#[test]
fn layer_3_sites_reach_others_and_packets_count_once() {
    let (rig, mut tun) = start();
    let (shanghai, vpc) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_vpc(&rig.world));
    let before = rig.agent.status().unwrap();
    let reason = |name: &str| before.connection(name)["attach_reason"].as_str().map(str::to_owned);
    for (name, ..) in HALVES {
        assert_eq!(before.connection(name)["attach"], "tc");
        assert_eq!(reason(name).as_deref(), Some("a layer-3 interface: XDP cannot send to it"));
    }
    assert_eq!(before.connection("shanghai")["attach"], "xdp-native");
    assert_eq!(reason("shanghai"), None);

    let others = [(&shanghai, SHANGHAI.hosts()), (&vpc, vpc_hosts())];
    for half in [0, 1] {
        for family in [0, 1] {
            let here = addresses(half)[family];
            for (number, (wire, hosts)) in others.iter().enumerate() {
                // To the device: native XDP leaves it to TC; untagged, tagged, and with padding.
                let to = |port| probe(hosts[family], here, (port, 7)).ttl(64);
                wire.send(to(1));
                expect(&mut tun, &to(1).ttl(63), "from Ethernet to the device");
                wire.send(to(2).vlan(100));
                expect(&mut tun, &to(2).ttl(63), "the same, tagged");
                wire.send(to(3).qinq(200, 100));
                expect(&mut tun, &to(3).ttl(63), "the same, with two tags");
                // From the device, into Ethernet.
                let last = (u16::try_from(1 + 10 * half + number).unwrap(), 9);
                tun.send(&probe(here, hosts[family], last).ttl(64).build()).unwrap();
                let arrived = wire.socket.expect(WAIT, |frame| {
                    *frame == *probe(here, hosts[family], last).ttl(63).ethernet(wire.macs[1], wire.macs[0]).build()
                });
                assert!(arrived.is_ok(), "from the device to Ethernet");
            }
            // From one connection of the device to the other, through it twice.
            let hairpin = probe(here, addresses(1 - half)[family], (4, 7)).ttl(64);
            tun.send(&hairpin.build()).unwrap();
            expect(&mut tun, &hairpin.ttl(63), "from the device into itself");
        }
    }
    let after = rig.agent.status().unwrap();
    let grown = |name: &str, path: &str| after.since(&before, name, path);
    // Two families; there are two others, each sends three and gets one, and each half is once the other's peer.
    for (name, ..) in HALVES {
        assert_eq!((grown(name, "rx_packets"), grown(name, "tx_packets")), (2 * (2 + 1), 2 * (2 * 3 + 1)), "{name}");
    }
    assert_eq!((grown("shanghai", "rx_packets"), grown("shanghai", "tx_packets")), (2 * 2 * 3, 2 * 2));
    rig.stop().unwrap();
}

#[test]
fn rejected_packets_at_layer_3_interface_count_once() {
    let (rig, mut tun) = start();
    let shanghai = Wire::of_site(&rig.world, &SHANGHAI);
    let before = rig.agent.status().unwrap();
    let [ningbo, _] = addresses(0);
    let from_shanghai = |ports| probe(SHANGHAI.host4().into(), ningbo, ports);
    // XDP would pass these, like other packets for TC.
    shanghai.send(from_shanghai((1, 1)).ttl(1));
    shanghai.send(from_shanghai((1, 2)).payload(MTU));
    shanghai.send(probe(SHANGHAI.host4().into(), VPC.hub4.into(), (1, 3)));
    // XDP drops this.
    shanghai.send(probe(ningbo, VPC.host4.into(), (1, 4)));
    // And TC these.
    let elsewhere: IpAddr = "10.10.20.1".parse().unwrap();
    tun.send(&probe(elsewhere, SHANGHAI.host4().into(), (1, 5)).build()).unwrap();
    tun.send(&probe(ningbo, SHANGHAI.host4().into(), (1, 6)).ttl(1).build()).unwrap();
    tun.send(&[0x45; 12]).unwrap();
    shanghai.send(from_shanghai((1, 7)).ttl(64));
    expect(&mut tun, &from_shanghai((1, 7)).ttl(63), "the last one");
    let after = rig.agent.status().unwrap();
    for (name, path, times) in [
        ("shanghai", "passes/ttl_expired", 1),
        ("shanghai", "passes/too_big", 1),
        ("shanghai", "passes/to_hub", 1),
        ("shanghai", "passes/handed_over", 0),
        ("shanghai", "drops/spoofed_source", 1),
        ("shanghai", "rx_packets", 3),
        ("ningbo", "passes/ttl_expired", 1),
        ("ningbo", "rx_packets", 1),
        ("ningbo", "tx_packets", 1),
    ] {
        assert_eq!(after.since(&before, name, path), times, "{name} {path}");
    }
    let dropped = |reason: &str| {
        let [before, after] = [&before, &after].map(|status| status["drops"][reason].as_u64().unwrap_or_default());
        after - before
    };
    assert_eq!((dropped("spoofed_source"), dropped("malformed")), (2, 1));
    rig.stop().unwrap();
}

/// XDP leaves the packets that it passes to TC: without TC, nothing would check them.
#[test]
fn interface_without_tc_attachment_gets_no_xdp() {
    let (world, _tun) = world();
    let device = SHANGHAI.hub_device(0);
    let crowd = world[HUB].crowd(&device).unwrap();
    let rig = Rig::start_in(world, &config(), &[]).unwrap();
    let status = rig.agent.status().unwrap();
    let shanghai = status.connection("shanghai");
    assert!(shanghai["attach"].is_null(), "{shanghai:#}");
    let reason = shanghai["attach_reason"].as_str().unwrap();
    assert!(reason.starts_with("the program cannot be attached to the interface: "), "{reason}");
    let link = rig.world[HUB].ip(&format!("-o link show dev {device}")).unwrap();
    assert!(!link.contains("xdp"), "{link}");
    assert_eq!(status.connection("hangzhou")["attach"], "xdp-native", "the others are");
    let log = rig.agent.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("not attached")).collect();
    assert!(lines.len() == 1 && lines[0].contains(&device), "{log}");

    crowd.leave(&rig.world[HUB]).unwrap();
    let attached = |status: &Status| status.connection("shanghai")["attach"] == "xdp-native";
    let status = rig.agent.wait_for_status(WAIT * 4, attached).unwrap();
    assert!(status.connection("shanghai")["attach_reason"].is_null());
    rig.warm_up(&SITES[..2]).unwrap();
    rig.stop().unwrap();
}

//! The exact bytes of forwarded frames.

use std::net::IpAddr;

use hub_tests::lab::{FrameSocket, HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, VPC, World};
use hub_tests::packet::{Packet, View, hex, number, verify_checksums};

use crate::{SITES, WAIT, Wire, udp};

const PORTS: (u16, u16) = (5001, 5002);

/// Puts an IP packet into a frame with or without tags.
type Framing = fn(Packet) -> Packet;

const FRAMINGS: [(&str, Framing); 5] = [
    ("untagged", |packet| packet),
    ("one tag", |packet| packet.vlan(100)),
    ("a priority tag", |packet| packet.tag(number::VLAN, 0xe000)),
    ("two tags", |packet| packet.qinq(200, 100)),
    ("two customer tags", |packet| packet.vlan(300).vlan(100)),
];

#[test]
fn packet_by_native_xdp_loses_tag_and_one_hop_only() {
    rewritten(&[]);
}

#[test]
fn packet_by_generic_xdp_loses_tag_and_one_hop_only() {
    rewritten(&["--attach", "generic"]);
}

#[test]
fn packet_by_tc_loses_tag_and_one_hop_only() {
    rewritten(&["--attach", "tc"]);
}

fn rewritten(arguments: &[&str]) {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, hangzhou) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_site(&rig.world, &HANGZHOU));
    let v4 = || udp(SHANGHAI.host4().into(), HANGZHOU.host4().into(), PORTS).tos(0xb8).identification(0x1234);
    let v6 = || udp(SHANGHAI.host6().into(), HANGZHOU.host6().into(), PORTS).tos(0xb8).flow_label(0xabcde);
    let packets = [v4().dont_fragment(), v4(), v6()];
    // The smallest that needs no padding, and the largest with room for two tags.
    for (packet, headers) in packets.into_iter().zip([28, 28, 48]) {
        for payload in [64 - headers, 1392 - headers] {
            for hops in [64, 2, 255] {
                for (name, framing) in FRAMINGS {
                    let packet = packet.clone().payload(payload).ttl(hops);
                    shanghai.send(framing(packet.clone()));
                    let arrived = hangzhou.socket.expect(WAIT, is_probe).unwrap().bytes;
                    verify_checksums(&arrived).unwrap();
                    // From the hub's device to the peer's.
                    let expected = packet.ttl(hops - 1).ethernet(hangzhou.macs[1], hangzhou.macs[0]).build();
                    assert!(
                        arrived == expected,
                        "{name}, {payload} bytes, {hops} hops: expected\n{}but received\n{}",
                        hex(&expected),
                        hex(&arrived)
                    );
                }
            }
        }
    }
    rig.stop().unwrap();
}

fn is_probe(frame: &[u8]) -> bool {
    View::ethernet(frame).is_ok_and(|view| view.ports() == Some(PORTS))
}

#[test]
fn wrong_checksum_stays_wrong() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, hangzhou) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_site(&rig.world, &HANGZHOU));
    let packet = || udp(SHANGHAI.host4().into(), HANGZHOU.host4().into(), PORTS);
    shanghai.send(packet().ip_checksum(0x1234));
    let arrived = hangzhou.socket.expect(WAIT, is_probe).unwrap();
    assert!(verify_checksums(&arrived.bytes).is_err(), "the destination must find out:\n{}", hex(&arrived.bytes));
    shanghai.send(packet().transport_checksum(0x1234));
    let arrived = hangzhou.socket.expect(WAIT, is_probe).unwrap();
    let error = verify_checksums(&arrived.bytes).unwrap_err();
    assert!(error.starts_with("the UDP checksum is 1234"), "{error}");
    rig.stop().unwrap();
}

#[test]
#[ignore = "needs VLAN interfaces, CONFIG_VLAN_8021Q: `cargo xtask test tagged_frame_for_hub_vlan -- --ignored`"]
fn tagged_frame_for_hub_vlan_interface_is_delivered_there() {
    let world = World::three_offices(&Options::default()).unwrap();
    let hub_device = SHANGHAI.hub_device(0);
    world[HUB].ip(&format!("link add link {hub_device} name sh-100 type vlan id 100")).unwrap();
    world[HUB].batch("addr add 10.100.0.1/24 dev sh-100\nlink set dev sh-100 up").unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, vpc) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_vpc(&rig.world));
    let upper = FrameSocket::open(&rig.world[HUB], "sh-100").unwrap();
    let before = rig.agent.status().unwrap();
    let (source, destination): (IpAddr, IpAddr) = (SHANGHAI.host4().into(), VPC.host4.into());
    shanghai.send(udp(source, destination, PORTS).vlan(100));
    upper.expect(WAIT, is_probe).unwrap();
    // Frames of another VLAN belong to the attachment itself.
    shanghai.send(udp(source, destination, (1, 2)).vlan(200));
    assert_eq!(vpc.ports_until((1, 2)), []);
    let after = rig.agent.status().unwrap();
    assert_eq!(after.since(&before, "shanghai", "passes/other_vlan"), 1);
    assert_eq!(after.since(&before, "shanghai", "rx_packets"), 1);
    rig.stop().unwrap();
}

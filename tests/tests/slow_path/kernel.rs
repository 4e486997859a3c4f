//! Packets that the kernel forwards because the program does not, and packets to the hub itself.

use std::net::IpAddr;

use hub_tests::lab::{self, FrameSocket, HANGZHOU, HUB, HubConfig, Mac, Options, Ping, Rig, SHANGHAI, VPC};
use hub_tests::packet::{Packet, View, number, verify_checksums};

use crate::{SITES, WAIT, datagram, hosts, hub_addresses, warm_hub};

/// A no-operation and a router alert (RFC 2113); padding and a router alert (RFC 2711).
const OPTIONS_V4: [u8; 8] = [1, 1, 1, 1, 0x94, 4, 0, 0];
const OPTIONS_V6: [u8; 6] = [5, 2, 0, 0, 1, 0];

#[test]
fn packets_with_router_options_arrive() {
    for config in [HubConfig::offices(&SITES), HubConfig::offices(&SITES).unpublished()] {
        let rig = warm_hub(&config);
        let macs = [rig.world["shanghai"].mac("wan0").unwrap(), rig.world[HUB].mac("tun-sh").unwrap()];
        let shanghai = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
        let before = rig.agent.status().unwrap();
        let packets = |host4, host6| {
            [
                Packet::ipv4(SHANGHAI.host4(), host4).ip_options(&OPTIONS_V4).udp(3, 4).payload(50),
                Packet::ipv6(SHANGHAI.host6(), host6).hop_by_hop(&OPTIONS_V6).udp(3, 4).payload(50),
            ]
        };
        let targets = [
            ("hangzhou", "wan0", packets(HANGZHOU.host4(), HANGZHOU.host6())),
            (VPC.place, VPC.device, packets(VPC.host4, VPC.host6)),
        ];
        for (place, device, packets) in targets {
            let arrivals = FrameSocket::open(&rig.world[place], device).unwrap();
            for packet in packets {
                shanghai.send(&packet.clone().ethernet(macs[0], macs[1]).build()).unwrap();
                let arrived =
                    arrivals.expect(WAIT, |frame| View::ethernet(frame).is_ok_and(|view| view.ports() == Some((3, 4))));
                let arrived = arrived.unwrap().bytes;
                verify_checksums(&arrived).unwrap();
                // The options are unchanged.
                let expected = packet.ttl(63).build();
                assert_eq!(View::ethernet(&arrived).unwrap().packet, expected);
            }
        }
        let after = rig.agent.status().unwrap();
        assert_eq!(
            after.since(&before, "shanghai", "passes/ip_options"),
            0,
            "XDP leaves them to TC, and TC sends them"
        );
        assert_eq!(after.since(&before, "hangzhou", "tx_packets"), 2);
        rig.stop().unwrap();
    }
}

#[test]
fn first_packet_to_unknown_vpc_host_arrives() {
    let rig = Rig::start(&Options::default().slow_path(true), &HubConfig::offices(&SITES)).unwrap();
    for (from, to) in [(SHANGHAI.host4().into(), VPC.host4.into()), (SHANGHAI.host6().into(), IpAddr::from(VPC.host6))]
    {
        assert_eq!(rig.world[HUB].ip(&format!("neigh show {to} dev vpc0")).unwrap(), "");
        let probe = datagram(from, to).size(10);
        let first = lab::udp_probe(&rig.world["shanghai"], &rig.world[VPC.place], &probe, WAIT).unwrap();
        assert_eq!(first.expect("the first arrives").hops, 63);
    }
    let status = rig.agent.status().unwrap();
    assert_eq!(status.counter("shanghai", "passes/no_neighbour"), 2);
    rig.stop().unwrap();
}

#[test]
fn first_packet_to_site_arrives() {
    // Right after the start, when the agent may not know its link neighbours yet.
    let rig = Rig::start(&Options::default().slow_path(true), &HubConfig::offices(&SITES)).unwrap();
    for (from, to) in hosts(&SHANGHAI, &HANGZHOU) {
        let probe = datagram(from, to).size(10);
        let first = lab::udp_probe(&rig.world["shanghai"], &rig.world["hangzhou"], &probe, WAIT).unwrap();
        assert!(first.is_some(), "{from} to {to}");
    }
    rig.stop().unwrap();
}

#[test]
fn hub_answers_pings_to_all_its_addresses() {
    for config in [HubConfig::offices(&SITES), HubConfig::offices(&SITES).unpublished()] {
        let rig = warm_hub(&config);
        let addresses = hub_addresses(&rig.world);
        // The VPC's two and one per tunnel.
        assert_eq!(addresses.len(), 5, "{addresses:?}");
        for place in ["shanghai", "hangzhou", "ningbo", VPC.place] {
            for address in &addresses {
                let report = Ping::new(*address).count(2).timeout(WAIT).run(&rig.world[place]).unwrap();
                assert!(report.complete(), "{address} from {place}: {report:?}");
            }
        }
        rig.stop().unwrap();
    }
}

#[test]
fn hub_answers_arp_and_neighbour_solicitations() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let shanghai = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let (own, hub) = (rig.world["shanghai"].mac("wan0").unwrap(), rig.world[HUB].mac("tun-sh").unwrap());
    shanghai.send(&Packet::arp_request(own, SHANGHAI.peer4(0), SHANGHAI.hub4(0)).build()).unwrap();
    let reply = shanghai.expect(WAIT, |frame| {
        // Operation 2 is a reply, from the hub's address.
        frame[12..14] == number::ARP.to_be_bytes()
            && frame.get(20..22) == Some(&[0, 2])
            && frame.get(28..32) == Some(&SHANGHAI.hub4(0).octets()[..])
    });
    assert_eq!(Mac(reply.unwrap().bytes[22..28].try_into().unwrap()), hub);

    let target: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let mut body = target.octets().to_vec();
    body.extend([1, 1]);
    body.extend(own.0);
    let solicitation = Packet::ipv6("fe80::2", "ff02::1:ff00:1")
        .ttl(255)
        .icmp(135, 0, [0; 4])
        .bytes(body)
        .ethernet(own, "33:33:ff:00:00:01")
        .build();
    shanghai.send(&solicitation).unwrap();
    let advertisement = shanghai.expect(WAIT, |frame| {
        View::ethernet(frame).is_ok_and(|view| view.icmp() == Some((136, 0)) && view.source == IpAddr::from(target))
    });
    assert_eq!(View::ethernet(&advertisement.unwrap().bytes).unwrap().macs.unwrap().0, hub);
    // And a ping to that address.
    let echo = Packet::ipv6("fe80::2", "fe80::1").echo(77, 1).payload(8).ethernet(own, hub).build();
    shanghai.send(&echo).unwrap();
    let is_reply = |frame: &[u8]| View::ethernet(frame).is_ok_and(|view| view.icmp() == Some((129, 0)));
    shanghai.expect(WAIT, is_reply).unwrap();
    rig.stop().unwrap();
}

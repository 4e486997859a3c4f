//! ICMP errors that the kernel sends in place of the program.

use hub_tests::lab::{FrameSocket, HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, UdpReceiver, VPC, World};
use hub_tests::packet::{Packet, View};

use crate::{SITES, WAIT, datagram, hosts, hub_addresses, icmp_error, warm_hub};
use std::net::SocketAddr;

const TIME_EXCEEDED: [(u8, u8); 2] = [(11, 0), (3, 0)];
const TOO_BIG: [(u8, u8); 2] = [(3, 4), (2, 0)];

#[test]
fn expired_packet_gets_time_exceeded_from_hub() {
    time_exceeded(&HubConfig::offices(&SITES));
}

#[test]
fn expired_packet_of_unpublished_site_gets_time_exceeded() {
    time_exceeded(&HubConfig::offices(&SITES).unpublished());
}

fn time_exceeded(config: &HubConfig) {
    let rig = warm_hub(config);
    let hub = hub_addresses(&rig.world);
    let answers = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let before = rig.agent.status().unwrap();
    let [(own4, site4), (own6, site6)] = hosts(&SHANGHAI, &HANGZHOU);
    let pairs = [(own4, site4), (own6, site6), (own4, VPC.host4.into()), (own6, VPC.host6.into())];
    for (from, to) in pairs {
        datagram(from, to).hops(1).size(64).send(&rig.world["shanghai"]).unwrap();
        let error = icmp_error(&answers, TIME_EXCEEDED, to);
        let view = View::ethernet(&error).unwrap();
        assert!(hub.contains(&view.source), "{} is none of the hub's addresses {hub:?}", view.source);
        assert_eq!(view.destination, from);
    }
    let after = rig.agent.status().unwrap();
    assert_eq!(after.since(&before, "shanghai", "passes/ttl_expired"), 4);
    rig.stop().unwrap();
}

/// The offices, with a narrower tunnel to Hangzhou at the hub, which TCP must learn of by errors.
fn narrow_hub() -> Rig {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    world[HUB].ip("link set dev tun-hz mtu 1300").unwrap();
    let mut config = HubConfig::offices(&SITES);
    config.connections.iter_mut().for_each(|connection| connection.mss_clamp = Some("\"off\""));
    let rig = Rig::start_in(world, &config, &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

#[test]
fn oversized_df_packet_gets_egress_mtu() {
    let rig = narrow_hub();
    let answers = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    for (from, to) in hosts(&SHANGHAI, &HANGZHOU) {
        datagram(from, to).dont_fragment().size(1340).send(&rig.world["shanghai"]).unwrap();
        let error = icmp_error(&answers, TOO_BIG, to);
        assert_eq!(View::ethernet(&error).unwrap().reported_mtu(), Some(1300));
    }
    // A changed MTU takes effect at once.
    rig.world[HUB].ip("link set dev tun-hz mtu 1290").unwrap();
    for (from, to) in hosts(&SHANGHAI, &HANGZHOU) {
        datagram(from, to).dont_fragment().size(1340).send(&rig.world["shanghai"]).unwrap();
        let error = icmp_error(&answers, TOO_BIG, to);
        assert_eq!(View::ethernet(&error).unwrap().reported_mtu(), Some(1290));
    }
    rig.stop().unwrap();
}

#[test]
fn tcp_stream_learns_path_mtu() {
    let rig = narrow_hub();
    for to in HANGZHOU.hosts() {
        hub_tests::lab::tcp_transfer(&rig.world["shanghai"], &rig.world["hangzhou"], to, 2_000_000, 5).unwrap();
    }
    rig.stop().unwrap();
}

#[test]
fn oversized_fragmentable_packet_arrives_in_fragments() {
    let rig = narrow_hub();
    let arrivals = FrameSocket::open(&rig.world["hangzhou"], "wan0").unwrap();
    let shanghai = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let macs = [rig.world["shanghai"].mac("wan0").unwrap(), rig.world[HUB].mac("tun-sh").unwrap()];
    let receiver = UdpReceiver::bind(&rig.world["hangzhou"], SocketAddr::new(HANGZHOU.host4().into(), 6000)).unwrap();
    let packet = Packet::ipv4(SHANGHAI.host4(), HANGZHOU.host4()).identification(7).udp(5000, 6000).payload(1340);
    shanghai.send(&packet.ethernet(macs[0], macs[1]).build()).unwrap();
    // Reassembled, it equals the sent datagram.
    let whole = receiver.receive(WAIT).unwrap().expect("the parts arrive");
    let sent: Vec<u8> = (0..1340_usize).map(|at| at.to_le_bytes()[0]).collect();
    assert!(whole.payload == sent);
    assert_eq!(whole.hops, 63);
    let parts = arrivals.collect(std::time::Duration::ZERO).unwrap();
    let parts = parts.iter().filter(|frame| View::ethernet(&frame.bytes).is_ok_and(|view| view.fragment));
    assert_eq!(parts.count(), 2);
    rig.stop().unwrap();
}

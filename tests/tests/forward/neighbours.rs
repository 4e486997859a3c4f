//! Link addresses: those of the VPC's hosts are resolved when a packet needs one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hub_tests::lab::{
    FrameSocket, HUB, HubConfig, Options, Rig, SHANGHAI, UdpProbe, UdpReceiver, VPC, VPC_SIDE, retry,
};
use hub_tests::packet::{View, number};

use crate::SITES;

#[test]
fn unknown_vpc_host_is_resolved_and_then_reached() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let heard = FrameSocket::open(&rig.world[HUB], VPC.hub_device).unwrap();
    let addresses: [(IpAddr, IpAddr); 2] =
        [(SHANGHAI.host4().into(), VPC.host4.into()), (SHANGHAI.host6().into(), VPC.host6.into())];
    for (source, destination) in addresses {
        let known = rig.world[HUB].ip(&format!("neigh show {destination} dev {}", VPC.hub_device)).unwrap();
        assert_eq!(known, "", "nobody has asked for it yet");
        let before = rig.agent.status().unwrap();

        let receiver = UdpReceiver::bind(&rig.world[VPC.place], SocketAddr::new(destination, 7000)).unwrap();
        let mut sent = 0_u32;
        let first = retry("no datagram gets through", || {
            let probe = UdpProbe::new(SocketAddr::new(source, 0), SocketAddr::new(destination, 7000));
            probe.payload(sent.to_be_bytes()).send(&rig.world["shanghai"])?;
            sent += 1;
            receiver.receive(Duration::from_millis(20))
        });
        let first = u32::from_be_bytes(first.unwrap().payload.try_into().unwrap());
        assert!(first > 0, "the kernel does not forward, so somebody else did");

        // Packets before the first arrival were left to the kernel; all later ones arrive.
        let after = rig.agent.status().unwrap();
        let lost = after.since(&before, "shanghai", "passes/no_neighbour");
        assert_eq!(lost, u64::from(first));
        assert_eq!(after.since(&before, "shanghai", "rx_packets"), u64::from(sent));
        assert_eq!(after.since(&before, VPC_SIDE, "tx_packets"), u64::from(sent - first));
        // The host has sent nothing unsolicited: its answers to neighbour requests are not IP, or are to the hub.
        assert_eq!(after.counter(VPC_SIDE, "rx_packets"), 0);
    }
    let others = heard.find(Duration::ZERO, |frame| match View::ethernet(frame) {
        Ok(view) => view.protocol != number::ICMPV6,
        Err(_) => frame[12..14] != number::ARP.to_be_bytes(),
    });
    assert_eq!(others.unwrap(), None);
    rig.stop().unwrap();
}

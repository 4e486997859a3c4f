//! Bulk transfers, with every byte compared.

use std::net::IpAddr;

use hub_tests::lab::{self, HANGZHOU, HUB, HubConfig, Options, Rig, VPC, World};

use crate::SITES;

const MEGABYTE: u64 = 1_000_000;

#[test]
fn tcp_streams_arrive_intact_through_native_xdp() {
    transfers(&[], &[(HANGZHOU.host4().into(), 100), (HANGZHOU.host6().into(), 20)]);
}

#[test]
fn tcp_streams_arrive_intact_through_generic_xdp() {
    transfers(&["--attach", "generic"], &[(HANGZHOU.host4().into(), 20), (HANGZHOU.host6().into(), 10)]);
}

#[test]
fn tcp_streams_arrive_intact_through_tc() {
    transfers(&["--attach", "tc"], &[(HANGZHOU.host4().into(), 20), (HANGZHOU.host6().into(), 10)]);
}

/// With all offloads on, the default on hosts: super-packets pass without segmentation.
#[test]
fn super_packets_through_tc_are_not_segmented() {
    let world = World::three_offices(&Options::default()).unwrap();
    for (place, device) in [("shanghai", "wan0"), ("hangzhou", "wan0"), (HUB, "tun-sh"), (HUB, "tun-hz")] {
        world[place].enable_offloads(device).unwrap();
    }
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &["--attach", "tc"]).unwrap();
    rig.warm_up(&SITES).unwrap();
    for to in HANGZHOU.hosts() {
        let before = rig.agent.status().unwrap();
        let bytes = 50 * MEGABYTE;
        let transfer = lab::tcp_transfer(&rig.world["shanghai"], &rig.world["hangzhou"], to, bytes, 1).unwrap();
        let after = rig.agent.status().unwrap();
        let [packets, carried] = ["tx_packets", "tx_bytes"].map(|path| after.since(&before, "hangzhou", path));
        assert!(carried > bytes, "{carried} of {bytes} bytes went through the program");
        // On a tunnel's wire there would be one packet per segment.
        let segments = bytes / u64::from(transfer.mss);
        assert!(packets < segments / 4, "{segments} segments in {packets} packets");
    }
    rig.stop().unwrap();
}

/// Transfers from Shanghai to Hangzhou, to these addresses, in megabytes.
fn transfers(arguments: &[&str], streams: &[(IpAddr, u64)]) {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    for (to, megabytes) in streams {
        let before = rig.agent.status().unwrap();
        let bytes = megabytes * MEGABYTE;
        let transfer = lab::tcp_transfer(&rig.world["shanghai"], &rig.world["hangzhou"], *to, bytes, 1).unwrap();
        // The tunnels' MTU, less the headers and 12 bytes of timestamps.
        assert_eq!(transfer.mss, if to.is_ipv4() { 1348 } else { 1328 });
        let after = rig.agent.status().unwrap();
        let carried = after.since(&before, "hangzhou", "tx_bytes");
        assert!(carried > bytes, "{carried} of {bytes} bytes went through the program");
    }
    // And into the VPC, whose MTU is larger than the tunnels'.
    lab::tcp_transfer(&rig.world["shanghai"], &rig.world[VPC.place], VPC.host4.into(), MEGABYTE, 2).unwrap();
    lab::tcp_transfer(&rig.world[VPC.place], &rig.world["shanghai"], lab::SHANGHAI.host6().into(), MEGABYTE, 3)
        .unwrap();
    rig.stop().unwrap();
}

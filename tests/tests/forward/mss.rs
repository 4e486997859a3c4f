//! TCP through tunnels that are narrower than the sites' links, without errors that would report the path's MTU: the
//! hub's kernel does not forward, so it sends none.

use std::net::IpAddr;

use hub_tests::lab::{self, FrameSocket, HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, Site, World, retry};
use hub_tests::packet::{Packet, View, number::SYN, verify_checksums};

use crate::{SITES, WAIT, Wire, udp};

const BYTES: u64 = 3_000_000;
/// The MSS in a SYN for the narrower tunnel: 1300 bytes less the headers, IPv4 and IPv6.
const LIMITS: [u16; 2] = [1260, 1240];
/// Of a segment, TCP's timestamps take 12.
const TIMESTAMPS: u32 = 12;

#[test]
fn tcp_streams_pass_narrow_tunnels_through_native_xdp() {
    streams(world(), &[]);
}

/// With offloads: the senders' SYNs have a checksum that is not complete, and super-packets arrive.
#[test]
fn tcp_streams_pass_narrow_tunnels_through_tc() {
    let world = world();
    for (place, device) in [("shanghai", "wan0"), ("hangzhou", "wan0"), (HUB, "tun-sh"), (HUB, "tun-hz")] {
        world[place].enable_offloads(device).unwrap();
    }
    streams(world, &["--attach", "tc"]);
}

/// Links of 1400 bytes at the sites; at the hub, packets of that size are dropped.
fn world() -> World {
    let world = World::three_offices(&Options::default()).unwrap();
    world[HUB].batch("link set dev tun-sh mtu 1380\nlink set dev tun-hz mtu 1300\n").unwrap();
    world
}

fn streams(world: World, arguments: &[&str]) {
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    for (from, to) in [(&SHANGHAI, &HANGZHOU), (&HANGZHOU, &SHANGHAI)] {
        let (near, far) = (&rig.world[&from.place], &rig.world[&to.place]);
        for (address, limit) in to.hosts().into_iter().zip(LIMITS) {
            let arrivals = FrameSocket::open(far, &Site::device(0)).unwrap();
            let before = rig.agent.status().unwrap();
            let transfer = lab::tcp_transfer(near, far, address, BYTES, 1).unwrap();
            // The far end's SYN-ACK is clamped, too.
            assert_eq!(transfer.mss, u32::from(limit) - TIMESTAMPS, "to {address}");
            assert_eq!(announced(&arrivals, address), limit);
            let after = rig.agent.status().unwrap();
            assert!(after.since(&before, &to.place, "tx_bytes") > BYTES);
        }
    }
    rig.stop().unwrap();
}

/// The MSS in the SYN that has arrived for an address.
fn announced(arrivals: &FrameSocket, to: IpAddr) -> u16 {
    let is_syn = |view: &View<'_>| view.transport.get(13).is_some_and(|flags| flags & SYN != 0);
    let mss = |frame: &[u8]| {
        let view = View::ethernet(frame).ok()?;
        (view.destination == to && is_syn(&view)).then(|| view.mss()).flatten()
    };
    let frame = arrivals.expect(WAIT, |frame| mss(frame).is_some()).unwrap();
    if !frame.checksum_pending {
        verify_checksums(&frame.bytes).unwrap();
    }
    mss(&frame.bytes).expect("found by it")
}

#[test]
fn mss_follows_mtu_and_configuration() {
    let mut config = HubConfig::offices(&SITES);
    config.connection("ningbo").mss_clamp = Some("\"off\"");
    config.connection("shanghai").mss_clamp = Some("\"off\"");
    let rig = Rig::start_in(world(), &config, &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    let [shanghai, hangzhou, ningbo] = [&SITES[0], &SITES[1], &SITES[2]];
    let wire = Wire::of_site(&rig.world, shanghai);
    let syn_to = |site: &Site, port| -> Vec<u16> {
        let arrivals = FrameSocket::open(&rig.world[&site.place], &Site::device(0)).unwrap();
        let pairs = shanghai.hosts().into_iter().zip(site.hosts());
        let arrived = pairs.map(|(from, to)| {
            let syn: Packet = udp(from, to, (port, 9)).tcp(port, 9).tcp_options(&[1]).mss(9000).payload(0);
            wire.send(syn);
            announced(&arrivals, to)
        });
        arrived.collect()
    };
    assert_eq!(syn_to(hangzhou, 1000), LIMITS);
    assert_eq!(syn_to(ningbo, 1001), [9000; 2]);
    rig.world[HUB].ip("link set dev tun-hz mtu 1290").unwrap();
    let mut port = 2000;
    retry("the MSS does not follow the MTU", || {
        port += 1;
        Ok((syn_to(hangzhou, port) == [1250, 1230]).then_some(()))
    })
    .unwrap();
    rig.stop().unwrap();
}

//! A site's device is replaced: its link address changes.

use hub_tests::lab::{FrameSocket, HANGZHOU, HUB, HubConfig, Mac, Options, Rig, SHANGHAI, Status, World, reach};
use hub_tests::packet::{Packet, View};

use crate::{SITES, WAIT, datagram, hosts, warm_hub};

const NEW: Mac = Mac([2, 0, 0, 0xaa, 0xbb, 0xcc]);

fn assert_reached_at_the_new_address(rig: &Rig) {
    let arrivals = FrameSocket::open(&rig.world["hangzhou"], "wan0").unwrap();
    for (from, to) in hosts(&SHANGHAI, &HANGZHOU) {
        reach(&rig.world["shanghai"], to).unwrap();
        arrivals.discard().unwrap();
        let before = rig.agent.status().unwrap();
        datagram(from, to).size(33).send(&rig.world["shanghai"]).unwrap();
        let frame =
            arrivals.expect(WAIT, |frame| View::ethernet(frame).is_ok_and(|view| view.ports() == Some((5000, 6000))));
        let frame = frame.unwrap();
        assert_eq!(View::ethernet(&frame.bytes).unwrap().macs.unwrap().1, NEW);
        // Forwarded by the program, not the kernel: it knows the new address.
        let after = rig.agent.status().unwrap();
        assert!(after.since(&before, "hangzhou", "tx_packets") >= 1);
    }
}

#[test]
fn peer_announcing_new_mac_is_followed() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    rig.world["hangzhou"].ip(&format!("link set dev wan0 address {NEW}")).unwrap();
    // A gratuitous ARP (RFC 5227 section 3): from and about itself.
    let announcement = Packet::arp_request(NEW, HANGZHOU.peer4(0), HANGZHOU.peer4(0)).build();
    FrameSocket::open(&rig.world["hangzhou"], "wan0").unwrap().send(&announcement).unwrap();
    assert_reached_at_the_new_address(&rig);
    rig.stop().unwrap();
}

/// A hub that confirms Hangzhou's link address every second; the default is a minute.
fn hub_that_confirms_quickly() -> Rig {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let quick = [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "0"),
        ("retrans_time_ms", "100"),
        ("interval_probe_time_ms", "500"),
    ];
    for (name, value) in quick {
        world[HUB].sysctl(&[(&format!("ipv4/neigh/tun-hz/{name}"), value)]).unwrap();
    }
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

#[test]
fn connection_whose_peer_does_not_answer_arp_is_down_until_it_does() {
    let rig = hub_that_confirms_quickly();
    let state = |state: &'static str| {
        let status = rig.agent.wait_for_status(4 * WAIT, |status| status.connection("hangzhou")["state"] == state);
        status.unwrap().connection("hangzhou")["state_reason"].to_string()
    };
    rig.world["hangzhou"].ip("link set dev wan0 arp off").unwrap();
    let reason = state("down");
    assert!(reason.contains("does not answer ARP on interface tun-hz; check"), "{reason}");
    rig.world["hangzhou"].ip("link set dev wan0 arp on").unwrap();
    state("up");
    rig.stop().unwrap();
}

#[test]
fn tunnel_that_is_a_port_of_a_bridge_is_warned_of() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let hub = &rig.world[HUB];
    let is_warned =
        |status: &Status| status.connection("hangzhou")["warnings"].to_string().contains("port of a bridge");
    assert!(!is_warned(&rig.agent.status().unwrap()));
    hub.ip("link add br0 type bridge").unwrap();
    hub.ip("link set tun-hz master br0").unwrap();
    rig.agent.wait_for_status(WAIT, is_warned).unwrap();
    hub.ip("link set tun-hz nomaster").unwrap();
    rig.agent.wait_for_status(WAIT, |status| !is_warned(status)).unwrap();
    rig.stop().unwrap();
}

#[test]
fn peer_with_unannounced_new_mac_is_probed() {
    let rig = hub_that_confirms_quickly();
    // And the far end sends nothing unsolicited.
    rig.world["hangzhou"].ip("link set dev wan0 arp off").unwrap();
    rig.world["hangzhou"].ip(&format!("link set dev wan0 address {NEW}")).unwrap();
    rig.world["hangzhou"].ip("link set dev wan0 arp on").unwrap();
    assert_reached_at_the_new_address(&rig);
    rig.stop().unwrap();
}

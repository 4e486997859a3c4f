//! One packet for each reason that a site can cause: found by `monitor`, by `capture` and by the metric, the same one.

use hub_tests::lab::{HANGZHOU, HubConfig, Options, Rig, SHANGHAI, Scratch, VPC, World, retry};
use hub_tests::packet::Packet;

use crate::capture::{self, read};
use crate::{Listener, SITES, Wire, address, spoofed, udp};

/// A packet, who sends it, and its reason. Each has its own source port.
struct Case {
    reason: &'static str,
    from: &'static str,
    packet: Packet,
}

fn cases() -> Vec<Case> {
    let shanghai = |reason, packet| Case { reason, from: "shanghai", packet };
    let hangzhou = |reason, packet| Case { reason, from: "hangzhou", packet };
    let (own, vpc) = (SHANGHAI.host4(), VPC.host4);
    vec![
        shanghai("spoofed_source", spoofed((7001, 1))),
        shanghai("selector_mismatch", udp(own, HANGZHOU.host4(), (7002, 1))),
        shanghai("selector_mismatch", udp(SHANGHAI.host6(), HANGZHOU.host6(), (7003, 1))),
        shanghai("ttl_expired", udp(own, vpc, (7004, 1)).ttl(1)),
        shanghai("malformed", udp(own, vpc, (7006, 1)).ip_length(1000)),
        shanghai("to_hub", udp(own, VPC.hub4, (7007, 1))),
        shanghai("multicast", udp(own, address("224.0.0.251"), (7008, 1))),
        hangzhou("no_route", udp(HANGZHOU.host4(), address("8.8.8.8"), (7009, 1))),
        hangzhou("spoofed_source", udp(SHANGHAI.host4(), vpc, (7010, 1)).vlan(0)),
    ]
}

#[test]
fn reasons_at_xdp_are_found_by_monitor_capture_and_metric() {
    found(&[]);
}

#[test]
fn reasons_at_tc_are_found_by_monitor_capture_and_metric() {
    found(&["--attach", "tc"]);
}

fn found(arguments: &[&str]) {
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").local_cidrs = vec!["192.168.0.0/24".into(), "fd00:192:168::/64".into()];
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &config, arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("packets.pcapng");
    let monitor = Listener::start(&rig.agent, &[]);
    let mut capture = crate::spawn(&rig.agent, &["capture", "-w", file.to_str().unwrap()]);
    let wires =
        [("shanghai", Wire::of_site(&rig.world, &SHANGHAI)), ("hangzhou", Wire::of_site(&rig.world, &HANGZHOU))];
    for Case { reason, from, packet } in cases() {
        let is_drop = !["ttl_expired", "to_hub", "multicast", "no_route"].contains(&reason);
        let family = if is_drop { "vpnhub_drops_total" } else { "vpnhub_passes_total" };
        let count = || rig.agent.metrics().unwrap().value(family, &[("connection", from), ("reason", reason)]);
        let before = count();
        let wire = &wires.iter().find(|(name, _)| *name == from).unwrap().1;
        let frame = wire.send(&packet);

        let port = u16::from_be_bytes([frame_port(&frame)[0], frame_port(&frame)[1]]);
        let shown = monitor.packet_from(port);
        let verdict = if is_drop { "drop" } else { "pass" };
        assert_eq!((&shown["verdict"], &shown["reason"]), (&verdict.into(), &reason.into()), "{shown}");
        assert_eq!((&shown["connection"], &shown["link"]), (&from.into(), &"ethernet".into()), "{shown}");
        let site = SITES.iter().find(|site| site.place == from).unwrap();
        assert_eq!(shown["interface"], *site.hub_device(0), "{shown}");
        assert_eq!(shown["length"], frame.len(), "{shown}");

        let captured =
            retry("the packet is not in the file", || Ok(read(&file).into_iter().find(|packet| packet.bytes == frame)));
        let captured = captured.unwrap();
        assert_eq!(captured.comment, format!("{verdict} {reason}, connection {from}"));
        assert_eq!((captured.interface, captured.inbound), (site.hub_device(0), true));

        // The same one, and no other.
        assert!(count() >= before + 1.0, "{reason}: {before} before, {} after", count());
    }
    capture.kill().unwrap();
    capture.wait().unwrap();
    capture::by_tshark(&file, "selector_mismatch", 2);
    rig.stop().unwrap();
}

/// The first bytes of the UDP header.
fn frame_port(frame: &[u8]) -> &[u8] {
    let mut at = 14;
    let mut ethertype = &frame[12..14];
    while ethertype == [0x81, 0] {
        ethertype = &frame[at + 2..at + 4];
        at += 4;
    }
    match frame[at] >> 4 {
        4 => &frame[at + usize::from(frame[at] & 15) * 4..],
        _ => &frame[at + 40..],
    }
}

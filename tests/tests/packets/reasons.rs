//! One packet for each reason that a site can cause: found by `monitor`, by `capture` and by the metric, the same one.

use hub_tests::lab::{HANGZHOU, HubConfig, NINGBO, Options, Rig, SHANGHAI, Scratch, VPC, World, retry};
use hub_tests::packet::{Packet, View};

use crate::capture::{self, read};
use crate::{Listener, SITES, Wire, address, spoofed, udp};

/// A packet, who sends it, and its reason.
struct Case {
    reason: &'static str,
    from: &'static str,
    packet: Packet,
    /// Sent to another host's link address.
    astray: bool,
}

const PASSES: [&str; 8] =
    ["ttl_expired", "to_hub", "multicast", "no_route", "link_local", "too_big", "not_ip", "other_host"];

fn cases() -> Vec<Case> {
    let case = |reason, from, packet| Case { reason, from, packet, astray: false };
    let shanghai = |reason, packet| case(reason, "shanghai", packet);
    let hangzhou = |reason, packet| case(reason, "hangzhou", packet);
    let (own, vpc) = (SHANGHAI.host4(), VPC.host4);
    vec![
        shanghai("spoofed_source", spoofed((7001, 1))),
        shanghai("selector_mismatch", udp(own, HANGZHOU.host4(), (7002, 1))),
        shanghai("selector_mismatch", udp(SHANGHAI.host6(), HANGZHOU.host6(), (7003, 1))),
        shanghai("ttl_expired", udp(own, vpc, (7004, 1)).ttl(1)),
        shanghai("malformed", udp(own, vpc, (7006, 1)).ip_length(1000)),
        shanghai("to_hub", udp(own, VPC.hub4, (7007, 1))),
        shanghai("multicast", udp(SHANGHAI.peer4(0), address("224.0.0.251"), (7008, 1))),
        shanghai("link_local", udp(address("fe80::1234"), address("fe80::1"), (7011, 1))),
        shanghai("too_many_tags", udp(own, vpc, (7012, 1)).vlan(1).vlan(2).vlan(3)),
        shanghai("not_ip", Packet::other(0x88b5).payload(77)),
        Case { astray: true, ..shanghai("other_host", udp(own, vpc, (7013, 1))) },
        hangzhou("no_route", udp(HANGZHOU.host4(), address("8.8.8.8"), (7009, 1))),
        hangzhou("spoofed_source", udp(SHANGHAI.host4(), vpc, (7010, 1)).tag(0x8100, 0)),
        hangzhou("isolated", udp(HANGZHOU.host4(), NINGBO.host4(), (7014, 1))),
        case("too_big", "vpc", udp(vpc, HANGZHOU.host4(), (7015, 1)).payload(1400)),
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
    config.spoke_to_spoke = false;
    config.connection("shanghai").local_cidrs = vec!["192.168.0.0/24".into(), "fd00:192:168::/64".into()];
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &config, arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("packets.pcapng");
    let monitor = Listener::start(&rig.agent, &[]);
    let mut capture = crate::spawn(&rig.agent, &["capture", "-w", file.to_str().unwrap()]);
    let wires = [
        ("shanghai", "tun-sh", Wire::of_site(&rig.world, &SHANGHAI)),
        ("hangzhou", "tun-hz", Wire::of_site(&rig.world, &HANGZHOU)),
        ("vpc", VPC.hub_device, Wire::of_vpc(&rig.world)),
    ];
    for Case { reason, from, packet, astray } in cases() {
        let verdict = if PASSES.contains(&reason) { "pass" } else { "drop" };
        let count = || {
            let kind = if verdict == "drop" { "drops" } else { "passes" };
            let metrics = rig.agent.metrics().unwrap();
            match from {
                "vpc" => metrics.value(&format!("vpnhub_vpc_{kind}_total"), &[("reason", reason)]),
                _ => metrics.value(&format!("vpnhub_{kind}_total"), &[("connection", from), ("reason", reason)]),
            }
        };
        let before = count();
        let (_, interface, wire) = wires.iter().find(|(name, ..)| *name == from).unwrap();
        let [own, hub] = wire.macs;
        let frame = packet.clone().ethernet(own, if astray { [2, 0, 0, 0, 0, 99] } else { hub }).build();
        wire.socket.send(&frame).unwrap();

        // The lab's kernels send packets of their own.
        let shown = monitor.find(|line| line["reason"] == reason && line["length"] == frame.len());
        assert_eq!((&shown["verdict"], &shown["connection"]), (&verdict.into(), &from.into()), "{shown}");
        assert_eq!((&shown["link"], &shown["interface"]), (&"ethernet".into(), &(*interface).into()), "{shown}");
        // Others have an inconsistent header, or none, or one behind more tags than XDP reads.
        if let Some(view) = View::ethernet(&frame).ok().filter(|_| reason != "too_many_tags") {
            let (from, to) = (view.source, view.destination);
            assert_eq!((&shown["source"], &shown["destination"]), (&from.to_string().into(), &to.to_string().into()));
            assert_eq!((&shown["source_port"], &shown["protocol"]), (&view.ports().unwrap().0.into(), &17.into()));
        }

        let captured = retry("the packet is not in the file", || {
            Ok(read(&file).into_iter().find(|packet| frame.starts_with(&packet.bytes) && packet.length == frame.len()))
        });
        let captured = captured.unwrap();
        assert_eq!(captured.bytes, frame[..frame.len().min(256)]);
        assert_eq!(captured.comment, format!("{verdict} {reason}, connection {from}"));
        assert_eq!((&*captured.interface, captured.inbound), (*interface, true));
        assert!(count() >= before + 1.0, "{reason}: {before} before, {} after", count());
    }
    capture.kill().unwrap();
    capture.wait().unwrap();
    capture::by_tshark(&file, "selector_mismatch", 2);
    rig.stop().unwrap();
}

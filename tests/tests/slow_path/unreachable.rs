//! Traffic for a site never leaves by another path: not when its link goes down, and not while the agent reacts.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hub_tests::lab::{FrameSocket, HANGZHOU, HUB, HubConfig, Rig, SHANGHAI, VPC, retry};
use hub_tests::packet::{Packet, View, number};

use crate::{SITES, WAIT, datagram, hosts, quoted_destination, warm_hub};

const UNREACHABLE: [(u8, u8); 2] = [(3, 1), (1, 0)];

/// The hub with a default route into the VPC, like a gateway's to the Internet.
fn hub_with_default_route() -> Rig {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let defaults = format!("route add default via {} dev vpc0\nroute add ::/0 via {} dev vpc0", VPC.host4, VPC.host6);
    rig.world[HUB].batch(&defaults).unwrap();
    rig
}

fn is_for_hangzhou(frame: &[u8]) -> bool {
    let destinations = HANGZHOU.hosts();
    View::ethernet(frame).is_ok_and(|view| destinations.contains(&view.destination))
}

/// Sends to Hangzhou throughout `change`, both packets that the program forwards and packets that it leaves to the
/// kernel. The VPC must see none of them, and afterwards the sender must get an ICMP error.
fn nothing_leaks(change: impl FnOnce(&Rig)) {
    let rig = hub_with_default_route();
    let vpc = FrameSocket::open(&rig.world[VPC.place], VPC.device).unwrap();
    let answers = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let sender = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let macs = [rig.world["shanghai"].mac("wan0").unwrap(), rig.world[HUB].mac("tun-sh").unwrap()];
    let packets = [
        Packet::ipv4(SHANGHAI.host4(), HANGZHOU.host4()).tcp(1, 2).flags(number::RST),
        Packet::ipv4(SHANGHAI.host4(), HANGZHOU.host4()).ip_options(&[1, 1, 1, 1]).tcp(3, 4).flags(number::RST),
        Packet::ipv6(SHANGHAI.host6(), HANGZHOU.host6()).tcp(1, 2).flags(number::RST),
        Packet::ipv6(SHANGHAI.host6(), HANGZHOU.host6()).hop_by_hop(&[1, 2, 0, 0]).tcp(3, 4).flags(number::RST),
    ];
    let frames = packets.map(|packet| packet.ethernet(macs[0], macs[1]).build());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for frame in &frames {
                    sender.send(frame).unwrap();
                }
                thread::sleep(Duration::from_micros(200));
            }
        });
        change(&rig);
        let down = rig.agent.wait_for_status(WAIT, |status| status.connection("hangzhou")["state"] == "down");
        done.store(true, Ordering::Relaxed);
        down.unwrap();
    });
    for (from, to) in hosts(&SHANGHAI, &HANGZHOU) {
        // The kernel rate-limits its errors (`ip_error` in net/ipv4/route.c), and the flood has exhausted the limit.
        let answer = retry("nobody says that Hangzhou is unreachable", || {
            datagram(from, to).size(20).send(&rig.world["shanghai"])?;
            let kind = UNREACHABLE[usize::from(to.is_ipv6())];
            answers.find(Duration::from_millis(100), |frame| {
                View::ethernet(frame).is_ok_and(|view| view.icmp() == Some(kind))
            })
        });
        let answer = answer.unwrap();
        let view = View::ethernet(&answer.bytes).unwrap();
        assert_eq!((view.destination, quoted_destination(&view)), (from, Some(to)));
    }
    let leaked = vpc.collect(Duration::ZERO).unwrap();
    let leaked: Vec<_> = leaked.iter().filter(|frame| is_for_hangzhou(&frame.bytes)).collect();
    let first = leaked.first().map(|frame| hub_tests::packet::hex(&frame.bytes)).unwrap_or_default();
    assert!(leaked.is_empty(), "{} packets for Hangzhou went to the VPC; the first:\n{first}", leaked.len());
    // No traffic of a site takes the default route, even without a route of its own.
    let elsewhere: IpAddr = "203.0.113.9".parse().unwrap();
    let answer = retry("nobody says that there is no route", || {
        datagram(SHANGHAI.host4().into(), elsewhere).size(20).send(&rig.world["shanghai"])?;
        answers.find(Duration::from_millis(100), |frame| {
            View::ethernet(frame)
                .is_ok_and(|view| view.icmp() == Some(UNREACHABLE[0]) && quoted_destination(&view) == Some(elsewhere))
        })
    });
    answer.unwrap();
    let leaked = vpc.collect(Duration::ZERO).unwrap();
    let is_for_elsewhere = |frame: &[u8]| View::ethernet(frame).is_ok_and(|view| view.destination == elsewhere);
    assert!(!leaked.iter().any(|frame| is_for_elsewhere(&frame.bytes)), "it went out by the default route");
    rig.stop().unwrap();
}

#[test]
fn site_with_only_link_down_is_unreachable_without_leak() {
    nothing_leaks(|rig| rig.world[HUB].set_link("tun-hz", false).unwrap());
}

#[test]
fn site_with_only_carrier_lost_is_unreachable_without_leak() {
    nothing_leaks(|rig| {
        rig.world["hangzhou"].set_link("wan0", false).unwrap();
        rig.world[HUB].notice_carrier("tun-hz").unwrap();
    });
}

#[test]
fn site_with_only_link_deleted_is_unreachable_without_leak() {
    nothing_leaks(|rig| rig.world[HUB].ip("link del tun-hz").map(drop).unwrap());
}

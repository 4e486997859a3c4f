//! Packets through each chain, for both IP versions.

use std::{io, net::UdpSocket, time::Instant};

use hub_userspace::kernel::netlink::{Counter, Guard, GuardService, Ruleset};
use rustix::io::Errno;

use super::{
    GROUP,
    bench::Bench,
    local, names, no_route,
    owner::nft,
    packet::{ACK, SYN, TAG, What, packet},
    ruleset, selectors, to,
};
use crate::lab::{Lab, addr, in_namespace, ip, net};

const UDP: What = What::Udp(5000, 7);
/// Addresses behind the far ends, and the hub's addresses towards them.
const AT1: [&str; 2] = ["10.1.0.5", "2001:db8:1::5"];
const AT2: [&str; 2] = ["10.2.0.5", "2001:db8:2::5"];
const AT_VPC: [&str; 2] = ["10.3.0.5", "2001:db8:3::5"];
const STRANGER: [&str; 2] = ["10.4.0.5", "2001:db8:4::5"];
const HUB: [&str; 2] = ["10.0.1.1", "2001:db8:0:1::1"];
const NOWHERE: [&str; 2] = ["192.0.2.9", "2001:db8:ffff::9"];

async fn guarded(lab: &Lab, ruleset: &Ruleset) -> (Bench, Guard) {
    let bench = Bench::new(lab).await;
    let mut guard = Guard::open().await.unwrap();
    guard.apply(ruleset).await.unwrap();
    (bench, guard)
}

#[test]
fn packets_without_table_are_forwarded_and_delivered() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        for v in 0..2 {
            assert_eq!(bench.send("far1", 0, AT1[v], AT2[v], UDP), ["far2"]);
            assert_eq!(bench.send("far4", 0, STRANGER[v], AT1[v], UDP), ["far1"]);
            assert!(bench.send("far1", 0, AT1[v], HUB[v], UDP).contains(&"hub".to_owned()));
        }
    });
}

#[test]
fn unmarked_site_packets_are_dropped_without_answer() {
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        for v in 0..2 {
            for destination in [AT2[v], AT_VPC[v], HUB[v], NOWHERE[v]] {
                for mark in [0, 0x0003_0000, 0x8000_0001] {
                    assert_eq!(bench.send("far1", mark, AT1[v], destination, UDP), [""; 0], "{mark:#x} {destination}");
                }
            }
        }
        let counters = guard.counters().await.unwrap();
        assert_eq!(counters.unmarked, Counter { packets: 24, bytes: 12 * (20 + 8 + 12) + 12 * (40 + 8 + 12) });
        assert_eq!((counters.forward_from_site, counters.input_not_local), (Counter::default(), Counter::default()));
    });
}

#[test]
fn marked_packet_is_forwarded_to_next_hop_interface_only() {
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        for v in 0..2 {
            // Other bits of the mark are foreign.
            for others in [0, 0xe000_ffff] {
                assert_eq!(bench.send("far1", others | to(3), AT1[v], AT2[v], UDP), ["far2"]);
                assert_eq!(bench.send("far1", others | to(1), AT1[v], AT_VPC[v], UDP), ["far3"]);
                assert_eq!(bench.send("far3", others | to(2), AT_VPC[v], AT1[v], UDP), ["far1"]);
            }
            for mark in [to(1), to(2), to(4), local()] {
                assert_eq!(bench.send("far1", mark, AT1[v], AT2[v], UDP), [""; 0], "{mark:#x}");
            }
            // From a site to an interface that is no attachment.
            assert_eq!(bench.send("far1", to(3), AT1[v], STRANGER[v], UDP), [""; 0]);
        }
        let counters = guard.counters().await.unwrap();
        assert_eq!((counters.forward_from_site.packets, counters.unmarked.packets), (10, 0));
    });
}

/// ESP inherits the mark of the packet inside.
#[test]
fn mark_is_cleared_behind_the_checks_of_a_site_and_foreign_bits_stay() {
    in_namespace(async |lab| {
        let (mut bench, _guard) = guarded(&lab, &ruleset()).await;
        let seen = "add table inet seen; add chain inet seen last { type filter hook postrouting priority 1; }";
        nft(seen).unwrap();
        for (device, mark) in [("site2", "0x20000001"), ("vpc0", "0x30010001")] {
            nft(&format!("add rule inet seen last oifname {device} meta mark {mark} counter accept")).unwrap();
        }
        for v in 0..2 {
            assert_eq!(bench.send("far1", 0x2000_0001 | to(3), AT1[v], AT2[v], UDP), ["far2"]);
            assert_eq!(bench.send("far1", 0x2000_0001 | to(1), AT1[v], AT_VPC[v], UDP), ["far3"]);
        }
        let listed = nft("list chain inet seen last").unwrap();
        assert_eq!(listed.matches("counter packets 2 ").count(), 2, "{listed}");
    });
}

#[test]
fn packet_without_route_is_answered_unless_icmp_error() {
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        // The kernel has a route and would forward it, which does not matter.
        for (v, answer) in [(0, "far1 icmp 3/1"), (1, "far1 icmp6 1/3")] {
            assert_eq!(bench.send("far1", no_route(), AT1[v], AT2[v], UDP), [answer]);
            let error = What::Icmp(if v == 0 { 3 } else { 1 });
            assert_eq!(bench.send("far1", no_route(), AT1[v], AT2[v], error), [""; 0]);
        }
        assert_eq!(guard.counters().await.unwrap().no_route.packets, 4);

        let start = Instant::now();
        let all = bench.send_all("far1", no_route(), AT1[0], AT2[0], &[UDP; 400]);
        let refilled = start.elapsed().as_secs() as usize * 100 + 100;
        assert!((1..=100 + refilled).contains(&all.len()), "{} answers", all.len());
        assert_eq!(guard.counters().await.unwrap().no_route.packets, 404);
    });
}

#[test]
fn unattached_interfaces_reach_no_site_and_are_counted() {
    const MORE: usize = 270;
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        for v in 0..2 {
            assert_eq!(bench.send("far4", 0, STRANGER[v], AT1[v], UDP), [""; 0]);
            assert_eq!(bench.send("far3", 0, AT_VPC[v], AT1[v], UDP), [""; 0]);
            assert_eq!(bench.send("far4", 0, STRANGER[v], AT_VPC[v], UDP), ["far3"], "no site has to do with it");
            assert!(bench.send("far4", 0, STRANGER[v], HUB[v], UDP).contains(&"hub".to_owned()));
        }
        let counters = guard.counters().await.unwrap();
        assert_eq!(counters.forward_to_site.packets, 4);
        let bytes = 20 + 8 + 12 + 40 + 8 + 12;
        let counted = [("strange", Counter { packets: 2, bytes }), ("vpc0", Counter { packets: 2, bytes })];
        assert_eq!(counters.strangers, counted.map(|(name, counter)| (name.to_owned(), counter)).into());

        // The set has room for 256; packets beyond that are dropped as well.
        bench.add_strangers(MORE);
        for number in 0..MORE {
            assert_eq!(bench.send(&format!("p{number}"), 0, STRANGER[0], AT1[0], UDP), [""; 0]);
        }
        let counters = guard.counters().await.unwrap();
        assert_eq!((counters.forward_to_site.packets, counters.strangers.len()), (4 + MORE as u64, 256));
    });
}

#[test]
fn device_group_member_is_filtered_under_any_name() {
    in_namespace(async |lab| {
        let by_group = Ruleset { sites: names([]), group: GROUP, ..ruleset() };
        let (mut bench, mut guard) = guarded(&lab, &by_group).await;
        assert_eq!(bench.send("far1", 0, AT1[0], AT2[0], UDP), ["far2"], "not in the group");
        ip("link set dev site1 group 118");
        for v in 0..2 {
            assert_eq!(bench.send("far1", 0, AT1[v], AT2[v], UDP), [""; 0]);
            assert_eq!(bench.send("far4", 0, STRANGER[v], AT1[v], UDP), [""; 0]);
            assert_eq!(bench.send("far1", to(3), AT1[v], HUB[v], UDP), [""; 0], "not local");
        }
        let socket = UdpSocket::bind("10.0.3.1:0").unwrap();
        assert_refused(socket.send_to(b"no selector", "10.1.0.5:9").map(drop), "");
        let counters = guard.counters().await.unwrap();
        let packets = [counters.unmarked, counters.forward_to_site, counters.input_not_local, counters.output];
        // Neighbour discovery of the hub is not dropped.
        assert_eq!(packets.map(|counter| counter.packets), [2, 2, 2, 1]);
    });
}

#[test]
fn site_reaches_hub_services_only() {
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        for v in 0..2 {
            let (echo, reply, error, redirect) = [(8, 0, 3, 5), (128, 129, 1, 137)][v];
            for what in [
                What::Tcp(179, SYN),
                What::Tcp(22, ACK),
                What::Tcp(22, SYN | ACK),
                What::Tcp(22, 0),
                What::Udp(5000, 53),
                What::Icmp(echo),
                What::Icmp(reply),
                What::Icmp(error),
            ] {
                let arrived = bench.send("far1", local(), AT1[v], HUB[v], what);
                assert!(arrived.contains(&"hub".to_owned()), "{what:?} to {}", HUB[v]);
                assert_eq!(bench.send("far1", to(1), AT1[v], HUB[v], what), [""; 0], "{what:?} is not local");
            }
            for what in [
                What::Tcp(22, SYN),
                What::Tcp(53, SYN),
                What::Udp(5000, 179),
                What::Udp(53, 5000),
                What::Icmp(redirect),
                What::Other(89),
                What::Other(2),
            ] {
                assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], what), [""; 0], "{what:?} to {}", HUB[v]);
            }
            // Neighbour discovery passes, except router advertisements.
            let kinds: &[(u8, bool)] =
                if v == 0 { &[] } else { &[(134, false), (135, true), (136, true), (133, true)] };
            for (kind, passes) in kinds {
                let before = guard.counters().await.unwrap().input_no_service.packets;
                bench.send("far1", local(), AT1[v], HUB[v], What::Icmp(*kind));
                let dropped = guard.counters().await.unwrap().input_no_service.packets - before;
                assert_eq!(dropped, u64::from(!passes), "ICMPv6 {kind}");
            }
        }
        let counters = guard.counters().await.unwrap();
        assert_eq!((counters.input_not_local.packets, counters.input_no_service.packets), (16, 15));

        guard.apply(&Ruleset { services: [GuardService::Tcp(22)].into(), ..ruleset() }).await.unwrap();
        for v in 0..2 {
            let ping = [8, 128][v];
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], What::Icmp(ping)), [""; 0]);
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], What::Tcp(179, SYN)), [""; 0]);
            assert!(bench.send("far1", local(), AT1[v], HUB[v], What::Tcp(22, SYN)).contains(&"hub".to_owned()));
        }
    });
}

#[test]
fn ipv6_fragments_reach_hub_services_only() {
    in_namespace(async |lab| {
        let (mut bench, _guard) = guarded(&lab, &ruleset()).await;
        let both = |port| [What::FirstFragment(port), What::LastFragment];
        assert!(bench.send_all("far1", local(), AT1[1], HUB[1], &both(53)).contains(&"hub".to_owned()));
        assert_eq!(bench.send_all("far1", local(), AT1[1], HUB[1], &both(54)), [""; 0]);
        assert_eq!(bench.send_all("far1", local(), AT1[1], HUB[1], &[What::LastFragment]), [""; 0]);
    });
}

#[test]
fn udp_replies_reach_requesting_port_only() {
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        for v in 0..2 {
            let socket = UdpSocket::bind((HUB[v], 4000)).unwrap();
            let answer = What::Udp(5353, 4000);
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], answer), [""; 0], "nothing asked yet");
            socket.send_to(b"question", (AT1[v], 5353)).unwrap();
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], answer), ["hub"]);
            for (source, what) in [
                (AT1[v], What::Udp(5354, 4000)),
                (AT1[v], What::Udp(5353, 4001)),
                (["10.1.0.6", "2001:db8:1::6"][v], answer),
            ] {
                assert_eq!(bench.send("far1", local(), source, HUB[v], what), [""; 0], "{what:?} from {source}");
            }
            // It survives another change of sets, and the agent's restart.
            guard.apply(&Ruleset { sites: names(["site1"]), ..ruleset() }).await.unwrap();
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], answer), ["hub"]);
            guard = Guard::open().await.unwrap();
            guard.apply(&ruleset()).await.unwrap();
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], answer), ["hub"]);
        }
    });
}

#[test]
fn hub_output_to_site_is_limited_to_selectors() {
    in_namespace(async |lab| {
        let (mut bench, mut guard) = guarded(&lab, &ruleset()).await;
        let mut send = |source: &str, destination: &str, far: &str| {
            let tag = bench.tag();
            let socket = UdpSocket::bind((source, 0)).unwrap();
            let sent = socket.send_to(tag.as_bytes(), (destination, 7));
            bench.settle();
            let arrived = bench.arrived(&tag);
            match &sent {
                Ok(_) => assert_eq!(arrived, [far], "{source} to {destination}"),
                Err(_) => assert_eq!(arrived, [""; 0], "{source} to {destination}"),
            }
            sent.map(drop)
        };
        for (source, destination, far) in [
            ("10.0.1.1", "10.1.0.5", "far1"),
            ("10.0.3.1", "10.1.5.5", "far1"),
            ("10.0.3.1", "10.3.0.5", "far3"),
            ("10.0.1.1", "10.4.0.5", "far4"),
            ("2001:db8:0:1::1", "2001:db8:1::5", "far1"),
        ] {
            send(source, destination, far).unwrap_or_else(|error| panic!("{source} to {destination}: {error}"));
        }
        for (source, destination) in [
            ("10.0.3.1", "10.1.0.5"),
            ("10.0.1.1", "10.2.0.5"),
            ("10.0.1.1", "10.0.1.2"),
            ("2001:db8:0:3::1", "2001:db8:1::5"),
            ("2001:db8:0:1::1", "2001:db8:2::5"),
        ] {
            assert_refused(send(source, destination, ""), &format!("{source} to {destination}"));
        }
        assert_eq!(guard.counters().await.unwrap().output.packets, 5);

        // Prefixes of any length, and host bits in them.
        for (hub, site, source, destination, is_within) in [
            ("10.0.1.0/31", "10.1.0.0/29", "10.0.1.1", "10.1.0.5", true),
            ("10.0.1.0/31", "10.1.0.0/30", "10.0.1.1", "10.1.0.5", false),
            ("10.0.1.0/32", "10.1.0.0/16", "10.0.1.1", "10.1.0.5", false),
            ("10.0.1.1/32", "10.1.0.5/32", "10.0.1.1", "10.1.0.5", true),
            ("10.0.9.9/20", "10.1.9.9/15", "10.0.1.1", "10.1.0.5", true),
            ("0.0.0.0/0", "10.0.0.0/7", "10.0.1.1", "10.1.0.5", true),
            ("0.0.0.0/0", "10.0.0.0/16", "10.0.1.1", "10.1.0.5", false),
            ("0.0.0.0/0", "0.0.0.0/0", "2001:db8:0:1::1", "2001:db8:1::5", false),
            ("::/0", "::/0", "10.0.1.1", "10.1.0.5", false),
            ("::/0", "2001:db8:1::/47", "2001:db8:0:1::1", "2001:db8:1::5", true),
            ("2001:db8::/62", "2001:db8:1::4/127", "2001:db8:0:1::1", "2001:db8:1::5", true),
            ("2001:db8::/64", "2001:db8:1::4/127", "2001:db8:0:1::1", "2001:db8:1::5", false),
        ] {
            let output = selectors([("site1", net(hub), net(site))]);
            guard.apply(&Ruleset { output, ..ruleset() }).await.unwrap();
            let what = format!("{source} to {destination} with {hub} === {site}");
            match is_within {
                true => send(source, destination, "far1").unwrap_or_else(|error| panic!("{what}: {error}")),
                false => assert_refused(send(source, destination, ""), &what),
            }
        }

        // Link-local addresses and multicast of the link are exempt.
        ip("address add 169.254.1.1/16 dev site1");
        ip("neighbour add 169.254.1.2 lladdr 02:00:00:00:00:99 dev site1");
        ip("address add fe80::1/64 dev site1 nodad");
        ip("neighbour add fe80::2 lladdr 02:00:00:00:00:99 dev site1");
        send("169.254.1.1", "169.254.1.2", "far1").unwrap();
        send("10.0.1.1", "224.0.0.5", "far1").unwrap();
        assert_refused(send("10.0.1.1", "239.1.1.1", ""), "beyond the link");
        let scope = crate::lab::index("site1");
        for destination in ["fe80::2", "ff02::5"] {
            let socket = UdpSocket::bind("[fe80::1%0]:0".replace("%0", &format!("%{scope}"))).unwrap();
            let tag = bench.tag();
            socket.send_to(tag.as_bytes(), format!("[{destination}%{scope}]:7")).unwrap();
            bench.settle();
            assert_eq!(bench.arrived(&tag), ["far1"], "{destination}");
        }
    });
}

#[test]
fn kernel_icmp_errors_for_admitted_packets_are_sent() {
    in_namespace(async |lab| {
        let (mut bench, _guard) = guarded(&lab, &Ruleset { output: selectors([]), ..ruleset() }).await;
        for (v, answer) in [(0, "far1 icmp 3/3"), (1, "far1 icmp6 1/4")] {
            // A port without a service.
            let arrived = bench.send("far1", local(), AT1[v], HUB[v], What::Udp(5000, 53));
            assert_eq!(arrived.last().map(String::as_str), Some(answer), "{arrived:?}");
            // And an answer that the selectors do not allow.
            let ping = What::Icmp([8, 128][v]);
            assert_eq!(bench.send("far1", local(), AT1[v], HUB[v], ping), ["hub"], "asked, and not answered");
        }
        let longest = packet(addr(AT1[0]), addr(HUB[0]), UDP, "tag-00000000");
        assert_eq!(longest.len(), 20 + 8 + TAG);
    });
}

fn assert_refused(sent: io::Result<()>, what: &str) {
    let errno = sent.err().and_then(|error| error.raw_os_error());
    assert_eq!(errno, Some(Errno::PERM.raw_os_error()), "{what}");
}

//! The `skb->mark` that TC writes on passed packets, regardless of its former value.

use hub_tests::packet::{Packet, number::ARP};

use crate::{
    gateway::{ETH, HZ, RAW, SH, TUN, V4, V6, VPC, gateway, into, own, peer, udp4, udp6},
    row::{Expected, row},
    table,
};

/// No mark, all bits, one that claims "admitted" for each kind of number, and foreign bits.
const MARKS: [u32; 8] = [0, u32::MAX, 0x1000_0000, 0x1001_0000, 0x1002_0000, 0x1fff_0000, 0xe000_ffff, 0x0fff_0000];

/// The same row with each mark.
fn with_each(make: &dyn Fn(u32) -> Expected) -> Vec<Expected> {
    MARKS.into_iter().map(make).collect()
}

#[test]
fn mark_of_passed_packet_names_next_hop() -> anyhow::Result<()> {
    let site = |name: &'static str, packet: Packet| move |mark| row(name, SH, into(SH, &packet)).with_mark(mark);
    let to = |reason, next_hop: &'static str, packet: Packet, bytes| {
        with_each(&move |mark| {
            site(reason, packet.clone())(mark).passed(reason, "shanghai").admitted(bytes).toward(next_hop)
        })
    };
    let big = |packet: Packet| packet.payload(1400);
    let mut rows = Vec::new();
    rows.extend(to("ttl_expired", "hangzhou", udp4("10.10.10.1", "10.10.20.1").ttl(1), V4));
    rows.extend(to("ttl_expired", "vpc", udp4("10.10.10.1", "192.168.0.10").ttl(1), V4));
    rows.extend(to("ttl_expired", "vpc", udp6("fd00:10::1", "fd00:c::10").ttl(0), V6));
    rows.extend(to("ttl_expired", "kunming", udp6("fd00:10::1", "fd00:50::1").ttl(1), V6));
    rows.extend(to("ttl_expired", "shanghai", udp4("10.10.10.1", "10.10.10.2").ttl(1), V4));
    rows.extend(to("next_hop_down", "dalian", udp4("10.10.10.1", "10.10.60.1"), V4));
    rows.extend(to("next_hop_down", "guilin", udp4("10.10.10.1", "10.10.70.1"), V4));
    rows.extend(to("no_neighbour", "lhasa", udp6("fd00:10::1", "fd00:80::1"), V6));
    rows.extend(to("no_neighbour", "vpc", udp4("10.10.10.1", "192.168.0.11"), V4));
    rows.extend(with_each(&|mark| {
        row("too_big", HZ, into(HZ, &big(udp4("10.10.20.1", "10.10.10.1"))))
            .with_mark(mark)
            .passed("too_big", "hangzhou")
            .admitted(1428)
            .toward("shanghai")
    }));
    rows.extend(with_each(&|mark| {
        row("from raw IP, to a shared interface", RAW, udp4("10.10.50.1", "10.10.41.1").ttl(1).build())
            .with_mark(mark)
            .dropped("selector_mismatch", "kunming")
            .admitted(V4)
    }));
    rows.extend(with_each(&|mark| {
        row("to one of two on an interface", RAW, udp6("fd00:50::1", "fd00:40::1").ttl(1).build())
            .with_mark(mark)
            .passed("ttl_expired", "kunming")
            .admitted(V6)
            .toward("beijing")
    }));
    rows.extend(with_each(&|mark| {
        row("from the VPC", VPC, into(VPC, &udp4("192.168.0.10", "10.10.20.1").ttl(1)))
            .with_mark(mark)
            .passed("ttl_expired", "vpc")
            .admitted(V4)
            .toward("hangzhou")
    }));
    table(&gateway(), &rows)
}

#[test]
fn mark_of_local_packet_forbids_forwarding() -> anyhow::Result<()> {
    let v4 = udp4("10.10.10.1", "10.10.20.1");
    let local = |reason: &'static str, frame: Vec<u8>| {
        with_each(&move |mark| row(reason, SH, frame.clone()).with_mark(mark).passed(reason, "shanghai"))
    };
    let to = |mac: [u8; 6]| v4.clone().ethernet(peer(SH), mac).build();
    let mut rows = Vec::new();
    rows.extend(local("to_hub", into(SH, &udp4("10.10.10.1", "192.168.0.1"))));
    rows.extend(local("to_hub", into(SH, &udp6("fd00:10::1", "fd00:c::1"))));
    rows.extend(local("multicast", into(SH, &udp4("169.254.0.2", "224.0.0.5"))));
    rows.extend(local("multicast", into(SH, &udp6("fe80::2", "ff02::1"))));
    rows.extend(local("multicast", udp4("0.0.0.0", "255.255.255.255").ethernet(peer(SH), [0xff; 6]).build()));
    rows.extend(local("link_local", into(SH, &udp4("169.254.0.2", "169.254.0.1"))));
    rows.extend(local("link_local", into(SH, &udp6("fe80::2", "fd00:c::1"))));
    rows.extend(local("not_ip", Packet::other(ARP).payload(28).ethernet(peer(SH), own(SH)).build()));
    rows.extend(local("other_host", to([2, 0, 0, 0, 0, 99])));
    rows.extend(local("other_vlan", into(SH, &v4.clone().vlan(100))));
    rows.extend(with_each(&|mark| {
        row("to the hub from the VPC", VPC, into(VPC, &udp4("192.168.0.10", "192.168.0.1")))
            .with_mark(mark)
            .passed("to_hub", "vpc")
    }));
    rows.extend(with_each(&|mark| {
        row("to a group from nobody", TUN, udp4("0.0.0.0", "224.0.0.5").build())
            .with_mark(mark)
            .passed("multicast", "nobody")
    }));
    // Allowed, for an answer by the kernel.
    let no_route = |packet: Packet, bytes| {
        with_each(&move |mark| {
            row("no route", SH, into(SH, &packet)).with_mark(mark).passed("no_route", "shanghai").admitted(bytes)
        })
    };
    rows.extend(no_route(udp4("10.10.10.1", "10.99.0.1"), V4));
    rows.extend(no_route(udp6("fd00:10::1", "fd00:99::1"), V6));
    // No decision.
    let no_route = |packet: Packet, bytes| {
        with_each(&move |mark| {
            row("no route from the VPC", VPC, into(VPC, &packet))
                .with_mark(mark)
                .passed("no_route", "vpc")
                .admitted(bytes)
        })
    };
    rows.extend(no_route(udp4("192.168.0.10", "10.99.0.1"), V4));
    rows.extend(no_route(udp6("fd00:c::10", "fd00:99::1"), V6));
    rows.extend(with_each(&|mark| {
        row("not an attachment", ETH, v4.clone().ethernet(peer(ETH), own(ETH)).build())
            .with_mark(mark)
            .passed("not_attached", "nobody")
    }));
    table(&gateway(), &rows)
}

//! Next hops: down, unresolved, several of them, gone.

use std::collections::{BTreeMap, BTreeSet};

use hub_common::maps::GROUP_BUCKETS;
use hub_tests::{
    model::{Account, World},
    packet::{Packet, number::UDP},
};
use hub_userspace::datapath::{Action, Hook};

use crate::{
    gateway::{DEVICES, HZ, SH, V4, V6, VPC, gateway, into, out_of, own, udp4, udp6},
    program::{Books, Program, difference, with_program},
    row::row,
    table,
};

#[test]
fn packets_without_live_next_hop_are_passed_to_kernel() -> anyhow::Result<()> {
    let from_sh4 = |destination| into(SH, &udp4("10.10.10.1", destination));
    let from_sh6 = |destination| into(SH, &udp6("fd00:10::1", destination));
    let down =
        |name, frame, bytes, to| row(name, SH, frame).passed("next_hop_down", "shanghai").admitted(bytes).toward(to);
    let silent =
        |name, frame, bytes, to| row(name, SH, frame).passed("no_neighbour", "shanghai").admitted(bytes).toward(to);
    table(
        &gateway(),
        &[
            down("the interface is down", from_sh4("10.10.60.1"), V4, "dalian"),
            down("the interface is down, IPv6", from_sh6("fd00:60::1"), V6, "dalian"),
            down("there is no such interface", from_sh4("10.10.70.1"), V4, "guilin"),
            down("down before TTL", into(SH, &udp4("10.10.10.1", "10.10.60.1").ttl(1)), V4, "dalian"),
            silent("the peer is not known", from_sh4("10.10.80.1"), V4, "lhasa"),
            silent("the peer is not known, IPv6", from_sh6("fd00:80::1"), V6, "lhasa"),
            silent("the host on the link is not known", from_sh4("10.10.30.2"), V4, "ningbo"),
            silent("the host on the link is not known, IPv6", from_sh6("fd00:30::2"), V6, "ningbo"),
            silent("the host of the VPC is not known", from_sh4("192.168.0.11"), V4, "vpc"),
            silent("the host of the VPC is not known, IPv6", from_sh6("fd00:c::12"), V6, "vpc"),
            row("the TTL ends first", SH, into(SH, &udp4("10.10.10.1", "10.10.80.1").ttl(1)))
                .passed("ttl_expired", "shanghai")
                .admitted(V4)
                .toward("lhasa"),
            row("options first", SH, into(SH, &udp4("10.10.10.1", "10.10.80.1").ip_options(&[1])))
                .passed("ip_options", "shanghai")
                .admitted(V4 + 4)
                .toward("lhasa")
                .only_at(Hook::Xdp),
            row("with options, at TC", SH, into(SH, &udp4("10.10.10.1", "10.10.80.1").ip_options(&[1])))
                .passed("no_neighbour", "shanghai")
                .admitted(V4 + 4)
                .toward("lhasa")
                .only_at(Hook::Tc),
            row("from the VPC, the interface is down", VPC, into(VPC, &udp4("192.168.0.10", "10.10.60.1")))
                .passed("next_hop_down", "vpc")
                .admitted(V4)
                .toward("dalian"),
            row("from the VPC, the peer is not known", VPC, into(VPC, &udp6("fd00:c::10", "fd00:80::1")))
                .passed("no_neighbour", "vpc")
                .admitted(V6)
                .toward("lhasa"),
        ],
    )
}

/// The gateway with these weights and states of "shanghai" and "hangzhou".
fn weighted(shanghai: (u8, bool), hangzhou: (u8, bool)) -> World {
    let mut world = gateway();
    for route in &mut world.routes {
        route.weight = if route.next_hop == "shanghai" { shanghai.0 } else { hangzhou.0 };
    }
    for connection in &mut world.connections {
        match connection.name.as_str() {
            "shanghai" => connection.up = shanghai.1,
            "hangzhou" => connection.up = hangzhou.1,
            _ => {}
        }
    }
    world
}

const FLOWS: u16 = 4096;

/// Sends packets to the prefix of both, from as many ports. Returns how many leave by "shanghai". The others leave by
/// "hangzhou", and a flow always by the same.
fn share_of_shanghai(program: &mut Program, world: &World, flow: &dyn Fn(u16) -> Packet) -> anyhow::Result<usize> {
    program.install(world)?;
    let mut first = Vec::new();
    for round in 0..2 {
        for port in 0..FLOWS {
            let outcome = program.run(VPC, &into(VPC, &flow(port)))?;
            anyhow::ensure!(outcome.action == Action::Redirect, "port {port} is not forwarded");
            let egress = if outcome.frame[6..12] == own(SH) { SH } else { HZ };
            let expected = out_of(egress, &flow(port), 63);
            anyhow::ensure!(outcome.frame == expected, "port {port} does not leave as it should");
            match round {
                0 => first.push(egress),
                _ => anyhow::ensure!(first[usize::from(port)] == egress, "port {port} changed its way"),
            }
        }
    }
    Ok(first.iter().filter(|egress| **egress == SH).count())
}

#[test]
fn flows_are_shared_by_weight_and_state() -> anyhow::Result<()> {
    // Percentage of flows for "shanghai".
    let rows = [
        ("both active", (100, true), (100, true), 50),
        ("a small weight is a small share", (10, true), (90, true), 10),
        ("weight 0 is standby", (100, true), (0, true), 100),
        ("weight 0 is standby, the other way", (0, true), (1, true), 0),
        ("an active one that is down gives way to standby", (100, false), (0, true), 0),
        ("an active one that is down gives way to the other", (100, true), (100, false), 100),
        ("standby down", (100, true), (0, false), 100),
        ("all down: the active one, to bring the tunnel up", (100, false), (0, false), 100),
        ("all down: both active ones", (100, false), (100, false), 50),
        ("standby alone: evenly", (0, true), (0, true), 50),
        ("standby alone and down: evenly", (0, false), (0, false), 50),
        ("standby alone, one up", (0, false), (0, true), 0),
    ];
    with_program(&DEVICES, |_, program| {
        let v4 = |port| Packet::ipv4("192.168.0.10", "10.10.100.1").udp(port, 53);
        let v6 = |port| Packet::ipv6("fd00:c::10", "fd00:100::1").tcp(443, port);
        for (name, shanghai, hangzhou, percent) in rows {
            let flows: [&dyn Fn(u16) -> Packet; 2] = [&v4, &v6];
            for flow in flows {
                let share = share_of_shanghai(program, &weighted(shanghai, hangzhou), flow)?;
                let expected = usize::from(FLOWS) * percent / 100;
                // Five standard deviations of a fair draw of 4096 are 160; 0 and 100 percent are exact.
                let tolerance = if matches!(percent, 0 | 100) { 0 } else { 160 };
                anyhow::ensure!(
                    share.abs_diff(expected) <= tolerance,
                    "{name}: {share} of {FLOWS} flows, not {expected}"
                );
            }
        }
        Ok(())
    })
}

/// Otherwise the receiver gets a datagram's fragments over two tunnels, at two speeds.
#[test]
fn fragments_of_one_packet_take_same_next_hop() -> anyhow::Result<()> {
    with_program(&DEVICES, |_, program| {
        program.install(&gateway())?;
        let mut ways = BTreeMap::<Vec<u8>, u32>::new();
        for host in 0..64 {
            let destination = format!("10.10.100.{host}");
            let destination6 = format!("fd00:100::{host}");
            let v4 = Packet::ipv4("192.168.0.10", destination.as_str());
            let v6 = Packet::ipv6("fd00:c::10", destination6.as_str());
            let sets = [
                [
                    v4.clone().udp(1000 + host, 53).payload(64).fragment(0, true, 1),
                    v4.clone().protocol(UDP).payload(64).fragment(9, true, 1),
                    v4.clone().protocol(UDP).payload(64).fragment(18, false, 1),
                ],
                [
                    v6.clone().fragment(0, true, 1).udp(1000 + host, 53).payload(64),
                    v6.clone().fragment(9, true, 1).protocol(UDP).payload(64),
                    v6.clone().fragment(18, false, 1).protocol(UDP).payload(64),
                ],
            ];
            for set in sets {
                let mut taken = Vec::new();
                for fragment in set {
                    let outcome = program.run(VPC, &into(VPC, &fragment))?;
                    anyhow::ensure!(outcome.action == Action::Redirect, "{fragment:?} is not forwarded");
                    taken.push(outcome.frame[6..12].to_vec());
                }
                anyhow::ensure!(taken.iter().all(|way| *way == taken[0]), "fragments to {destination} part");
                *ways.entry(taken[0].clone()).or_default() += 1;
            }
        }
        anyhow::ensure!(ways.len() == 2, "of 128 packets none took the other way: {ways:?}");
        Ok(())
    })
}

/// An incomplete transport header has no ports, whatever follows the packet in its frame.
#[test]
fn trailer_does_not_affect_next_hop() -> anyhow::Result<()> {
    with_program(&DEVICES, |_, program| {
        program.install(&gateway())?;
        let short = Packet::ipv4("192.168.0.10", "10.10.100.1").protocol(UDP).payload(3);
        let mut ways = BTreeSet::new();
        for trailer in 0..64 {
            let frame = [into(VPC, &short), vec![trailer; 10]].concat();
            let outcome = program.run(VPC, &frame)?;
            anyhow::ensure!(outcome.action == Action::Redirect, "trailer {trailer} is not forwarded");
            ways.insert(outcome.frame[6..12].to_vec());
        }
        anyhow::ensure!(ways.len() == 1, "the trailer chose between {ways:?}");
        Ok(())
    })
}

/// The share is exact: each of the 256 buckets belongs to one or the other.
#[test]
fn share_below_one_bucket_still_gets_flows() -> anyhow::Result<()> {
    with_program(&DEVICES, |_, program| {
        let flow = |port| Packet::ipv4("192.168.0.10", "10.10.100.1").udp(port, 53);
        let share = share_of_shanghai(program, &weighted((1, true), (100, true)), &flow)?;
        // Three buckets: 2.53 rounded up.
        let expected = usize::from(FLOWS) * 3 / GROUP_BUCKETS as usize;
        anyhow::ensure!(share.abs_diff(expected) <= 5 * 7, "{share} flows, not {expected}");
        Ok(())
    })
}

/// The device is deleted, and the agent has not noticed yet.
#[test]
fn packet_to_deleted_device_is_dropped_and_counted() -> anyhow::Result<()> {
    with_program(&DEVICES, |namespace, program| {
        program.install(&gateway())?;
        let frame = into(SH, &udp4("10.10.10.1", "10.10.20.1"));
        anyhow::ensure!(program.run(SH, &frame)?.action == Action::Redirect, "forwarded while the device is there");
        namespace.ip(&format!("link del near{HZ}"))?;
        let before = program.books()?;
        let action = program.run(SH, &frame)?.action;
        if program.entry.0 == Hook::Tc {
            // The kernel looks for the device after the program has ended, and then drops the packet
            // (skb_do_redirect()).
            anyhow::ensure!(action == Action::Redirect, "the kernel's business, not {action:?}");
            return Ok(());
        }
        anyhow::ensure!(action == Action::Drop, "dropped when it is gone");
        let shanghai = Account::Connection("shanghai".into());
        let expected: Books = [("rx_packets", 1), ("rx_bytes", V4), ("redirect_failed", 1)]
            .map(|(name, value)| ((shanghai.clone(), name), value))
            .into();
        let counted = difference(&before, &program.books()?);
        anyhow::ensure!(counted == expected, "counted {counted:?}, not {expected:?}");
        Ok(())
    })
}

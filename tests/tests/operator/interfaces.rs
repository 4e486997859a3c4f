//! Interfaces that are missing, or created later.

use std::time::Duration;

use hub_tests::lab::{End, HUB, HubConfig, Link, NINGBO, Options, Rig, Site, World, reach, retry};

use crate::SITES;

const WAIT: Duration = Duration::from_secs(10);

/// Recreates the link to Ningbo as the world made it.
pub fn restore_ningbo(world: &mut World) {
    let hub = End::new(HUB, "tun-nb").address(format_args!("{}/30", NINGBO.hub4(0))).address("fe80::1/64");
    let site = End::new("ningbo", &Site::device(0))
        .address(format_args!("{}/30", NINGBO.peer4(0)))
        .address("fe80::2/64")
        .receives_redirects();
    world.add_link(Link::new(hub, site).mtu(1400)).unwrap();
    let (host4, host6, hub4) = (NINGBO.host4(), NINGBO.host6(), NINGBO.hub4(0));
    let routes = format!(
        "route replace default via {hub4} dev wan0 src {host4}\nroute replace ::/0 via fe80::1 dev wan0 src {host6}"
    );
    world["ningbo"].batch(&routes).unwrap();
}

#[test]
fn missing_interface_is_logged_once_and_attached_on_creation() {
    let world = World::three_offices(&Options::default()).unwrap();
    world[HUB].ip("link del tun-nb").unwrap();
    let mut rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    for round in 1..=2 {
        let status = rig
            .agent
            .wait_for_status(WAIT, |status| {
                // A deleted interface goes down first.
                let text = status.connection("ningbo")["attach_reason"].as_str();
                text.is_some_and(|text| text.contains("does not exist"))
            })
            .unwrap();
        assert_eq!(status.connection("ningbo")["state"], "down");
        let ningbo = status.connection("ningbo");
        assert!(ningbo["attach"].is_null(), "{ningbo}");
        for reason in ["state_reason", "attach_reason"] {
            let text = ningbo[reason].as_str().unwrap();
            assert!(text.starts_with("interface tun-nb does not exist: create it"), "{reason}: {text}");
        }
        let log = rig.agent.log();
        let count = log.lines().filter(|line| line.contains("interface tun-nb does not exist")).count();
        assert_eq!(count, round, "once each time it is missing:\n{log}");
        // The others work throughout.
        reach(&rig.world["shanghai"], SITES[1].host4().into()).unwrap();
        reach(&rig.world["shanghai"], SITES[1].host6().into()).unwrap();

        restore_ningbo(&mut rig.world);
        let status = rig
            .agent
            .wait_for_status(WAIT, |status| {
                let ningbo = status.connection("ningbo");
                ningbo["state"] == "up" && ningbo["attach"] == "xdp-native"
            })
            .unwrap();
        let ningbo = status.connection("ningbo");
        assert!(ningbo["state_reason"].is_null() && ningbo["attach_reason"].is_null(), "{ningbo}");
        for to in NINGBO.hosts() {
            reach(&rig.world["shanghai"], to).unwrap();
        }
        if round == 1 {
            rig.world[HUB].ip("link del tun-nb").unwrap();
        }
    }
    rig.stop().unwrap();
}

#[test]
fn renamed_interface_is_detached() {
    let mut rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.world[HUB].batch("link set dev tun-nb down\nlink set dev tun-nb name other").unwrap();
    retry("the program stays on the interface", || {
        Ok((!rig.world[HUB].ip("-o link show dev other")?.contains("xdp")).then_some(()))
    })
    .unwrap();
    assert!(rig.agent.status().unwrap().connection("ningbo")["attach"].is_null());
    rig.world[HUB].batch("link del dev other").unwrap();
    restore_ningbo(&mut rig.world);
    for to in NINGBO.hosts() {
        reach(&rig.world["shanghai"], to).unwrap();
    }
    rig.stop().unwrap();
}

/// Senders on this host leave the checksum of TCP and UDP to the device, and XDP forwards the packet without one.
#[test]
fn native_xdp_on_veth_warns_of_checksum_offload() {
    for (arguments, warned) in [(&[][..], true), (&["--attach", "tc"], false)] {
        let world = World::three_offices(&Options::default()).unwrap();
        let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
        let status = rig.agent.status().unwrap();
        for place in [&status.connection("shanghai")["warnings"], &status["vpc"]["warnings"]] {
            let text = place.to_string();
            assert_eq!(text.contains("ethtool -K PEER tx off"), warned, "{arguments:?}: {text}");
        }
        rig.stop().unwrap();
    }
}

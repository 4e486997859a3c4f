//! The source addresses of the hub's own packets to sites.

use hub_tests::lab::{FrameSocket, HUB, HubConfig, Options, Rig, SHANGHAI, VPC, World};
use hub_tests::packet::View;

use crate::{SITES, datagram, icmp_error};

const TIME_EXCEEDED: [(u8, u8); 2] = [(11, 0), (3, 0)];

/// The offices, whose local selectors are these prefixes alone, and a hub with an address that no selector admits.
fn hub_with_locals(locals: [&str; 2]) -> Rig {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    world[HUB].ip("addr add 203.0.113.1/32 dev lo").unwrap();
    world[HUB].ip("addr add 2001:db8::1/128 dev lo nodad").unwrap();
    let mut config = HubConfig::offices(&SITES);
    for connection in &mut config.connections {
        connection.local_cidrs = locals.map(str::to_owned).to_vec();
    }
    Rig::start_in(world, &config, &[]).unwrap()
}

#[test]
fn icmp_error_of_hub_to_site_has_a_source_that_the_selectors_admit() {
    let rig = hub_with_locals(["192.168.0.0/24", "fd00:192:168::/64"]);
    rig.warm_up(&SITES).unwrap();
    let answers = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let [own4, own6] = SHANGHAI.hosts();
    for (from, to, source) in [(own4, VPC.host4.into(), "192.168.0.1"), (own6, VPC.host6.into(), "fd00:192:168::1")] {
        datagram(from, to).hops(1).size(64).send(&rig.world["shanghai"]).unwrap();
        let error = icmp_error(&answers, TIME_EXCEEDED, to);
        assert_eq!(View::ethernet(&error).unwrap().source, source.parse::<std::net::IpAddr>().unwrap());
    }
    let status = rig.agent.status().unwrap();
    let warnings = status.connection("shanghai")["warnings"].to_string();
    assert!(!warnings.contains("address of the hub"), "{warnings}");
    rig.stop().unwrap();
}

#[test]
fn connection_whose_selectors_admit_no_address_of_the_hub_is_warned_of() {
    let rig = hub_with_locals(["10.77.0.0/16", "fd77::/64"]);
    let status = rig.agent.status().unwrap();
    let warnings = status.connection("shanghai")["warnings"].to_string();
    for family in ["IPv4", "IPv6"] {
        assert!(warnings.contains(&format!("no {family} address of the hub is in the local selectors")), "{warnings}");
    }
    rig.stop().unwrap();
}

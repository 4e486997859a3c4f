//! Sites give the hub's kernel neither addresses nor routes.

use hub_tests::lab::{HUB, HubConfig, Options, Rig, World, retry};

use crate::SITES;
use crate::interfaces::restore_ningbo;

/// The settings of a host that is not a router.
const ON: [(&str, &str); 4] = [
    ("ipv6/conf/tun-nb/accept_ra", "2"),
    ("ipv6/conf/tun-nb/accept_redirects", "1"),
    ("ipv4/conf/tun-nb/accept_redirects", "1"),
    ("ipv4/conf/tun-nb/accept_source_route", "1"),
];

fn assert_off(rig: &Rig) {
    for (setting, _) in ON {
        assert_eq!(rig.world[HUB].read_sysctl(setting).unwrap(), "0", "{setting}");
    }
}

#[test]
fn site_interfaces_reject_ra_redirects_and_source_routes() {
    let world = World::three_offices(&Options::default()).unwrap();
    world[HUB].sysctl(&ON).unwrap();
    world[HUB].sysctl(&[("ipv6/conf/default/accept_ra", "1"), ("ipv6/conf/vpc0/accept_ra", "2")]).unwrap();
    let mut rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    assert_off(&rig);
    assert_eq!(rig.world[HUB].read_sysctl("ipv6/conf/vpc0/accept_ra").unwrap(), "2");
    // A new interface with the same name has the kernel's own settings again.
    rig.world[HUB].ip("link del tun-nb").unwrap();
    restore_ningbo(&mut rig.world);
    for (setting, _) in ON {
        retry(&format!("{setting} of the new interface"), || {
            Ok((rig.world[HUB].read_sysctl(setting)? == "0").then_some(()))
        })
        .unwrap();
    }
    rig.stop().unwrap();
}

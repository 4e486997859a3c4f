//! Random addresses.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::draw::{one_of, percent};
use crate::learned;
use crate::places::{ALL, Place, SHARED4, SHARED6, SITES};

pub fn source(rng: &mut SmallRng, entry: Place, v6: bool) -> IpAddr {
    match rng.random_range(0..100) {
        0..52 => any_of(rng, entry, v6),
        52..56 => shared(rng, v6),
        56..71 => {
            let site = one_of(rng, &SITES);
            any_of(rng, site, v6)
        }
        71..76 => any_of(rng, Place::Vpc, v6),
        76..80 => hub(rng, v6),
        80..84 => {
            let place = one_of(rng, &[Place::Mgmt, Place::Wan]);
            any_of(rng, place, v6)
        }
        84..89 => stranger(rng, v6),
        89..94 => nobody(rng, v6),
        _ => {
            let place = if percent(rng, 60) { entry } else { one_of(rng, &SITES) };
            far_end(place, v6)
        }
    }
}

pub fn destination(rng: &mut SmallRng, entry: Place, v6: bool) -> IpAddr {
    match rng.random_range(0..100) {
        0..32 => {
            let site = one_of(rng, &SITES);
            any_of(rng, site, v6)
        }
        32..52 => Place::Vpc.host(v6),
        52..54 => any_of(rng, Place::Vpc, v6),
        54..63 => shared(rng, v6),
        63..71 => hub(rng, v6),
        71..77 => one_of(rng, &[Place::Mgmt, Place::Wan]).host(v6),
        77..85 => stranger(rng, v6),
        85..92 => nobody(rng, v6),
        92..95 => any_of(rng, entry, v6),
        _ => {
            let site = one_of(rng, &SITES);
            far_end(site, v6)
        }
    }
}

fn any_of(rng: &mut SmallRng, place: Place, v6: bool) -> IpAddr {
    let networks = place.networks();
    any_in(rng, networks, v6)
}

pub fn of_learned(rng: &mut SmallRng, v6: bool) -> IpAddr {
    let networks = one_of(rng, &learned::NETWORKS);
    any_in(rng, networks, v6)
}

fn any_in(rng: &mut SmallRng, (net4, net6): (Ipv4Net, Ipv6Net), v6: bool) -> IpAddr {
    if v6 {
        let host = u128::from(rng.random::<u16>()) & u128::from(net6.hostmask());
        IpAddr::V6((u128::from(net6.network()) + host).into())
    } else {
        let host = rng.random::<u32>() & !u32::from(net4.netmask());
        IpAddr::V4((u32::from(net4.network()) + host).into())
    }
}

fn shared(rng: &mut SmallRng, v6: bool) -> IpAddr {
    let host: u16 = rng.random();
    match v6 {
        false => IpAddr::V4((u32::from(SHARED4.network()) + u32::from(host)).into()),
        true => IpAddr::V6((u128::from(SHARED6.network()) + u128::from(host)).into()),
    }
}

fn hub(rng: &mut SmallRng, v6: bool) -> IpAddr {
    let place = one_of(rng, &ALL);
    match v6 {
        false => place.link4().1[0].into(),
        true => place.link6().map_or(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), |[hub, _]| hub).into(),
    }
}

/// The address of a link's far end.
fn far_end(place: Place, v6: bool) -> IpAddr {
    match v6 {
        false => place.link4().1[1].into(),
        true => place.link6().map_or(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2), |[_, far]| far).into(),
    }
}

fn stranger(rng: &mut SmallRng, v6: bool) -> IpAddr {
    let texts = match v6 {
        false => ["8.8.8.8", "10.60.0.1", "192.0.2.1", "100.64.0.1"],
        true => ["2001:4860:4860::8888", "fd60::1", "2001:db8::1", "fd64:1::1"],
    };
    one_of(rng, &texts).parse().expect("an address")
}

/// Addresses that belong to no single host, or to no host behind a router.
fn nobody(rng: &mut SmallRng, v6: bool) -> IpAddr {
    let texts = match v6 {
        false => [
            "255.255.255.255",
            "224.0.0.1",
            "224.0.0.18",
            "239.1.2.3",
            "0.0.0.0",
            "127.0.0.1",
            "240.0.0.1",
            "169.254.9.9",
            "10.62.255.255",
            "172.30.0.255",
        ],
        true => [
            "ff02::1",
            "ff02::2",
            "ff05::2",
            "ff0e::1",
            "::",
            "::1",
            "fe80::9",
            "::ffff:10.62.0.1",
            "::ffff:0:10.62.0.1",
            "fd62::",
        ],
    };
    one_of(rng, &texts).parse().expect("an address")
}

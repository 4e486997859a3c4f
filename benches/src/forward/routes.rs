//! The routes of all contenders, and the addresses that the frames go to: the same for each of them.
//!
//! Route `i` is in the `i`th of consecutive /24 networks and contains its first address; three in four are the /24
//! itself, the others a /28 or a /32 of it. With IPv6 it is the same 32 bits lower in the address: /56, /60 and /64.
//! Destinations are those first addresses, spread evenly over the row.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clap::ValueEnum;
use hub_tests::lab::{HubConfig, Site};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};

use crate::settings::Spread;

/// Where the row begins: 32 bits, of which the first 4 are always the same.
pub const FIRST: u32 = 16 << 24;
/// Addresses from one network of the row to the next.
pub const SLOT: u32 = 1 << 8;
/// Networks in the row.
pub const MOST: u32 = 1 << 20;
/// Routes that an agent takes, those to the sites' own networks included.
const LIMIT: u32 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
}

impl Family {
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// Everything that can be routed to.
    pub fn all(self) -> IpNet {
        network(self, FIRST, 4)
    }

    /// All addresses there are.
    pub fn any(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }

    /// The site's own network.
    pub fn network(self, site: &Site) -> IpNet {
        match self {
            Self::V4 => site.network4().into(),
            Self::V6 => site.network6().into(),
        }
    }

    /// The site's host.
    pub fn host(self, site: &Site) -> IpAddr {
        match self {
            Self::V4 => site.host4().into(),
            Self::V6 => site.host6().into(),
        }
    }

    /// Shortest frame that the generator makes, from the Ethernet header on.
    pub fn shortest(self) -> u32 {
        match self {
            Self::V4 => 60,
            Self::V6 => 72,
        }
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

/// Route `number`.
pub fn prefix(family: Family, number: u32) -> IpNet {
    // Scattered, so that evenly spread destinations do not all meet the same length.
    let length = match number.wrapping_mul(0x9e37_79b1) >> 29 {
        0 => 32,
        1 => 28,
        _ => 24,
    };
    network(family, FIRST + number * SLOT, length)
}

/// The network whose IPv4 address, or the same bits of an IPv6 one, is `bits`; `length` is that of the IPv4 network.
pub fn network(family: Family, bits: u32, length: u8) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(Ipv4Addr::from_bits(bits).into(), length),
        Family::V6 => {
            let bits = 0xfd64_0001 << 96 | u128::from(bits) << 64;
            IpNet::new_assert(Ipv6Addr::from_bits(bits).into(), length + 32)
        }
    }
}

/// How so many destinations are spread over so many routes.
pub fn spread(routes: u32, destinations: u32) -> Spread {
    Spread::Apart(routes / destinations * SLOT)
}

/// The hub's configuration: both sites, all that can be routed to behind `to`, and so many routes there.
pub fn config(sites: &[Site; 2], family: Family, routes: u32) -> String {
    config_with(sites, [false; 2], family, routes)
}

/// The same with a TUN device towards some of the sites.
pub fn config_with(sites: &[Site; 2], are_tun: [bool; 2], family: Family, routes: u32) -> String {
    config_changed(sites, family, routes, |config| {
        for (site, is_tun) in sites.iter().zip(are_tun) {
            if is_tun {
                config.connection(&site.place).peer = None;
            }
        }
    })
}

/// The same with any change except to its routes.
pub fn config_changed(sites: &[Site; 2], family: Family, routes: u32, change: impl FnOnce(&mut HubConfig)) -> String {
    let mut config = HubConfig::offices(sites).unpublished();
    let to = &sites[1].place;
    config.connection(to).remote_cidrs.push(family.all().to_string());
    change(&mut config);
    let mut text = config.to_string();
    // The last few of a million are left out for the sites' own: the frames go to others.
    let own = u32::try_from(config.routes.len()).expect("a few");
    let count = if routes <= LIMIT { routes.min(LIMIT - own) } else { routes };
    for number in 0..count {
        // No blanks and no weight (the default is 100): a file has 64 MiB at most.
        writeln!(text, "[[route]]\ndestination=\"{}\"\nnext_hop=\"{to}\"", prefix(family, number)).expect("fits");
    }
    text
}

/// The same routes as lines of `ip -batch`, for a hub whose kernel forwards. A TUN device has no neighbours.
pub fn batch(site: &Site, family: Family, routes: u32, to_tun: bool) -> String {
    let device = site.hub_device(0);
    let via = match family {
        _ if to_tun => String::new(),
        Family::V4 => format!("via {} ", site.peer4(0)),
        Family::V6 => "via fe80::2 ".to_owned(),
    };
    let mut text = String::new();
    for number in 0..routes {
        writeln!(text, "route add {} {via}dev {device}", prefix(family, number)).expect("fits");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn destinations_have_distinct_routes() {
        for family in [Family::V4, Family::V6] {
            for (routes, destinations) in [(10, 1), (10, 10), (1000, 64), (MOST, 64_000)] {
                let Spread::Apart(stride) = spread(routes, destinations) else { panic!("hosts") };
                assert_eq!(stride % SLOT, 0);
                assert!(stride / SLOT * (destinations - 1) < routes, "{routes} {destinations}");
            }
            let all: HashSet<_> = (0..1000).map(|number| prefix(family, number)).collect();
            assert_eq!(all.len(), 1000);
            for number in [0, 1, 17, 999, MOST - 1] {
                let route = prefix(family, number);
                // Contains the first address of its slot, and is admitted by the selectors.
                assert!(route.contains(&network(family, FIRST + number * SLOT, 32)), "{route}");
                assert!(family.all().contains(&route), "{route}");
            }
        }
    }

    #[test]
    fn prefix_lengths_at_any_step_are_mixed() {
        for step in [1, 8, 16, 156] {
            let share =
                |length| (0..1000).filter(|index| prefix(Family::V4, index * step).prefix_len() == length).count();
            assert!(share(24) > 600 && share(28) > 60 && share(32) > 60, "step {step}");
        }
    }

    #[test]
    fn million_routes_fit_limits_of_configuration() {
        let site = |number| Site::new("b", "tun-b", number);
        for family in [Family::V4, Family::V6] {
            let text = config(&[site(10), site(20)], family, 1_000_000);
            assert!(text.len() < 64 << 20, "{}", text.len());
            assert_eq!(text.matches("[[route]]").count(), 1_000_000);
            for destinations in [1000, 8000, 64_000] {
                let Spread::Apart(stride) = spread(1_000_000, destinations) else { panic!("hosts") };
                let last = prefix(family, stride / SLOT * (destinations - 1));
                assert!(text.contains(&format!("destination=\"{last}\"")), "{last}");
            }
        }
    }
}

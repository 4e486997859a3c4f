//! The site with two tunnels.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::places::Place;

/// Other places have only the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tunnel {
    First,
    Second,
}

impl Tunnel {
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "a",
            Self::Second => "b",
        }
    }

    /// The device of its far end.
    pub fn far_device(self) -> &'static str {
        match self {
            Self::First => "up0",
            Self::Second => "up1",
        }
    }
}

/// For messages, after the place.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => Ok(()),
            Self::Second => f.write_str(" (second tunnel)"),
        }
    }
}

impl Place {
    /// The hub's device of a tunnel.
    pub fn tunnel_device(self, tunnel: Tunnel) -> String {
        match tunnel {
            Tunnel::First => self.device().to_owned(),
            Tunnel::Second => format!("{}2", self.device()),
        }
    }

    /// The network of a tunnel's link, with the hub's address and the far end's.
    pub fn tunnel_link4(self, tunnel: Tunnel) -> (Ipv4Net, [Ipv4Addr; 2]) {
        let (net, ends) = self.link4();
        match tunnel {
            Tunnel::First => (net, ends),
            Tunnel::Second => {
                let other = |address: Ipv4Addr| Ipv4Addr::from(u32::from(address) + (10 << 8));
                (Ipv4Net::new_assert(other(net.network()), net.prefix_len()), ends.map(other))
            }
        }
    }
}

/// A site with two tunnels, and their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dual {
    pub site: Place,
    pub weights: [u8; 2],
}

impl Dual {
    /// The value of `tunnels`.
    pub fn config(self) -> String {
        let tunnel = |(tunnel, weight): (Tunnel, u8)| {
            let (device, [_, peer]) = (self.site.tunnel_device(tunnel), self.site.tunnel_link4(tunnel).1);
            let name = tunnel.name();
            format!("{{ name = \"{name}\", interface = \"{device}\", peer = \"{peer}\", weight = {weight} }}")
        };
        let tunnels = Tunnel::ALL.into_iter().zip(self.weights).map(tunnel).collect::<Vec<_>>();
        format!("[{}]", tunnels.join(", "))
    }

    /// Which tunnels carry traffic to the site while these are up.
    pub fn carry(self, up: [bool; 2]) -> [bool; 2] {
        let [first, second] = self.weights.map(|weight| weight > 0);
        let active = [first && up[0], second && up[1]];
        match (active, up) {
            ([false, false], [false, false]) => [first, second],
            ([false, false], up) => up,
            (active, _) => active,
        }
    }
}

#[test]
fn standby_tunnel_carries_only_while_active_one_is_down() {
    let standby = Dual { site: Place::Alpha, weights: [100, 0] };
    let equal = Dual { weights: [50, 50], ..standby };
    for (up, by_standby, by_equal) in [
        ([true, true], [true, false], [true, true]),
        ([false, true], [false, true], [false, true]),
        ([true, false], [true, false], [true, false]),
        ([false, false], [true, false], [true, true]),
    ] {
        assert_eq!((standby.carry(up), equal.carry(up)), (by_standby, by_equal), "{up:?}");
    }
}

//! The far ends of the hub, their networks and addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::dual::Tunnel;

/// A far end of the hub: packets enter there and arrive there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Alpha,
    Beta,
    /// Its selectors allow only the VPC.
    Gamma,
    /// Behind a raw-IP TUN device. Route-based: its remote prefix is everything.
    Delta,
    /// Behind a TUN device with packet information, so that it can send any `EtherType`.
    Epsilon,
    Vpc,
    /// A host network that is not in the configuration.
    Mgmt,
    /// The host's default route.
    Wan,
}

use Place::{Alpha, Beta, Delta, Epsilon, Gamma, Mgmt, Vpc, Wan};

pub const ALL: [Place; 8] = [Alpha, Beta, Gamma, Delta, Epsilon, Vpc, Mgmt, Wan];
pub const SITES: [Place; 5] = [Alpha, Beta, Gamma, Delta, Epsilon];

/// The two next hops of this destination, with equal weights.
pub const SHARED: [Place; 2] = [Beta, Gamma];
pub const SHARED4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 16);
pub const SHARED6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 0), 48);

/// Sites with the same networks of their own, in hunts with translation: the hub knows them by [`Place::networks`].
pub const TRANSLATED: [Place; 2] = [Alpha, Delta];
pub const OWN4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 90, 0, 0), 16);
pub const OWN6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 0), 48);

/// The segments in hunts with segments, and what they reach. The sites without one are in the default segment.
pub const SEGMENTS: [(&str, &[&str]); 2] = [("left", &["vpc", "right"]), ("right", &["left", "right", "default"])];

/// The policy routes in hunts with policy routes, by networks: source, destination, next hop. The selectors of the first one's
/// next hop admit all addresses, those of the second one's only its own.
pub const POLICY_ROUTES: [(Place, Place, Place); 2] = [(Alpha, Beta, Delta), (Epsilon, Alpha, Beta)];

/// The far end of every Ethernet link has this device.
pub const FAR_DEVICE: &str = "up0";

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Alpha => "alpha",
            Beta => "beta",
            Gamma => "gamma",
            Delta => "delta",
            Epsilon => "epsilon",
            Vpc => "vpc",
            Mgmt => "mgmt",
            Wan => "wan",
        }
    }

    /// The hub's device towards it.
    pub fn device(self) -> &'static str {
        match self {
            Alpha => "tun-a",
            Beta => "tun-b",
            Gamma => "tun-g",
            Delta => "tun-d",
            Epsilon => "tun-e",
            Vpc => "vpc0",
            Mgmt => "mgmt0",
            Wan => "wan0",
        }
    }

    /// The segment of its connection in hunts with segments.
    pub fn segment(self) -> Option<&'static str> {
        match self {
            Alpha | Epsilon => Some("left"),
            Beta => Some("right"),
            Gamma | Delta | Vpc | Mgmt | Wan => None,
        }
    }

    /// Whether a packet may go from one to the other in hunts with segments.
    pub fn may_reach(self, other: Self) -> bool {
        match self {
            // "left" lists neither itself nor the default segment.
            Alpha | Epsilon => matches!(other, Beta | Vpc),
            // "right" does not list the VPC.
            Beta => other != Vpc,
            Gamma | Delta => !matches!(other, Alpha | Epsilon),
            Vpc => other != Beta,
            Mgmt | Wan => true,
        }
    }

    pub fn is_site(self) -> bool {
        SITES.contains(&self)
    }

    /// Whether its link has Ethernet headers.
    pub fn is_ethernet(self) -> bool {
        !matches!(self, Delta | Epsilon)
    }

    /// Maximum size of an IP packet on its link, in bytes.
    pub fn mtu(self) -> u32 {
        match self {
            Alpha | Epsilon => 1700,
            Beta => 1300,
            Gamma | Delta => 1400,
            Vpc | Mgmt | Wan => 1500,
        }
    }

    /// Its own networks: a site's, or its link's.
    pub fn networks(self) -> (Ipv4Net, Ipv6Net) {
        let (v4, v6) = match self {
            Alpha => ("10.61.0.0/16", "fd61::/48"),
            Beta => ("10.62.0.0/16", "fd62::/48"),
            Gamma => ("10.63.0.0/16", "fd63::/48"),
            Delta => ("10.65.0.0/16", "fd65::/48"),
            Epsilon => ("10.66.0.0/16", "fd66::/48"),
            Vpc => ("172.30.0.0/24", "fd30::/64"),
            Mgmt => ("10.99.0.0/24", "fd99::/64"),
            Wan => ("198.51.100.0/24", "2001:db8:100::/64"),
        };
        (v4.parse().expect("a prefix"), v6.parse().expect("a prefix"))
    }

    /// The network of its link, with the hub's address and its own.
    pub fn link4(self) -> (Ipv4Net, [Ipv4Addr; 2]) {
        let third = match self {
            Alpha => 61,
            Beta => 62,
            Gamma => 63,
            Delta => 65,
            Epsilon => 66,
            Vpc | Mgmt | Wan => {
                let net = self.networks().0;
                let first = u32::from(net.network());
                return (net, [(first + 1).into(), (first + 10).into()]);
            }
        };
        let net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, third, 0), 30);
        (net, [Ipv4Addr::new(169, 254, third, 1), Ipv4Addr::new(169, 254, third, 2)])
    }

    /// The hub's and its own global addresses on the link; sites have only link-local ones.
    pub fn link6(self) -> Option<[Ipv6Addr; 2]> {
        let first = u128::from(self.networks().1.network());
        (!self.is_site()).then(|| [(first + 1).into(), (first + 10).into()])
    }

    /// What a site with translation calls one of its addresses.
    pub fn own(self, address: IpAddr) -> IpAddr {
        let (net4, net6) = self.networks();
        match address {
            IpAddr::V4(address) if net4.contains(&address) => {
                IpAddr::V4((u32::from(OWN4.network()) | u32::from(address) & u32::from(OWN4.hostmask())).into())
            }
            IpAddr::V6(address) if net6.contains(&address) => {
                IpAddr::V6((u128::from(OWN6.network()) | u128::from(address) & u128::from(OWN6.hostmask())).into())
            }
            other => other,
        }
    }

    /// By which address the hub knows one of a site with translation; `None` for one that stands for another there.
    pub fn at_hub(self, own: IpAddr) -> Option<IpAddr> {
        let (net4, net6) = self.networks();
        match own {
            IpAddr::V4(own) if OWN4.contains(&own) => {
                Some(IpAddr::V4((u32::from(net4.network()) | u32::from(own) & u32::from(net4.hostmask())).into()))
            }
            IpAddr::V6(own) if OWN6.contains(&own) => {
                Some(IpAddr::V6((u128::from(net6.network()) | u128::from(own) & u128::from(net6.hostmask())).into()))
            }
            own if within(net4, own) || within(net6, own) => None,
            own => Some(own),
        }
    }

    /// An existing host; in a site nothing answers for it.
    pub fn host(self, v6: bool) -> IpAddr {
        let (net4, net6) = self.networks();
        match v6 {
            false => IpAddr::V4((u32::from(net4.network()) + 10).into()),
            true => IpAddr::V6((u128::from(net6.network()) + 10).into()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of places.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Places(u8);

impl Places {
    pub const NONE: Self = Self(0);

    pub fn of(places: &[Place]) -> Self {
        places.iter().fold(Self::NONE, |set, place| set.with(*place))
    }

    #[must_use]
    pub fn with(self, place: Place) -> Self {
        Self(self.0 | 1 << place as u8)
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn contains(self, place: Place) -> bool {
        self.0 & 1 << place as u8 != 0
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(ALL.iter().filter(|place| self.contains(**place))).finish()
    }
}

/// Addresses of the hub itself, those towards second tunnels included.
pub fn is_hub(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let is_of = |place: &Place, tunnel| place.tunnel_link4(tunnel).1[0] == address;
            ALL.iter().any(|place| is_of(place, Tunnel::First) || place.is_site() && is_of(place, Tunnel::Second))
        }
        IpAddr::V6(address) => {
            address == Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)
                || ALL.iter().any(|place| place.link6().is_some_and(|[hub, _]| hub == address))
        }
    }
}

/// Whether a prefix of either family contains an address.
pub fn within(net: impl Into<IpNet>, address: IpAddr) -> bool {
    net.into().contains(&address)
}

//! Routes of a routing daemon, as it would write them into its table; and which of them are the policy.
//!
//! Beta's own networks are learned instead of configured. Others lead to networks that no configuration names. The rest
//! must be refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::dual::{Dual, Tunnel};
use crate::places::{Place, Places, TRANSLATED, within};

/// Only the daemon writes to it.
pub const TABLE: u32 = 1190;
/// BIRD's number in `rt_protos`.
const PROTOCOL: u32 = 12;

/// A network that only the daemon knows; epsilon's.
pub const NEW4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 67, 0, 0), 16);
pub const NEW6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd67, 0, 0, 0, 0, 0, 0, 0), 48);
/// A part of it that moves.
const MOVING4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 67, 128, 0), 17);
const MOVING6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd67, 0, 0, 0x8000, 0, 0, 0, 0), 49);
const MOVING: [IpNet; 2] = [IpNet::V4(MOVING4), IpNet::V6(MOVING6)];
/// A part of beta's networks, which delta announces. No configuration says that they are beta's.
const PART4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 62, 128, 0), 17);
const PART6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd62, 0, 0, 0, 0, 0, 0, 0x8000), 113);
/// Epsilon's too, but its selectors do not admit it.
const UNSELECTED4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 68, 0, 0), 16);
const UNSELECTED6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd68, 0, 0, 0, 0, 0, 0, 0), 48);

/// Networks for random packets.
pub const NETWORKS: [(Ipv4Net, Ipv6Net); 5] =
    [(NEW4, NEW6), (MOVING4, MOVING6), (MOVING4, MOVING6), (PART4, PART6), (UNSELECTED4, UNSELECTED6)];

/// Who announces the moving network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    Delta,
    Epsilon,
    /// With equal weights.
    Both,
    /// Nobody: it is a part of epsilon's.
    Withdrawn,
    /// Delta, but any of the daemon's routes may be missing.
    Partly,
}

impl Moving {
    /// The possible next hops of an address for which only learned routes decide; `None` for all other addresses. The
    /// daemon's other routes mean the same as the configured ones.
    pub fn next_hops(self, address: IpAddr) -> Option<Places> {
        let is_in = |v4: Ipv4Net, v6: Ipv6Net| within(v4, address) || within(v6, address);
        let places: &[Place] = match self {
            // Epsilon's selectors do not admit them.
            _ if is_in(UNSELECTED4, UNSELECTED6) => &[],
            Self::Partly if is_in(PART4, PART6) => &[Place::Beta, Place::Delta],
            _ if is_in(PART4, PART6) => &[Place::Delta],
            Self::Partly | Self::Both if is_in(MOVING4, MOVING6) => &[Place::Delta, Place::Epsilon],
            Self::Delta if is_in(MOVING4, MOVING6) => &[Place::Delta],
            _ if is_in(NEW4, NEW6) => &[Place::Epsilon],
            _ => return None,
        };
        Some(Places::of(places))
    }

    /// The sites that announce the moving network.
    fn announcers(self) -> &'static [Place] {
        match self {
            Self::Delta => &[Place::Delta],
            Self::Epsilon => &[Place::Epsilon],
            Self::Both => &[Place::Delta, Place::Epsilon],
            Self::Withdrawn | Self::Partly => &[],
        }
    }

    /// The routes of the moving network, for `ip -batch`.
    fn added(self) -> String {
        if self.announcers().is_empty() {
            return String::new();
        }
        let of = |network: IpNet| {
            // Several next hops of IPv6 need gateways.
            let via = if network.addr().is_ipv6() { "via fe80::2 " } else { "" };
            let hop = |place: &Place| format!("nexthop {via}dev {} ", place.device());
            route("add", &network.to_string(), &self.announcers().iter().map(hop).collect::<String>())
        };
        MOVING.map(of).concat()
    }

    /// What the daemon writes when the network moves, for `ip -batch`.
    pub fn moves_to(self, next: Self) -> String {
        if self == next {
            return String::new();
        }
        // A new next hop replaces the IPv4 route; of IPv6 both would stay.
        let deleted = match self.announcers() {
            [] => String::new(),
            _ => MOVING.map(|network| route("del", &network.to_string(), "")).concat(),
        };
        deleted + &next.added()
    }

    /// What `route list --learned` shows of the moving network: `DESTINATION NEXT_HOP`.
    pub fn shown(self) -> Vec<String> {
        let lines = |network| self.announcers().iter().map(move |place| format!("{network} {place}"));
        MOVING.into_iter().flat_map(lines).collect()
    }

    /// Whether `DESTINATION NEXT_HOP` is of the moving network.
    pub fn is_shown(line: &str) -> bool {
        MOVING.iter().any(|network| line.starts_with(&format!("{network} ")))
    }
}

/// The next hop by a place's device, for `ip route`; both tunnels of a site that has two.
fn hops(place: Place, dual: Option<Dual>, v6: bool) -> String {
    let is_dual = dual.is_some_and(|dual| dual.site == place);
    let tunnels = Tunnel::ALL.into_iter().take(if is_dual { 2 } else { 1 });
    let hop = |tunnel| {
        let (device, gateway) = (place.tunnel_device(tunnel), place.tunnel_link4(tunnel).1[1]);
        match v6 {
            true => format!("nexthop via fe80::2 dev {device} "),
            false => format!("nexthop via {gateway} dev {device} "),
        }
    };
    tunnels.map(hop).collect()
}

/// A single next hop: by the gateway of an Ethernet link.
fn by(place: Place) -> String {
    match place.is_ethernet() {
        true => hops(place, None, false),
        false => format!("dev {}", place.device()),
    }
}

fn route(verb: &str, destination: &str, hops: &str) -> String {
    format!("route {verb} {destination} proto {PROTOCOL} table {TABLE} {hops}\n")
}

/// All routes that the daemon writes at first, for `ip -batch`.
pub fn batch(moving: Moving, dual: Option<Dual>, translated: bool) -> String {
    let mut lines = moving.added();
    let (net4, net6) = Place::Beta.networks();
    let mut add = |destination: &str, hops: &str| lines.push_str(&route("add", destination, hops));
    add(&net4.to_string(), &hops(Place::Beta, dual, false));
    add(&net6.to_string(), &hops(Place::Beta, dual, true));
    for (place, v4, v6) in
        [(Place::Epsilon, NEW4, NEW6), (Place::Epsilon, UNSELECTED4, UNSELECTED6), (Place::Delta, PART4, PART6)]
    {
        add(&v4.to_string(), &by(place));
        add(&v6.to_string(), &by(place));
    }
    for (place, destination) in REFUSED {
        add(destination, &by(place));
    }
    if translated {
        // The sites' own networks, which the hub knows by others.
        for (place, destination) in [(Place::Alpha, "10.90.4.0/24"), (Place::Delta, "10.90.5.0/24")] {
            add(destination, &by(place));
        }
    }
    // In a configured network of the same site: without effect.
    add("10.63.9.0/24", &by(Place::Gamma));
    lines
}

/// A default route; networks of other sites, of the VPC and of the hub's links; everything; a customer gateway.
const REFUSED: [(Place, &str); 16] = [
    (Place::Delta, "0.0.0.0/0"),
    (Place::Delta, "::/0"),
    (Place::Epsilon, "10.61.5.0/24"),
    (Place::Epsilon, "fd61:0:0:5::/64"),
    (Place::Delta, "10.61.128.0/17"),
    (Place::Delta, "fd61::/49"),
    (Place::Alpha, "10.65.7.0/24"),
    (Place::Delta, "172.30.0.0/25"),
    (Place::Delta, "fd30::/65"),
    (Place::Delta, "10.99.0.0/24"),
    (Place::Epsilon, "198.51.100.0/24"),
    (Place::Delta, "10.0.0.0/8"),
    (Place::Delta, "fd00::/8"),
    (Place::Delta, "169.254.62.0/30"),
    (Place::Delta, "203.0.113.61/32"),
    (Place::Epsilon, "172.30.0.1/32"),
];

/// How many routes of a site must be refused.
pub fn refused(place: Place, translated: bool) -> u64 {
    let hidden = translated && TRANSLATED.contains(&place);
    REFUSED.iter().filter(|(announcer, _)| *announcer == place).count() as u64 + u64::from(hidden)
}

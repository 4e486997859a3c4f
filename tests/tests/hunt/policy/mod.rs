//! Only the policy: where a packet may arrive, and where it must.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::dual::Tunnel;
use crate::learned::Moving;
use crate::places::{ALL, POLICY_ROUTES, Place, Places, SHARED, SHARED4, SHARED6, SITES, TRANSLATED, is_hub, within};
use crate::reading::Reading;

/// The maximum number of tags before an IP header.
const MOST_TAGS: usize = 2;

/// The settings that differ between hunts.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Policy {
    pub spoke_to_spoke: bool,
    /// Generic XDP does not guarantee delivery into links without Ethernet headers: the kernel takes the protocol from
    /// the frame's bytes after the header was removed. Nor does it know the protocol of packets from such a link.
    pub promises_raw_links: bool,
    /// Whether the nftables table is installed. Without it the program alone filters packets from sites, and nothing
    /// filters the rest: see docs/security.md.
    pub guarded: bool,
    /// [`TRANSLATED`] sites have other addresses than the hub knows.
    pub translated: bool,
    /// Some sites are in segments.
    pub segments: bool,
    /// There are [`POLICY_ROUTES`].
    pub routes_by_source: bool,
    /// There are learned routes, one of them by this one.
    pub learned: Option<Moving>,
}

/// Where one packet may arrive, and where it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// The packet itself, or a fragment of it.
    pub packet: Places,
    /// The hub's own answers, such as an ICMP error that quotes the packet, or an echo reply.
    pub answers: Places,
    /// Exactly one copy of the packet must arrive there.
    pub must: Option<Place>,
}

impl Allowed {
    /// What either of two policies allows, while one replaces the other. Nothing must arrive.
    pub fn or(self, other: Self) -> Self {
        Self { packet: self.packet.and(other.packet), answers: self.answers.and(other.answers), must: None }
    }
}

pub const NOWHERE: Allowed = Allowed { packet: Places::NONE, answers: Places::NONE, must: None };

impl Policy {
    /// Computes the verdict on bytes that entered the hub from a place, by one of its tunnels. `hub_mac` is the hub's
    /// address on that link.
    pub fn allowed(self, (entry, tunnel): (Place, Tunnel), bytes: &[u8], hub_mac: Option<[u8; 6]>) -> Allowed {
        let mut packet = Reading::of(entry, bytes);
        if packet.is_none() && entry == Place::Epsilon && !self.promises_raw_links {
            // There generic XDP sees only the bytes, and forwards whatever they are allowed as.
            packet = bytes.get(4..).and_then(|bytes| Reading::of(Place::Delta, bytes));
            if let Some(packet) = &mut packet {
                packet.plain = false;
            }
        }
        let Some(mut packet) = packet else { return NOWHERE };
        if self.translated && TRANSLATED.contains(&entry) {
            let Some(source) = entry.at_hub(packet.source) else { return NOWHERE };
            packet.source = source;
        }
        match entry {
            Place::Vpc | Place::Mgmt | Place::Wan if !self.guarded => {
                Allowed { packet: Places::of(&ALL), answers: Places::of(&ALL), must: None }
            }
            Place::Mgmt | Place::Wan => {
                // The host's own networks reach no site. The hub's own answers there are its own traffic.
                let host = Places::of(&[Place::Vpc, Place::Mgmt, Place::Wan]);
                Allowed { packet: host, answers: Places::of(&ALL), must: None }
            }
            Place::Vpc => {
                // Beyond the sites the host is an ordinary router for its VPC.
                let host = Places::of(&[Place::Vpc, Place::Mgmt, Place::Wan]);
                let mut allowed = self.through((entry, tunnel), &packet, hub_mac);
                allowed.packet = allowed.packet.and(host);
                allowed.answers = host;
                allowed
            }
            _ => self.through((entry, tunnel), &packet, hub_mac),
        }
    }

    /// From a site or the VPC.
    fn through(self, (entry, tunnel): (Place, Tunnel), packet: &Reading, hub_mac: Option<[u8; 6]>) -> Allowed {
        let addressed = packet.to_mac.is_none_or(|mac| mac[0] & 1 == 1 || Some(mac) == hub_mac);
        if packet.tags > MOST_TAGS || !addressed {
            return NOWHERE;
        }
        let own_link = match packet.source {
            IpAddr::V4(address) => within(entry.tunnel_link4(tunnel).0, address.into()),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if entry.is_site() && own_link {
            return Allowed { answers: Places::NONE.with(entry), ..NOWHERE };
        }
        if let Some(packet_to) = self.by_the_kernel(entry, packet) {
            return Allowed { packet: packet_to, answers: self.members(packet.source), must: None };
        }
        if !self.leads_to(packet.source, entry) || !self.admits(entry, packet.destination) {
            // A refused packet draws no error, above all not to a victim.
            let own = entry.is_site() && self.leads_to(packet.source, entry);
            return Allowed { answers: if own { self.members(packet.source) } else { Places::NONE }, ..NOWHERE };
        }
        let answers = if entry == Place::Vpc { Places::NONE } else { self.members(packet.source) };
        let refused = Allowed { answers, ..NOWHERE };
        let for_this_host = packet.to_mac.is_none_or(|mac| mac[0] & 1 == 0);
        if !for_this_host || is_hub(packet.destination) || stays_here(packet.destination) {
            return refused;
        }
        let next_hops = ALL.iter().copied().filter(|place| {
            let isolated = !self.spoke_to_spoke && entry != Place::Vpc && *place != Place::Vpc
                || self.segments && !entry.may_reach(*place);
            let leads = match self.policy_route(packet) {
                Some(next_hop) => {
                    next_hop == *place && (*place == Place::Delta || self.leads_to(packet.destination, *place))
                }
                None => self.leads_to(packet.destination, *place),
            };
            leads && !isolated && (*place == Place::Vpc || self.admits(*place, packet.source))
        });
        let next_hops: Vec<Place> = next_hops.collect();
        let all = Places::of(&next_hops);
        Allowed { packet: all, answers, must: self.must(entry, packet, &next_hops) }
    }

    /// The next hop of the policy route that matches.
    fn policy_route(self, packet: &Reading) -> Option<Place> {
        let is_of = |place: Place, address| {
            let (v4, v6) = place.networks();
            within(v4, address) || within(v6, address)
        };
        let matches = |(source, destination, _): &&(Place, Place, Place)| {
            is_of(*source, packet.source) && is_of(*destination, packet.destination)
        };
        POLICY_ROUTES.iter().filter(|_| self.routes_by_source).find(matches).map(|(_, _, next_hop)| *next_hop)
    }

    /// Where the kernel alone, without the table, may forward a site's packet that the program passes to it.
    fn by_the_kernel(self, entry: Place, packet: &Reading) -> Option<Places> {
        if self.guarded || !self.leads_to(packet.source, entry) || is_hub(packet.destination) {
            return None;
        }
        let is_routed = ALL.iter().any(|place| self.leads_to(packet.destination, *place));
        let is_left_to_the_kernel =
            !is_routed && !stays_here(packet.destination) && self.admits(entry, packet.destination);
        is_left_to_the_kernel.then(|| Places::of(&[Place::Mgmt, Place::Wan]))
    }

    /// Where an allowed packet must arrive, unless something excuses the hub.
    fn must(self, entry: Place, packet: &Reading, next_hops: &[Place]) -> Option<Place> {
        let [only] = next_hops else { return None };
        let shared = within(SHARED4, packet.destination) || within(SHARED6, packet.destination);
        let fits = u32::try_from(packet.length).is_ok_and(|length| length <= only.mtu());
        let neighbour = *only != Place::Vpc || packet.destination == only.host(packet.destination.is_ipv6());
        // These may be refused: a hub's own address arrives from nowhere else, and a link's broadcast address has no
        // sender.
        let broadcast = |address| IpAddr::V4(entry.link4().0.broadcast()) == address;
        let honest = !is_hub(packet.source) && !broadcast(packet.source);
        // With tags on a raw link the kernel may misread the packet.
        let framed = packet.to_mac.is_some() || packet.tags == 0;
        let promised = only.is_ethernet() || self.promises_raw_links;
        (packet.plain
            && promised
            && honest
            && packet.hops > 1
            && fits
            && neighbour
            && framed
            && !shared
            && *only != entry)
            .then_some(*only)
    }

    /// Whether a place's connection is a next hop of an address's longest route, or the VPC has the address. The
    /// reverse-path check applies the same rule to sources.
    fn leads_to(self, address: IpAddr, place: Place) -> bool {
        if let Some(next_hops) = self.learned.and_then(|moving| moving.next_hops(address)) {
            return next_hops.contains(place);
        }
        if within(SHARED4, address) || within(SHARED6, address) {
            return SHARED.contains(&place);
        }
        let (v4, v6) = place.networks();
        (place.is_site() || place == Place::Vpc) && (within(v4, address) || within(v6, address))
    }

    /// Sites whose connections are next hops for an address.
    pub fn members(self, address: IpAddr) -> Places {
        Places::of(&SITES.iter().copied().filter(|site| self.leads_to(address, *site)).collect::<Vec<_>>())
    }

    /// Whether a connection's selectors allow a packet between its site and another address. The sites' selectors
    /// allow everything on the hub's side, except gamma's, which allow only the VPC.
    fn admits(self, place: Place, other: IpAddr) -> bool {
        place != Place::Gamma || self.leads_to(other, Place::Vpc)
    }
}

/// Destinations that no router forwards to.
fn stays_here(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_multicast() || address.is_broadcast() || address.is_link_local() || address.is_loopback()
        }
        IpAddr::V6(address) => {
            address.is_multicast()
                || address.is_unicast_link_local()
                || address.is_loopback()
                || address.is_unspecified()
        }
    }
}

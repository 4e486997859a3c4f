//! Only the policy: where a packet may arrive, and where it must.

use std::net::IpAddr;

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

pub const NOWHERE: Allowed = Allowed { packet: Places::NONE, answers: Places::NONE, must: None };

impl Policy {
    /// Computes the verdict on bytes that entered the hub from a place. `hub_mac` is the hub's address on that link.
    pub fn allowed(self, entry: Place, bytes: &[u8], hub_mac: Option<[u8; 6]>) -> Allowed {
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
                let mut allowed = self.through(entry, &packet, hub_mac);
                allowed.packet = allowed.packet.and(host);
                allowed.answers = host;
                allowed
            }
            _ => self.through(entry, &packet, hub_mac),
        }
    }

    /// From a site or the VPC.
    fn through(self, entry: Place, packet: &Reading, hub_mac: Option<[u8; 6]>) -> Allowed {
        let addressed = packet.to_mac.is_none_or(|mac| mac[0] & 1 == 1 || Some(mac) == hub_mac);
        if packet.tags > MOST_TAGS || !addressed {
            return NOWHERE;
        }
        let own_link = match packet.source {
            IpAddr::V4(address) => within(entry.link4().0, address.into()),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if entry.is_site() && own_link {
            return Allowed { answers: Places::NONE.with(entry), ..NOWHERE };
        }
        if let Some(packet_to) = self.by_the_kernel(entry, packet) {
            return Allowed { packet: packet_to, answers: members(packet.source), must: None };
        }
        if !leads_to(packet.source, entry) || !admits(entry, packet.destination) {
            // A refused packet draws no error, above all not to a victim.
            let own = entry.is_site() && leads_to(packet.source, entry);
            return Allowed { answers: if own { members(packet.source) } else { Places::NONE }, ..NOWHERE };
        }
        let answers = if entry == Place::Vpc { Places::NONE } else { members(packet.source) };
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
                    next_hop == *place && (*place == Place::Delta || leads_to(packet.destination, *place))
                }
                None => leads_to(packet.destination, *place),
            };
            leads && !isolated && (*place == Place::Vpc || admits(*place, packet.source))
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
        if self.guarded || !leads_to(packet.source, entry) || is_hub(packet.destination) {
            return None;
        }
        let is_routed = ALL.iter().any(|place| leads_to(packet.destination, *place));
        let is_left_to_the_kernel = !is_routed && !stays_here(packet.destination) && admits(entry, packet.destination);
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
}

/// Whether a place's connection is a next hop of an address's longest route, or the VPC has the address. The
/// reverse-path check applies the same rule to sources.
fn leads_to(address: IpAddr, place: Place) -> bool {
    if within(SHARED4, address) || within(SHARED6, address) {
        return SHARED.contains(&place);
    }
    let (v4, v6) = place.networks();
    (place.is_site() || place == Place::Vpc) && (within(v4, address) || within(v6, address))
}

/// Sites whose connections are next hops for an address.
fn members(address: IpAddr) -> Places {
    Places::of(&SITES.iter().copied().filter(|site| leads_to(address, *site)).collect::<Vec<_>>())
}

/// Whether a connection's selectors allow a packet between its site and another address. The sites' selectors allow
/// everything on the hub's side, except gamma's, which allow only the VPC.
fn admits(place: Place, other: IpAddr) -> bool {
    place != Place::Gamma || leads_to(other, Place::Vpc)
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

#[cfg(test)]
mod tests {
    use hub_tests::packet::Packet;

    use super::*;

    const HUB: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const OPEN: Policy = Policy {
        spoke_to_spoke: true,
        promises_raw_links: true,
        guarded: true,
        translated: false,
        segments: false,
        routes_by_source: false,
    };
    const BY_SOURCE: Policy = Policy { routes_by_source: true, ..OPEN };
    const ISOLATED: Policy = Policy { spoke_to_spoke: false, ..OPEN };

    fn allowed(policy: Policy, entry: Place, from: &str, to: &str, change: impl Fn(Packet) -> Packet) -> Allowed {
        let packet = Packet::ipv4(from, to).udp(1, 2).payload(32).ethernet(FAR, HUB);
        policy.allowed(entry, &change(packet).build(), Some(HUB))
    }

    #[test]
    fn policy_model_allows_expected_places_only() {
        use Place::{Alpha, Beta, Gamma, Mgmt, Vpc, Wan};
        let none = Places::NONE;
        for (entry, from, to, packet, answers, must) in [
            (Alpha, "10.61.0.1", "10.62.0.1", Places::of(&[Beta]), Places::of(&[Alpha]), Some(Beta)),
            (Alpha, "10.61.0.1", "172.30.0.10", Places::of(&[Vpc]), Places::of(&[Alpha]), Some(Vpc)),
            // Nothing guarantees a neighbour there.
            (Alpha, "10.61.0.1", "172.30.0.11", Places::of(&[Vpc]), Places::of(&[Alpha]), None),
            // Gamma allows only the VPC, so a shared destination is beta's.
            (Alpha, "10.61.0.1", "10.63.0.1", none, Places::of(&[Alpha]), None),
            (Alpha, "10.61.0.1", "10.64.0.1", Places::of(&[Beta]), Places::of(&[Alpha]), None),
            (Beta, "10.64.0.1", "10.61.0.1", Places::of(&[Alpha]), Places::of(&[Beta, Gamma]), Some(Alpha)),
            // A foreign source, no route, the hub itself, the hub's other networks.
            (Alpha, "10.62.0.1", "172.30.0.10", none, none, None),
            (Alpha, "10.61.0.1", "8.8.8.8", none, Places::of(&[Alpha]), None),
            (Alpha, "10.61.0.1", "172.30.0.1", none, Places::of(&[Alpha]), None),
            (Alpha, "10.61.0.1", "10.99.0.10", none, Places::of(&[Alpha]), None),
            (Alpha, "169.254.61.2", "169.254.61.1", none, Places::of(&[Alpha]), None),
            (Alpha, "169.254.62.2", "169.254.61.1", none, none, None),
            (
                Vpc,
                "172.30.0.10",
                "10.61.0.1",
                Places::of(&[Alpha, Vpc, Mgmt, Wan]),
                Places::of(&[Vpc, Mgmt, Wan]),
                Some(Alpha),
            ),
            (Vpc, "10.62.0.1", "10.61.0.1", Places::of(&[Vpc, Mgmt, Wan]), Places::of(&[Vpc, Mgmt, Wan]), None),
            (Mgmt, "10.99.0.10", "10.61.0.1", Places::of(&[Vpc, Mgmt, Wan]), Places::of(&ALL), None),
        ] {
            let allowed = allowed(OPEN, entry, from, to, |packet| packet);
            assert_eq!(allowed, Allowed { packet, answers, must }, "{entry}: {from} -> {to}");
        }
        let isolated = allowed(ISOLATED, Alpha, "10.61.0.1", "10.62.0.1", |packet| packet);
        assert_eq!(isolated, Allowed { packet: none, answers: Places::of(&[Alpha]), must: None });
        let segments = Policy { segments: true, ..OPEN };
        for (entry, from, to, must) in [
            (Alpha, "10.61.0.1", "10.62.0.1", Some(Beta)),
            (Alpha, "10.61.0.1", "10.65.0.1", None),
            (Alpha, "10.61.0.1", "10.61.0.2", None),
            (Beta, "10.62.0.1", "10.65.0.1", Some(Place::Delta)),
            (Beta, "10.62.0.1", "172.30.0.10", None),
            (Vpc, "172.30.0.10", "10.62.0.1", None),
            (Vpc, "172.30.0.10", "10.61.0.1", Some(Alpha)),
        ] {
            assert_eq!(allowed(segments, entry, from, to, |packet| packet).must, must, "{entry}: {from} -> {to}");
        }
    }

    #[test]
    fn policy_model_knows_translated_sites_by_their_addresses_at_the_hub() {
        use Place::{Alpha, Beta, Delta};
        let translated = Policy { translated: true, ..OPEN };
        for (entry, from, must) in [
            (Alpha, "10.90.0.1", Some(Beta)),
            (Alpha, "10.61.0.1", None),
            (Beta, "10.90.0.1", None),
            (Beta, "10.62.0.1", None),
        ] {
            assert_eq!(allowed(translated, entry, from, "10.62.0.1", |packet| packet).must, must, "{entry}: {from}");
        }
        let address: IpAddr = "10.65.3.4".parse().expect("an address");
        assert_eq!(Delta.own(address).to_string(), "10.90.3.4");
        assert_eq!(Delta.at_hub(Delta.own(address)), Some(address));
    }

    #[test]
    fn policy_model_without_table_limits_site_sources_only() {
        use Place::{Alpha, Beta, Gamma, Mgmt, Vpc, Wan};
        let unguarded = Policy { guarded: false, ..ISOLATED };
        let none = Places::NONE;
        for (entry, from, to, packet) in [
            (Alpha, "10.61.0.1", "172.30.0.10", Places::of(&[Vpc])),
            (Alpha, "10.62.0.1", "172.30.0.10", none),
            (Alpha, "10.62.0.1", "8.8.8.8", none),
            (Alpha, "10.61.0.1", "10.62.0.1", none),
            (Gamma, "10.63.0.1", "8.8.8.8", none),
            (Alpha, "10.61.0.1", "172.30.0.1", none),
            (Alpha, "10.61.0.1", "169.254.62.2", none),
            (Alpha, "10.61.0.1", "8.8.8.8", Places::of(&[Mgmt, Wan])),
            (Beta, "10.62.0.1", "10.99.0.10", Places::of(&[Mgmt, Wan])),
            (Alpha, "169.254.61.2", "10.62.0.1", none),
            (Alpha, "169.254.61.2", "8.8.8.8", none),
            (Alpha, "169.254.62.2", "172.30.0.10", none),
            (Mgmt, "10.99.0.10", "10.61.0.1", Places::of(&ALL)),
        ] {
            assert_eq!(allowed(unguarded, entry, from, to, |packet| packet).packet, packet, "{entry}: {from} -> {to}");
        }
        let by_source_route = |packet: Packet| packet.ip_options(&[131, 7, 4, 10, 62, 0, 1]);
        let allowed = allowed(unguarded, Alpha, "10.61.0.1", "172.30.0.1", by_source_route);
        assert_eq!(allowed.packet, none);
    }

    #[test]
    fn policy_model_reads_frame_behind_two_tags_at_most() {
        let tagged = |count| {
            allowed(OPEN, Place::Alpha, "10.61.0.1", "10.62.0.1", |packet| {
                (0..count).fold(packet, |packet, _| packet.vlan(0))
            })
        };
        for count in 0..=2 {
            assert_eq!(tagged(count).must, Some(Place::Beta), "{count} tags");
        }
        assert_eq!(tagged(3), NOWHERE);
        let elsewhere = allowed(OPEN, Place::Alpha, "10.61.0.1", "10.62.0.1", |packet| packet.ethernet(FAR, FAR));
        assert_eq!(elsewhere, NOWHERE);
        for change in [
            |packet: Packet| packet.ttl(1),
            |packet: Packet| packet.ip_options(&[1]),
            |packet: Packet| packet.payload(1400),
        ] {
            let allowed = allowed(OPEN, Place::Alpha, "10.61.0.1", "10.62.0.1", change);
            assert_eq!((allowed.packet, allowed.must), (Places::of(&[Place::Beta]), None));
        }
    }

    #[test]
    fn policy_routes_come_before_routes_and_obey_selectors() {
        let must = |entry, from, to| allowed(BY_SOURCE, entry, from, to, |packet| packet).must;
        assert_eq!(must(Place::Alpha, "10.61.0.9", "10.62.0.9"), Some(Place::Delta));
        let refused = allowed(BY_SOURCE, Place::Epsilon, "10.65.0.9", "10.61.0.9", |packet| packet);
        assert_eq!(refused.packet, Places::NONE);
    }
}

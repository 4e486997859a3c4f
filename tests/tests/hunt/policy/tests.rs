//! Some packets, and where they may arrive.

use hub_tests::packet::Packet;

use super::*;
use crate::wires::raw;

const HUB: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OPEN: Policy = Policy {
    spoke_to_spoke: true,
    promises_raw_links: true,
    guarded: true,
    translated: false,
    segments: false,
    routes_by_source: false,
    learned: None,
};
const BY_SOURCE: Policy = Policy { routes_by_source: true, ..OPEN };
const ISOLATED: Policy = Policy { spoke_to_spoke: false, ..OPEN };

fn allowed(policy: Policy, entry: Place, from: &str, to: &str, change: impl Fn(Packet) -> Packet) -> Allowed {
    let packet = Packet::ipv4(from, to).udp(1, 2).payload(32);
    let bytes = match entry.is_ethernet() {
        true => change(packet.ethernet(FAR, HUB)).build(),
        false => raw(entry, change(packet).build()),
    };
    policy.allowed((entry, Tunnel::First), &bytes, Some(HUB))
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

#[test]
fn policy_model_prefers_longest_learned_route() {
    use Place::{Alpha, Delta, Epsilon};
    let must = |moving, entry, from, to| {
        let policy = Policy { learned: Some(moving), ..OPEN };
        allowed(policy, entry, from, to, |packet| packet).must
    };
    for (moving, part) in [(Moving::Delta, Delta), (Moving::Epsilon, Epsilon), (Moving::Withdrawn, Epsilon)] {
        assert_eq!(must(moving, Alpha, "10.61.0.1", "10.67.0.1"), Some(Epsilon), "{moving:?}");
        assert_eq!(must(moving, Alpha, "10.61.0.1", "10.67.128.1"), Some(part), "{moving:?}");
        assert_eq!(must(moving, part, "10.67.128.1", "10.61.0.1"), Some(Alpha), "{moving:?}");
        assert_eq!(must(moving, Alpha, "10.61.0.1", "10.68.0.1"), None, "{moving:?}");
        assert_eq!(must(moving, Epsilon, "10.68.0.1", "10.61.0.1"), None, "{moving:?}");
        assert_eq!(must(moving, Alpha, "10.61.0.1", "10.62.0.1"), Some(Place::Beta), "{moving:?}");
        assert_eq!(must(moving, Alpha, "10.61.0.1", "10.62.128.1"), Some(Delta), "{moving:?}");
    }
    assert_eq!(must(Moving::Delta, Epsilon, "10.67.128.1", "10.61.0.1"), None);
    assert_eq!(must(Moving::Epsilon, Delta, "10.67.128.1", "10.61.0.1"), None);
}

#[test]
fn policy_model_knows_link_of_each_tunnel() {
    let answers = |tunnel, from: &str| {
        let packet = Packet::ipv4(from, "169.254.71.1").udp(1, 2).payload(32).ethernet(FAR, HUB).build();
        OPEN.allowed((Place::Alpha, tunnel), &packet, Some(HUB)).answers
    };
    let alpha = Places::of(&[Place::Alpha]);
    for (tunnel, first, second) in [(Tunnel::First, alpha, Places::NONE), (Tunnel::Second, Places::NONE, alpha)] {
        assert_eq!((answers(tunnel, "169.254.61.2"), answers(tunnel, "169.254.71.2")), (first, second));
    }
}

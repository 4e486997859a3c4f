//! The varied subjects: their numbers, the configuration for each number, and the frames that use all of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clap::ValueEnum;
use hub_tests::lab::{ConnectionConfig, HubConfig, RouteConfig, Site};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{policies, ways};
use crate::{
    forward::routes::{self, FIRST, Family, SLOT},
    settings::{Spread, Traffic},
    testbed::{A, B},
};

/// A quantity on which the cost of a frame should not depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Members of one destination's group, each with an interface of its own; against a redirect to as many interfaces
    NextHops,
    /// Connections, all of which carry traffic, each with an interface, a next hop and a route; against a redirect to as
    /// many interfaces
    Interfaces,
    /// Connections, all of which carry traffic, on one interface; the one that the frames come by has another
    Connections,
    /// Selector pairs of each of the two connections that the frames come and go by
    Selectors,
    /// How the program is attached
    Mode,
    /// Whether the MSS of SYNs is limited; no frame is one
    Mss,
    /// Whether the addresses of a site are translated: of the one that the frames come from, that they go to, or both
    Translate,
    /// Policy routes, one for each destination, which has a route, too
    PolicyRoutes,
    /// Whether the two sites are in segments, which reach each other
    Segments,
    /// Clients of `monitor --packets`, while half a million packets a second are dropped beside the measured ones
    Listeners,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::NextHops => "next_hops",
            Self::Interfaces => "interfaces",
            Self::Connections => "connections",
            Self::Selectors => "selectors",
            Self::Mode => "mode",
            Self::Mss => "mss",
            Self::Translate => "translate",
            Self::PolicyRoutes => "policy_routes",
            Self::Segments => "segments",
            Self::Listeners => "listeners",
        }
    }

    /// The greatest part by which the second variant may cost more than the first.
    pub fn limit(self) -> f64 {
        match self {
            Self::Mode => 1.5,
            Self::Mss | Self::Segments => 0.01,
            // 97 % of the rate.
            Self::Listeners => 0.031,
            _ => 0.1,
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Variant {
    Count(u32),
    /// Argument of `vpnhub run --attach`, or of a key of the configuration.
    Named(&'static str),
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// A hub to measure, and its traffic.
pub struct Plan {
    /// Interfaces towards `b`.
    pub devices: u32,
    pub arguments: Vec<&'static str>,
    pub config: String,
    /// As many as there are.
    pub routes: u32,
    pub destinations: u32,
    pub flows: u32,
    /// Connections that must have sent some of the frames.
    pub used: Vec<String>,
    /// As in [`Traffic`].
    pub translated: Option<(IpAddr, IpNet)>,
    /// Packets are dropped beside, and shown to this many clients.
    pub listeners: Option<u32>,
}

/// Flows of the frames that share out among the members of a group: 64 for each, where there are most.
pub(super) const MANY_FLOWS: u32 = 4096;
/// Members of a group: each has an interface of its own.
pub const MOST_NEXT_HOPS: u32 = 64;
const FLOWS: u32 = 64;
const FEW_FLOWS: u32 = 8;
/// Where how the program is attached is all that matters.
const FEW_ROUTES: u32 = 10;

/// The hub with this many of it; `most` is the greater number of the two, which both have routes and destinations for.
pub fn plan(subject: Subject, variant: Variant, most: u32, family: Family) -> Plan {
    match (subject, variant) {
        (Subject::NextHops, Variant::Count(count)) => ways::next_hops(family, count),
        (Subject::Interfaces, Variant::Count(count)) => ways::interfaces(family, count, most),
        (Subject::Connections, Variant::Count(count)) => connections(family, count - 1, most - 1),
        (Subject::PolicyRoutes, Variant::Count(count)) => policies::policy_routes(family, count, most),
        (Subject::Listeners, Variant::Count(count)) => {
            Plan { listeners: Some(count), ..few_routes(family, vec![], |_| ()) }
        }
        (_, Variant::Count(count)) => selectors(family, count, most),
        (Subject::Segments, Variant::Named(segments)) => {
            let plan = few_routes(family, vec![], |_| ());
            if segments == "none" { plan } else { policies::in_segments(plan) }
        }
        (Subject::Mss, Variant::Named("off")) => few_routes(family, vec![], |config| {
            config.connections.iter_mut().for_each(|connection| connection.mss_clamp = Some("\"off\""));
        }),
        (Subject::Translate, Variant::Named(sides)) => {
            let [source, destination] = [sides != "destination", sides != "source"].map(|is| is && sides != "none");
            Plan {
                translated: Some((
                    if source { at_hub(family.host(&A)) } else { family.host(&A) },
                    if destination { own(family) } else { family.all() },
                )),
                ..few_routes(family, vec![], |config| translate(config, family, [source, destination]))
            }
        }
        (Subject::Mode, Variant::Named(mode)) => few_routes(family, vec!["--attach", mode], |_| ()),
        (_, Variant::Named(_)) => few_routes(family, vec![], |_| ()),
    }
}

fn few_routes(family: Family, arguments: Vec<&'static str>, change: impl FnOnce(&mut HubConfig)) -> Plan {
    Plan {
        devices: 1,
        arguments,
        config: routes::config_changed(&[A, B], family, FEW_ROUTES, change),
        routes: FEW_ROUTES,
        destinations: FEW_ROUTES,
        flows: FLOWS,
        used: vec![B.place.to_string()],
        translated: None,
        listeners: None,
    }
}

/// The site `a` is known by other addresses, or the networks behind `b` that the routes lead to, or both.
fn translate(config: &mut HubConfig, family: Family, [source, destination]: [bool; 2]) {
    if source {
        let network = family.network(&A);
        let hub = IpNet::new_assert(at_hub(network.addr()), network.prefix_len());
        config.connection(&A.place).translate = vec![[network.to_string(), hub.to_string()]];
        for route in config.routes.iter_mut().filter(|route| route.destination == network.to_string()) {
            route.destination = hub.to_string();
        }
    }
    if destination {
        let (own, hub) = (own(family).to_string(), family.all().to_string());
        let b = config.connection(&B.place);
        b.remote_cidrs.retain(|prefix| *prefix != hub);
        b.remote_cidrs.push(own.clone());
        b.translate = vec![[own, hub]];
    }
}

/// The address by which the hub knows one of `a`.
fn at_hub(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() ^ 1 << 16).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() ^ 1 << 96).into(),
    }
}

/// The networks that `b` itself uses for those that the routes lead to.
fn own(family: Family) -> IpNet {
    match family {
        Family::V4 => "32.0.0.0/4",
        Family::V6 => "fd65:1:1000::/36",
    }
    .parse()
    .expect("a prefix")
}

/// Frames of this plan.
pub fn traffic(plan: &Plan, family: Family, bytes: u32, untouched: bool) -> Traffic {
    Traffic {
        source: family.host(&A),
        destination: family.all(),
        spread: Spread::Apart(SLOT),
        destinations: plan.destinations,
        flows: plan.flows,
        bytes: bytes.max(family.shortest()),
        untouched,
        translated: plan.translated,
    }
}

/// `most` routes to as many networks, in a row, that `count` connections have equal parts of.
fn connections(family: Family, count: u32, most: u32) -> Plan {
    let mut config = sender(family);
    // Both fit: `most` is not less than `count`.
    let first =
        |number: u32| u32::try_from(u64::from(number) * u64::from(most) / u64::from(count)).expect("at most `most`");
    for number in 0..count {
        let slots = first(number)..first(number + 1);
        config.connections.push(connection(&B, number, &cover(family, slots.start, slots.len())));
        config.routes.extend(slots.map(|slot| route(routes::network(family, FIRST + slot * SLOT, 24), number)));
    }
    let used = names(count);
    Plan {
        devices: 1,
        arguments: vec![],
        config: text(&config),
        routes: most,
        destinations: most,
        flows: FEW_FLOWS,
        used,
        translated: None,
        listeners: None,
    }
}

/// One route; the sender's connection has `count` selectors for what it may send to, the receiver's as many for what it
/// may be sent. They admit the same addresses, `most` of which the frames go to.
fn selectors(family: Family, count: u32, most: u32) -> Plan {
    let mut config = sender(family);
    let each = most.div_ceil(count).next_power_of_two();
    let admitted = || (0..count).map(|number| routes::network(family, FIRST + number * each * SLOT, prefix_of(each)));
    config.connections[0].local_cidrs = admitted().map(|prefix| prefix.to_string()).collect();
    config.connections.push(connection(&B, 0, &admitted().collect::<Vec<_>>()));
    config.routes.push(route(family.all(), 0));
    Plan {
        devices: 1,
        arguments: vec![],
        config: text(&config),
        routes: 1,
        destinations: most,
        flows: FEW_FLOWS,
        used: names(1),
        translated: None,
        listeners: None,
    }
}

/// The connection that the frames come by, with the source's network as its only selector.
pub(super) fn sender(family: Family) -> HubConfig {
    let mut config = HubConfig::offices(&[A]).unpublished();
    let here = family.network(&A);
    config.connections[0].remote_cidrs = vec![here.to_string()];
    config.connections[0].local_cidrs = vec![family.any().to_string()];
    config.routes.retain(|route| route.destination == here.to_string());
    config
}

pub(super) fn connection(to: &Site, number: u32, remote: &[IpNet]) -> ConnectionConfig {
    ConnectionConfig {
        name: name(number),
        remote_cidrs: remote.iter().map(IpNet::to_string).collect(),
        ..ConnectionConfig::to_site(to, 0)
    }
}

pub(super) fn route(destination: IpNet, number: u32) -> RouteConfig {
    RouteConfig { destination: destination.to_string(), next_hop: name(number), weight: 100, publish: false }
}

fn name(number: u32) -> String {
    format!("b{number}")
}

pub(super) fn names(count: u32) -> Vec<String> {
    (0..count).map(name).collect()
}

pub(super) fn text(config: &HubConfig) -> String {
    let quota = format!("[gateway]\nmax_connections = {}\n", config.connections.len());
    config.to_string().replacen("[gateway]\n", &quota, 1)
}

/// Length of the IPv4 prefix of so many slots, a power of two.
fn prefix_of(slots: u32) -> u8 {
    u8::try_from(24 - slots.trailing_zeros()).expect("at most 24")
}

/// The fewest prefixes that make up so many slots from this one on.
fn cover(family: Family, mut first: u32, count: usize) -> Vec<IpNet> {
    let end = first + u32::try_from(count).expect("slots fit 32 bits");
    let mut prefixes = Vec::new();
    while first < end {
        // As large as where it begins allows, and as what is left.
        let aligned = 1 << (FIRST / SLOT + first).trailing_zeros();
        let size = aligned.min(1 << (end - first).ilog2());
        prefixes.push(routes::network(family, FIRST + first * SLOT, prefix_of(size)));
        first += size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Values of a key of a list in the text.
    fn values(text: &str, key: &str) -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn cover_contains_exactly_requested_slots() {
        for (first, count) in [(0, 1), (0, 400), (400, 400), (3, 5), (1023, 2), (0, 4096)] {
            let slots: HashSet<IpNet> =
                (first..first + count).map(|slot| routes::network(Family::V4, FIRST + slot * SLOT, 24)).collect();
            let cover = cover(Family::V4, first, count as usize);
            let covered: Vec<IpNet> = cover.iter().flat_map(|prefix| prefix.subnets(24).unwrap()).collect();
            assert_eq!(covered.len(), slots.len(), "{first} {count}");
            assert_eq!(covered.into_iter().collect::<HashSet<_>>(), slots);
        }
    }

    #[test]
    fn variants_differ_only_in_varied_dimension() {
        for family in [Family::V4, Family::V6] {
            for (subject, few, many) in [
                (Subject::NextHops, 2, 64),
                (Subject::Interfaces, 64, 3999),
                (Subject::Connections, 10, 4000),
                (Subject::Selectors, 1, 10_000),
            ] {
                let plans = [few, many].map(|count| plan(subject, Variant::Count(count), many, family));
                let same = |plan: &Plan| (plan.routes, plan.destinations, plan.flows);
                assert_eq!(same(&plans[0]), same(&plans[1]), "{subject:?}");
                for (plan, count) in plans.iter().zip([few, many]) {
                    let count = count as usize;
                    let connections = plan.config.matches("[connection.").count() - 1;
                    let selectors: usize =
                        values(&plan.config, "remote_cidrs").iter().map(|list| list.matches('"').count() / 2).sum();
                    match subject {
                        Subject::Selectors => assert_eq!((connections, selectors), (1, 1 + count)),
                        Subject::Connections => assert_eq!(connections, count - 1),
                        _ => assert_eq!(connections, count),
                    }
                    assert_eq!(plan.used.len(), connections);
                }
            }
        }
    }

    #[test]
    fn translated_frames_go_to_hub_addresses_and_arrive_at_own_ones() {
        for (family, source, hub, own) in [
            (Family::V4, "10.11.10.1", "16.0.0.0/4", "32.0.0.0/4"),
            (Family::V6, "fd00:11:10:10::1", "fd64:1:1000::/36", "fd65:1:1000::/36"),
        ] {
            let plan = plan(Subject::Translate, Variant::Named("both"), 0, family);
            assert_eq!(plan.translated, Some((source.parse().unwrap(), own.parse().unwrap())));
            assert_eq!(traffic(&plan, family, 64, false).destination, hub.parse().unwrap());
            assert!(plan.config.contains(&format!("{{ site = \"{own}\", hub = \"{hub}\" }}")), "{}", plan.config);
            assert!(plan.config.contains(&routes::prefix(family, 0).to_string()), "{}", plan.config);
        }
    }

    #[test]
    fn slots_have_one_route_each() {
        let plan = plan(Subject::Connections, Variant::Count(10), 4000, Family::V4);
        let destinations: HashSet<_> = values(&plan.config, "destination").into_iter().collect();
        // And the sender's own.
        assert_eq!(destinations.len(), 4000);
        assert!(destinations.contains("\"16.0.0.0/24\"") && destinations.contains("\"16.15.158.0/24\""));
    }
}

use std::{collections::BTreeMap, fmt::Write as _};

use super::*;
use crate::{
    config::{self, difference::Difference},
    kernel::netlink::Link,
};

/// Two sites with a tunnel each, a third one with two connections, and two connections on one Ethernet link.
fn configuration(more: &str) -> Config {
    let mut text = format!(
        "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\nmax_connections = 20\n{more}\n[vpc]\ninterface = \"vpc0\"\n\
         cidrs = [\"192.168.0.0/16\"]\n"
    );
    for gateway in ["a", "b", "c", "e", "f"] {
        let last = gateway.as_bytes()[0];
        write!(text, "[customer_gateway.{gateway}]\naddress = \"198.51.100.{last}\"\n").unwrap();
    }
    let connections = [
        ("a", "a", "tun-a", ""),
        ("b", "b", "tun-b", ""),
        ("c1", "c", "tun-c1", ""),
        ("c2", "c", "tun-c2", ""),
        ("e", "e", "eth0", "peer = \"172.16.0.2\""),
        ("f", "f", "eth0", "peer = \"172.16.0.3\""),
    ];
    for (name, gateway, interface, more) in connections {
        let remote = name.as_bytes()[0];
        write!(
            text,
            "[connection.{name}]\ncustomer_gateway = \"{gateway}\"\ninterface = \"{interface}\"\n{more}\n\
             local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.{remote}.0.0/16\"]\n"
        )
        .unwrap();
    }
    text += "translate = [{ site = \"10.102.9.0/24\", hub = \"10.203.9.0/24\" }]\n";
    for (destination, next_hop) in [("10.97.0.0/16", "a"), ("10.99.0.0/16", "c1")] {
        write!(text, "[[route]]\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"\n").unwrap();
    }
    config::parse(&text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}")).0
}

const LEARN: &str = "[learn]\ntable = 1190\nmax_per_connection = 3\n";

const INTERFACES: [(u32, &str); 6] =
    [(1, "tun-a"), (2, "tun-b"), (3, "tun-c1"), (4, "tun-c2"), (5, "eth0"), (9, "vpc0")];

fn host() -> HostState {
    let mut host = HostState::default();
    let link = |(index, name): (u32, &str)| Link {
        index,
        name: name.to_owned(),
        ethernet: !name.starts_with("tun"),
        mtu: 1500,
        admin_up: true,
        running: true,
        ..Link::default()
    };
    host.links = INTERFACES.map(link).into_iter().collect();
    host.addresses.insert(1, [net("169.254.1.1/30")].into());
    host.addresses.insert(5, [net("172.16.0.1/24")].into());
    host
}

fn net(text: &str) -> IpNet {
    text.parse().expect(text)
}

/// Interface index, gateway or nothing, weight.
type Hop = (u32, &'static str, u16);

#[expect(clippy::unnecessary_wraps, reason = "as in the changes of a table")]
fn hops(of: &[Hop]) -> Option<KernelHops> {
    let hop = |(ifindex, via, weight): &Hop| KernelHop { ifindex: *ifindex, via: via.parse().ok(), weight: *weight };
    Some(of.iter().map(hop).collect())
}

struct Hub {
    config: Config,
    host: HostState,
    rib: Rib,
    learned: LearnedRoutes,
}

impl Hub {
    fn new(more: &str) -> Self {
        let (config, host) = (configuration(more), host());
        let (rib, mut learned) = (Rib::build(&config, &host), LearnedRoutes::default());
        learned.note_config(&config, &host);
        Self { config, host, rib, learned }
    }

    fn take(&mut self, changes: &[(&str, Option<KernelHops>)]) {
        self.learned.take(changes.iter().map(|(prefix, hops)| (net(prefix), hops.clone())).collect());
        self.follow();
    }

    fn follow(&mut self) {
        self.learned.follow(&self.config, &mut self.rib);
    }

    /// Applies another configuration, as the agent does.
    fn configure(&mut self, config: Config) {
        let difference = Difference::between(&self.config, &config);
        self.config = config;
        self.rib.change(&difference.routes);
        self.learned.note_configured(&difference.routes);
        if difference.is_beyond_routes() {
            self.learned.note_config(&self.config, &self.host);
        }
        self.follow();
    }

    /// The members of a learned route in force; empty without one.
    fn members(&self, prefix: &str) -> Vec<(String, u8)> {
        match self.rib.target(net(prefix)) {
            Some(crate::routing::rib::Target::Connections(members)) if self.rib.is_learned(net(prefix)) => {
                members.iter().map(|(name, weight)| (name.clone(), weight.route)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn names(&self, prefix: &str) -> String {
        self.members(prefix).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    }

    /// Why a connection's routes are refused.
    fn refusals(&self, connection: &str) -> BTreeMap<String, &'static str> {
        self.learned.refused(connection).map(|(prefix, refusal)| (prefix.to_string(), refusal.kind())).collect()
    }

    /// Everything that must not depend on the order of events.
    fn state(&self) -> String {
        let LearnedRoutes { entries, refused, unidentified, admitted, .. } = &self.learned;
        let mut text = format!("{refused:?} {unidentified:?} {admitted:?}\n");
        for (prefix, entry) in entries {
            writeln!(text, "{prefix} {:?} {:?}", entry.hops, self.members(&prefix.to_string())).unwrap();
        }
        text
    }
}

#[test]
fn route_belongs_to_connection_of_its_interface_or_peer() {
    let mut hub = Hub::new(LEARN);
    let cases: [(&str, &[Hop], &str); 10] = [
        ("10.1.0.0/16", &[(1, "", 1)], "a"),
        // Any gateway of a tunnel is behind its connection.
        ("10.2.0.0/16", &[(1, "169.254.1.2", 1)], "a"),
        ("10.3.0.0/16", &[(5, "172.16.0.2", 1)], "e"),
        ("10.4.0.0/16", &[(5, "172.16.0.3", 1)], "f"),
        // Neither is known to be behind this gateway, nor behind none.
        ("10.5.0.0/16", &[(5, "172.16.0.4", 1)], ""),
        ("10.6.0.0/16", &[(5, "", 1)], ""),
        // Other interfaces are none of ours.
        ("10.7.0.0/16", &[(9, "192.168.0.9", 1)], ""),
        ("10.8.0.0/16", &[(77, "", 1)], ""),
        ("10.9.0.0/16", &[(2, "", 1), (9, "192.168.0.9", 1), (3, "", 1)], "b c1"),
        ("fd01::/32", &[(2, "fe80::1", 1)], "b"),
    ];
    for (prefix, of, _) in &cases {
        hub.take(&[(prefix, hops(of))]);
    }
    for (prefix, _, expected) in cases {
        assert_eq!(hub.names(prefix), expected, "{prefix}");
    }
    let unidentified: Vec<_> = hub.learned.unidentified().keys().map(ToString::to_string).collect();
    assert_eq!(unidentified, ["10.5.0.0/16", "10.6.0.0/16"]);
    let news = hub.learned.take_news();
    assert_eq!(news.len(), 1, "said once for an interface: {news:?}");
    assert_eq!((&*news[0].subject, news[0].is_connection), ("eth0", false));
}

#[test]
fn weights_are_relative_to_the_largest() {
    let mut hub = Hub::new(LEARN);
    hub.take(&[("10.1.0.0/16", hops(&[(1, "", 1), (2, "", 4), (3, "", 256)])), ("10.2.0.0/16", hops(&[(1, "", 7)]))]);
    let weights = [("a".to_owned(), 1), ("b".to_owned(), 1), ("c1".to_owned(), 100)];
    assert_eq!(hub.members("10.1.0.0/16"), weights);
    assert_eq!(hub.members("10.2.0.0/16"), [("a".to_owned(), 100)]);
    // The next hops of one connection count together.
    hub.take(&[("10.1.0.0/16", hops(&[(1, "169.254.1.2", 1), (1, "169.254.1.3", 1), (2, "", 1)]))]);
    assert_eq!(hub.members("10.1.0.0/16"), [("a".to_owned(), 100), ("b".to_owned(), 50)]);
}

#[test]
fn routes_that_a_site_must_not_take_over_are_refused() {
    let cases = [
        ("0.0.0.0/0", "default_route"),
        ("::/0", "default_route"),
        ("224.0.0.0/8", "never_forwarded"),
        ("169.254.1.0/30", "never_forwarded"),
        ("fe80::/64", "never_forwarded"),
        ("127.0.0.0/9", "never_forwarded"),
        // The hub's own address; its link, a part of that, and what covers it.
        ("172.16.0.1/32", "hub_prefix"),
        ("172.16.0.0/24", "hub_prefix"),
        ("172.16.0.128/25", "hub_prefix"),
        ("172.16.0.0/12", "hub_prefix"),
        ("168.0.0.0/5", "hub_prefix"),
        ("192.168.0.0/16", "hub_prefix"),
        ("192.168.7.0/24", "hub_prefix"),
        ("192.0.0.0/8", "hub_prefix"),
        // Where the tunnels run.
        ("203.0.113.0/24", "hub_prefix"),
        ("198.51.100.97/32", "hub_prefix"),
        // Of site a.
        ("10.97.0.0/16", "other_site"),
        ("10.97.3.0/24", "other_site"),
        ("10.99.0.0/24", "other_site"),
    ];
    let mut hub = Hub::new(LEARN);
    for (prefix, _) in cases {
        hub.take(&[(prefix, hops(&[(2, "", 1)]))]);
    }
    let expected = cases.map(|(prefix, kind)| (prefix.to_owned(), kind)).into();
    assert_eq!(hub.refusals("b"), expected);
    assert_eq!(
        (hub.learned.admitted("b"), hub.rib.iter().filter(|prefix| hub.rib.is_learned(*prefix)).count()),
        (0, 0)
    );
    // One line a kind.
    let news = hub.learned.take_news();
    assert_eq!(news.len(), 4, "{news:?}");
    assert!(news.iter().all(|news| news.is_connection && &*news.subject == "b"), "{news:?}");
    // Withdrawn.
    for (prefix, _) in cases {
        hub.take(&[(prefix, None)]);
    }
    assert_eq!((hub.refusals("b"), hub.learned.is_idle()), (BTreeMap::new(), true));
}

#[test]
fn prefix_that_contains_others_is_admitted() {
    let mut hub = Hub::new(LEARN);
    hub.take(&[("10.96.0.0/14", hops(&[(2, "", 1)]))]);
    assert_eq!(hub.names("10.96.0.0/14"), "b");
    let mut hub = Hub::new(&format!("allow_default_route = true\n{LEARN}"));
    hub.take(&[("0.0.0.0/0", hops(&[(2, "", 1)])), ("::/0", hops(&[(3, "", 1)]))]);
    assert_eq!(["0.0.0.0/0", "::/0"].map(|prefix| hub.names(prefix)), ["b", "c1"]);
}

#[test]
fn translated_prefix_of_a_site_is_refused() {
    let mut hub = Hub::new(LEARN);
    hub.take(&[
        ("10.102.9.0/24", hops(&[(5, "172.16.0.3", 1)])),
        ("10.102.0.0/16", hops(&[(5, "172.16.0.3", 1)])),
        ("10.203.9.0/24", hops(&[(5, "172.16.0.3", 1)])),
    ]);
    assert_eq!(hub.refusals("f").into_values().collect::<Vec<_>>(), ["translated"; 2]);
    assert_eq!(hub.names("10.203.9.0/24"), "f");
}

#[test]
fn configured_routes_come_first() {
    let mut hub = Hub::new(LEARN);
    let own = ["10.97.0.0/16", "10.97.3.0/24"];
    hub.take(&own.map(|prefix| (prefix, hops(&[(1, "", 1)]))));
    // Of another connection of the same site.
    hub.take(&[("10.99.3.0/24", hops(&[(4, "", 1)]))]);
    assert_eq!([own[0], own[1], "10.99.3.0/24"].map(|prefix| hub.names(prefix)), ["", "", ""]);
    assert_eq!((hub.learned.admitted("a"), hub.learned.admitted("c2")), (2, 1), "they are not refused");
    assert_eq!((hub.refusals("a").len(), hub.refusals("c2").len()), (0, 0));
    // Without the configured route they carry the traffic, and again not with it.
    let without = |routes: usize| {
        let mut config = configuration(LEARN);
        config.routes.truncate(routes);
        config
    };
    hub.configure(without(0));
    assert_eq!([own[0], own[1], "10.99.3.0/24"].map(|prefix| hub.names(prefix)), ["a", "a", "c2"]);
    hub.configure(without(1));
    assert_eq!([own[0], own[1], "10.99.3.0/24"].map(|prefix| hub.names(prefix)), ["", "", "c2"]);
    // A default route is a configured route, too, but belongs to no other site.
    let mut config = configuration(&format!("allow_default_route = true\n{LEARN}"));
    config.routes = vec![config::model::Route { destination: net("0.0.0.0/0"), ..config.routes[1].clone() }];
    hub.configure(config);
    assert_eq!([own[0], own[1], "10.99.3.0/24"].map(|prefix| hub.names(prefix)), ["", "", ""]);
    assert_eq!((hub.learned.admitted("a"), hub.refusals("a").len()), (2, 0));
}

#[test]
fn newest_routes_over_the_quota_are_refused() {
    let mut hub = Hub::new(LEARN);
    // In order of age, not of prefixes.
    for prefix in ["10.5.0.0/16", "10.4.0.0/16", "10.3.0.0/16", "10.2.0.0/16", "10.1.0.0/16"] {
        hub.take(&[(prefix, hops(&[(1, "", 1)]))]);
    }
    let over = |hub: &Hub| hub.refusals("a").into_keys().collect::<Vec<_>>();
    assert_eq!(over(&hub), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!((hub.names("10.3.0.0/16"), hub.names("10.2.0.0/16")), ("a".to_owned(), String::new()));
    assert_eq!(hub.learned.take_news().len(), 1, "said once");
    // An update keeps the age; a route that goes leaves its place to the oldest without one.
    hub.take(&[("10.5.0.0/16", hops(&[(1, "169.254.1.2", 1)]))]);
    assert_eq!(over(&hub), ["10.1.0.0/16", "10.2.0.0/16"]);
    hub.take(&[("10.4.0.0/16", None)]);
    assert_eq!((over(&hub), hub.names("10.2.0.0/16")), (vec!["10.1.0.0/16".to_owned()], "a".to_owned()));
    hub.take(&[("10.4.0.0/16", hops(&[(1, "", 1)]))]);
    assert_eq!(over(&hub), ["10.1.0.0/16", "10.4.0.0/16"]);
    // Other connections have places of their own.
    hub.take(&[("10.1.0.0/16", hops(&[(1, "", 1), (2, "", 1)]))]);
    assert_eq!(hub.names("10.1.0.0/16"), "b");
    hub.configure(configuration(&LEARN.replace('3', "4")));
    assert_eq!((over(&hub), hub.names("10.1.0.0/16")), (vec!["10.4.0.0/16".to_owned()], "a b".to_owned()));
    hub.configure(configuration(&LEARN.replace('3', "1")));
    assert_eq!((over(&hub).len(), hub.names("10.5.0.0/16")), (4, "a".to_owned()));
    hub.configure(configuration(""));
    assert_eq!(hub.rib.iter().filter(|prefix| hub.rib.is_learned(*prefix)).count(), 0, "no [learn]");
}

#[test]
fn learned_routes_follow_links_and_addresses() {
    let mut hub = Hub::new(LEARN);
    hub.take(&[
        ("10.1.0.0/16", hops(&[(1, "", 1)])),
        ("10.2.0.0/16", hops(&[(8, "", 1)])),
        ("172.20.0.0/16", hops(&[(2, "", 1)])),
    ]);
    assert_eq!(["10.1.0.0/16", "10.2.0.0/16", "172.20.0.0/16"].map(|prefix| hub.names(prefix)), ["a", "", "b"]);
    // The interface comes again with another index, and the hub gets an address in a learned prefix.
    let link = hub.host.links.remove(&1).expect("it is there");
    hub.host.links.insert(Link { index: 8, ..link });
    hub.host.addresses.insert(9, [net("172.20.7.1/24")].into());
    hub.learned.note_host(&hub.config, &hub.host);
    hub.follow();
    assert_eq!(["10.1.0.0/16", "10.2.0.0/16", "172.20.0.0/16"].map(|prefix| hub.names(prefix)), ["", "a", ""]);
    assert_eq!(hub.refusals("b"), BTreeMap::from([("172.20.0.0/16".to_owned(), "hub_prefix")]));
    hub.host.addresses.remove(&9);
    hub.learned.note_host(&hub.config, &hub.host);
    hub.follow();
    assert_eq!((hub.names("172.20.0.0/16"), hub.refusals("b").len()), ("b".to_owned(), 0));
}

#[test]
fn any_order_of_events_ends_in_the_same_state() {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut hub = Hub::new(LEARN);
        let all = hub.config.routes.clone();
        for _ in 0..40 {
            let second = [1, 2, 97, 99, 102, 203][random.random_range(0..6)];
            let third = random.random_range(0..4);
            let prefix = match random.random_range(0..4) {
                0 => format!("10.{second}.0.0/16"),
                1 => format!("172.16.{third}.0/24"),
                _ => format!("10.{second}.{third}.0/24"),
            };
            match random.random_range(0..10) {
                0 => {
                    let mut config = hub.config.clone();
                    config.routes = all.iter().filter(|_| random.random_bool(0.5)).cloned().collect();
                    hub.configure(config);
                }
                1 => {
                    let mut config = hub.config.clone();
                    config.learn.as_mut().expect("it has one").max_per_connection = random.random_range(1..5);
                    hub.configure(config);
                }
                2 => {
                    hub.host.addresses.insert(9, [net(&format!("172.16.{third}.1/24"))].into());
                    hub.learned.note_host(&hub.config, &hub.host);
                    hub.follow();
                }
                3 | 4 => hub.take(&[(&prefix, None)]),
                _ => {
                    let of =
                        [(1, ""), (2, ""), (3, ""), (4, ""), (5, "172.16.0.2"), (5, "172.16.0.3"), (5, "172.16.0.9")];
                    let one = |random: &mut SmallRng| {
                        let (ifindex, via) = of[random.random_range(0..of.len())];
                        (ifindex, via, random.random_range(1..3))
                    };
                    let some: Vec<_> = (0..random.random_range(1..3)).map(|_| one(&mut random)).collect();
                    hub.take(&[(&prefix, hops(&some))]);
                }
            }
            let mut fresh =
                Hub { rib: Rib::build(&hub.config, &hub.host), learned: LearnedRoutes::default(), ..Hub::new("") };
            (fresh.config, fresh.host) = (hub.config.clone(), hub.host.clone());
            fresh.learned.note_config(&fresh.config, &fresh.host);
            fresh.learned.take(hub.learned.reported());
            fresh.follow();
            assert_eq!(hub.state(), fresh.state(), "seed {seed}");
        }
    }
}

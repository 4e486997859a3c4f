//! Routes that sites announce by BGP, with BIRD or FRR at the hub and at the sites, configured as in examples/.

mod frr;
#[path = "../harness/mod.rs"]
mod harness;
mod order;
mod refused;
mod restart;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use hub_tests::lab::{
    Bird, Frr, HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Options, Ping, Rig, SHANGHAI, Scratch, Site, VPC, World,
    reach, retry,
};
use serde_json::Value;

const HUB_CONF: &str = include_str!("../../../examples/bird-hub.conf");
const SITE_CONF: &str = include_str!("../../../examples/bird-site.conf");
/// For each session: BIRD waits 5 s by default.
const FAST: &str = "connect delay time 1; connect retry time 1; error wait time 1, 2;";
/// The networks that a site announces in the example.
const LEARNED: [&str; 2] = ["10.50.0.0/24", "fd00:50::/64"];
/// A host in each of them.
const HOSTS: [&str; 2] = ["10.50.0.1", "fd00:50::1"];

fn main() -> ExitCode {
    let with_bird: [(&str, fn()); 12] = [
        ("announced_networks_are_reached_both_ways_until_withdrawn", announced),
        ("traffic_fails_over_to_another_site_that_announces_the_network", fails_over),
        ("equal_announcements_share_the_flows", shares),
        ("routes_that_a_site_must_not_announce_are_refused_and_counted", refused::refused),
        ("routes_over_the_quota_are_refused_newest_first", refused::quota),
        ("ten_thousand_routes_of_a_site_are_refused_and_counted", refused::flood),
        ("learned_route_outside_selectors_forwards_nothing_and_goes_with_its_connection", refused::outside_selectors),
        ("published_routes_of_the_vpc_router_are_not_learned_back", refused::not_learned_back),
        ("configured_route_of_file_or_store_comes_before_a_learned_one_until_deleted", order::configured_first),
        ("default_route_is_learned_while_that_is_allowed", order::default_route),
        ("learned_routes_survive_a_killed_and_restarted_daemon", restart::daemon),
        ("learned_routes_survive_a_killed_and_restarted_agent", restart::agent),
    ];
    let with_frr: [(&str, fn()); 5] = [
        ("networks_announced_by_frr_are_reached_both_ways_until_withdrawn", frr::announced),
        ("traffic_fails_over_to_another_site_with_frr", frr::fails_over),
        ("routes_that_a_site_must_not_announce_by_frr_are_refused_and_counted", frr::refused),
        ("published_and_learned_networks_arrive_at_frr_router_of_the_vpc", frr::router_of_the_vpc),
        ("learned_routes_survive_a_killed_and_restarted_bgpd", frr::restarted),
    ];
    let [no_bird, no_frr] = [Bird::missing(), Frr::missing()];
    let cases = with_bird.into_iter().map(|(name, run)| (no_bird.clone(), name, run));
    harness::run(cases.chain(with_frr.into_iter().map(|(name, run)| (no_frr.clone(), name, run))))
}

/// The offices, with the agent and BIRD in the hub. Shanghai and Hangzhou have no configured routes.
struct Lab {
    rig: Rig,
    scratch: Scratch,
    hub: Option<Bird>,
}

impl Lab {
    fn start(learn: &'static str) -> Self {
        Self::start_with(&config(learn))
    }

    fn start_with(config: &HubConfig) -> Self {
        let world = World::three_offices(&Options::default()).unwrap();
        let rig = Rig::start_in(world, config, &[]).unwrap();
        let mut lab = Self { rig, scratch: Scratch::new().unwrap(), hub: None };
        let hub = Bird::start(lab.place(HUB), &lab.scratch.file("bird-hub"), &hub_conf()).unwrap();
        lab.hub = Some(hub);
        lab
    }

    /// BIRD at a site, as in the example, with these routes of each family.
    fn start_site(&self, site: &Site, announced: [&str; 2]) -> Bird {
        self.start_site_with(SITE_CONF, site, announced)
    }

    fn start_site_with(&self, conf: &str, site: &Site, announced: [&str; 2]) -> Bird {
        let number = 65000 + u32::from(site.number);
        let mut conf = conf
            .replace("65010;", &format!("{number}; {FAST}"))
            .replace("router id 10.10.10.1", &format!("router id {}", site.host4()))
            .replace("169.254.10.1", &site.hub4(0).to_string());
        for (own, announced) in LEARNED.iter().zip(announced) {
            conf = conf.replace(&format!("  route {own} blackhole;"), announced);
        }
        let place = self.place(&site.place);
        Bird::start(place, &self.scratch.file(&format!("bird-{}", site.place)), &conf).unwrap()
    }

    fn place(&self, name: &str) -> &Namespace {
        &self.rig.world[name]
    }

    /// The learned routes as `DESTINATION NEXT_HOP SHARE`, in percent.
    fn learned(&self) -> Vec<String> {
        let routes = self.rig.agent.json(&["route", "list", "--learned"]).unwrap();
        let text = |route: &Value| {
            assert_eq!(route["origin"], "learned", "{route}");
            let share = route["share"].as_f64().unwrap() * 100.0;
            format!("{} {} {share:.0}", route["destination"].as_str().unwrap(), route["next_hop"].as_str().unwrap())
        };
        routes.as_array().unwrap().iter().map(text).collect()
    }

    /// Waits until exactly these are learned.
    fn wait_for(&self, expected: &[String]) {
        retry(&format!("not learned: {expected:?}"), || Ok((self.learned() == expected).then_some(()))).unwrap_or_else(
            |error| {
                let hub = self.hub.as_ref().map(|hub| hub.ask("show protocols all").unwrap());
                let table = self.place(HUB).ip("route show table 1190");
                panic!(
                    "{error:#}\n{:?}\n{table:?}\n{}\n{}",
                    self.learned(),
                    hub.unwrap_or_default(),
                    self.rig.agent.log()
                )
            },
        );
    }

    fn stop(self) {
        self.rig.stop().unwrap();
    }
}

/// The example. Sites without a BIRD delay the end of a graceful restart.
fn hub_conf() -> String {
    let fast = HUB_CONF.replace("local as 65000;", &format!("local as 65000; {FAST}"));
    fast.replace("graceful restart wait 60;", "graceful restart wait 3;")
}

/// The routes to both networks of the example.
fn through(next_hop: &str) -> Vec<String> {
    LEARNED.map(|network| format!("{network} {next_hop} 100")).to_vec()
}

fn config(learn: &'static str) -> HubConfig {
    let mut config = HubConfig::offices(&[SHANGHAI, HANGZHOU, NINGBO]);
    (config.learn, config.services) = (Some(learn), Some("[\"icmp\", \"tcp/179\"]"));
    config.routes.retain(|route| route.next_hop == NINGBO.place);
    for site in [SHANGHAI, HANGZHOU] {
        // What it may send is a matter of its routes.
        config.connection(&site.place).remote_cidrs = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    }
    config
}

const LEARN: &str = "table = 1190\nprotocols = [\"bird\"]";

/// All addresses of the announced networks are the site's.
fn add_networks(place: &Namespace) {
    for network in LEARNED {
        place.ip(&format!("route add local {network} dev lo")).unwrap();
    }
}

fn hosts() -> [IpAddr; 2] {
    HOSTS.map(|host| host.parse().unwrap())
}

/// Pings from the network's host and to it.
fn reaches_both_ways(lab: &Lab, site: &Site) {
    for (host, vpc, ningbo) in
        [(hosts()[0], VPC.host4.into(), NINGBO.hosts()[0]), (hosts()[1], IpAddr::from(VPC.host6), NINGBO.hosts()[1])]
    {
        let before = lab.rig.agent.status().unwrap();
        reach(lab.place(VPC.place), host).unwrap();
        reach(lab.place(&NINGBO.place), host).unwrap();
        for to in [vpc, ningbo] {
            let report = Ping::new(to).source(host).run(lab.place(&site.place)).unwrap();
            assert!(report.complete(), "{host} to {to}");
        }
        let after = lab.rig.agent.status().unwrap();
        assert!(after.since(&before, &site.place, "rx_packets") >= 4, "received from {}", site.place);
        assert!(after.since(&before, &site.place, "tx_packets") >= 4, "sent to {}", site.place);
    }
}

fn answers(from: &Namespace, host: IpAddr) -> u16 {
    Ping::new(host).timeout(Duration::from_millis(100)).run(from).unwrap().received
}

fn announced() {
    let lab = Lab::start(LEARN);
    add_networks(lab.place(&SHANGHAI.place));
    let own = [LEARNED.map(|network| format!("route {network} blackhole;"))].concat();
    let bird = lab.start_site(&SHANGHAI, [&own[0], &own[1]]);
    lab.wait_for(&through("shanghai"));
    reaches_both_ways(&lab, &SHANGHAI);
    // A source that the connection has no route to is none of its own.
    let before = lab.rig.agent.status().unwrap();
    let report = Ping::new(VPC.host4.into())
        .source(SHANGHAI.host4().into())
        .timeout(Duration::from_millis(100))
        .run(lab.place(&SHANGHAI.place));
    assert_eq!(report.unwrap().received, 0);
    let dropped = lab.rig.agent.status().unwrap().since(&before, "shanghai", "drops/spoofed_source");
    assert!(dropped >= 1, "the reverse path of {}", SHANGHAI.host4());
    // The kernel has the same way, for what the program leaves to it.
    let route = lab.place(HUB).ip("route show table main 10.50.0.0/24").unwrap();
    assert!(route.contains("dev tun-sh proto 119"), "{route}");

    bird.ask("disable networks4").unwrap();
    lab.wait_for(&through("shanghai")[1..]);
    assert_eq!(answers(lab.place(VPC.place), hosts()[0]), 0, "withdrawn");
    assert_eq!(answers(lab.place(VPC.place), hosts()[1]), 1, "the other one is not");
    bird.ask("enable networks4").unwrap();
    lab.wait_for(&through("shanghai"));
    reach(lab.place(VPC.place), hosts()[0]).unwrap();
    // Gone with its connection.
    lab.place(HUB).ip("link set dev tun-sh down").unwrap();
    lab.wait_for(&[]);
    lab.stop();
}

fn fails_over() {
    let lab = Lab::start(LEARN);
    let own = LEARNED.map(|network| format!("route {network} blackhole;"));
    // The longer path is not used.
    let longer = LEARNED.map(|network| format!("route {network} blackhole {{ bgp_path.prepend(65020); }};"));
    for site in [SHANGHAI, HANGZHOU] {
        add_networks(lab.place(&site.place));
    }
    let first = lab.start_site(&SHANGHAI, [&own[0], &own[1]]);
    let _second = lab.start_site(&HANGZHOU, [&longer[0], &longer[1]]);
    lab.wait_for(&through("shanghai"));
    reaches_both_ways(&lab, &SHANGHAI);
    // The end of a daemon without a graceful restart withdraws its routes.
    first.ask("down").unwrap();
    lab.wait_for(&through("hangzhou"));
    reaches_both_ways(&lab, &HANGZHOU);
    drop(first);
    let _first = lab.start_site(&SHANGHAI, [&own[0], &own[1]]);
    lab.wait_for(&through("shanghai"));
    reaches_both_ways(&lab, &SHANGHAI);
    lab.stop();
}

fn shares() {
    let lab = Lab::start(LEARN);
    let own = LEARNED.map(|network| format!("route {network} blackhole;"));
    let both = [SHANGHAI, HANGZHOU].map(|site| {
        add_networks(lab.place(&site.place));
        lab.start_site(&site, [&own[0], &own[1]])
    });
    let halves = |network: &str| ["hangzhou", "shanghai"].map(|name| format!("{network} {name} 50"));
    lab.wait_for(&LEARNED.map(halves).concat());
    let before = lab.rig.agent.status().unwrap();
    for last in 1..=40 {
        reach(lab.place(VPC.place), format!("10.50.0.{last}").parse().unwrap()).unwrap();
    }
    let after = lab.rig.agent.status().unwrap();
    for name in ["shanghai", "hangzhou"] {
        assert!(after.since(&before, name, "tx_packets") >= 5, "{name} carries some of 40 flows");
    }
    // An interface without a carrier takes its flows to the other.
    lab.place("shanghai").ip("link set dev wan0 down").unwrap();
    for last in 1..=40 {
        reach(lab.place(VPC.place), format!("10.50.0.{last}").parse().unwrap()).unwrap();
    }
    drop(both);
    lab.stop();
}

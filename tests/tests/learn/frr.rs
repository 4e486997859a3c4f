//! The same with FRR, which writes to the main table.

use hub_tests::lab::{Frr, HANGZHOU, HUB, NINGBO, Options, Ping, Rig, SHANGHAI, Scratch, VPC, World, reach, retry};

use serde_json::json;

use crate::{
    LEARNED, Lab, SITE_CONF as BIRD_SITE_CONF, add_networks, answers, config, hosts, reaches_both_ways,
    refused::wait_for_refused, through,
};

const HUB_CONF: &str = include_str!("../../../examples/frr-hub.conf");
const SITE_CONF: &str = include_str!("../../../examples/frr-site.conf");
const LEARN: &str = "table = 254\nprotocols = [\"bgp\"]";

/// The offices with the agent, and FRR in the hub and at Shanghai, as in the examples.
struct WithFrr {
    hub: Frr,
    site: Frr,
    lab: Lab,
}

/// FRR connects again after 120 s by default. Sites without an FRR delay the end of a graceful restart.
fn fast(configuration: &str) -> String {
    let sessions = configuration.lines().filter(|line| line.contains(" remote-as "));
    let sessions = sessions.map(|line| {
        let neighbour = line.split_whitespace().nth(1).unwrap();
        (format!("{line}\n"), format!("{line}\n neighbor {neighbour} timers connect 1\n"))
    });
    sessions.fold(configuration.replace("select-defer-time 60", "select-defer-time 10"), |text, (line, lines)| {
        text.replace(&line, &lines)
    })
}

fn start_hub() -> (Frr, Lab) {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &config(LEARN), &[]).unwrap();
    let lab = Lab { rig, scratch: Scratch::new().unwrap(), hub: None };
    let hub = Frr::start(lab.place(HUB), &lab.scratch.file("frr-hub"), &fast(HUB_CONF)).unwrap();
    (hub, lab)
}

fn start() -> WithFrr {
    let (hub, lab) = start_hub();
    add_networks(lab.place(&SHANGHAI.place));
    let site = Frr::start(lab.place(&SHANGHAI.place), &lab.scratch.file("frr-shanghai"), &fast(SITE_CONF)).unwrap();
    lab.wait_for(&through("shanghai"));
    WithFrr { hub, site, lab }
}

/// The prefixes that a site has from the hub.
fn received(site: &Frr, family: &str) -> String {
    site.ask(&format!("show bgp {family} unicast")).unwrap()
}

pub fn announced() {
    let WithFrr { hub, site, lab } = start();
    reaches_both_ways(&lab, &SHANGHAI);
    // What the agent publishes, and none of its other routes.
    for (family, network) in [("ipv4", NINGBO.network4().to_string()), ("ipv6", NINGBO.network6().to_string())] {
        retry(&format!("{network} is not announced to the site"), || {
            Ok(received(&site, family).contains(&network).then_some(()))
        })
        .unwrap();
    }
    let all = received(&site, "ipv4");
    let networks: Vec<&str> =
        all.lines().filter_map(|line| line.strip_prefix("*> ")?.split_whitespace().next()).collect();
    assert_eq!(networks, [&NINGBO.network4().to_string(), "10.50.0.0/24"], "{all}");

    let family = "configure terminal\nrouter bgp 65010\naddress-family ipv4 unicast\n";
    site.ask(&format!("{family}no network 10.50.0.0/24")).unwrap();
    lab.wait_for(&through("shanghai")[1..]);
    assert_eq!(answers(lab.place(VPC.place), hosts()[0]), 0, "withdrawn");
    assert_eq!(answers(lab.place(VPC.place), hosts()[1]), 1, "the other one is not");
    site.ask(&format!("{family}network 10.50.0.0/24")).unwrap();
    lab.wait_for(&through("shanghai"));
    reach(lab.place(VPC.place), hosts()[0]).unwrap();
    drop(hub);
    lab.wait_for(&[]);
    lab.stop();
}

pub fn fails_over() {
    let WithFrr { hub, site, lab } = start();
    add_networks(lab.place(&HANGZHOU.place));
    let conf = SITE_CONF.replace("65010", "65020");
    let conf = conf.replace("10.10.10.1", "10.10.20.1").replace("169.254.10.1", "169.254.20.1");
    let other = Frr::start(lab.place(&HANGZHOU.place), &lab.scratch.file("frr-hangzhou"), &fast(&conf)).unwrap();
    // Of two equal next hops FRR uses one: in the lab the sites' link-local addresses are the same.
    let halves = ["hangzhou", "shanghai"].map(|name| format!("{} {name} 50", LEARNED[0]));
    let shared = || retry("not shared", || Ok(lab.learned().starts_with(&halves).then_some(()))).unwrap();
    shared();
    let session = |no: &str| {
        site.ask(&format!("configure terminal\nrouter bgp 65010\n{no}neighbor 169.254.10.1 shutdown")).unwrap();
    };
    // Not the daemon's end: that would begin a graceful restart.
    session("");
    lab.wait_for(&through("hangzhou"));
    reaches_both_ways(&lab, &HANGZHOU);
    session("no ");
    shared();
    // The kernel takes the routes of the interface.
    lab.place(HUB).ip("link set dev tun-hz down").unwrap();
    lab.wait_for(&through("shanghai"));
    reaches_both_ways(&lab, &SHANGHAI);
    drop((hub, other));
    lab.stop();
}

/// What zebra installs: the kernel's own routes to the same prefixes come first.
pub fn refused() {
    let WithFrr { hub, site, lab } = start();
    let networks = |networks: &[&str]| format!("network {}\n", networks.join("\nnetwork "));
    let v4 = networks(&[
        "0.0.0.0/0",
        "10.10.30.128/25",
        "192.168.0.1/32",
        "192.168.0.128/25",
        "192.168.0.0/16",
        "198.51.100.0/24",
    ]);
    let v6 = networks(&["::/0", "fd00:10:10:30:8000::/65", "fd00:192:168::/48"]);
    for (family, networks) in [("ipv4", v4), ("ipv6", v6)] {
        let announce = format!("configure terminal\nrouter bgp 65010\naddress-family {family} unicast\n{networks}");
        site.ask(announce.trim_end()).unwrap();
    }
    wait_for_refused(&lab, "shanghai", &json!({ "default_route": 2, "other_site": 2, "hub_prefix": 5 }));
    lab.wait_for(&through("shanghai"));
    for to in NINGBO.hosts() {
        reach(lab.place(VPC.place), to).unwrap();
    }
    drop((hub, site));
    lab.stop();
}

/// It gets the agent's published routes and the sites' own.
pub fn router_of_the_vpc() {
    let WithFrr { hub, site, lab } = start();
    let conf = format!(
        "router bgp 65001\n bgp router-id {own}\n no bgp ebgp-requires-policy\n no bgp network import-check\n neighbor {hub} \
         remote-as 65000\n neighbor {hub} timers connect 1\n address-family ipv4 unicast\n  network 172.31.0.0/16\n \
         exit-address-family\n!\n",
        own = VPC.host4,
        hub = VPC.hub4
    );
    let router = Frr::start(lab.place(VPC.place), &lab.scratch.file("frr-vpc"), &conf).unwrap();
    for network in [&NINGBO.network4().to_string(), LEARNED[0]] {
        retry(&format!("{network} does not arrive at the VPC's router"), || {
            Ok(received(&router, "ipv4").contains(network).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", hub.ask("show bgp summary").unwrap()));
    }
    retry("the VPC's network does not arrive at the hub", || {
        Ok(lab.place(HUB).ip("route show proto bgp")?.contains("172.31.0.0/16").then_some(()))
    })
    .unwrap();
    // By the VPC's interface: not learned.
    assert_eq!(lab.learned(), through("shanghai"));
    drop((hub, site, router));
    lab.stop();
}

pub fn restarted() {
    let (mut hub, lab) = start_hub();
    add_networks(lab.place(&SHANGHAI.place));
    // BIRD: an FRR says for its first 120 s that it has restarted, and another one then removes its old routes at once.
    let own = LEARNED.map(|network| format!("route {network} blackhole;"));
    let family = "ipv4 { import all; export where source = RTS_STATIC; };";
    let both =
        format!("{family} {} next hop address fe80::2; }};", family.replace("ipv4", "ipv6").trim_end_matches(" };"));
    let conf = BIRD_SITE_CONF.replacen(family, &both, 1);
    let site = lab.start_site_with(&conf, &SHANGHAI, [&own[0], &own[1]]);
    lab.wait_for(&through("shanghai"));
    let all_answer = || {
        for host in hosts() {
            let report = Ping::new(host).count(5).run(lab.place(VPC.place)).unwrap();
            assert!(report.complete(), "{host}: {report:?}");
        }
    };
    for host in hosts() {
        reach(lab.place(VPC.place), host).unwrap();
    }
    hub.kill_bgpd().unwrap();
    assert_eq!(lab.learned(), through("shanghai"));
    all_answer();
    hub.start_bgpd().unwrap();
    retry("the session does not come again", || {
        Ok(hub.ask("show bgp neighbors 169.254.10.2")?.contains("BGP state = Established").then_some(()))
    })
    .unwrap();
    assert_eq!(lab.learned(), through("shanghai"));
    all_answer();
    retry("the network does not come again", || {
        Ok(hub.ask("show bgp ipv4 unicast")?.contains("*> 10.50.0.0/24").then_some(()))
    })
    .unwrap();
    // Its routes are its own again: it withdraws them.
    site.ask("disable networks4").unwrap();
    lab.wait_for(&through("shanghai")[1..]);
    lab.stop();
}

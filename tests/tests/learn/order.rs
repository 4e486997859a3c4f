//! Configured routes come before learned ones, and a default route is learned where that is allowed.

use std::fs;
use std::net::IpAddr;

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, NINGBO, Ping, RouteConfig, SHANGHAI, Site, VPC, reach};
use serde_json::json;

use crate::refused::wait_for_refused;
use crate::{HOSTS, LEARN, LEARNED, Lab, add_networks, answers, config, hosts, through};

fn reload(lab: &Lab, config: &HubConfig) {
    fs::write(lab.rig.agent.config(), config.to_string()).unwrap();
    command(lab, "reload");
}

fn command(lab: &Lab, words: &str) {
    let said = lab.rig.agent.cli(&words.split(' ').collect::<Vec<_>>()).unwrap();
    assert!(said.status.success(), "{words}: {}", String::from_utf8_lossy(&said.stderr));
}

/// The VPC's packet to this host goes by the site, not by the other one, and is answered.
fn goes_by(lab: &Lab, host: IpAddr, site: &Site, other: &Site) {
    reach(lab.place(VPC.place), host).unwrap();
    let before = lab.rig.agent.status().unwrap();
    let report = Ping::new(host).run(lab.place(VPC.place)).unwrap();
    assert!(report.complete(), "{host}: {report:?}");
    let after = lab.rig.agent.status().unwrap();
    let sent = [site, other].map(|site| after.since(&before, &site.place, "tx_packets"));
    assert!(sent[0] >= 1 && sent[1] == 0, "{host} by {}: {sent:?}", site.place);
}

/// Where the route of the status to this destination comes from: `file`, `store` or `learned`.
fn origin(lab: &Lab, destination: &str) -> String {
    let status = lab.rig.agent.status().unwrap();
    let mut routes = status["routes"].as_array().unwrap().iter();
    let route = routes.find(|route| route["destination"] == destination).unwrap_or_else(|| panic!("{:#}", *status));
    route["origin"].as_str().unwrap_or_else(|| panic!("{route}")).to_owned()
}

pub fn configured_first() {
    let [network, _] = LEARNED;
    let route = RouteConfig {
        destination: network.to_owned(),
        next_hop: HANGZHOU.place.to_string(),
        weight: 100,
        publish: false,
    };
    let without = config(LEARN);
    let mut with = without.clone();
    with.routes.push(route);
    let lab = Lab::start_with(&with);
    for site in [SHANGHAI, HANGZHOU] {
        add_networks(lab.place(&site.place));
    }
    let own = LEARNED.map(|network| format!("route {network} blackhole;"));
    let _bird = lab.start_site(&SHANGHAI, [&own[0], &own[1]]);
    let [v4, v6] = hosts();
    let learned = through("shanghai");
    let is_static = |origin: &str| {
        lab.wait_for(&learned[1..]);
        assert_eq!(self::origin(&lab, network), origin);
        wait_for_refused(&lab, "shanghai", &json!({ "other_site": 1 }));
        goes_by(&lab, v4, &HANGZHOU, &SHANGHAI);
        goes_by(&lab, v6, &SHANGHAI, &HANGZHOU);
    };
    let is_learned = || {
        lab.wait_for(&learned);
        assert_eq!(origin(&lab, network), "learned");
        wait_for_refused(&lab, "shanghai", &json!({}));
        goes_by(&lab, v4, &SHANGHAI, &HANGZHOU);
    };

    is_static("file");
    reload(&lab, &without);
    is_learned();
    reload(&lab, &with);
    is_static("file");
    reload(&lab, &without);
    is_learned();
    // The same of the store.
    command(&lab, &format!("route add {network} --next-hop hangzhou"));
    is_static("store");
    command(&lab, &format!("route delete {network} --next-hop hangzhou"));
    is_learned();
    // One that contains it.
    let around = "10.50.0.0/16";
    command(&lab, &format!("route add {around} --next-hop hangzhou"));
    lab.wait_for(&learned[1..]);
    goes_by(&lab, v4, &HANGZHOU, &SHANGHAI);
    command(&lab, &format!("route delete {around} --next-hop hangzhou"));
    is_learned();
    // Of the same site: it is not refused, and carries nothing.
    command(&lab, &format!("route add {network} --next-hop shanghai"));
    lab.wait_for(&learned[1..]);
    assert_eq!(origin(&lab, network), "store");
    wait_for_refused(&lab, "shanghai", &json!({}));
    goes_by(&lab, v4, &SHANGHAI, &HANGZHOU);
    command(&lab, &format!("route delete {network} --next-hop shanghai"));
    is_learned();
    lab.stop();
}

/// Behind Shanghai is everything else.
pub fn default_route() {
    let refused = config(LEARN);
    let allowed = HubConfig { allow_default_route: true, ..refused.clone() };
    let lab = Lab::start_with(&allowed);
    let elsewhere = ["198.18.0.1", "2001:db8:5::1"];
    let shanghai = lab.place(&SHANGHAI.place);
    for address in elsewhere.iter().chain(&HOSTS) {
        shanghai.ip(&format!("route add local {address} dev lo")).unwrap();
    }
    let elsewhere: [IpAddr; 2] = elsewhere.map(|address| address.parse().unwrap());
    let bird = lab.start_site(&SHANGHAI, ["route 0.0.0.0/0 blackhole;", "route ::/0 blackhole;"]);
    let defaults = ["0.0.0.0/0", "::/0"].map(|destination| format!("{destination} shanghai 100"));
    let is_in_force = || {
        lab.wait_for(&defaults);
        wait_for_refused(&lab, "shanghai", &json!({}));
        for address in elsewhere {
            goes_by(&lab, address, &SHANGHAI, &NINGBO);
            reach(lab.place(&NINGBO.place), address).unwrap();
        }
        // Longer prefixes win.
        for address in NINGBO.hosts() {
            goes_by(&lab, address, &NINGBO, &SHANGHAI);
        }
    };
    let is_not = || {
        lab.wait_for(&[]);
        for address in elsewhere {
            assert_eq!(answers(lab.place(VPC.place), address), 0, "{address}");
        }
        let own = lab.place(HUB).ip("route show default").unwrap();
        assert!(!own.contains("proto 119"), "{own}");
    };

    is_in_force();
    // Not allowed any more.
    reload(&lab, &refused);
    wait_for_refused(&lab, "shanghai", &json!({ "default_route": 2 }));
    is_not();
    reload(&lab, &allowed);
    is_in_force();
    // Withdrawn.
    for network in ["networks4", "networks6"] {
        bird.ask(&format!("disable {network}")).unwrap();
    }
    is_not();
    lab.stop();
}

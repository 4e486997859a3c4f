//! The kernel's routes: in which tables, and in a form that routing daemons can import.

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Rig, SHANGHAI, Site};
use serde_json::Value;

use crate::{SITES, warm_hub};

fn routes(hub: &Namespace, selection: &str) -> Vec<Value> {
    let both = ["-4", "-6"].map(|family| hub.ip(&format!("-j {family} route show {selection}")).unwrap());
    let lists = both.iter().map(|text| serde_json::from_str::<Vec<Value>>(text).unwrap_or_default());
    lists.flatten().collect()
}

fn destinations(routes: &[Value]) -> Vec<&str> {
    let mut found: Vec<&str> = routes.iter().filter_map(|route| route["dst"].as_str()).collect();
    found.sort_unstable();
    found
}

fn networks<'a>(sites: impl IntoIterator<Item = &'a Site>) -> Vec<String> {
    let mut networks: Vec<String> =
        sites.into_iter().flat_map(|site| [site.network4().to_string(), site.network6().to_string()]).collect();
    networks.sort_unstable();
    networks
}

/// Shanghai's and Ningbo's routes are published, Hangzhou's are not.
fn partly_published() -> Rig {
    let mut config = HubConfig::offices(&SITES);
    for route in config.routes.iter_mut().filter(|route| route.next_hop == "hangzhou") {
        route.publish = false;
    }
    warm_hub(&config)
}

#[test]
fn published_routes_in_main_table_have_own_protocol() {
    let rig = partly_published();
    let hub = &rig.world[HUB];
    assert_eq!(destinations(&routes(hub, "table main proto 118")), networks([&SHANGHAI, &NINGBO]));
    let internal = routes(hub, "type unicast table main proto 119");
    assert_eq!(destinations(&internal), networks([&HANGZHOU]), "for the kernel alone");
    // Behind each is an unreachable route, for when it is gone.
    let backstops = routes(hub, "type unreachable table main proto 119");
    assert_eq!(destinations(&backstops), networks(&SITES));
    for family in ["-4", "-6"] {
        let rules: Vec<Value> = serde_json::from_str(&hub.ip(&format!("-j {family} rule show")).unwrap()).unwrap();
        let own = rules.iter().filter(|rule| !["local", "main", "default"].iter().any(|table| rule["table"] == *table));
        assert_eq!(own.count(), 0, "a rule costs every packet that the kernel looks a route up for: {rules:?}");
    }
    rig.stop().unwrap();
}

#[test]
fn published_routes_have_gateway_and_device() {
    let rig = partly_published();
    let main = routes(&rig.world[HUB], "table main");
    let ours: Vec<&Value> = main.iter().filter(|route| route["protocol"] == "118").collect();
    assert_eq!(ours.len(), 4);
    for route in ours {
        let network = route["dst"].as_str().unwrap();
        let site = SITES.iter().find(|site| networks([*site]).iter().any(|own| own == network)).unwrap();
        assert_eq!(route["dev"], *site.hub_device(0), "{route}");
        if network.contains('.') {
            assert_eq!(route["gateway"], site.peer4(0).to_string(), "{route}");
        } else {
            // An IPv6 route cannot have an IPv4 gateway: a link-local address represents the peer.
            assert!(route["gateway"].as_str().unwrap().starts_with("fe80:"), "{route}");
        }
        assert!(!route["flags"].as_array().unwrap().iter().any(|flag| flag == "linkdown" || flag == "dead"), "{route}");
    }
    rig.stop().unwrap();
}

#[test]
fn kernel_routes_match_program_next_hops() {
    let rig = partly_published();
    // Packets from a site, and from the VPC, take the program's next hop, published or not.
    for site in &SITES {
        for (input, source) in [("tun-sh", SHANGHAI.host4().to_string()), ("vpc0", "192.168.0.10".to_owned())] {
            if input == site.hub_device(0) {
                continue;
            }
            let found = rig.world[HUB].ip(&format!("route get {} from {source} iif {input}", site.host4())).unwrap();
            let way = format!("via {} dev {}", site.peer4(0), site.hub_device(0));
            assert!(found.contains(&way), "{found} does not go {way}");
        }
    }
    rig.stop().unwrap();
}

/// Edits the configuration file and reloads it.
fn reload(rig: &Rig, from: &str, to: &str) {
    let file = rig.agent.config();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
    let answer = rig.agent.json(&["reload"]).unwrap();
    assert_eq!((&answer["changed"], &answer["warnings"]), (&true.into(), &Value::Array(Vec::new())), "{answer}");
}

#[test]
fn publish_table_change_moves_published_routes() {
    let rig = partly_published();
    let hub = &rig.world[HUB];
    let published = networks([&SHANGHAI, &NINGBO]);
    reload(&rig, "[vpc]\n", "[vpc]\npublish_table = 100\n");
    assert_eq!(destinations(&routes(hub, "table 100 proto 118")), published);
    assert_eq!(destinations(&routes(hub, "table main proto 118")), Vec::<&str>::new());
    reload(&rig, "publish_table = 100\n", "");
    assert_eq!(destinations(&routes(hub, "table main proto 118")), published);
    assert_eq!(destinations(&routes(hub, "table 100 proto 118")), Vec::<&str>::new());
    rig.stop().unwrap();
}

#[test]
fn vpc_prefix_change_keeps_route_to_vpc() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let hub = &rig.world[HUB];
    let ways = || -> Vec<String> {
        let found = ["192.168.0.10", "fd00:192:168::10"].map(|to| hub.ip(&format!("route get {to}")).unwrap());
        found
            .iter()
            .map(|way| way.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned())
            .collect()
    };
    assert_eq!(ways(), ["vpc0", "vpc0"]);
    reload(&rig, "\"192.168.0.0/24\"", "\"192.168.0.0/16\"");
    assert_eq!(ways(), ["vpc0", "vpc0"]);
    reload(&rig, "\"192.168.0.0/16\"", "\"192.168.0.0/24\"");
    assert_eq!(ways(), ["vpc0", "vpc0"]);
    rig.stop().unwrap();
}

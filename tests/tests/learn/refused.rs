//! What a site must not announce, more than it may announce, and what comes back from the VPC's router.

use std::time::Duration;

use hub_tests::lab::{Bird, HUB, NINGBO, Ping, SHANGHAI, VPC, VPC_SIDE, reach, retry};
use serde_json::{Value, json};

use crate::{LEARN, Lab, add_networks, answers, through};

/// Waits until the connection's numbers of refused routes are these, by reason.
pub fn wait_for_refused(lab: &Lab, connection: &str, expected: &Value) {
    let learned = || lab.rig.agent.status().unwrap().connection(connection)["learned"].clone();
    let complaint = format!("{connection} has not {expected} refused");
    retry(&complaint, || Ok((learned()["refused"] == *expected).then_some(()))).unwrap_or_else(|error| {
        panic!("{error:#}: {}\n{}", learned(), lab.place(HUB).ip("route show table 1190").unwrap())
    });
}

fn warnings(lab: &Lab, connection: &str) -> Vec<String> {
    let status = lab.rig.agent.status().unwrap();
    let all = status.connection(connection)["warnings"].as_array().unwrap();
    all.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

pub fn refused() {
    let lab = Lab::start(LEARN);
    add_networks(lab.place(&SHANGHAI.place));
    for to in NINGBO.hosts() {
        reach(lab.place(VPC.place), to).unwrap();
    }
    // Its own network; a default route; another site's network and a part of it; the hub's address and link; the VPC
    // and a part of it; a customer gateway.
    let announced = |networks: &[&str]| -> String {
        networks.iter().map(|network| format!("route {network} blackhole;\n")).collect::<Vec<_>>().concat()
    };
    let v4 = announced(&[
        "10.50.0.0/24",
        "0.0.0.0/0",
        "10.10.30.0/24",
        "10.10.30.128/25",
        "192.168.0.1/32",
        "192.168.0.0/24",
        "192.168.0.128/25",
        "192.168.0.0/16",
        "198.51.100.0/24",
    ]);
    let v6 = announced(&["fd00:50::/64", "::/0", "fd00:10:10:30::/64", "fd00:192:168::/48"]);
    let _bird = lab.start_site(&SHANGHAI, [&v4, &v6]);
    wait_for_refused(&lab, "shanghai", &json!({ "default_route": 2, "other_site": 3, "hub_prefix": 6 }));
    lab.wait_for(&through("shanghai"));
    let learned = lab.rig.agent.status().unwrap().connection("shanghai")["learned"].clone();
    assert_eq!((learned["routes"].as_u64(), learned["limit"].as_u64()), (Some(2), Some(50)));
    let warnings = warnings(&lab, "shanghai");
    for text in ["default route", "connection ningbo of another site", "of the hub, its links, the VPC"] {
        assert_eq!(warnings.iter().filter(|warning| warning.contains(text)).count(), 1, "{text}: {warnings:?}");
    }
    // Said once in the log, by kind.
    let log = lab.rig.agent.log();
    assert_eq!(log.lines().filter(|line| line.contains("is refused")).count(), 3, "{log}");
    let metrics = lab.rig.agent.json(&["status"]).unwrap();
    assert!(metrics["routes"].as_array().unwrap().iter().any(|route| route["origin"] == "learned"), "{metrics}");
    // The traffic of the others goes where it went.
    let before = lab.rig.agent.status().unwrap();
    for to in NINGBO.hosts() {
        reach(lab.place(VPC.place), to).unwrap();
    }
    let after = lab.rig.agent.status().unwrap();
    assert!(after.since(&before, "ningbo", "tx_packets") >= 2);
    assert_eq!(after.since(&before, "shanghai", "tx_packets"), 0);
    lab.stop();
}

pub fn quota() {
    const MORE: &str = "table = 1190\nprotocols = [\"bird\"]\nmax_per_connection = 3";
    let lab = Lab::start(MORE);
    let network = |third: u8| format!("10.50.{third}.0/24");
    let bird = lab.start_site(&SHANGHAI, [&format!("route {} blackhole;", network(7)), ""]);
    let routes = |thirds: &[u8]| -> Vec<String> {
        thirds.iter().map(|third| format!("{} shanghai 100", network(*third))).collect()
    };
    lab.wait_for(&routes(&[7]));
    // Ten more, of lower prefixes: the older one has its place.
    let all = (0..=7).chain(20..23).map(|third| format!("route {} blackhole;\n", network(third)));
    let all = all.collect::<Vec<_>>().concat();
    let folder = lab.scratch.file("bird-shanghai");
    let conf = std::fs::read_to_string(folder.join("bird.conf")).unwrap();
    let conf = conf.replace(&format!("route {} blackhole;", network(7)), &all);
    std::fs::write(folder.join("bird.conf"), conf).unwrap();
    bird.ask("configure").unwrap();
    wait_for_refused(&lab, "shanghai", &json!({ "quota": 8 }));
    let in_force = lab.learned();
    assert_eq!(in_force.len(), 3, "{in_force:?}");
    assert!(in_force.contains(&routes(&[7])[0]), "the first one: {in_force:?}");
    let warnings = warnings(&lab, "shanghai");
    assert!(warnings.iter().any(|warning| warning.contains("learn.max_per_connection = 3")), "{warnings:?}");
    lab.stop();
}

/// As many as BIRD's import limit in the example lets in.
pub fn flood() {
    let lab = Lab::start(LEARN);
    add_networks(lab.place(&SHANGHAI.place));
    let flood = (0..10_000).map(|number| format!("route 10.{}.{}.0/24 blackhole;\n", 100 + number / 250, number % 250));
    let bird = lab.start_site(&SHANGHAI, [&flood.collect::<String>(), "route fd00:50::/64 blackhole;"]);
    // The families arrive one after the other, so the IPv6 route may be one of the refused.
    let learned = || lab.rig.agent.status().unwrap().connection("shanghai")["learned"].clone();
    let all = || learned()["refused"]["quota"] == 9951;
    retry("10,000 routes are not counted", || Ok(all().then_some(()))).unwrap_or_else(|error| {
        panic!("{error:#}: {}", learned());
    });
    assert_eq!(lab.learned().len(), 50);
    let warnings = warnings(&lab, "shanghai");
    let of_quota = warnings.iter().filter(|warning| warning.contains("others are refused: more than"));
    assert_eq!(of_quota.count(), 1, "{warnings:?}");
    let log = lab.rig.agent.log();
    assert_eq!(log.lines().filter(|line| line.contains("is refused")).count(), 1, "{log}");
    for to in NINGBO.hosts() {
        reach(lab.place(VPC.place), to).unwrap();
    }
    drop(bird);
    lab.wait_for(&[]);
    assert_eq!(learned()["refused"], json!({}));
    lab.stop();
}

/// The connection's selectors admit the first network alone, and then the connection is deleted.
pub fn outside_selectors() {
    let mut config = crate::config(LEARN);
    config.connection(&SHANGHAI.place).remote_cidrs =
        vec!["10.50.0.0/25".to_owned(), SHANGHAI.network4().to_string(), SHANGHAI.network6().to_string()];
    let lab = Lab::start_with(&config);
    add_networks(lab.place(&SHANGHAI.place));
    let _bird = lab.start_site(&SHANGHAI, ["route 10.50.0.0/24 blackhole;", ""]);
    lab.wait_for(&through("shanghai")[..1]);
    reach(lab.place(VPC.place), "10.50.0.1".parse().unwrap()).unwrap();
    let before = lab.rig.agent.status().unwrap();
    let outside = "10.50.0.200".parse().unwrap();
    assert_eq!(answers(lab.place(VPC.place), outside), 0);
    let ping = Ping::new(VPC.host4.into()).source(outside).timeout(Duration::from_millis(100));
    assert_eq!(ping.run(lab.place(&SHANGHAI.place)).unwrap().received, 0);
    let after = lab.rig.agent.status().unwrap();
    let sum = |path: &str| after.since(&before, VPC_SIDE, path);
    assert_eq!(sum("drops/selector_mismatch"), 1, "{:#}", *after);
    assert_eq!(after.since(&before, "shanghai", "drops/spoofed_source"), 1, "{:#}", *after);

    config.connections.retain(|connection| connection.name != SHANGHAI.place);
    std::fs::write(lab.rig.agent.config(), config.to_string()).unwrap();
    let said = lab.rig.agent.cli(&["reload"]).unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(lab.learned(), [""; 0], "gone with the connection");
    let table = lab.place(HUB).ip("route show table 1190").unwrap();
    assert!(table.contains("10.50.0.0/24"), "the daemon's route is left alone: {table}");
    let own = lab.place(HUB).ip("route show proto 119").unwrap();
    assert!(!own.contains("10.50.0.0/24"), "{own}");
    lab.stop();
}

/// The VPC's router gets the published routes, and announces them and a network of its own.
pub fn not_learned_back() {
    let lab = Lab::start("table = 1190\nprotocols = [\"bird\"]");
    let router = format!(
        "router id {vpc};\nprotocol device {{}}\n\
         protocol static {{ ipv4; route 172.31.0.0/16 blackhole; }}\n\
         protocol bgp {{ local as 65001; {fast} neighbor {hub} as 65000; allow local as 5;\n\
         ipv4 {{ import all; export all; }}; }}\n",
        vpc = VPC.host4,
        hub = VPC.hub4,
        fast = crate::FAST
    );
    let router = Bird::start(lab.place(VPC.place), &lab.scratch.file("bird-vpc"), &router).unwrap();
    let hub = lab.hub.as_ref().unwrap();
    retry("the published route does not arrive at the VPC's router", || {
        Ok(router.ask("show route")?.contains("10.10.30.0/24").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", hub.ask("show protocols all").unwrap()));
    retry("the VPC's network does not arrive in the followed table", || {
        Ok(lab.place(HUB).ip("route show table 1190")?.contains("172.31.0.0/16").then_some(()))
    })
    .unwrap();
    // A site's network comes after it: by then the agent has seen both.
    let _site = lab.start_site(&SHANGHAI, ["route 10.50.0.0/24 blackhole;", "route fd00:50::/64 blackhole;"]);
    lab.wait_for(&through("shanghai"));
    retry("the learned network does not arrive at the VPC's router", || {
        Ok(router.ask("show route")?.contains("10.50.0.0/24").then_some(()))
    })
    .unwrap();
    lab.stop();
}

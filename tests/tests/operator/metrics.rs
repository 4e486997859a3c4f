//! Metrics of a running agent, over TCP and over the control socket.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use hub_tests::{
    exposition::{Exposition, TextFormat},
    lab::{
        Agent, AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Options, Rig, SHANGHAI, Site, VPC,
        VPC_SIDE, World, agent_binary, retry,
    },
    packet::{Packet, View, number},
};
use serde_json::Value;

use crate::SITES;

const WAIT: Duration = Duration::from_secs(20);
const PORT: u16 = 9118;
const OTHER_PORT: u16 = 9119;
const COUNTERS: [(&str, &str); 4] = [
    ("vpnhub_receive_packets_total", "rx_packets"),
    ("vpnhub_receive_bytes_total", "rx_bytes"),
    ("vpnhub_transmit_packets_total", "tx_packets"),
    ("vpnhub_transmit_bytes_total", "tx_bytes"),
];

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn section(port: u16) -> String {
    format!("\n[metrics]\nlisten = \"{}\"\n", address(port))
}

/// Three sites, Shanghai with two links, Hangzhou and Ningbo with health checks.
fn config() -> HubConfig {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [25, 75]);
    for name in ["hangzhou", "ningbo"] {
        config.connection(name).health_check = true;
    }
    config
}

fn start() -> Rig {
    let world = World::three_offices(&Options::default().second_link("shanghai")).unwrap();
    world[HUB].set_link("lo", true).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_with(&world[HUB], &(config().to_string() + &section(PORT)));
    Rig { agent: agent.unwrap(), world }
}

/// An answer: its status code, head in lower case, and body.
struct Answer {
    code: u16,
    head: String,
    body: String,
}

fn answer(mut stream: impl Read) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { code, head: head.to_lowercase(), body: body.to_owned() }
}

/// A connection in the hub's namespace; `None` if nothing listens there.
fn connect(world: &World, port: u16) -> Option<TcpStream> {
    let stream = world[HUB].enter(|| TcpStream::connect(address(port))).unwrap().ok()?;
    stream.set_read_timeout(Some(WAIT)).unwrap();
    Some(stream)
}

fn ask(world: &World, port: u16, request: &str) -> Answer {
    let mut stream = connect(world, port).expect("nothing listens");
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

fn get(path: &str, accept: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: {accept}\r\n\r\n")
}

fn scrape(world: &World, port: u16) -> Exposition {
    let Answer { code, head, body } = ask(world, port, &get("/metrics", "*/*"));
    assert_eq!(code, 200, "{body}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    Exposition::parse(&body, TextFormat::Prometheus).unwrap()
}

/// A counter, which is a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a test")]
fn count(text: &Exposition, name: &str, labels: &[(&str, &str)]) -> u64 {
    text.value(name, labels) as u64
}

/// A wire of a site: sends frames to the hub, and receives from it.
struct Wire {
    socket: FrameSocket,
    macs: [[u8; 6]; 2],
}

impl Wire {
    fn open(world: &World, site: &Site) -> Self {
        let (place, device) = (&world[&site.place], Site::device(0));
        let macs = [place.mac(&device).unwrap().0, world[HUB].mac(&site.hub_device(0)).unwrap().0];
        Self { socket: FrameSocket::open(place, &device).unwrap(), macs }
    }

    /// A TCP reset, which no kernel answers.
    fn send(&self, source: std::net::Ipv4Addr, destination: std::net::Ipv4Addr, port: u16) {
        let packet = Packet::ipv4(source, destination).payload(32).tcp(port, port).flags(number::RST);
        self.socket.send(&packet.ethernet(self.macs[0], self.macs[1]).build()).unwrap();
    }

    fn wait_for(&self, port: u16) {
        let found = self
            .socket
            .find(WAIT, |frame| View::ethernet(frame).ok().and_then(|view| view.ports()) == Some((port, port)));
        assert!(found.unwrap().is_some(), "{port} did not arrive");
    }
}

#[test]
fn counters_equal_status_and_the_packets_sent() {
    const GOOD: u64 = 20;
    const SPOOFED: u64 = 7;
    const LAST: u16 = 4999;
    // IPv4, TCP and the payload.
    const BYTES: u64 = 20 + 20 + 32;
    let rig = start();
    rig.warm_up(&SITES).unwrap();
    let (shanghai, vpc) = (Wire::open(&rig.world, &SHANGHAI), VPC.host4);
    let ningbo = Wire::open(&rig.world, &NINGBO);
    let before = scrape(&rig.world, PORT);
    for _ in 0..SPOOFED {
        shanghai.send(HANGZHOU.host4(), vpc, 4000);
    }
    for _ in 1..GOOD {
        shanghai.send(SHANGHAI.host4(), NINGBO.host4(), 4001);
    }
    shanghai.send(SHANGHAI.host4(), NINGBO.host4(), LAST);
    ningbo.wait_for(LAST);
    let first = scrape(&rig.world, PORT);
    let status = rig.agent.status().unwrap();
    let second = scrape(&rig.world, PORT);

    let since = |name: &str, labels: &[(&str, &str)]| count(&first, name, labels) - count(&before, name, labels);
    assert_eq!(since("vpnhub_receive_packets_total", &[("connection", "shanghai")]), GOOD);
    assert_eq!(since("vpnhub_receive_bytes_total", &[("connection", "shanghai")]), GOOD * BYTES);
    assert_eq!(since("vpnhub_transmit_packets_total", &[("connection", "ningbo")]), GOOD);
    assert_eq!(since("vpnhub_transmit_bytes_total", &[("connection", "ningbo")]), GOOD * BYTES);
    let spoofed = [("connection", "shanghai"), ("reason", "spoofed_source")];
    assert_eq!(since("vpnhub_drops_total", &spoofed), SPOOFED);

    // The status was made between two scrapes.
    let between = |name: &str, labels: &[(&str, &str)], value: &Value| {
        let value = value.as_u64().unwrap_or_else(|| panic!("no count of {name} {labels:?} in the status"));
        let range = count(&first, name, labels)..=count(&second, name, labels);
        assert!(range.contains(&value), "{name} {labels:?}: {value} is not in {range:?}");
    };
    for connection in status["connections"].as_array().unwrap() {
        let label = ("connection", connection["name"].as_str().unwrap());
        for (metric, key) in COUNTERS {
            between(metric, &[label], &connection[key]);
        }
        between("vpnhub_connection_state_changes_total", &[label], &connection["state_changes"]);
        for (metric, key) in [("vpnhub_drops_total", "drops"), ("vpnhub_passes_total", "passes")] {
            for (reason, value) in connection[key].as_object().unwrap() {
                between(metric, &[label, ("reason", reason)], value);
            }
        }
        if let Some(sent) = connection["health"].get("sent") {
            between("vpnhub_health_probes_sent_total", &[label], sent);
        }
    }
    for (metric, key) in COUNTERS {
        between(&metric.replace("vpnhub", "vpnhub_vpc"), &[], &status.connection(VPC_SIDE)[key]);
    }
    // All counts of a reason are somewhere.
    for (kind, key) in [("drops", "drops"), ("passes", "passes")] {
        for (reason, value) in status[key].as_object().unwrap() {
            let total = |text: &Exposition| -> f64 {
                let parts = ["vpnhub", "vpnhub_vpc", "vpnhub_unattributed"].map(|part| format!("{part}_{kind}_total"));
                let series = parts.iter().flat_map(|name| text.of(name));
                series.filter(|(labels, _)| labels["reason"] == *reason).map(|(_, count)| count).sum()
            };
            let value = value.as_f64().unwrap();
            assert!(total(&first) <= value && value <= total(&second), "{key} {reason}");
        }
    }
    assert_eq!(count(&first, "vpnhub_routes", &[("origin", "file")]), config().routes.len() as u64);
    assert_eq!(count(&first, "vpnhub_quota_used", &[("quota", "connections")]), 4);
    assert_eq!(count(&first, "vpnhub_quota_limit", &[("quota", "connections")]), 10);
    // Two destinations with two next hops.
    let shares: Vec<f64> = first.of("vpnhub_route_share").map(|(_, share)| share).collect();
    assert_eq!(shares, [0.25, 0.75, 0.25, 0.75]);
    rig.stop().unwrap();
}

#[test]
fn connection_that_is_down_has_all_its_series() {
    let rig = start();
    let up = |text: &Exposition, name| count(text, "vpnhub_connection_up", &[("connection", name)]);
    rig.agent.wait_for_status(WAIT, |status| status.connection("ningbo")["state"] == "up").unwrap();
    let before = scrape(&rig.world, PORT);
    rig.world[HUB].set_link(&NINGBO.hub_device(0), false).unwrap();
    assert!(rig.agent.cli(&["connection", "down", "hangzhou"]).unwrap().status.success());
    rig.agent.wait_for_status(WAIT, |status| status.connection("ningbo")["state"] == "down").unwrap();
    let after = scrape(&rig.world, PORT);
    assert_eq!(before.series.keys().collect::<Vec<_>>(), after.series.keys().collect::<Vec<_>>());
    let names = ["hangzhou", "ningbo", "shanghai", "shanghai-2"];
    assert_eq!(names.map(|name| up(&after, name)), [0, 0, 1, 1]);
    let admin = |name| count(&after, "vpnhub_connection_admin_up", &[("connection", name)]);
    assert_eq!(names.map(admin), [0, 1, 1, 1]);
    for name in ["hangzhou", "ningbo"] {
        let label = [("connection", name)];
        let changes = |text| count(text, "vpnhub_connection_state_changes_total", &label);
        assert!(changes(&after) > changes(&before), "{name}");
    }
    rig.stop().unwrap();
}

#[test]
fn counters_go_on_after_agent_is_killed() {
    let rig = start();
    rig.warm_up(&SITES).unwrap();
    rig.world[HUB].set_link(&NINGBO.hub_device(0), false).unwrap();
    rig.agent.wait_for_status(WAIT, |status| status.connection("ningbo")["state"] == "down").unwrap();
    rig.world[HUB].set_link(&NINGBO.hub_device(0), true).unwrap();
    rig.agent.wait_for_status(WAIT, |status| status.connection("ningbo")["state"] == "up").unwrap();
    let sent = |text: &Exposition, name| count(text, "vpnhub_health_probes_sent_total", &[("connection", name)]);
    let before = retry("no probes", || {
        let text = scrape(&rig.world, PORT);
        Ok((sent(&text, "ningbo") > 10 && sent(&text, "hangzhou") > 10).then_some(text))
    });
    let before = before.unwrap();
    let Rig { agent, world } = rig;
    let scratch = agent.kill().unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    let after = scrape(&world, PORT);
    let counters =
        before.families.iter().filter(|family| family.kind == "counter" && family.name.starts_with("vpnhub"));
    for family in counters {
        for (labels, value) in before.of(&family.name) {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert!(after.value(&family.name, &labels) >= value, "{} {labels:?} goes back", family.name);
        }
    }
    assert!(count(&before, "vpnhub_receive_packets_total", &[("connection", "shanghai")]) > 0);
    assert!(count(&before, "vpnhub_connection_state_changes_total", &[("connection", "ningbo")]) >= 2);
    retry("no more probes", || Ok((sent(&scrape(&world, PORT), "hangzhou") > sent(&before, "hangzhou")).then_some(())))
        .unwrap();
    // A changed check goes on counting.
    let file = agent.config();
    let text = fs::read_to_string(&file).unwrap().replace("retries = 3", "retries = 4");
    fs::write(&file, text).unwrap();
    assert!(agent.cli(&["reload"]).unwrap().status.success());
    assert!(sent(&scrape(&world, PORT), "hangzhou") > sent(&before, "hangzhou"));
    agent.stop().unwrap();
}

/// Replaces the `[metrics]` section of the agent's file, and reloads it.
fn reload(agent: &Agent, from: &str, to: &str) {
    let file = agent.config();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
    let output = agent.cli(&["reload"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for_listener(world: &World, port: u16, listens: bool) {
    let state = || Ok((connect(world, port).is_some() == listens).then_some(()));
    retry(&format!("port {port}: listening is not {listens}"), state).unwrap();
}

#[test]
fn reload_moves_removes_and_adds_listener() {
    let rig = start();
    scrape(&rig.world, PORT);
    assert_eq!(rig.agent.status().unwrap()["metrics"]["problem"], Value::Null);
    reload(&rig.agent, &section(PORT), &section(OTHER_PORT));
    wait_for_listener(&rig.world, OTHER_PORT, true);
    wait_for_listener(&rig.world, PORT, false);
    scrape(&rig.world, OTHER_PORT);
    reload(&rig.agent, &section(OTHER_PORT), "");
    wait_for_listener(&rig.world, OTHER_PORT, false);
    rig.agent.wait_for_status(WAIT, |status| status["metrics"].is_null()).unwrap();

    // An address in use is the listener's problem only.
    let occupied = rig.world[HUB].enter(|| TcpListener::bind(address(PORT))).unwrap().unwrap();
    let last = "\n[gateway]";
    reload(&rig.agent, last.trim(), &(section(PORT) + last));
    let status = rig.agent.wait_for_status(WAIT, |status| status["metrics"]["problem"].is_string()).unwrap();
    assert_eq!(status["metrics"]["listen"], address(PORT).to_string());
    let problem = status["metrics"]["problem"].as_str().unwrap();
    assert!(problem.contains("in use") && problem.contains("choose another port"), "{problem}");
    rig.warm_up(&SITES).unwrap();
    drop(occupied);
    rig.agent.wait_for_status(WAIT, |status| status["metrics"]["problem"].is_null()).unwrap();
    scrape(&rig.world, PORT);
    let lines = rig.agent.log().lines().filter(|line| line.contains("metrics are not served")).count();
    assert_eq!(lines, 1, "{}", rig.agent.log());
    rig.stop().unwrap();
}

#[test]
fn failed_reload_and_object_set_aside_are_seen() {
    let rig = start();
    let success = || count(&scrape(&rig.world, PORT), "vpnhub_config_last_reload_success", &[]);
    assert_eq!(success(), 1);
    let file = rig.agent.config();
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.clone() + "\n[unknown]\n").unwrap();
    assert!(!rig.agent.cli(&["reload"]).unwrap().status.success());
    assert_eq!(success(), 0);
    let arguments = ["route", "add", "10.99.0.0/16", "--next-hop", "ningbo"];
    assert!(rig.agent.cli(&arguments).unwrap().status.success());
    let text = scrape(&rig.world, PORT);
    assert_eq!(count(&text, "vpnhub_routes", &[("origin", "store")]), 1);
    assert_eq!(count(&text, "vpnhub_objects_set_aside", &[]), 0);
    let route = "\n[[route]]\ndestination = \"10.99.0.0/16\"\nnext_hop = \"ningbo\"\n";
    fs::write(&file, good + route).unwrap();
    assert!(rig.agent.cli(&["reload"]).unwrap().status.success());
    assert_eq!(success(), 1);
    let text = scrape(&rig.world, PORT);
    assert_eq!(count(&text, "vpnhub_routes", &[("origin", "store")]), 0);
    assert_eq!(count(&text, "vpnhub_objects_set_aside", &[]), 1);
    rig.stop().unwrap();
}

#[test]
fn requests_other_than_a_scrape_are_answered_and_bounded() {
    let rig = start();
    let world = &rig.world;
    let asked = |request: &str| ask(world, PORT, request);
    let head = asked("HEAD /metrics HTTP/1.1\r\nhost: hub\r\n\r\n");
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    for path in ["/", "/v1/status", "/metrics/", "/metrics/x", "/v1/metrics"] {
        let found = asked(&get(path, "*/*"));
        assert_eq!((found.code, found.body.as_str()), (404, "there is only /metrics here\n"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let found = asked(&format!("{method} /metrics HTTP/1.1\r\nhost: hub\r\ncontent-length: 3\r\n\r\nabc"));
        assert_eq!((found.code, found.body.as_str()), (405, "use GET or HEAD\n"), "{method}");
        assert!(found.head.contains("allow: get, head"), "{}", found.head);
    }
    assert_eq!(asked("nonsense\r\n\r\n").code, 400);
    assert_eq!(asked(&get("/metrics", &"x".repeat(20 << 10))).code, 431);
    // One request a connection, also if there are two.
    let twice = get("/", "*/*").repeat(2);
    assert_eq!(asked(&twice).body.matches("there is only").count(), 1);

    // Silent clients do not keep others out, and are disconnected.
    let silent: Vec<TcpStream> = (0..20).map(|_| connect(world, PORT).unwrap()).collect();
    scrape(world, PORT);
    for mut stream in silent {
        let mut rest = Vec::new();
        // A connection that was closed to make room may be reset.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    // A client that goes away in the middle.
    for _ in 0..20 {
        let mut stream = connect(world, PORT).unwrap();
        stream.write_all(get("/metrics", "*/*").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    let open = asked(&get("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    Exposition::parse(&open.body, TextFormat::OpenMetrics).unwrap();
    rig.stop().unwrap();
}

#[test]
fn control_socket_has_the_metrics_without_a_listener() {
    let rig = Rig::start(&Options::default().second_link("shanghai"), &config()).unwrap();
    let text = rig.agent.metrics().unwrap();
    assert_eq!(text.of("vpnhub_connection_up").count(), 4);
    assert!(count(&text, "process_resident_memory_bytes", &[]) > 1 << 20);
    assert!(rig.agent.status().unwrap()["metrics"].is_null());
    // None listens.
    let sockets = rig.world[HUB].enter(|| fs::read_to_string("/proc/thread-self/net/tcp")).unwrap().unwrap();
    assert_eq!(sockets.lines().count(), 1, "{sockets}");
    rig.stop().unwrap();
}

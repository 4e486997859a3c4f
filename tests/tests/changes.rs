//! Changes while the agent runs: they take effect, survive a restart, and are never lost or half applied.

use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use hub_tests::lab::{Agent, AgentCommand, HUB, NINGBO, Options, Ping, SHANGHAI, World, agent_binary};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(10);

const CONFIG: &str = "\
# The hub of three offices.
[gateway]
name = \"hub\"
max_connections = 3

[customer_gateway.office] # all of them
address = \"198.51.100.10\"

[connection.shanghai]
customer_gateway = \"office\"
interface = \"tun-sh\"
peer = \"169.254.10.2\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.10.10.0/24\"]

[connection.spare] # the second way
customer_gateway = \"office\"
interface = \"tun-sh2\"
peer = \"169.254.11.2\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.10.10.0/24\"]

[connection.ningbo]
customer_gateway = \"office\"
interface = \"tun-nb\"
peer = \"169.254.30.2\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.10.30.0/24\", \"10.99.0.0/16\"]

# The ways to Shanghai.
[[route]]
destination = \"10.10.10.0/24\"
next_hop = \"shanghai\"

[[route]]
destination = \"10.10.10.0/24\"
next_hop = \"spare\"
weight = 0
# The end.
";

fn world() -> World {
    World::three_offices(&Options::default().second_link("shanghai")).unwrap()
}

fn start(world: &World) -> Agent {
    AgentCommand::new(agent_binary()).start_with(&world[HUB], CONFIG).unwrap()
}

/// Kills the agent, and starts another with its files.
fn restart(world: &World, agent: Agent) -> Agent {
    AgentCommand::new(agent_binary()).start_in(&world[HUB], agent.kill().unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Exit code, and stdout or stderr.
fn said(output: &Output) -> (Option<i32>, String) {
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.code(), text(said))
}

fn cli(agent: &Agent, args: &str) -> (Option<i32>, String) {
    said(&agent.cli(&args.split(' ').collect::<Vec<_>>()).unwrap())
}

fn done(sentence: &str) -> (Option<i32>, String) {
    (Some(0), sentence.to_owned())
}

fn file(agent: &Agent) -> String {
    fs::read_to_string(agent.config()).unwrap()
}

/// Whether a ping between two sites is answered within the time of a neighbour resolution.
fn reaches(world: &World, from: &str, to: std::net::Ipv4Addr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(3);
    let ping = Ping::new(to.into()).timeout(Duration::from_millis(200));
    std::iter::repeat_with(|| ping.run(&world[from]).unwrap().complete())
        .take_while(|_| Instant::now() < deadline)
        .any(|answered| answered)
}

fn is_cut(world: &World, from: &str, to: std::net::Ipv4Addr) -> bool {
    Ping::new(to.into()).count(3).timeout(Duration::from_millis(200)).run(&world[from]).unwrap().received == 0
}

fn route(status: &Value, destination: &str, next_hop: &str) -> Option<Value> {
    let routes = status["routes"].as_array().unwrap();
    routes.iter().find(|route| route["destination"] == destination && route["next_hop"] == next_hop).cloned()
}

#[test]
fn added_route_carries_traffic_and_survives_restart() {
    let world = world();
    let agent = start(&world);
    assert!(is_cut(&world, "ningbo", SHANGHAI.host4()));

    let added = cli(&agent, "route add 10.10.30.0/24 --next-hop ningbo --weight 90 --publish");
    assert_eq!(added, done("route to 10.10.30.0/24 via ningbo added (weight 90, published)"));
    assert_eq!(file(&agent), CONFIG);
    assert!(reaches(&world, "ningbo", SHANGHAI.host4()));
    // Nor through the hub's kernel, which does not forward.
    let status = agent.status().unwrap();
    for name in ["ningbo", "shanghai"] {
        assert!(status.counter(name, "tx_packets") > 0, "{status:?}");
    }
    let published = || world[HUB].ip("route show table main proto 118").unwrap();
    assert!(published().contains("10.10.30.0/24"), "{}", published());

    let agent = restart(&world, agent);
    assert_eq!(
        route(&agent.status().unwrap(), "10.10.30.0/24", "ningbo").unwrap(),
        json!({
            "destination": "10.10.30.0/24", "next_hop": "ningbo", "weight": 90, "publish": true, "share": 1.0,
            "problem": null, "origin": "store"
        })
    );
    assert!(reaches(&world, "ningbo", SHANGHAI.host4()));

    let set = cli(&agent, "route set 10.10.30.0/24 --publish false --weight 80");
    assert_eq!(set, done("route to 10.10.30.0/24 via ningbo changed (weight 80 instead of 90, no longer published)"));
    assert_eq!(published(), "");
    let set = cli(&agent, "route set 10.10.30.0/24 --next-hop ningbo --weight 80");
    assert_eq!(set, done("nothing to change: already in effect"));

    let deleted = agent.json(&["route", "delete", "10.10.30.0/24"]).unwrap();
    assert_eq!(deleted["changed"], true);
    assert_eq!(deleted["message"], "route to 10.10.30.0/24 via ningbo removed");
    assert_eq!(deleted["routes"]["removed"][0]["weight"], 80);
    assert_eq!(file(&agent), CONFIG);
    assert!(is_cut(&world, "ningbo", SHANGHAI.host4()));
    assert_eq!(route(&agent.status().unwrap(), "10.10.30.0/24", "ningbo"), None);
    agent.stop().unwrap();
}

#[test]
fn invalid_command_reports_cause_and_changes_nothing() {
    let world = world();
    let agent = start(&world);
    let before = agent.json(&["route", "list"]).unwrap();
    for (args, code, expected) in [
        ("route add 10.10.30.1/24 --next-hop ningbo", 2, "10.10.30.0/24"),
        ("route add 10.10.30.0/24 --next-hop ningbo --weight 101", 2, "101"),
        ("route set 10.10.10.0/24", 2, "--weight"),
        ("route add 10.10.30.0/24 --next-hop ningpo", 1, "did you mean \"ningbo\"?"),
        ("route add 10.10.10.0/24 --next-hop spare", 1, "vpnhub.toml line 35: change it there and reload"),
        ("route delete 10.10.10.0/24 --next-hop spare", 1, "vpnhub.toml line 35: change it there and reload"),
        ("route set 10.10.10.0/24 --next-hop spare --weight 7", 1, "route to 10.10.10.0/24 via spare is defined in"),
        ("connection set spare --interface tun-x", 1, "connection spare is defined in"),
        ("customer-gateway delete office", 1, "vpnhub.toml line 6: change it there and reload"),
        ("route add 0.0.0.0/0 --next-hop ningbo", 1, "allow_default_route = true"),
        (
            "route set 10.10.10.0/24 --weight 5",
            1,
            "several routes to 10.10.10.0/24: choose one with --next-hop: shanghai, spare",
        ),
        ("route delete 10.10.10.0/24 --next-hop ningbo", 1, "its next hops are shanghai, spare"),
        ("route delete 10.10.30.0/24", 1, "`vpnhub route list`"),
        ("connection down sharehai", 1, "did you mean"),
        ("connection up ../../status", 1, "there is no connection \"../../status\""),
    ] {
        let (exit, sentence) = cli(&agent, args);
        assert!(exit == Some(code) && sentence.contains(expected), "{args}: {exit:?}: {sentence}");
        assert!(code == 2 || sentence.lines().count() == 1, "{args}: {sentence}");
    }
    assert_eq!(file(&agent), CONFIG);
    assert_eq!(agent.json(&["route", "list"]).unwrap(), before);
    agent.stop().unwrap();
}

#[test]
fn edited_file_is_applied_by_reload_and_never_written() {
    let world = world();
    let agent = start(&world);
    let by_hand = CONFIG.replace("max_connections = 3", "max_connections = 7 # grown");
    fs::write(agent.config(), &by_hand).unwrap();
    let (code, _) = cli(&agent, "route add 10.10.30.0/24 --next-hop ningbo");
    assert_eq!((code, file(&agent)), (Some(0), by_hand.clone()));
    assert_eq!(cli(&agent, "reload"), done("reloaded: gateway.max_connections changed"));
    assert_eq!(cli(&agent, "reload"), done("reloaded: nothing has changed"));
    assert!(route(&agent.status().unwrap(), "10.10.30.0/24", "ningbo").is_some());
    assert_eq!(file(&agent), by_hand);
    agent.stop().unwrap();
}

#[test]
fn reload_applies_valid_file_whole_and_invalid_not_at_all() {
    let world = world();
    let agent = start(&world);
    assert!(is_cut(&world, "ningbo", SHANGHAI.host4()));
    let bad = CONFIG.replace("max_connections", "max_conections").replace("weight = 0", "weight = 200")
        + "\n[[route]]\ndestination = \"10.10.30.0/24\"\nnext_hop = \"ningbo\"\n";
    fs::write(agent.config(), &bad).unwrap();
    let (code, sentences) = cli(&agent, "reload");
    assert_eq!(code, Some(1));
    for expected in [
        ":4:1: error: gateway: unknown key",
        ":38:10: error: route[2].weight",
        "not reloaded, the old configuration stays in force:",
    ] {
        assert!(sentences.contains(expected), "{sentences}");
    }
    assert!(is_cut(&world, "ningbo", SHANGHAI.host4()));
    assert_eq!(agent.status().unwrap()["routes"].as_array().map(Vec::len), Some(2));

    // Ningbo moves to another connection, and the spare one is deleted.
    let good = CONFIG.replace("[connection.ningbo]", "[connection.harbour]");
    let spare = good.find("[connection.spare]").unwrap()..good.find("[connection.harbour]").unwrap();
    let route = good.rfind("[[route]]").unwrap()..good.find("# The end.").unwrap();
    let route_to_harbour = "[[route]]\ndestination = \"10.10.30.0/24\"\nnext_hop = \"harbour\"\n";
    let good = format!("{}{}{route_to_harbour}", &good[..spare.start], &good[spare.end..route.start]);
    fs::write(agent.config(), &good).unwrap();
    Command::new("kill").args(["-HUP", &agent.pid().to_string()]).status().unwrap();
    let status = agent.wait_for_status(WAIT, |status| status["routes"][1]["next_hop"] == "harbour").unwrap();
    let names: Vec<_> = status["connections"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["harbour", "shanghai"]);
    assert!(status.connection("harbour")["attach"].is_string(), "{status:?}");
    let attached = |device: &str| world[HUB].ip(&format!("link show dev {device}")).unwrap().contains("xdp");
    assert!(attached("tun-nb") && attached("tun-sh") && !attached("tun-sh2"));
    assert!(reaches(&world, "ningbo", SHANGHAI.host4()));
    let expected = "SIGHUP: reloaded: connection harbour added; connections ningbo, spare removed; route to \
        10.10.30.0/24 via harbour added (weight 100); route to 10.10.10.0/24 via spare removed";
    assert!(agent.log().contains(expected), "{}", agent.log());
    assert_eq!(file(&agent), good);
    agent.stop().unwrap();
}

#[test]
fn concurrent_clients_lose_no_change() {
    let world = world();
    let agent = start(&world);
    thread::scope(|scope| {
        for client in 0..2 {
            let agent = &agent;
            scope.spawn(move || {
                for n in 0..50 {
                    let (code, sentence) =
                        cli(agent, &format!("route add 10.99.{}.0/24 --next-hop ningbo", client * 50 + n));
                    assert_eq!(code, Some(0), "{sentence}");
                }
            });
        }
    });
    let status = agent.status().unwrap();
    for n in 0..100 {
        let destination = format!("10.99.{n}.0/24");
        assert!(route(&status, &destination, "ningbo").is_some(), "{destination}");
    }
    assert_eq!(status["routes"].as_array().map(Vec::len), Some(102));
    assert_eq!(file(&agent), CONFIG);
    agent.stop().unwrap();
}

#[test]
fn connection_down_drains_it_across_restart() {
    let world = world();
    let agent = start(&world);
    cli(&agent, "route add 10.10.30.0/24 --next-hop ningbo");
    let before = file(&agent);
    assert!(reaches(&world, "ningbo", SHANGHAI.host4()));
    let sent = |agent: &Agent, name: &str| agent.status().unwrap().counter(name, "tx_packets");
    assert_eq!(sent(&agent, "spare"), 0);

    assert_eq!(cli(&agent, "connection down shanghai"), done("connection shanghai: administratively down"));
    let check = |agent: &Agent| {
        let status = agent.status().unwrap();
        assert_eq!(status.connection("shanghai")["state"], "admin_down");
        assert!(status.share("10.10.10.0/24", "shanghai") < 0.01, "{status:?}");
        assert!(status.share("10.10.10.0/24", "spare") > 0.99, "{status:?}");
        assert!(reaches(&world, "ningbo", SHANGHAI.host4()));
        let carried = (sent(agent, "shanghai"), sent(agent, "spare"));
        assert!(Ping::new(SHANGHAI.host4().into()).count(3).run(&world["ningbo"]).unwrap().complete());
        assert_eq!((sent(agent, "shanghai"), sent(agent, "spare")), (carried.0, carried.1 + 3));
    };
    check(&agent);
    assert_eq!(cli(&agent, "connection down shanghai"), done("nothing to change: already in effect"));
    let agent = restart(&world, agent);
    check(&agent);
    let listed = agent.json(&["connection", "list"]).unwrap();
    assert_eq!((&listed[1]["name"], &listed[1]["state"]), (&json!("shanghai"), &json!("admin_down")));
    let (_, listed) = cli(&agent, "connection list");
    assert!(listed.contains("admin down") && listed.contains("shanghai: administratively down"), "{listed}");

    // It carries the only path, so it keeps forwarding, and the command reports that.
    let output = agent.cli(&["connection", "down", "ningbo"]).unwrap();
    assert!(text(&output.stderr).contains("ningbo still carries 10.10.30.0/24"), "{output:?}");
    assert!(reaches(&world, "shanghai", NINGBO.host4()));

    assert_eq!(cli(&agent, "connection up ningbo"), done("connection ningbo: administratively up"));
    assert_eq!(cli(&agent, "connection up shanghai"), done("connection shanghai: administratively up"));
    assert!(agent.status().unwrap().share("10.10.10.0/24", "shanghai") > 0.99);
    assert_eq!(file(&agent), before);
    agent.stop().unwrap();
}

/// A request as `curl --unix-socket` makes it: status and body.
fn request(agent: &Agent, method: &str, path: &str, body: &str) -> (u16, Value) {
    let reply = agent.request(method, path, body).unwrap();
    (reply.status, reply.json())
}

#[test]
fn socket_error_has_http_status_and_one_sentence() {
    let world = world();
    let agent = start(&world);
    let large = format!(r#"{{"destination":"{}"}}"#, "1".repeat(10_000));
    for (method, path, body, status, expected) in [
        ("POST", "/v1/routes", "{", 400, "EOF"),
        ("POST", "/v1/routes", "", 415, "Content-Type"),
        ("POST", "/v1/routes", r#"{"destination":"10.10.30.0/24","next_hop":"ningbo","wait":1}"#, 400, "`wait`"),
        ("POST", "/v1/routes", r#"{"destination":"10.10.30.0/24"}"#, 400, "`next_hop`"),
        ("POST", "/v1/routes", r#"{"destination":"10.10.30.7/24","next_hop":"ningbo"}"#, 400, "host bits"),
        ("POST", "/v1/routes", r#"{"destination":"10.10.30.0/24","next_hop":"x"}"#, 404, "no connection \"x\""),
        ("POST", "/v1/routes", r#"{"destination":"10.10.10.0/24","next_hop":"spare"}"#, 409, "vpnhub.toml line 35"),
        ("POST", "/v1/routes", r#"{"destination":"::/0","next_hop":"ningbo"}"#, 409, "allow_default_route"),
        ("POST", "/v1/routes", large.as_str(), 413, "longer than 8 KiB"),
        ("PATCH", "/v1/routes", r#"{"destination":"10.10.10.0/24","weight":1}"#, 400, "several routes"),
        (
            "PATCH",
            "/v1/routes",
            r#"{"destination":"10.10.10.0/24","next_hop":"spare"}"#,
            400,
            "nothing to change: give",
        ),
        ("PATCH", "/v1/routes", r#"{"destination":"10.10.10.0/24","next_hop":"spare","weight":-1}"#, 400, "-1"),
        ("DELETE", "/v1/routes", r#"{"destination":"10.10.30.0/24"}"#, 404, "no route"),
        ("POST", "/v1/connections/x/down", "", 404, "no connection"),
        ("POST", "/v1/connections/x", "{}", 409, "the key \"interface\" is missing"),
        ("PUT", "/v1/connections/spare", "{}", 409, "is defined in"),
        ("DELETE", "/v1/connections/x", "", 404, "no connection"),
        ("GET", "/v1/connections/x", "", 404, "no connection x"),
        ("PUT", "/v1/customer-gateways/y", r#"{"address":7}"#, 409, "customer_gateway.y.address"),
        ("POST", "/v1/reload?confirm=0", "", 400, "one second"),
        ("POST", "/v1/confirm", "", 409, "nothing to confirm"),
    ] {
        let (found, answer) = request(&agent, method, path, body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(found == status && error.contains(expected), "{method} {path} {body}: {found} {answer}");
        assert!(error.lines().count() == 1 || body == "{}", "{error}");
    }
    assert_eq!(file(&agent), CONFIG);
    let (status, answer) =
        request(&agent, "POST", "/v1/routes", r#"{"destination":"10.77.0.0/16","next_hop":"ningbo","weight":null}"#);
    assert_eq!((status, &answer["changed"]), (200, &json!(true)));
    assert!(answer["warnings"][0].as_str().unwrap().contains("selector_mismatch"), "{answer}");
    assert_eq!(request(&agent, "POST", "/v1/connections/spare/up", "").1["changed"], false);
    assert_eq!(request(&agent, "GET", "/v1/connections", "").1[2]["name"], "spare");
    fs::write(agent.config(), "[").unwrap();
    let (status, answer) = request(&agent, "POST", "/v1/reload", "");
    assert_eq!((status, &answer["diagnostics"][0]["line"]), (409, &json!(1)));
    // The active configuration can still be changed.
    assert_eq!(request(&agent, "POST", "/v1/connections/spare/down", "").0, 200);
    agent.stop().unwrap();
}

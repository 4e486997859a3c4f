//! Judgements: a healthy hub, one fact changed, the findings that differ.

mod configuration;
mod connection;
mod cpus;
mod driver;
mod host;
mod interface;
mod path;
mod replies;
mod texts;

use serde_json::{Value, json};

use super::{
    diagnose,
    facts::{
        ConfigFacts, Facts, HostFacts, InterfaceFacts, MemoryFacts, NeighbourFacts, NetworkFacts, PathFacts, PathMtu,
    },
};
use crate::{
    api_types::diagnose::{Diagnosis, Finding, Severity},
    config,
    kernel::netlink::{Link, XdpFeatures},
};

/// Two connections of one site, and one of another.
const CONFIG: &str = r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[vpc]
interface = "vpc0"
cidrs = ["192.168.0.0/24"]
[customer_gateway.x]
address = "198.51.100.1"
[customer_gateway.y]
address = "198.51.100.2"
[connection.a]
customer_gateway = "x"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24"]
remote_cidrs = ["10.1.0.0/16"]
[connection.a.ipsec]
psk_file = "/nowhere/psk"
if_id = 1
[connection.b]
customer_gateway = "x"
interface = "tun-b"
local_cidrs = ["192.168.0.0/24"]
remote_cidrs = ["10.1.0.0/16"]
[connection.c]
customer_gateway = "y"
interface = "tun-c"
local_cidrs = ["192.168.0.0/24"]
remote_cidrs = ["10.3.0.0/16"]
[[route]]
destination = "10.1.0.0/16"
next_hop = "a"
[[route]]
destination = "10.1.0.0/16"
next_hop = "b"
weight = 0
[[route]]
destination = "10.3.0.0/16"
next_hop = "c"
"#;

fn connection(name: &str, interface: &str) -> Value {
    json!({
        "name": name, "origin": "store", "interface": interface, "state": "up", "state_seconds": 7200.0,
        "attach": "tc", "attach_reason": "a layer-3 interface: XDP cannot send to it",
        "rx_packets": 0, "rx_bytes": 0, "tx_packets": 0, "tx_bytes": 0, "drops": {}, "passes": {},
    })
}

fn route(destination: &str, next_hop: &str) -> Value {
    json!({
        "destination": destination, "next_hop": next_hop, "weight": 100, "publish": true, "share": 1.0,
        "origin": "store",
    })
}

fn status() -> Value {
    let mut a = connection("a", "xfrm-a");
    a["health"] = json!({
        "healthy": true, "sent": 900, "received": 880, "round_trip": 0.0125, "recent_probes": 32, "recent_lost": 0,
    });
    let child = json!({
        "spi_in": "c1", "spi_out": "c2", "bytes_in": 1, "bytes_out": 1, "seconds": 1, "local": [], "remote": [],
    });
    a["ipsec"] = json!({ "ike": "ESTABLISHED", "children": [child], "fault": null });
    json!({
        "gateway": { "name": "hub" },
        "vpc": {
            "interface": "vpc0", "attach": "xdp-native", "rx_packets": 0, "rx_bytes": 0, "tx_packets": 0,
            "tx_bytes": 0, "drops": {}, "passes": {},
        },
        "connections": [a, connection("b", "tun-b"), connection("c", "tun-c")],
        "routes": [route("10.1.0.0/16", "a"), route("10.1.0.0/16", "b"), route("10.3.0.0/16", "c")],
        "drops": {}, "passes": {}, "kernel_drops": { "unmarked": 0 },
    })
}

fn interface(name: &str, kind: &str, mtu: u32) -> (String, InterfaceFacts) {
    let link = Link { name: name.to_owned(), kind: Some(kind.to_owned()), mtu, ..Link::default() };
    let (queues, offloads) = (Some([1, 1]), Some(["rx-gro".to_owned()].into()));
    // All that a veth can take.
    let xdp_features = (kind == "veth").then_some(XdpFeatures(0x67));
    (name.to_owned(), InterfaceFacts { link, queues, xdp_features, offloads, ..InterfaceFacts::default() })
}

/// The path of the connection with IPsec to its site.
fn outside(known: Option<u32>) -> (String, PathFacts) {
    let destination = [198, 51, 100, 1].into();
    let path = PathMtu { destination, interface: "eth0".to_owned(), link: 1500, known };
    ("a".to_owned(), PathFacts { outside: Some(path), inside: None })
}

fn config_facts(text: &str) -> ConfigFacts {
    let (config, warnings) = config::parse(text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    ConfigFacts { config, warnings, certificates: std::collections::BTreeMap::new(), ike: None }
}

/// Everything is in order.
fn healthy() -> Facts {
    let table = Some(NeighbourFacts { entries: 800, limit: 1000 });
    let interfaces = [
        interface("xfrm-a", "xfrm", 1400),
        interface("tun-b", "tun", 1400),
        interface("tun-c", "tun", 1400),
        interface("vpc0", "veth", 1500),
    ];
    let network = NetworkFacts {
        forwarding: [Some(true), Some(true)],
        neighbours: [table, table],
        rules: Vec::new(),
        has_own_rules: false,
        has_table: Some(true),
        interfaces: interfaces.into(),
        paths: [outside(None)].into(),
        cpus: Some(4),
    };
    let host = HostFacts {
        kernel: Some("6.12.0-9-amd64".to_owned()),
        jit: Some(1),
        has_btf: true,
        missing_bpf: Some(Vec::new()),
        is_synchronized: Some(true),
        memory: Some(MemoryFacts { total: 100_000, available: 5_000 }),
        network: Some(network),
    };
    let status = serde_json::from_value(status()).expect("a status");
    Facts { status: Some(status), config: Some(config_facts(CONFIG)), host, ..Facts::default() }
}

/// The healthy facts with another status.
fn with_status(change: impl FnOnce(&mut Value)) -> Facts {
    let mut status = status();
    change(&mut status);
    Facts { status: Some(serde_json::from_value(status).expect("a status")), ..healthy() }
}

/// Errors and warnings, such as `error clock clock`: severity, code and subject.
fn faults(diagnosis: &Diagnosis) -> Vec<String> {
    let faults = diagnosis.findings.iter().filter(|finding| finding.severity != Severity::Ok);
    faults.map(shown).collect()
}

fn shown(Finding { severity, code, subject, message, action, .. }: &Finding) -> String {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
    assert!(*severity == Severity::Ok || action.as_ref().is_some_and(|action| !action.is_empty()), "{message}");
    let name = |value: Value| value.as_str().expect("a name").to_owned();
    let [severity, code] = [json!(severity), json!(code)].map(name);
    format!("{severity} {code} {subject}")
}

/// The only finding with this code that is not in order.
fn only<'a>(diagnosis: &'a Diagnosis, code: &str) -> &'a Finding {
    let is_it = |finding: &&Finding| json!(finding.code) == code && finding.severity != Severity::Ok;
    let mut found = diagnosis.findings.iter().filter(is_it);
    let first = found.next().unwrap_or_else(|| panic!("no {code} in {:#?}", diagnosis.findings));
    assert!(found.next().is_none(), "several {code} in {:#?}", diagnosis.findings);
    first
}

#[test]
fn healthy_hub_has_no_faults_and_shows_what_was_checked() {
    let diagnosis = diagnose(&healthy());
    assert_eq!(faults(&diagnosis), [""; 0]);
    assert_eq!((diagnosis.agent, diagnosis.errors, diagnosis.warnings), (true, 0, 0));
    let found: Vec<_> = diagnosis.findings.iter().map(shown).collect();
    let expected = [
        "ok connection_up a",
        "ok connection_up b",
        "ok connection_up c",
        "ok path_mtu a",
        "ok quota gateway.max_connections",
        "ok configuration_warning configuration",
        "ok set_aside store",
        "ok attachment tun-b",
        "ok offload tun-b",
        "ok attachment tun-c",
        "ok offload tun-c",
        "ok attachment vpc0",
        "ok redirect_target vpc0",
        "ok offload vpc0",
        "ok attachment xfrm-a",
        "ok offload xfrm-a",
        "ok interface_mtu xfrm-a",
        "ok agent agent",
        "ok kernel kernel",
        "ok bpf_jit net.core.bpf_jit_enable",
        "ok btf BTF",
        "ok bpf_features BPF",
        "ok clock clock",
        "ok memory memory",
        "ok forwarding net.ipv4.ip_forward",
        "ok forwarding net.ipv6.conf.all.forwarding",
        "ok neighbour_table net.ipv4.neigh.default.gc_thresh3",
        "ok neighbour_table net.ipv6.neigh.default.gc_thresh3",
        "ok ip_rules ip rule",
        "ok nftables_table nftables",
    ];
    assert_eq!(found, expected);
}

#[test]
fn unknown_facts_are_no_findings() {
    let mut facts = healthy();
    facts.config = None;
    facts.host = HostFacts { has_btf: true, network: Some(NetworkFacts::default()), ..HostFacts::default() };
    assert_eq!(faults(&diagnose(&facts)), [""; 0]);
}

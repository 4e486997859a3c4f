//! The control socket's HTTP API, held against its own description. Needs root: it creates network namespaces.

mod calls;
mod contract;
mod fuzz;
mod objects;

use std::{fs, os::unix::fs::PermissionsExt as _};

use hub_tests::lab::{Agent, AgentCommand, HUB, Options, Scratch, World, agent_binary};
use serde_json::{Value, json};

/// The first connection has IPsec, with a secret; no strongSwan runs.
const CONFIG: &str = "\
[gateway]
name = \"hub\"
max_connections = 5
address = \"203.0.113.1\"
vici_socket = \"/nowhere/charon.vici\"

[customer_gateway.office]
address = \"198.51.100.10\"

[connection.shanghai]
customer_gateway = \"office\"
interface = \"tun-sh\"
peer = \"169.254.10.2\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.10.10.0/24\"]

[connection.hangzhou]
customer_gateway = \"office\"
interface = \"tun-hz\"
peer = \"169.254.20.2\"
local_cidrs = [\"192.168.0.0/24\"]
remote_cidrs = [\"10.10.20.0/24\"]

[connection.hangzhou.ipsec]
psk_file = \"PSK\"

[[route]]
destination = \"10.10.10.0/24\"
next_hop = \"shanghai\"

[[route]]
destination = \"10.10.20.0/24\"
next_hop = \"hangzhou\"
";

fn start() -> (World, Agent) {
    let world = World::three_offices(&Options::default()).unwrap();
    let scratch = Scratch::new().unwrap();
    let secret = scratch.file("secret.psk");
    fs::write(&secret, "a-secret-for-the-test-0123456789").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(scratch.file("vpnhub.toml"), CONFIG.replace("PSK", &secret.display().to_string())).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    (world, agent)
}

/// The path of an object of each kind, and keys for it, in an order in which they can be created.
fn objects() -> [(&'static str, Value); 5] {
    let connection = json!({
        "customer_gateway": "nb", "segment": "partners", "interface": "tun-nb", "peer": "169.254.30.2",
        "local_cidrs": ["0.0.0.0/0"], "remote_cidrs": ["10.10.30.0/24"], "up_delay": "2000ms",
        "health_check": { "source": "169.254.30.1", "destination": "10.10.30.1", "degraded": { "loss": 0.05, "window": 30 } },
    });
    [
        ("/v1/customer-gateways/nb", json!({ "address": "198.51.100.30" })),
        ("/v1/segments/partners", json!({ "reaches": ["vpc", "default"] })),
        ("/v1/connections/nb", connection),
        ("/v1/routes/10.10.30.0%2F24/nb", json!({ "weight": 50 })),
        ("/v1/policy-routes/10.10.10.0%2F24/10.10.30.0%2F24/nb", json!({ "priority": 7, "publish": false })),
    ]
}

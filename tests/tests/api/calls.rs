//! Each operation answers as described, to good and bad requests.

use std::{collections::BTreeSet, fs};

use hub_tests::lab::Agent;
use hub_tests::schema;
use serde_json::{Value, json};

use super::{
    contract::{Contract, METHODS, kind, openapi_schema},
    objects, start,
};

/// A path with values for its parameters.
fn concrete(template: &str) -> String {
    let values = [
        ("{destination}", "10.10.10.0%2F24"),
        ("{source}", "10.10.10.0%2F24"),
        ("{next_hop}", "shanghai"),
        ("{name}", "hangzhou"),
        ("{format}", "swanctl"),
    ];
    values.iter().fold(template.to_owned(), |path, (name, value)| path.replace(name, value))
}

#[test]
fn description_is_an_openapi_document() {
    let (_world, agent) = start();
    let contract = Contract::of(&agent);
    let form = openapi_schema();
    assert_eq!(schema::violations(&form, &contract.document), [""; 0]);
    // The check itself.
    for (pointer, wrong) in [
        ("/openapi", json!("3.0.0")),
        ("/info/version", Value::Null),
        ("/paths/~1v1~1status/get/responses", json!([])),
        ("/paths/~1v1~1status/get/responses/200", json!({ "content": {} })),
        ("/paths/~1v1~1status/get", json!({ "operationId": "x", "responses": {}, "summery": "" })),
        ("/paths/~1v1~1routes/get/parameters/0/in", json!("body")),
    ] {
        let mut document = contract.document.clone();
        *document.pointer_mut(pointer).unwrap() = wrong;
        assert!(!schema::violations(&form, &document).is_empty(), "{pointer}");
    }
    agent.stop().unwrap();
}

#[test]
fn methods_that_are_not_described_do_not_exist() {
    let (_world, agent) = start();
    let mut contract = Contract::of(&agent);
    let described: BTreeSet<_> = contract.operations().into_iter().map(|(method, path, _)| (method, path)).collect();
    let templates: BTreeSet<_> = described.iter().map(|(_, path)| path.clone()).collect();
    assert!(templates.len() > 20, "{templates:?}");
    for (template, method) in templates.iter().flat_map(|template| METHODS.map(|method| (template, method))) {
        if !described.contains(&(method.to_owned(), template.clone())) {
            let reply = contract.request(&agent, method, &concrete(template), "");
            assert_eq!(reply.status, 405, "{method} {template}");
        }
    }
    for path in
        ["/", "/v1", "/v1/route", "/v1/routes/", "/v1/routes/10.10.10.0/24/shanghai", "/v2/status", "/v1/status/x"]
    {
        assert_eq!(kind(&contract.request(&agent, "GET", path, "")), "no-such-path", "{path}");
    }
    agent.stop().unwrap();
}

/// Method, path, body, status code.
type Call = (&'static str, &'static str, &'static str, u16);

const READING: &[Call] = &[
    ("GET", "/v1/openapi.json", "", 200),
    ("GET", "/v1/status", "", 200),
    ("GET", "/v1/routes", "", 200),
    ("GET", "/v1/routes?destination=10.10.10.0/24", "", 200),
    ("GET", "/v1/routes?destination=x", "", 400),
    ("GET", "/v1/routes/10.10.10.0%2F24/shanghai", "", 200),
    ("GET", "/v1/routes/10.10.10.0%2F24/x", "", 404),
    ("GET", "/v1/routes/10.10.10.7%2F24/shanghai", "", 400),
    ("GET", "/v1/routes/x/%FF", "", 400),
    ("GET", "/v1/policy-routes", "", 200),
    ("GET", "/v1/policy-routes/10.10.10.0%2F24/10.10.30.0%2F24/nb", "", 200),
    ("GET", "/v1/policy-routes/10.10.10.0%2F24/10.10.30.0%2F24/x", "", 404),
    ("GET", "/v1/connections", "", 200),
    ("GET", "/v1/connections/hangzhou", "", 200),
    ("GET", "/v1/connections/x", "", 404),
    ("GET", "/v1/connections/%FF", "", 400),
    ("GET", "/v1/customer-gateways", "", 200),
    ("GET", "/v1/customer-gateways/office", "", 200),
    ("GET", "/v1/segments", "", 200),
    ("GET", "/v1/segments/partners", "", 200),
    ("GET", "/v1/config", "", 200),
    ("GET", "/v1/store/audit?last=3", "", 200),
    ("GET", "/v1/store/audit?last=-1", "", 400),
    ("GET", "/v1/store/backup", "", 200),
    ("GET", "/v1/metrics", "", 200),
    ("GET", "/v1/peer-config/hangzhou/swanctl?secret=true", "", 200),
    ("GET", "/v1/peer-config/hangzhou/x", "", 400),
    ("GET", "/v1/peer-config/x/swanctl", "", 404),
    ("GET", "/v1/peer-config/shanghai/json", "", 409),
];

const CHANGING: &[Call] = &[
    ("POST", "/v1/routes", r#"{"destination":"10.10.31.0/24","next_hop":"nb"}"#, 200),
    ("POST", "/v1/routes", r#"{"destination":"10.10.31.0/24","next_hop":"nb","weight":3}"#, 409),
    ("POST", "/v1/routes", r#"{"destination":"10.10.10.0/24","next_hop":"shanghai","weight":3}"#, 409),
    ("POST", "/v1/routes", r#"{"destination":"0.0.0.0/0","next_hop":"nb"}"#, 409),
    ("POST", "/v1/routes", r#"{"destination":"10.10.31.0/24","next_hop":"x"}"#, 404),
    ("POST", "/v1/routes", r#"{"destination":"10.10.31.0/24"}"#, 400),
    ("POST", "/v1/routes", "{", 400),
    ("POST", "/v1/routes", "", 415),
    ("PATCH", "/v1/routes", r#"{"destination":"10.10.31.0/24","publish":true}"#, 200),
    ("PATCH", "/v1/routes", r#"{"destination":"10.10.31.0/24"}"#, 400),
    ("PUT", "/v1/routes", r#"{"destination":"10.10.32.0/24","next_hop":"nb"}"#, 201),
    ("PUT", "/v1/routes", r#"{"destination":"10.10.32.0/24"}"#, 200),
    ("PUT", "/v1/routes", r#"{"destination":"10.10.32.0/24","next_hop":"shanghai","weight":0}"#, 201),
    ("PUT", "/v1/routes/10.10.33.0%2F24/nb", "{}", 201),
    ("PUT", "/v1/routes/10.10.33.0%2F24/nb", r#"{"weight":101}"#, 400),
    ("PUT", "/v1/routes/10.10.33.0%2F24/x", "{}", 404),
    ("PUT", "/v1/routes/10.10.10.0%2F24/shanghai", r#"{"weight":1}"#, 409),
    ("DELETE", "/v1/routes/10.10.33.0%2F24/nb", "", 200),
    ("DELETE", "/v1/routes/10.10.33.0%2F24/nb", "", 404),
    ("DELETE", "/v1/routes", r#"{"destination":"10.10.32.0/24"}"#, 400),
    ("DELETE", "/v1/routes", r#"{"destination":"10.10.32.0/24","next_hop":"shanghai"}"#, 200),
    ("DELETE", "/v1/routes", r#"{"destination":"10.10.32.0/24"}"#, 200),
    ("DELETE", "/v1/routes", r#"{"destination":"10.10.32.0/24"}"#, 404),
    ("DELETE", "/v1/routes", r#"{"destination":"10.10.10.0/24"}"#, 409),
    ("POST", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24","next_hop":"nb"}"#, 200),
    ("POST", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24"}"#, 400),
    ("PATCH", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24","weight":5}"#, 200),
    (
        "PUT",
        "/v1/policy-routes",
        r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24","next_hop":"shanghai"}"#,
        201,
    ),
    ("PUT", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24","next_hop":"nb"}"#, 200),
    ("PUT", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24"}"#, 400),
    ("DELETE", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24"}"#, 400),
    ("DELETE", "/v1/policy-routes", r#"{"source":"10.10.10.0/24","destination":"10.10.20.0/24","next_hop":"nb"}"#, 200),
    ("DELETE", "/v1/policy-routes/10.10.10.0%2F24/10.10.20.0%2F24/shanghai", "", 200),
    ("PUT", "/v1/policy-routes/10.10.10.0%2F24/10.10.20.0%2F24/nb", r#"{"priority":0}"#, 400),
    ("POST", "/v1/segments/more", r#"{"reaches":["vpc"]}"#, 200),
    ("POST", "/v1/segments/more", r#"{"reaches":[]}"#, 409),
    ("PATCH", "/v1/segments/more", r#"{"reaches":["default"]}"#, 200),
    ("PUT", "/v1/segments/more", r#"{"reaches":7}"#, 409),
    ("DELETE", "/v1/segments/more", "", 200),
    ("POST", "/v1/customer-gateways/more", r#"{"address":"any"}"#, 200),
    ("PATCH", "/v1/customer-gateways/more", r#"{"address":"198.51.100.77"}"#, 200),
    ("PUT", "/v1/customer-gateways/more", r#"["address"]"#, 400),
    ("DELETE", "/v1/customer-gateways/more", "", 200),
    ("DELETE", "/v1/customer-gateways/office", "", 409),
    ("PATCH", "/v1/connections/nb", r#"{"up_delay":"3s"}"#, 200),
    ("PATCH", "/v1/connections/nb", r#"{"up_delay":null}"#, 200),
    ("PUT", "/v1/connections/shanghai", "{}", 409),
    ("DELETE", "/v1/connections/nb", "", 409),
    ("POST", "/v1/connections/nb/down", "", 200),
    ("POST", "/v1/connections/nb/up", "", 200),
    ("POST", "/v1/connections/x/up", "", 404),
    ("POST", "/v1/connections/shanghai/renegotiate", "", 409),
    ("POST", "/v1/connections/x/renegotiate?children=true", "", 404),
    ("POST", "/v1/standby?keep_tunnels=true", "", 200),
    ("POST", "/v1/standby?drain=0", "", 200),
    ("POST", "/v1/standby?drain=65536", "", 400),
    ("POST", "/v1/standby?wait=1", "", 400),
    ("POST", "/v1/active?wait=-1", "", 400),
    ("POST", "/v1/active?wait=0", "", 200),
    ("POST", "/v1/active", "", 200),
    ("POST", "/v1/reload?confirm=0", "", 400),
    ("POST", "/v1/confirm", "", 409),
    ("POST", "/v1/reload", "", 200),
];

const TRACES: [(&str, u16); 4] = [
    (r#"{"in":"shanghai","packet":{"source":"10.10.10.1","destination":"10.10.30.1"}}"#, 200),
    (r#"{"in":"shanghai"}"#, 400),
    (r#"{"in":"x","frame":"00"}"#, 404),
    (r#"{"in":"vpc","packet":{"source":"10.10.10.1"}}"#, 400),
];

/// Requests that no strongSwan here can answer with success.
const WITHOUT_SUCCESS: [&str; 1] = ["/v1/connections/{name}/renegotiate"];

#[test]
fn every_operation_answers_as_described() {
    let (_world, agent) = start();
    let mut contract = Contract::of(&agent);
    for (path, keys) in objects() {
        assert_eq!(contract.request(&agent, "PUT", path, &keys.to_string()).status, 201);
    }
    let traces = TRACES.map(|(body, status)| ("POST", "/v1/trace", body, status));
    for &(method, path, body, status) in READING.iter().chain(CHANGING).chain(&traces) {
        let reply = contract.request(&agent, method, path, body);
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", String::from_utf8_lossy(&reply.body));
    }
    for (path, keys) in objects() {
        assert_eq!(contract.request(&agent, "PUT", path, &keys.to_string()).status, 200);
    }
    connection_by_post(&agent, &mut contract);
    reload_to_be_confirmed(&agent, &mut contract);
    endless_answers(&agent, &mut contract);
    contract.request(&agent, "DELETE", "/v1/routes", r#"{"destination":"10.10.31.0/24"}"#);
    for (path, _) in objects().into_iter().rev() {
        assert_eq!(contract.request(&agent, "DELETE", path, "").status, 200, "{path}");
    }
    let large = format!(r#"{{"address":"{}"}}"#, "1".repeat(10_000));
    assert_eq!(contract.request(&agent, "PUT", "/v1/customer-gateways/x", &large).status, 413);
    // Nothing is left out.
    for (method, path, operation) in contract.operations() {
        let seen = contract.seen.get(&(method.clone(), path.clone())).cloned().unwrap_or_default();
        let described: Vec<u16> =
            operation["responses"].as_object().unwrap().keys().map(|code| code.parse().unwrap()).collect();
        let successes: Vec<u16> = described.into_iter().filter(|code| *code < 300).collect();
        let missing: Vec<&u16> = successes.iter().filter(|code| !seen.contains(code)).collect();
        assert!(
            missing.is_empty() || WITHOUT_SUCCESS.contains(&path.as_str()),
            "{method} {path}: {missing:?} of {seen:?}"
        );
    }
    agent.stop().unwrap();
}

fn connection_by_post(agent: &Agent, contract: &mut Contract) {
    let keys = json!({
        "customer_gateway": "nb", "interface": "tun-nb", "local_cidrs": ["0.0.0.0/0"],
        "peer": "169.254.30.2", "remote_cidrs": ["10.10.40.0/24"],
    });
    assert_eq!(contract.request(agent, "POST", "/v1/connections/more", &keys.to_string()).status, 200);
    assert_eq!(kind(&contract.request(agent, "POST", "/v1/connections/more", "{}")), "already-exists");
    assert_eq!(contract.request(agent, "DELETE", "/v1/connections/more", "").status, 200);
}

fn reload_to_be_confirmed(agent: &Agent, contract: &mut Contract) {
    let config = fs::read_to_string(agent.config()).unwrap();
    fs::write(agent.config(), config.replace("max_connections = 5", "max_connections = 6")).unwrap();
    assert_eq!(contract.request(agent, "POST", "/v1/reload?confirm=600", "").status, 200);
    assert_eq!(contract.request(agent, "POST", "/v1/confirm", "").status, 200);
    fs::write(agent.config(), "[").unwrap();
    let failed = contract.request(agent, "POST", "/v1/reload", "");
    assert_eq!((kind(&failed).as_str(), &failed.json()["diagnostics"][0]["line"]), ("invalid-files", &json!(1)));
    fs::write(agent.config(), config.replace("[gateway]", "[dataplane]\nlookup = \"lpm\"\n\n[gateway]")).unwrap();
    assert_eq!(kind(&contract.request(agent, "POST", "/v1/reload", "")), "restart-required");
}

/// Answers that are lines without an end: the first line is as described.
fn endless_answers(agent: &Agent, contract: &mut Contract) {
    for path in ["/v1/events", "/v1/packets?reason=malformed"] {
        let mut lines = agent.lines(path).unwrap();
        assert_eq!(contract.violations("GET", path, &lines.head), [""; 0]);
        contract.note("GET", path, lines.head.status);
        if path == "/v1/events" {
            let answer = contract.answer(&contract.document["paths"][path]["get"], 200);
            let schema = &answer["content"]["application/x-ndjson"]["schema"];
            assert_eq!(schema::violations_of(schema, &contract.document, &lines.next_line().unwrap()), [""; 0]);
        }
    }
    assert_eq!(contract.request(agent, "GET", "/v1/packets?reason=x", "").status, 400);
}

/// The check itself: it finds what is not as described.
#[test]
fn contract_finds_answers_that_are_not_described() {
    let (_world, agent) = start();
    let contract = Contract::of(&agent);
    let good = agent.request("GET", "/v1/connections/hangzhou", "").unwrap();
    let missing = agent.request("GET", "/v1/connections/x", "").unwrap();
    let path = "/v1/connections/hangzhou";
    for reply in [&good, &missing] {
        assert_eq!(contract.violations("GET", path, reply), [""; 0]);
    }
    let place = "/paths/~1v1~1connections~1{name}";
    let edited = |pointer: &str, value: Value| {
        let mut document = contract.document.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        Contract { document, seen: contract.seen.clone() }
    };
    let edits = [
        (place.to_owned(), json!({})),
        (format!("{place}/get/responses"), json!({})),
        (format!("{place}/get/responses/404"), json!({ "$ref": "#/components/responses/forbidden" })),
        ("/components/responses/no-such-object/content".to_owned(), json!({ "application/json": { "schema": true } })),
        ("/components/schemas/ProblemDetails/required".to_owned(), json!(["type", "instance"])),
    ];
    for (pointer, value) in edits {
        assert!(!edited(&pointer, value).violations("GET", path, &missing).is_empty(), "{pointer}");
    }
    let name = good.json()["keys"]["interface"].clone();
    assert_eq!(name, "tun-hz");
    let number = edited("/components/schemas/ConnectionKeys/properties/interface/type", json!("integer"));
    assert!(!number.violations("GET", path, &good).is_empty());
    agent.stop().unwrap();
}

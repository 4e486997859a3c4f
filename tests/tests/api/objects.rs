//! `PUT` and `DELETE` of objects can be repeated; `GET` answers with what `PUT` takes.

use serde_json::{Value, json};

use super::{
    contract::{Contract, kind},
    objects, start,
};

#[test]
fn put_and_delete_are_idempotent_for_every_kind_of_object() {
    let (_world, agent) = start();
    let mut contract = Contract::of(&agent);
    let mut ask = |method: &str, path: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        contract.request(&agent, method, path, &body)
    };
    let mut events = agent.lines("/v1/events").unwrap();
    let names: Vec<Value> = (0..2).map(|_| events.next_line().unwrap()["connection"].take()).collect();
    assert_eq!(names, ["hangzhou", "shanghai"]);
    let changed = |body: &Value| (body["changed"].clone(), body["created"].clone());
    for (path, keys) in objects() {
        assert_eq!(kind(&ask("GET", path, &Value::Null)), "no-such-object", "{path}");
        assert_eq!(kind(&ask("DELETE", path, &Value::Null)), "no-such-object", "{path}");
        let reply = ask("PUT", path, &keys);
        assert_eq!((reply.status, changed(&reply.json())), (201, (json!(true), json!(true))), "{path}");
    }
    // Nothing is written: neither the store nor its log changes.
    let store = ask("GET", "/v1/store/backup", &Value::Null).body;
    let log = ask("GET", "/v1/store/audit", &Value::Null).json();
    assert_eq!(log.as_array().map(Vec::len), Some(objects().len()));
    for (path, keys) in objects() {
        let shown = ask("GET", path, &Value::Null).json();
        assert_eq!(shown["origin"], "store");
        for keys in [&keys, &shown["keys"], &keys] {
            let reply = ask("PUT", path, keys);
            assert_eq!((reply.status, changed(&reply.json())), (200, (json!(false), json!(false))), "{path} {keys}");
            assert_eq!(reply.json()["message"], "nothing to change: already in effect");
        }
        assert_eq!(ask("GET", path, &Value::Null).json(), shown);
    }
    assert_eq!(ask("GET", "/v1/store/backup", &Value::Null).body, store);
    assert_eq!(ask("GET", "/v1/store/audit", &Value::Null).json(), log);

    // Other keys replace all: `up_delay` and `health_check` get their defaults.
    let mut keys = objects()[2].1.clone();
    keys.as_object_mut().unwrap().retain(|key, _| !["up_delay", "health_check"].contains(&key.as_str()));
    let reply = ask("PUT", "/v1/connections/nb", &keys);
    assert_eq!((reply.status, changed(&reply.json())), (200, (json!(true), json!(false))));
    let shown = ask("GET", "/v1/connections/nb", &Value::Null).json();
    assert_eq!((&shown["keys"]["up_delay"], shown["keys"].get("health_check")), (&json!("1s"), None));
    let route = objects()[3].0;
    assert_eq!(changed(&ask("PUT", route, &json!({})).json()), (json!(true), json!(false)));
    assert_eq!(ask("GET", route, &Value::Null).json()["keys"], json!({ "weight": 100, "publish": false }));

    for (path, _) in objects().into_iter().rev() {
        assert_eq!(ask("DELETE", path, &Value::Null).status, 200, "{path}");
        assert_eq!(kind(&ask("DELETE", path, &Value::Null)), "no-such-object", "{path}");
        assert_eq!(kind(&ask("GET", path, &Value::Null)), "no-such-object", "{path}");
    }
    // What a file defines is shown, and not changed.
    let route = "/v1/routes/10.10.10.0%2F24/shanghai";
    assert_eq!(ask("GET", route, &Value::Null).json()["origin"], "file");
    assert_eq!(ask("PUT", route, &json!({})).status, 200);
    let refused = ask("DELETE", route, &Value::Null);
    assert_eq!((kind(&refused).as_str(), &refused.json()["line"]), ("defined-in-file", &json!(27)));
    agent.stop().unwrap();
}

#[test]
fn repeated_put_causes_no_event() {
    let (_world, agent) = start();
    let mut contract = Contract::of(&agent);
    let [gateway, segment, connection, ..] = objects();
    for (path, keys) in [&gateway, &segment, &connection] {
        contract.request(&agent, "PUT", path, &keys.to_string());
    }
    let mut events = agent.lines("/v1/events").unwrap();
    let names: Vec<Value> = (0..3).map(|_| events.next_line().unwrap()["connection"].take()).collect();
    assert_eq!(names, ["hangzhou", "nb", "shanghai"]);
    let shown = contract.request(&agent, "GET", connection.0, "").json();
    for keys in [&connection.1, &shown["keys"]] {
        assert_eq!(contract.request(&agent, "PUT", connection.0, &keys.to_string()).json()["changed"], false);
    }
    contract.request(&agent, "POST", "/v1/connections/shanghai/down", "");
    // Health checks have events of their own.
    let of_others = loop {
        let event = events.next_line().unwrap();
        if event["connection"] != "nb" {
            break event;
        }
        assert_ne!(event["was"], Value::Null, "{event}");
    };
    assert_eq!((&of_others["connection"], &of_others["state"]), (&json!("shanghai"), &json!("admin_down")));
    agent.stop().unwrap();
}

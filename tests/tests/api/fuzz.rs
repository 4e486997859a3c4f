//! Mutated objects: each answer is a described one, and the agent goes on answering.

use rand::{
    Rng as _, SeedableRng as _,
    rngs::SmallRng,
    seq::{IndexedMutRandom as _, IndexedRandom as _},
};
use serde_json::{Value, json};

use super::{contract::Contract, objects, start};

const SEED: u64 = 19;
/// A request takes some milliseconds.
const REQUESTS: usize = 600;

/// Values where another is expected.
fn odd(random: &mut SmallRng) -> Value {
    let values = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(0.05),
        json!(1e300),
        json!(""),
        json!("10.10.30.0/24"),
        json!("10.10.30.7/24"),
        json!("::/0"),
        json!("\u{0}\n\"'[]\u{7f}\u{1f600}"),
        json!("x".repeat(300)),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({ "": {} }),
        json!("vpc"),
        json!("shanghai"),
        json!("9999999999999999999h"),
    ];
    values.choose(random).cloned().unwrap_or_default()
}

/// Changes one place in a value: removes, adds, doubles or replaces something.
fn mutate(value: &mut Value, random: &mut SmallRng) {
    // Deeper, if there is anything deeper.
    if random.random_bool(0.7) {
        let inner = match value {
            Value::Object(keys) => {
                let mut values: Vec<&mut Value> = keys.values_mut().collect();
                let count = values.len().max(1);
                let chosen = random.random_range(0..count);
                (chosen < values.len()).then(|| values.swap_remove(chosen))
            }
            Value::Array(values) => values.choose_mut(random),
            _ => None,
        };
        if let Some(inner) = inner {
            return mutate(inner, random);
        }
    }
    let other = odd(random);
    match value {
        Value::Object(keys) if random.random_bool(0.5) => {
            let names: Vec<String> = keys.keys().cloned().collect();
            match names.choose(random) {
                Some(name) if random.random_bool(0.5) => drop(keys.remove(name)),
                Some(name) => drop(keys.insert(format!("{name}s"), other)),
                None => drop(keys.insert("weight".to_owned(), other)),
            }
        }
        Value::Array(values) if random.random_bool(0.5) => {
            values.extend(values.first().cloned());
            values.push(other);
        }
        Value::String(text) if random.random_bool(0.3) => {
            let end = text.char_indices().map(|(at, _)| at).nth(random.random_range(0..8)).unwrap_or(text.len());
            text.truncate(end);
        }
        _ => *value = other,
    }
}

/// Damages the text of a body.
fn damaged(text: &str, random: &mut SmallRng) -> String {
    let cut = text.len() / 2;
    match random.random_range(0..40) {
        0 => text[..cut].to_owned(),
        1 => format!("{text}{text}"),
        2 => "[".repeat(4000),
        3 => text.replacen(':', "=", 1),
        _ => text.to_owned(),
    }
}

#[test]
fn mutated_objects_get_described_answers() {
    let (_world, agent) = start();
    let mut contract = Contract::of(&agent);
    let random = &mut SmallRng::seed_from_u64(SEED);
    for (path, keys) in objects() {
        assert_eq!(contract.request(&agent, "PUT", path, &keys.to_string()).status, 201);
    }
    let all = objects();
    let paths = [
        "/v1/routes",
        "/v1/policy-routes",
        "/v1/connections/%00",
        "/v1/segments/%2F",
        "/v1/customer-gateways/%F0%9F%98%80",
        "/v1/routes/::%2F0/x",
    ];
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..REQUESTS {
        let (path, keys) = all.choose(random).unwrap();
        let mut body = keys.clone();
        for _ in 0..random.random_range(1..=3) {
            mutate(&mut body, random);
        }
        let path = if random.random_bool(0.1) { paths.choose(random).unwrap() } else { path };
        let method = ["PUT", "PUT", "PUT", "PATCH", "POST", "DELETE"].choose(random).unwrap();
        let body = damaged(&body.to_string(), random);
        let reply = contract.request(&agent, method, path, &body);
        assert!(reply.status < 500, "{method} {path} {body}: {}", String::from_utf8_lossy(&reply.body));
        *codes.entry(reply.status).or_default() += 1;
        // A deletion would leave the others without what they refer to.
        if *method == "DELETE" && reply.status == 200 {
            for (path, keys) in &all {
                contract.request(&agent, "PUT", path, &keys.to_string());
            }
        }
    }
    // Both good and bad ones.
    for code in [200, 400, 404, 409] {
        assert!(codes.get(&code).is_some_and(|count| *count > 2), "{codes:?}");
    }
    for path in ["/v1/status", "/v1/config", "/v1/connections/nb", "/v1/metrics"] {
        assert_eq!(contract.request(&agent, "GET", path, "").status, 200, "{path}");
    }
    agent.must_run().unwrap();
    agent.stop().unwrap();
}

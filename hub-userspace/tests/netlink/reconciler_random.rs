//! Random requests, in bursts, against a plain map of the latest desired state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hub_userspace::kernel::netlink::{KernelNextHop, Reconciler, RouteAction, RouteKey};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::Value;
use tokio::task::yield_now;

use crate::lab::{TABLE, hop, in_namespace, ip, metric_of, net, unicast};

const SEQUENCES: usize = 1000;

type Wanted = BTreeMap<RouteKey, Arc<RouteAction>>;

/// A route as text: table, destination, metric, and its action.
type Words = (u64, String, u64, BTreeSet<String>);

fn words_of(key: &RouteKey, action: &RouteAction, names: &BTreeMap<u32, &str>) -> Words {
    let hop = |hop: &KernelNextHop| {
        let via = hop.via.map(|via| via.to_string()).unwrap_or_default();
        format!("{} {via} {}", names[&hop.ifindex], hop.weight)
    };
    let does = match action.normalised() {
        RouteAction::Unicast { next_hops, .. } => next_hops.iter().map(hop).collect(),
        RouteAction::Unreachable => ["unreachable".to_owned()].into(),
    };
    (key.table.into(), key.destination.to_string(), key.metric.into(), does)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn shown_words(shown: &Value) -> Words {
    let hop = |hop: &Value, weight: u64| {
        // Of another family.
        let via = text(&hop["via"]["host"]);
        format!("{} {}{via} {weight}", text(&hop["dev"]), text(&hop["gateway"]))
    };
    let does = match (text(&shown["type"]), &shown["nexthops"]) {
        ("" | "unicast", Value::Array(hops)) => hops.iter().map(|of| hop(of, of["weight"].as_u64().unwrap())).collect(),
        ("" | "unicast", _) => [hop(shown, 1)].into(),
        (other, _) => [other.to_owned()].into(),
    };
    let table = text(&shown["table"]).parse().unwrap_or(254);
    (table, text(&shown["dst"]).to_owned(), shown["metric"].as_u64().unwrap(), does)
}

fn held() -> BTreeSet<Words> {
    let commands =
        ["-4", "-6"].map(|family| [118, 119].map(|number| format!("{family} route show table all proto {number}")));
    commands
        .as_flattened()
        .iter()
        .map(|command| ip(command))
        .collect::<Vec<_>>()
        .iter()
        .flat_map(|shown| shown.as_array().unwrap())
        .map(shown_words)
        .collect()
}

fn random_key(random: &mut SmallRng, action: &RouteAction) -> RouteKey {
    let n = random.random_range(0..12);
    let destination =
        if random.random() { net(&format!("10.10.{n}.0/24")) } else { net(&format!("2001:db8:{}::/48", n + 16)) };
    let table = if random.random_bool(0.3) { 254 } else { TABLE };
    RouteKey { table, destination, metric: metric_of(action) }
}

fn random_action(random: &mut SmallRng, links: [u32; 2]) -> RouteAction {
    let [a, b] = links;
    match random.random_range(0..5) {
        0 => unicast(&[hop(a, None)]),
        1 => unicast(&[hop(b, None)]),
        2 => unicast(&[hop(a, Some("fe80::2")), hop(b, Some("fe80::3"))]),
        3 => unicast(&[KernelNextHop { weight: 7, ..hop(b, Some("fe80::3")) }, hop(a, Some("fe80::2"))]),
        _ => RouteAction::Unreachable,
    }
}

/// Applies a random request to the reconciler, and to the map.
fn wish(random: &mut SmallRng, reconciler: &Reconciler, desired: &mut Wanted, links: [u32; 2]) {
    if random.random_bool(0.05) {
        // Removes many at once.
        let (fewer, gone): (Wanted, Wanted) =
            std::mem::take(desired).into_iter().partition(|_| random.random_bool(0.7));
        *desired = fewer;
        reconciler.routes(gone.into_keys().map(|key| (key, None)).collect());
        return;
    }
    let mut changes = Vec::new();
    for _ in 0..random.random_range(1..12) {
        let action = random_action(random, links);
        let key = random_key(random, &action);
        let action = random.random_bool(0.7).then(|| Arc::new(action));
        match &action {
            Some(action) => drop(desired.insert(key, Arc::clone(action))),
            None => drop(desired.remove(&key)),
        }
        changes.push((key, action));
    }
    reconciler.routes(changes);
}

/// A third party removes one of our routes.
fn interfere(random: &mut SmallRng) {
    let family = if random.random() { "-4" } else { "-6" };
    let shown = ip(&format!("{family} route show table 1180 proto 118"));
    let shown = shown.as_array().unwrap();
    if !shown.is_empty() {
        let one = &shown[random.random_range(0..shown.len())];
        let kind = one["type"].as_str().unwrap_or("unicast");
        ip(&format!("{family} route del {kind} {} metric {} table 1180", text(&one["dst"]), one["metric"]));
    }
}

#[test]
fn random_changes_end_with_last_desired_state_in_kernel() {
    let seed = std::env::var("VPNHUB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1180);
    in_namespace(async move |lab| {
        let links = [lab.veth("a0", "a1").await, lab.veth("b0", "b1").await];
        let names = BTreeMap::from([(links[0], "a0"), (links[1], "b0")]);
        let mut random = SmallRng::seed_from_u64(seed);
        let mut reconciler = Reconciler::start().unwrap();
        let mut desired = Wanted::new();
        for sequence in 0..SEQUENCES {
            if random.random_bool(0.02) {
                // Killed and restarted.
                reconciler = Reconciler::start().unwrap();
                reconciler.routes(desired.iter().map(|(key, action)| (*key, Some(Arc::clone(action)))).collect());
            }
            for _ in 0..random.random_range(1..6) {
                wish(&mut random, &reconciler, &mut desired, links);
                for _ in 0..random.random_range(0..3) {
                    yield_now().await;
                }
            }
            if random.random_bool(0.1) {
                reconciler.settled().await.unwrap();
                interfere(&mut random);
                reconciler.audit();
            }
            let report = reconciler.settled().await.unwrap();
            assert_eq!(report.failures, [], "seed {seed}, sequence {sequence}");
            let expected: BTreeSet<Words> = desired.iter().map(|(key, action)| words_of(key, action, &names)).collect();
            assert_eq!(held(), expected, "seed {seed}, sequence {sequence}");
        }
        reconciler.clear().await.unwrap();
        assert_eq!(held(), BTreeSet::new());
    });
}

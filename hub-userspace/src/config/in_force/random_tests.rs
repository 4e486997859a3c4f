//! Random sequences of file edits and commands, checked against the definition of the configuration in force.

use std::fmt::Write as _;

use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};

use super::{
    super::{load_texts, parse, show},
    *,
};
use crate::store::{Body, PolicyRouteId, PolicyRouteKeys, SourceText};

/// A file with a few objects from a small pool, so that conflicts are frequent; valid or invalid.
fn draw_file(random: &mut SmallRng) -> String {
    let mut text = format!("[gateway]\nname = \"hub\"\nmax_connections = {}\n", random.random_range(2..6));
    let _ = writeln!(text, "max_policy_routes = {}", random.random_range(1..5));
    if random.random_ratio(1, 3) {
        text += "allow_default_route = true\n";
    }
    if random.random_ratio(1, 3) {
        text += "[vpc]\ninterface = \"tun-4\"\ncidrs = [\"10.5.0.0/16\"]\n";
    }
    for segment in 0..2 {
        if random.random_ratio(1, 2) {
            let _ = write!(text, "[segment.s{segment}]\nreaches = {}\n", in_toml(&draw_reaches(random)));
        }
    }
    for gateway in 0..3 {
        if random.random_ratio(3, 4) {
            let _ = write!(text, "[customer_gateway.g{gateway}]\naddress = \"198.51.100.{}\"\n", gateway + 1);
        }
    }
    for connection in 0..3 {
        if random.random_ratio(1, 2) {
            let mss_clamp = ["", "mss_clamp = \"off\"\n", "mss_clamp = 1300\n"][random.random_range(0..3)];
            let remote = draw_prefix(random);
            let enabled = if random.random_ratio(1, 4) { "enabled = false\n" } else { "" };
            let segment = draw_segment(random);
            let _ = write!(
                text,
                "[connection.c{connection}]\ncustomer_gateway = \"g{}\"\ninterface = \"tun-{}\"\n{enabled}\
                 segment = \"{segment}\"\n{mss_clamp}local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"{}\"]\ntranslate = {}\n",
                random.random_range(0..3),
                random.random_range(0..5),
                remote,
                in_toml(&draw_translate(random, &remote))
            );
        }
    }
    for _ in 0..random.random_range(0..4) {
        let (destination, next_hop) = (draw_prefix(random), random.random_range(0..3));
        let _ = write!(text, "[[route]]\ndestination = \"{destination}\"\nnext_hop = \"c{next_hop}\"\n");
    }
    if random.random_ratio(1, 4) {
        let (source, destination, next_hop) = (draw_prefix(random), draw_prefix(random), random.random_range(0..3));
        let _ = write!(
            text,
            "[[policy_route]]\nsource = \"{source}\"\ndestination = \"{destination}\"\nnext_hop = \"c{next_hop}\"\n"
        );
    }
    text
}

/// Mostly one that may exist.
fn draw_segment(random: &mut SmallRng) -> &'static str {
    ["default", "default", "default", "s0", "s1", "s2"][random.random_range(0..6)]
}

fn draw_reaches(random: &mut SmallRng) -> Value {
    let names = ["vpc", "default", "s0", "s1", "s2"].into_iter();
    Value::from(names.filter(|_| random.random_ratio(1, 3)).collect::<Vec<_>>())
}

fn draw_prefix(random: &mut SmallRng) -> String {
    match random.random_range(0..12) {
        0 => "0.0.0.0/0".to_owned(),
        1 => "10.0.0.0/8".to_owned(),
        2..8 => format!("10.{}.0.0/16", random.random_range(1..7)),
        _ => format!("10.{}.{}.0/24", random.random_range(1..7), random.random_range(0..2)),
    }
}

/// Mostly none, or one that translates a part of `remote` to a prefix of the pool; sometimes another one beside it.
fn draw_translate(random: &mut SmallRng, remote: &str) -> Value {
    let mut translation = |may_miss: bool| {
        let (second, third) = (random.random_range(1..7), random.random_range(0..2));
        let remote: IpNet = remote.parse().expect("a prefix");
        let site = match remote.prefix_len() {
            16 | 24 if !may_miss => remote.to_string(),
            _ => format!("10.{}.{third}.0/24", random.random_range(1..7)),
        };
        let hub =
            if site.ends_with("/16") { format!("10.{second}.0.0/16") } else { format!("10.{second}.{third}.0/24") };
        json!({ "site": site, "hub": hub })
    };
    let (one, other) = (translation(false), translation(true));
    match random.random_range(0..8) {
        0 | 1 => json!([one]),
        2 => json!([one, other]),
        _ => json!([]),
    }
}

fn in_toml(value: &Value) -> String {
    toml::Value::try_from(value).expect("no null").to_string()
}

fn draw_change(random: &mut SmallRng) -> ObjectChange {
    let destination: IpNet = draw_prefix(random).parse().expect("a prefix");
    let connection = format!("c{}", random.random_range(0..6));
    let next_hop = random.random_ratio(2, 3).then(|| connection.clone());
    let weight = random.random_ratio(1, 2).then(|| random.random_range(0..=100));
    let put = |id, value: Value, random: &mut SmallRng| {
        let Value::Object(keys) = value else { panic!("a table") };
        let mode = [PutMode::Add, PutMode::Merge, PutMode::Replace][random.random_range(0..3)];
        ObjectChange::Put(PutObject { id, keys, mode })
    };
    let policy_route = |random: &mut SmallRng, next_hop: Option<String>| PolicyRouteChange {
        source: draw_prefix(random).parse().expect("a prefix"),
        destination,
        next_hop,
        priority: random.random_ratio(1, 2).then(|| random.random_range(1..=100)),
        weight,
        publish: random.random_ratio(1, 2).then(|| random.random()),
    };
    match random.random_range(0..28) {
        23..26 => {
            let mode = [PutMode::Add, PutMode::Merge, PutMode::Replace][random.random_range(0..3)];
            ObjectChange::PutPolicyRoute(policy_route(random, next_hop), mode)
        }
        26 | 27 => ObjectChange::DeletePolicyRoute(policy_route(random, next_hop)),
        20 | 21 => {
            let value = json!({ "reaches": draw_reaches(random) });
            put(ObjectId::Segment(format!("s{}", random.random_range(0..3))), value, random)
        }
        22 => ObjectChange::Delete(ObjectId::Segment(format!("s{}", random.random_range(0..3)))),
        0..7 => {
            ObjectChange::AddRoute(AddRoute { destination, next_hop: connection, weight, publish: random.random() })
        }
        7..9 => ObjectChange::SetRoute(SetRoute {
            destination,
            next_hop,
            weight,
            publish: Some(random.random()),
            replace: random.random(),
        }),
        9..12 => ObjectChange::DeleteRoute(DeleteRoute { destination, next_hop }),
        12..15 => {
            let mss_clamp = [json!("auto"), json!("off"), json!(1240)][random.random_range(0..3)].clone();
            let remote = draw_prefix(random);
            let value = json!({
                "customer_gateway": format!("g{}", random.random_range(0..4)),
                "interface": format!("tun-{}", random.random_range(0..5)),
                "local_cidrs": ["0.0.0.0/0"],
                "remote_cidrs": [remote],
                "translate": draw_translate(random, &remote),
                "segment": draw_segment(random),
                "enabled": random.random::<bool>(),
                "mss_clamp": mss_clamp,
            });
            put(ObjectId::Connection(connection), value, random)
        }
        15..17 => {
            let gateway = random.random_range(0..4);
            let value = json!({ "address": format!("198.51.100.{}", random.random_range(1..6)) });
            put(ObjectId::CustomerGateway(format!("g{gateway}")), value, random)
        }
        17 => ObjectChange::Delete(ObjectId::Connection(connection)),
        18 => ObjectChange::Delete(ObjectId::CustomerGateway(format!("g{}", random.random_range(0..4)))),
        _ => ObjectChange::Admin(Admin { connection, up: random.random() }),
    }
}

fn load(text: &str) -> Option<FileSet> {
    load_texts(vec![SourceText { path: "/etc/vpnhub.toml".into(), text: text.to_owned() }]).ok()
}

/// An object of the store with its age.
type Aged = (u64, ObjectId);

/// Whether the file with these objects of the store is valid as one file. An independent definition: it validates the
/// text and uses no code of the union.
fn is_valid(file: &str, objects: &Objects, some: &[&Aged]) -> bool {
    let mut text = file.to_owned();
    // In the order of kinds, then age: rules report the later object.
    for pass in 0..5 {
        for (_, id) in some {
            match (id, objects.get(id).map(|stored| stored.value)) {
                (ObjectId::Segment(name), Some(Body::Table(keys))) if pass == 0 => {
                    let _ = write!(text, "[segment.{name}]\nreaches = {}\n", in_toml(&keys["reaches"]));
                }
                (ObjectId::CustomerGateway(name), Some(Body::Table(keys))) if pass == 1 => {
                    let _ = write!(text, "[customer_gateway.{name}]\naddress = {}\n", keys["address"]);
                }
                (ObjectId::Connection(name), Some(Body::Table(keys))) if pass == 2 => {
                    let _ = writeln!(text, "[connection.{name}]");
                    for (key, value) in keys {
                        let _ = writeln!(text, "{key} = {}", in_toml(&value));
                    }
                }
                (ObjectId::Route((destination, next_hop)), Some(Body::Route(keys))) if pass == 3 => {
                    let _ = write!(
                        text,
                        "[[route]]\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"\nweight = {}\npublish = {}\n",
                        keys.weight, keys.publish
                    );
                }
                (
                    ObjectId::PolicyRoute(PolicyRouteId { source, destination, next_hop }),
                    Some(Body::PolicyRoute(PolicyRouteKeys { priority, weight, publish })),
                ) if pass == 4 => {
                    let _ = write!(
                        text,
                        "[[policy_route]]\nsource = \"{source}\"\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"\n\
                         priority = {priority}\nweight = {weight}\npublish = {publish}\n"
                    );
                }
                _ => {}
            }
        }
    }
    parse(&text).is_ok()
}

/// All objects of the store: kinds in the order of their references, the oldest of each first.
fn aged(objects: &Objects) -> Vec<Aged> {
    let sorted = |mut some: Vec<Aged>| {
        some.sort();
        some
    };
    let segments = objects.segments.iter().map(|(name, stored)| (stored.number, ObjectId::Segment(name.clone())));
    let gateways =
        objects.customer_gateways.iter().map(|(name, stored)| (stored.number, ObjectId::CustomerGateway(name.clone())));
    let connections =
        objects.connections.iter().map(|(name, stored)| (stored.number, ObjectId::Connection(name.clone())));
    let routes = objects.routes.iter().map(|(id, stored)| (stored.number, ObjectId::Route(id.clone())));
    let policies = objects.policy_routes.iter().map(|(id, stored)| (stored.number, ObjectId::PolicyRoute(id.clone())));
    let connected = [sorted(segments.collect()), sorted(gateways.collect()), sorted(connections.collect())].concat();
    [connected, sorted(routes.collect()), sorted(policies.collect())].concat()
}

struct Model {
    file: String,
    in_force: InForce,
    config: Config,
}

impl Model {
    fn take(&mut self, mut proposal: ValidatedChange) {
        match std::mem::replace(&mut proposal.change, ProposedChange::Nothing) {
            ProposedChange::Nothing => {}
            ProposedChange::Small(difference) => self.config.apply(&difference),
            ProposedChange::Whole(config) => self.config = *config,
        }
        self.in_force.apply(proposal);
    }

    fn check(&self, what: &str) {
        let objects = &self.in_force.objects;
        // A restarted agent gives the same result.
        let (fresh, config) = InForce::new(load(&self.file).expect("good"), objects.clone()).expect("a configuration");
        assert_eq!(self.config, config, "{what}");
        assert_eq!(self.in_force.set_aside, fresh.set_aside, "{what}");
        // The output of `config show` gives the same result.
        let text = show(&self.config);
        let (loaded, _) = parse(&text).unwrap_or_else(|found| panic!("{what}: {found:#?}\n{text}"));
        assert_eq!(loaded, self.config, "{what}");
        // Each object is in force or set aside with a reason, and everything in the file is in force.
        let all = aged(objects);
        let out: HashSet<&ObjectId> = self.in_force.set_aside.iter().map(|(id, _)| id).collect();
        assert!(self.in_force.set_aside.iter().all(|(_, reason)| !reason.is_empty()), "{what}");
        let inside: Vec<&Aged> = all.iter().filter(|(_, id)| !out.contains(id)).collect();
        let (of_file, _) = parse(&self.file).expect("good");
        let count = |config: &Config| {
            let Config { segments, customer_gateways, connections, routes, policy_routes, .. } = config;
            [segments.len(), customer_gateways.len(), connections.len(), routes.len(), policy_routes.len()]
        };
        let mut expected = count(&of_file);
        for (_, id) in &inside {
            expected[match id {
                ObjectId::Segment(_) => 0,
                ObjectId::CustomerGateway(_) => 1,
                ObjectId::Connection(_) => 2,
                ObjectId::Route(_) => 3,
                ObjectId::PolicyRoute(_) => 4,
            }] += 1;
        }
        assert_eq!(count(&self.config), expected, "{what}\n{text}");
        assert!(is_valid(&self.file, objects, &inside), "{what}");
        // File and older objects take precedence: each set-aside object breaks a rule together with those alone.
        for (index, candidate) in all.iter().enumerate().filter(|(_, (_, id))| out.contains(id)) {
            let mut older: Vec<&Aged> = all[..index].iter().filter(|(_, id)| !out.contains(id)).collect();
            older.push(candidate);
            assert!(
                !is_valid(&self.file, objects, &older),
                "{what}: {:?} fits: {:#?}",
                candidate.1,
                self.in_force.set_aside
            );
        }
        for (name, connection) in &self.config.connections {
            let own = of_file.connections.get(name).map(|found| found.enabled).or_else(|| {
                Some(objects.connections.get(name)?.value.get("enabled").and_then(Value::as_bool).unwrap_or(true))
            });
            assert_eq!(Some(connection.enabled), objects.admin.get(name).copied().or(own), "{what}: {name}");
        }
    }
}

fn run(seed: u64, steps: usize) -> [usize; 4] {
    let mut random = SmallRng::seed_from_u64(seed);
    let file =
        std::iter::repeat_with(|| draw_file(&mut random)).find(|text| load(text).is_some()).expect("one is good");
    let (in_force, config) = InForce::new(load(&file).expect("good"), Objects::default()).expect("a configuration");
    let mut model = Model { file, in_force, config };
    let (mut made, mut refused, mut aside, mut translated) = (0, 0, 0, 0);
    for step in 0..steps {
        if random.random_ratio(1, 8) {
            let file = draw_file(&mut random);
            let Some(files) = load(&file) else { continue };
            let proposal = model.in_force.propose_files(files).expect("a configuration");
            model.take(proposal);
            model.file.clone_from(&file);
            model.check(&format!("seed {seed} step {step}: {file}"));
        } else {
            let change = draw_change(&mut random);
            let before = (model.config.clone(), model.in_force.objects.clone());
            match model.in_force.propose(&change) {
                Ok(proposal) => {
                    // A proposal changes nothing before it is applied.
                    assert_eq!((&model.config, &model.in_force.objects), (&before.0, &before.1));
                    // A command sets no object aside.
                    let was: HashSet<ObjectId> = model.in_force.set_aside.iter().map(|(id, _)| id.clone()).collect();
                    model.take(proposal);
                    let new = model.in_force.set_aside.iter().find(|(id, _)| !was.contains(id));
                    assert_eq!(new, None, "seed {seed} step {step}: {change:?}");
                    made += 1;
                }
                Err(_) => refused += 1,
            }
            model.check(&format!("seed {seed} step {step}: {change:?}\n{}", model.file));
        }
        aside += model.in_force.set_aside.len();
        let connections = model.config.connections.values();
        translated += connections.filter(|connection| !connection.translate.is_empty()).count();
    }
    [made, refused, aside, translated]
}

#[test]
fn random_edits_and_commands_equal_fresh_start() {
    // For another seed or a longer run: VPNHUB_SEED, VPNHUB_ROUNDS.
    let of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, rounds) = (of("VPNHUB_SEED").unwrap_or(1), of("VPNHUB_ROUNDS").unwrap_or(60));
    let found: Vec<_> = (seed..seed + rounds).map(|seed| run(seed, 60)).collect();
    let [made, refused, aside, translated] =
        [0, 1, 2, 3].map(|index| found.iter().map(|found| found[index]).sum::<usize>());
    eprintln!("{made} changes, {refused} refused, {aside} set aside, {translated} connections with translations");
    assert!(made > 500 && refused > 500 && aside > 500 && translated > 500, "{made} {refused} {aside} {translated}");
}

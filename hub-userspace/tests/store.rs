//! A store that is killed at any moment contains every acknowledged change, and no partial one.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use hub_userspace::{
    config::{
        in_force::{AddRoute, Admin, DeleteRoute, InForce, ObjectChange, PutMode, PutObject, SetRoute},
        load_texts,
    },
    store::{Batch, Body, ObjectId, Objects, Op, Opened, RouteKeys, SourceText, Store, Stored, Unconfirmed, audit},
};
use ipnet::{IpNet, Ipv4Net};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};

const TEXT: &str = "\
[gateway]
name = \"hub\"
max_connections = 6
[customer_gateway.g]
address = \"198.51.100.1\"
[connection.a]
customer_gateway = \"g\"
interface = \"tun-a\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.0.0.0/8\"]
";

fn united(objects: Objects) -> InForce {
    let files = load_texts(vec![SourceText { path: "/etc/vpnhub.toml".into(), text: TEXT.to_owned() }]);
    InForce::new(files.expect("a good file"), objects).expect("a configuration").0
}

/// The n-th change, deterministic. Some are refused.
fn change(n: u32) -> ObjectChange {
    let mut random = SmallRng::seed_from_u64(n.into());
    let destination: IpNet = Ipv4Net::new([10, 0, random.random_range(0..20), 0].into(), 24).expect("a length").into();
    let name = ["a", "b", "c", "d"][random.random_range(0..4)].to_owned();
    let next_hop = Some(name.clone());
    let put = |id, value: Value| {
        let Value::Object(keys) = value else { panic!("a table") };
        ObjectChange::Put(PutObject { id, keys, mode: PutMode::Merge })
    };
    match random.random_range(0..12) {
        0..4 => {
            ObjectChange::AddRoute(AddRoute { destination, next_hop: name, weight: None, publish: random.random() })
        }
        4..6 => ObjectChange::SetRoute(SetRoute {
            destination,
            next_hop,
            weight: Some(random.random_range(0..=100)),
            publish: None,
            replace: false,
        }),
        6..8 => ObjectChange::DeleteRoute(DeleteRoute { destination, next_hop }),
        8 => ObjectChange::Admin(Admin { connection: name, up: random.random() }),
        9 => put(
            ObjectId::Connection(name.clone()),
            json!({
                "customer_gateway": "g",
                "interface": format!("tun-{name}"),
                "local_cidrs": ["0.0.0.0/0"],
                "remote_cidrs": ["10.0.0.0/8"],
                "up_delay": format!("{}s", random.random_range(0..9)),
            }),
        ),
        10 => ObjectChange::Delete(ObjectId::Connection(name)),
        _ => {
            put(ObjectId::CustomerGateway("h".to_owned()), json!({ "address": format!("198.51.100.{}", n % 200 + 2) }))
        }
    }
}

/// The contents of a store.
#[derive(Debug, Clone, Default, PartialEq)]
struct Said {
    objects: Objects,
    unconfirmed: Option<Unconfirmed>,
}

/// The store's batch for the n-th change to the active configuration, unless it is refused.
fn batch(in_force: &mut InForce, n: u32) -> Option<(Batch, u64)> {
    let proposal = in_force.propose(&change(n)).ok().filter(|proposal| !proposal.is_nothing())?;
    let text = |n| vec![SourceText { path: "/etc/vpnhub.toml".into(), text: format!("{TEXT}# {n}\n") }];
    let unconfirmed = match n % 7 {
        0 => Some(Some(Unconfirmed { before: text(n), after: text(n + 1) })),
        3 => Some(None),
        _ => None,
    };
    let entry = audit::AuditEntry {
        time: n.into(),
        uid: Some(0),
        action: "change".into(),
        object: n.to_string(),
        before: Value::Null,
        after: Value::Null,
    };
    let batch = Batch { ops: proposal.ops.clone(), audit: Some(entry), unconfirmed };
    let next_number = in_force.objects().next_number_after(&batch.ops);
    in_force.apply(proposal);
    Some((batch, next_number))
}

/// Run by the test below in a process of its own: changes the store named by the environment until it is killed, and
/// prints the number of each completed change.
#[test]
#[ignore = "only of use to kill_at_random_moment_loses_no_acknowledged_change"]
fn helper_change_until_killed() {
    let folder = env::var_os("STORE_FOLDER").expect("the test says it");
    let Opened { mut store, objects, .. } = Store::open(Path::new(&folder), "default").expect("a good store");
    let mut in_force = united(objects);
    let first: u32 = env::var("STORE_FIRST").expect("the test says it").parse().expect("a number");
    println!("\nREADY");
    for n in first.. {
        if let Some((batch, next_number)) = batch(&mut in_force, n) {
            store.commit(&batch, next_number).expect("written");
        }
        println!("DONE {n}");
    }
}

/// The expected contents of the store.
struct Model {
    in_force: InForce,
    said: Said,
    made: u32,
}

impl Model {
    /// Makes the n-th change.
    fn step(&mut self, n: u32) {
        if let Some((batch, _)) = batch(&mut self.in_force, n) {
            self.said.objects = self.in_force.objects().clone();
            if let Some(unconfirmed) = batch.unconfirmed {
                self.said.unconfirmed = unconfirmed;
            }
            self.made += 1;
        }
    }
}

#[test]
fn kill_at_random_moment_loses_no_acknowledged_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = SmallRng::seed_from_u64(1);
    let mut model = Model { in_force: united(Objects::default()), said: Said::default(), made: 0 };
    let (mut done, mut unsaid) = (0, 0);
    for round in 0..200 {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "helper_change_until_killed"])
            .env("STORE_FOLDER", folder.path())
            .env("STORE_FIRST", done.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        lines.find(|line| line.as_ref().is_ok_and(|line| line == "READY")).expect("it starts").expect("text");
        // After some changes, in the middle of one: the moment is random, and the outcome must always be correct.
        let first: Vec<_> = lines.by_ref().take(random.random_range(0..12)).collect();
        thread::sleep(Duration::from_micros(random.random_range(0..1_000)));
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        let lines = first.into_iter().chain(lines).map_while(Result::ok);
        let said = lines.filter_map(|line| line.strip_prefix("DONE ")?.parse::<u32>().ok());
        let said = said.last().map_or(done, |n| n + 1);

        let Opened { objects, unconfirmed, .. } =
            Store::open(folder.path(), "default").unwrap_or_else(|error| panic!("round {round}: {error}"));
        let found = Said { objects, unconfirmed };
        (done..said).for_each(|n| model.step(n));
        done = said;
        if model.said != found {
            // One more may be complete: the kill came before its number was printed.
            model.step(said);
            done += 1;
            unsaid += 1;
        }
        assert!(model.said == found, "round {round}: after {said} changes\n{found:#?}");
        let names = fs::read_dir(folder.path().join("default")).expect("there").count();
        assert_eq!(names, 1, "round {round}: something is left");
    }
    eprintln!("{} changes; killed before saying so: {unsaid}", model.made);
    assert!(model.made > 500 && unsaid > 0, "{} changes, {unsaid} kills within one", model.made);
}

/// Fills the store of `STORE_FOLDER` with `STORE_ROUTES` routes through a connection `a`: /31 prefixes of 10.0.0.0/8.
#[test]
#[ignore = "prepares measurements"]
fn helper_fill_store() {
    let folder = env::var_os("STORE_FOLDER").expect("the folder to fill");
    let count: u32 = env::var("STORE_ROUTES").expect("how many").parse().expect("a number");
    let Opened { mut store, .. } = Store::open(Path::new(&folder), "default").expect("a good store");
    let ops = (0..count).map(|n| {
        let destination = Ipv4Net::new((0x0a00_0000 + n * 2).into(), 31).expect("a length").into();
        let value = Body::Route(RouteKeys { weight: 50, publish: false });
        Op::Put(ObjectId::Route((destination, "a".to_owned())), Stored { number: n.into(), value })
    });
    let batch = Batch { ops: ops.collect(), ..Batch::default() };
    store.commit(&batch, count.into()).expect("written");
}

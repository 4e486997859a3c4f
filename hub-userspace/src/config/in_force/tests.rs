use serde_json::{Value, json};

use super::{super::load_texts, *};
use crate::{
    config::show,
    store::{Keys, SourceText},
};

pub(super) const FILE: &str = r#"[gateway]
name = "hub"
max_connections = 4

[customer_gateway.g]
address = "198.51.100.1"

[connection.a]
customer_gateway = "g"
interface = "tun-a"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.1.0.0/16"]

[[route]]
destination = "10.1.0.0/16"
next_hop = "a"
"#;

pub(super) fn files_of(texts: &[(&str, &str)]) -> FileSet {
    let texts = texts.iter().map(|(path, text)| SourceText { path: path.into(), text: (*text).to_owned() });
    load_texts(texts.collect()).unwrap_or_else(|found| panic!("{found:#?}"))
}

pub(super) fn files(text: &str) -> FileSet {
    files_of(&[("/etc/vpnhub.toml", text)])
}

/// Files and store of an agent, with its configuration in force.
pub(super) struct World {
    pub(super) in_force: InForce,
    pub(super) config: Config,
}

impl World {
    pub(super) fn new(text: &str) -> Self {
        let (in_force, config) = InForce::new(files(text), Objects::default()).expect("a configuration");
        Self { in_force, config }
    }

    fn take(&mut self, mut proposal: ValidatedChange) -> Vec<String> {
        match std::mem::replace(&mut proposal.change, ProposedChange::Nothing) {
            ProposedChange::Nothing => {}
            ProposedChange::Small(difference) => self.config.apply(&difference),
            ProposedChange::Whole(config) => self.config = *config,
        }
        let warnings = std::mem::take(&mut proposal.warnings);
        self.in_force.apply(proposal);
        warnings
    }

    pub(super) fn change(&mut self, change: &ObjectChange) -> Result<Vec<String>, String> {
        let proposal = self.in_force.propose(change).map_err(|error| error.to_string())?;
        Ok(self.take(proposal))
    }

    pub(super) fn edit(&mut self, text: &str) {
        let proposal = self.in_force.propose_files(files(text)).expect("a configuration");
        self.take(proposal);
    }

    pub(super) fn set_aside(&self) -> Vec<(String, String)> {
        let found = self.in_force.set_aside().into_iter();
        found.map(|found| (format!("{} {}", found.kind, found.name), found.reason)).collect()
    }

    /// Checks that a restarted agent has the same configuration in force.
    pub(super) fn check(&self) {
        let files = load_texts(self.in_force.files.texts.clone()).expect("good files");
        let (fresh, config) = InForce::new(files, self.in_force.objects.clone()).expect("a configuration");
        assert_eq!(self.config, config);
        assert_eq!(self.set_aside(), World { in_force: fresh, config }.set_aside());
        let text = show(&self.config);
        let (loaded, _) = super::super::parse(&text).unwrap_or_else(|found| panic!("{found:#?}\n{text}"));
        assert_eq!(loaded, self.config, "{text}");
    }
}

pub(super) fn keys(value: Value) -> Keys {
    match value {
        Value::Object(keys) => keys,
        other => panic!("{other} is no table"),
    }
}

pub(super) fn connection(name: &str, interface: &str, remote: &str) -> ObjectChange {
    let value = json!({
        "customer_gateway": "g", "interface": interface, "local_cidrs": ["0.0.0.0/0"], "remote_cidrs": [remote],
    });
    let id = ObjectId::Connection(name.to_owned());
    ObjectChange::Put(PutObject { id, keys: keys(value), mode: PutMode::Add })
}

pub(super) fn gateway(name: &str, address: &str, mode: PutMode) -> ObjectChange {
    let id = ObjectId::CustomerGateway(name.to_owned());
    ObjectChange::Put(PutObject { id, keys: keys(json!({ "address": address })), mode })
}

pub(super) fn add(destination: &str, next_hop: &str) -> ObjectChange {
    let destination = destination.parse().expect(destination);
    ObjectChange::AddRoute(AddRoute { destination, next_hop: next_hop.to_owned(), weight: None, publish: false })
}

pub(super) fn set(destination: &str, next_hop: Option<&str>, weight: u8) -> ObjectChange {
    let (destination, next_hop) = (destination.parse().expect(destination), next_hop.map(str::to_owned));
    ObjectChange::SetRoute(SetRoute { destination, next_hop, weight: Some(weight), publish: None, replace: false })
}

pub(super) fn delete(destination: &str, next_hop: Option<&str>) -> ObjectChange {
    let (destination, next_hop) = (destination.parse().expect(destination), next_hop.map(str::to_owned));
    ObjectChange::DeleteRoute(DeleteRoute { destination, next_hop })
}

pub(super) fn admin(connection: &str, up: bool) -> ObjectChange {
    ObjectChange::Admin(Admin { connection: connection.to_owned(), up })
}

/// A connection of a site whose LAN is 192.168.1.0/24.
fn translated(name: &str, site: &str, hub: &str) -> ObjectChange {
    let mut put = connection(name, &format!("tun-{name}"), "192.168.1.0/24");
    if let ObjectChange::Put(put) = &mut put {
        put.keys.insert("translate".into(), json!([{ "site": site, "hub": hub }]));
    }
    put
}

#[test]
fn route_to_translated_addresses_is_by_their_hub_prefix() {
    let mut world = World::new(FILE);
    let warnings = world.change(&translated("b", "192.168.1.0/24", "10.201.1.0/24")).expect("fits");
    assert!(warnings[0].contains("destination = \"10.201.1.0/24\""), "{warnings:?}");
    assert_eq!(world.change(&add("10.201.1.0/24", "b")), Ok(vec![]));
    assert_eq!(world.change(&add("10.201.1.128/25", "b")), Ok(vec![]));
    let warnings = world.change(&add("192.168.1.0/25", "b")).expect("only a warning");
    assert!(warnings[0].contains("use its hub prefix 10.201.1.0/25"), "{warnings:?}");
    world.check();
    // Another connection to a site with the same addresses.
    world.change(&translated("c", "192.168.1.0/24", "10.202.1.0/24")).expect("fits");
    assert_eq!(world.change(&add("10.202.1.0/24", "c")), Ok(vec![]));
    world.check();
}

#[test]
fn file_object_change_is_rejected_with_file_and_line() {
    let mut world = World::new(FILE);
    let delete_connection = ObjectChange::Delete(ObjectId::Connection("a".into()));
    for (change, expected) in [
        (
            delete("10.1.0.0/16", None),
            "route to 10.1.0.0/16 via a is defined in /etc/vpnhub.toml line 14: change it there and reload",
        ),
        (set("10.1.0.0/16", None, 5), "is defined in /etc/vpnhub.toml line 14"),
        (delete_connection, "connection a is defined in /etc/vpnhub.toml line 8: change it there and reload"),
        (connection("a", "tun-x", "10.9.0.0/16"), "connection a is defined in /etc/vpnhub.toml line 8"),
        (gateway("g", "198.51.100.9", PutMode::Merge), "customer gateway g is defined in /etc/vpnhub.toml line 5"),
    ] {
        let error = world.change(&change).expect_err("of a file");
        assert!(error.contains(expected), "{change:?}: {error}");
    }
    world.check();
}

#[test]
fn invalid_change_is_rejected_with_remedy() {
    let mut world = World::new(FILE);
    world.change(&add("10.1.1.0/24", "a")).expect("fits");
    for (change, expected) in [
        (add("10.2.0.0/16", "b"), "there is no connection \"b\": there are a"),
        (set("10.1.1.0/24", Some("b"), 5), "there is no connection \"b\""),
        (delete("10.9.0.0/16", None), "there is no route to 10.9.0.0/16"),
        (delete("10.1.1.0/24", Some("b")), "there is no route to 10.1.1.0/24 via \"b\": its next hops are a"),
        (ObjectChange::Delete(ObjectId::Connection("b".into())), "there is no connection \"b\""),
        (admin("b", false), "there is no connection \"b\": there are a"),
        (add("0.0.0.0/0", "a"), "set allow_default_route = true"),
        (connection("b", "tun-b", "10.1.0.0/16x"), "connection.b.remote_cidrs"),
        (connection("b", "tun-a", "10.1.2.0/24"), "both are on interface \"tun-a\""),
        (gateway("x y", "198.51.100.2", PutMode::Add), "use 1 to 63 of"),
        (gateway("x", "host", PutMode::Add), "customer_gateway.x.address: \"host\""),
    ] {
        let error = world.change(&change).expect_err("does not fit");
        assert!(error.contains(expected), "{change:?}: {error}");
    }
    for (site, hub, expected) in [
        ("192.168.1.0/24", "10.2.0.0/16", "connection.b.translate[1].hub: 10.2.0.0/16 and the site's"),
        ("192.168.2.0/24", "10.2.1.0/24", "192.168.2.0/24 is not in connection.b.remote_cidrs"),
    ] {
        let error = world.change(&translated("b", site, hub)).expect_err("does not fit");
        assert!(error.contains(expected), "{error}");
    }
    let nothing = |keys| {
        let id = ObjectId::Connection("b".into());
        ObjectChange::Put(PutObject { id, keys, mode: PutMode::Add })
    };
    let error = world.change(&nothing(keys(json!({ "interfase": "x", "peer": 7 })))).expect_err("wrong");
    // All errors at once.
    for expected in ["unknown key \"interfase\"", "connection.b.peer", "the key \"customer_gateway\" is missing"] {
        assert!(error.contains(expected), "{error}");
    }
    world.check();
}

#[test]
fn set_is_idempotent_and_keeps_unnamed_keys() {
    let mut world = World::new(FILE);
    assert_eq!(world.change(&set("10.1.1.0/24", Some("a"), 5)), Ok(vec![]));
    let route = |world: &World| world.config.routes[1].clone();
    assert_eq!((route(&world).weight, route(&world).publish), (5, false));
    let publish = ObjectChange::SetRoute(SetRoute {
        destination: "10.1.1.0/24".parse().expect("a prefix"),
        next_hop: None,
        weight: None,
        publish: Some(true),
        replace: false,
    });
    world.change(&publish).expect("fits");
    assert_eq!((route(&world).weight, route(&world).publish), (5, true));
    let number = world.in_force.objects.next_number;
    assert!(world.in_force.propose(&publish).expect("fits").is_nothing());
    assert_eq!(world.in_force.objects.next_number, number);

    let put = |value, mode| {
        let id = ObjectId::Connection("b".to_owned());
        ObjectChange::Put(PutObject { id, keys: keys(value), mode })
    };
    world.change(&connection("b", "tun-b", "10.2.0.0/16")).expect("fits");
    assert!(world.change(&connection("b", "tun-c", "10.2.0.0/16")).expect_err("is there").contains("connection set b"));
    world.change(&put(json!({ "peer": "169.254.0.2" }), PutMode::Merge)).expect("fits");
    assert_eq!(world.config.connections["b"].peer, "169.254.0.2".parse().ok());
    assert_eq!(world.config.connections["b"].interface, "tun-b");
    world.change(&put(json!({ "peer": null }), PutMode::Merge)).expect("fits");
    assert_eq!(world.config.connections["b"].peer, None);
    let error = world.change(&put(json!({ "interface": "tun-b" }), PutMode::Replace)).expect_err("keys are missing");
    assert!(error.contains("the key \"remote_cidrs\" is missing"), "{error}");
    world.check();
}

#[test]
fn delete_of_object_in_use_is_rejected() {
    let mut world = World::new(FILE);
    world.change(&gateway("h", "198.51.100.2", PutMode::Add)).expect("fits");
    let mut of_h = connection("b", "tun-b", "10.2.0.0/16");
    if let ObjectChange::Put(put) = &mut of_h {
        put.keys.insert("customer_gateway".into(), json!("h"));
    }
    world.change(&of_h).expect("fits");
    world.change(&add("10.2.0.0/16", "b")).expect("fits");
    let delete_connection = ObjectChange::Delete(ObjectId::Connection("b".into()));
    let delete_gateway = ObjectChange::Delete(ObjectId::CustomerGateway("h".into()));
    let error = world.change(&delete_connection).expect_err("used");
    assert!(
        error.contains("route to 10.2.0.0/16 via b would no longer be in force: there is no connection \"b\""),
        "{error}"
    );
    let error = world.change(&delete_gateway).expect_err("used");
    assert!(error.contains("connection b would no longer be in force"), "{error}");
    world.check();
    for change in [&delete("10.2.0.0/16", None), &delete_connection, &delete_gateway] {
        world.change(change).expect("not used any more");
    }
    assert!(world.in_force.objects.is_empty());
    world.check();
}

/// Each edit of the file with the objects that it sets aside and the reasons; undoing it brings them back.
#[test]
fn conflicting_objects_are_set_aside_and_restored() {
    let second = "\n[customer_gateway.h]\naddress = \"198.51.100.2\"\n[connection.z]\ncustomer_gateway = \"h\"\n\
                  interface = \"tun-z\"\nlocal_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.2.0.0/15\"]\n";
    let cases: [(String, &[(&str, &str)]); 6] = [
        (
            FILE.replace("max_connections = 4", "max_connections = 2"),
            &[
                ("connection c", "gateway.max_connections allows 2"),
                ("route 10.3.0.0/16 c", "there is no connection \"c\""),
            ],
        ),
        (
            FILE.replace("[connection.a]", "[connection.b]").replace("\"a\"", "\"b\""),
            &[
                ("connection b", "/etc/vpnhub.toml line 8 also defines it"),
                ("route 10.1.7.0/24 a", "there is no connection \"a\""),
            ],
        ),
        (
            format!("{FILE}\n[[route]]\ndestination = \"10.1.7.0/24\"\nnext_hop = \"a\"\nweight = 3\n"),
            &[("route 10.1.7.0/24 a", "/etc/vpnhub.toml line 18 also defines it")],
        ),
        (
            FILE.replace("[customer_gateway.g]", "[customer_gateway.x]").replace("= \"g\"", "= \"x\""),
            &[
                ("connection b", "there is no customer gateway \"g\""),
                ("connection c", "there is no customer gateway \"g\""),
                ("route 10.2.0.0/16 b", "there is no connection \"b\""),
                ("route 10.3.0.0/16 c", "there is no connection \"c\""),
            ],
        ),
        (
            format!("{FILE}{second}"),
            &[
                ("connection b", "lies in 10.2.0.0/15 of \"z\" (/etc/vpnhub.toml line"),
                ("connection c", "lies in 10.2.0.0/15 of \"z\" (/etc/vpnhub.toml line"),
                ("route 10.2.0.0/16 b", "there is no connection \"b\""),
                ("route 10.3.0.0/16 c", "there is no connection \"c\""),
            ],
        ),
        (
            format!("{FILE}\n[vpc]\ninterface = \"tun-c\"\ncidrs = [\"10.1.7.0/24\", \"192.168.0.0/24\"]\n")
                .replace("remote_cidrs = [\"10.1.0.0/16\"]", "remote_cidrs = [\"10.9.0.0/16\"]")
                .replace("\"10.1.0.0/16\"", "\"10.9.0.0/16\""),
            &[
                ("connection c", "\"tun-c\" is the VPC's interface"),
                ("route 10.1.7.0/24 a", "also belongs to the VPC"),
                ("route 10.3.0.0/16 c", "there is no connection \"c\""),
            ],
        ),
    ];
    for (edited, expected) in cases {
        let mut world = World::new(FILE);
        world.change(&connection("b", "tun-b", "10.2.0.0/16")).expect("fits");
        world.change(&connection("c", "tun-c", "10.3.0.0/16")).expect("fits");
        for (destination, next_hop) in [("10.1.7.0/24", "a"), ("10.2.0.0/16", "b"), ("10.3.0.0/16", "c")] {
            world.change(&add(destination, next_hop)).expect("fits");
        }
        let before = world.config.clone();
        world.edit(&edited);
        let found = world.set_aside();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{edited}\n{found:#?}");
        for ((_, reason), (name, part)) in found.iter().zip(expected) {
            assert!(reason.contains(part) && reason.lines().count() == 1, "{name}: {reason}");
        }
        world.check();
        world.edit(FILE);
        assert_eq!(world.set_aside(), []);
        assert_eq!(world.config, before);
        world.check();
    }
}

#[test]
fn set_aside_objects_can_be_changed_and_deleted() {
    let mut world = World::new(FILE);
    world.change(&add("10.1.7.0/24", "a")).expect("fits");
    world.edit(&format!("{FILE}\n[[route]]\ndestination = \"10.1.7.0/24\"\nnext_hop = \"a\"\nweight = 3\n"));
    assert_eq!(world.set_aside().len(), 1);
    assert!(world.change(&delete("10.1.7.0/24", None)).expect_err("the file's").contains("line 18"));
    world.change(&delete("10.1.7.0/24", Some("a"))).expect("the store's");
    assert_eq!(world.set_aside(), []);
    world.check();

    world.change(&connection("b", "tun-b", "10.2.0.0/16")).expect("fits");
    world.change(&connection("c", "tun-c", "10.3.0.0/16")).expect("fits");
    world.edit(&FILE.replace("max_connections = 4", "max_connections = 2"));
    assert_eq!(world.set_aside()[0].0, "connection c");
    let id = ObjectId::Connection("c".into());
    let change = ObjectChange::Put(PutObject {
        id: id.clone(),
        keys: keys(json!({"interface": "tun-d"})),
        mode: PutMode::Merge,
    });
    let warnings = world.change(&change).expect("may be changed");
    assert!(warnings[0].contains("connection c stays set aside"), "{warnings:?}");
    // Delete the object that it conflicted with.
    world.change(&ObjectChange::Delete(ObjectId::Connection("b".into()))).expect("not used");
    assert_eq!(world.set_aside(), []);
    assert_eq!(world.config.connections["c"].interface, "tun-d");
    world.check();
}

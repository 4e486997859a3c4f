//! Administrative states, chains of conflicts, and several files.

use std::collections::BTreeMap;

use super::{
    super::load_texts,
    tests::{FILE, World, add, admin, connection, delete, files_of, gateway},
    *,
};
use crate::store::SourceText;

#[test]
fn admin_state_overrides_definition_until_equal() {
    let mut world = World::new(FILE);
    let enabled = |world: &World| world.config.connections["a"].enabled;
    world.change(&admin("a", false)).expect("there");
    assert!(!enabled(&world));
    assert!(world.in_force.propose(&admin("a", false)).expect("there").is_nothing());
    world.edit(&FILE.replace("interface =", "enabled = true\ninterface ="));
    assert!(!enabled(&world));
    world.check();
    world.change(&admin("a", true)).expect("there");
    assert!(enabled(&world) && world.in_force.objects.admin.is_empty());
    world.edit(&FILE.replace("interface =", "enabled = false\ninterface ="));
    assert!(!enabled(&world));
    world.change(&admin("a", true)).expect("there");
    assert_eq!((enabled(&world), &world.in_force.objects.admin), (true, &BTreeMap::from([("a".to_owned(), true)])));
    world.check();
    // Deleting a stored connection deletes its state.
    world.change(&connection("b", "tun-b", "10.2.0.0/16")).expect("fits");
    world.change(&admin("b", false)).expect("there");
    world.change(&ObjectChange::Delete(ObjectId::Connection("b".into()))).expect("not used");
    assert!(!world.in_force.objects.admin.contains_key("b"));
}

#[test]
fn chained_conflicts_are_resolved_from_oldest() {
    // b and c are valid as long as they belong to a's site; then each conflicts with the one before it.
    let mut world = World::new(FILE);
    for (name, remote) in [("b", "10.1.0.0/17"), ("c", "10.1.0.0/18"), ("d", "10.4.0.0/16")] {
        world.change(&connection(name, &format!("tun-{name}"), remote)).expect("one site's");
    }
    assert!(world.set_aside().is_empty());
    let edited = FILE
        .replace("[\"10.1.0.0/16\"]", "[\"10.1.0.0/18\"]")
        .replace("interface = \"tun-a\"", "interface = \"tun-b\"");
    let edited = edited.replace("\"10.1.0.0/16\"", "\"10.1.0.0/18\"");
    // a now shares an interface with b, which is set aside; c and d stay in force.
    world.edit(&edited);
    let found = world.set_aside();
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["connection b"], "{found:?}");
    world.check();
}

#[test]
fn included_files_merge_with_main_file() {
    let main = FILE.replace("[gateway]", "include = [\"x.toml\"]\n[gateway]");
    let more = "[[route]]\ndestination = \"10.1.2.0/24\"\nnext_hop = \"a\"\n[customer_gateway.h]\naddress = \"198.51.100.7\"\n";
    let set = files_of(&[("/etc/vpnhub.toml", &main), ("/etc/x.toml", more)]);
    let (in_force, config) = InForce::new(set, Objects::default()).expect("a configuration");
    assert_eq!(config.routes.len(), 2);
    assert_eq!(config.provenance.route(1).to_string(), "/etc/x.toml line 1");
    let error = in_force.propose(&gateway("h", "198.51.100.8", PutMode::Merge)).expect_err("the file's").to_string();
    assert!(error.contains("customer gateway h is defined in /etc/x.toml line 4"), "{error}");
    for (more, expected) in [
        ("[gateway]\nname = \"x\"\n", "/etc/x.toml:1:2: error: \"gateway\" is not allowed in an included file"),
        (
            "[customer_gateway.g]\naddress = \"198.51.100.9\"\n",
            "customer gateway \"g\" is already defined (/etc/vpnhub.toml line 6)",
        ),
        (
            "[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n",
            "is already defined on /etc/vpnhub.toml line 16",
        ),
        ("x = [\n", "/etc/x.toml:"),
        ("include = [\"y\"]\n", "\"include\" is not allowed in an included file"),
    ] {
        let texts = [("/etc/vpnhub.toml", main.as_str()), ("/etc/x.toml", more)];
        let texts = texts.map(|(path, text)| SourceText { path: path.into(), text: text.to_owned() });
        let found = load_texts(texts.to_vec()).expect_err("wrong");
        let lines: Vec<String> = found.iter().map(|found| found.in_file("/etc/vpnhub.toml")).collect();
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:#?}");
    }
}

#[test]
fn file_warning_resolved_by_store_is_hidden() {
    let file = FILE.replace("[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n", "");
    let mut world = World::new(&file);
    let count = |world: &World| world.in_force.file_warnings().len();
    assert_eq!(count(&world), 1);
    world.change(&add("10.1.0.0/16", "a")).expect("fits");
    assert_eq!(count(&world), 0);
    let warnings = world.change(&delete("10.1.0.0/16", None)).expect("there");
    assert!(warnings[0].contains("nothing is sent to the site"), "{warnings:?}");
    let warnings = world.change(&add("10.9.0.0/16", "a")).expect("fits");
    assert!(warnings[0].contains("is not in connection.a.remote_cidrs"), "{warnings:?}");
}

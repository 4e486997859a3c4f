use std::{collections::BTreeSet, fs};

use hub_tests::schema::violations;

use super::{super::crates::Scope, *};

const BUILDS: [(&str, Scope); 3] = [
    ("x86_64-unknown-linux-gnu", Scope::Workspace),
    ("x86_64-unknown-linux-musl", Scope::Package),
    ("aarch64-unknown-linux-musl", Scope::Package),
];
const EPOCH: u64 = 1_700_000_000;

fn bill((target, scope): (&str, Scope)) -> String {
    text(&crates::of(target, scope).unwrap(), "0.2.0", target, EPOCH).unwrap()
}

fn value(build: (&str, Scope)) -> Value {
    serde_json::from_str(&bill(build)).unwrap()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key}"))
}

fn string<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// `NAME vVERSION` of each crate below a package that `cargo tree` prints, with nothing left out.
fn tree(package: &str, target: &str, scope: Scope) -> BTreeSet<String> {
    let mut cargo = process::cargo();
    cargo.args(["tree", "--edges", "normal", "--target", target, "--prefix", "depth", "--no-dedupe"]);
    if scope == Scope::Package {
        cargo.args(["--package", package]);
    }
    let tree = process::capture(&mut cargo).unwrap();
    let below =
        tree.lines().filter(|line| !line.is_empty()).skip_while(|line| !line.starts_with(&format!("0{package} ")));
    let below = below.enumerate().take_while(|(index, line)| *index == 0 || !line.starts_with('0'));
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    below.map(|(_, line)| name(line.trim_start_matches(|digit: char| digit.is_ascii_digit()))).collect()
}

#[test]
fn bill_lists_exactly_the_crates_of_both_trees() {
    let _alone = process::tests::alone();
    for (target, scope) in BUILDS {
        let bill = value((target, scope));
        for (package, target, program, scope) in
            [("hub-userspace", target, "agent", scope), ("hub-ebpf", "bpfel-unknown-none", "kernel", Scope::Package)]
        {
            let listed: Vec<String> = list(&bill, "components")
                .iter()
                .filter(|component| list(component, "properties").contains(&property("vpnhub:program", program)))
                .map(|component| format!("{} v{}", string(component, "name"), string(component, "version")))
                .collect();
            let set: BTreeSet<String> = listed.iter().cloned().collect();
            assert_eq!(set.len(), listed.len(), "a crate is listed twice");
            assert_eq!(set, tree(package, target, scope), "{package} for {target}");
        }
    }
}

#[test]
fn macros_are_excluded_and_linked_crates_required() {
    let _alone = process::tests::alone();
    let bill = value(BUILDS[0]);
    for (name, scope, has_hash) in [
        ("aya", "required", true),
        ("aya-ebpf", "required", true),
        ("hub-common", "required", false),
        ("hub-userspace", "required", false),
        ("serde", "required", true),
        ("serde_derive", "excluded", true),
        ("syn", "excluded", true),
    ] {
        let component = list(&bill, "components").iter().find(|component| component["name"] == name).unwrap();
        assert_eq!(component["scope"], scope, "{component}");
        assert_eq!(component["hashes"].is_array(), has_hash, "{component}");
        assert_eq!(component["purl"].is_string(), has_hash, "{component}");
    }
}

#[test]
fn bill_is_reproducible() {
    let _alone = process::tests::alone();
    let first = bill(BUILDS[0]);
    assert_eq!(first, bill(BUILDS[0]));
    let bill: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(bill["serialNumber"], Value::Null);
    assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    assert!(!first.contains(process::workspace().to_str().unwrap()), "{first}");
}

/// By a schema of the members that are written here: no others, and of these forms. `cargo xtask package --lintian` validates
/// by the published one.
#[test]
fn bill_follows_the_format() {
    let _alone = process::tests::alone();
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    for build in BUILDS {
        let bill = value(build);
        assert_eq!(violations(&schema, &bill), Vec::<String>::new());
        let mut references: Vec<&str> =
            list(&bill, "components").iter().map(|component| string(component, "bom-ref")).collect();
        references.push(string(&bill["metadata"]["component"], "bom-ref"));
        let known: BTreeSet<&str> = references.iter().copied().collect();
        assert_eq!(known.len(), references.len(), "a reference is not unique");
        let dependencies = list(&bill, "dependencies");
        assert_eq!(dependencies.iter().map(|entry| string(entry, "ref")).collect::<BTreeSet<_>>(), known);
        for entry in dependencies {
            for on in list(entry, "dependsOn") {
                assert!(known.contains(on.as_str().unwrap()), "{entry}");
            }
        }
    }
    let mut other = value(BUILDS[0]);
    other["components"][0]["scope"] = "linked".into();
    other["components"][1]["hash"] = Value::Null;
    assert_eq!(violations(&schema, &other).len(), 2);
}

#[test]
fn package_has_the_bill() {
    let manifest = fs::read_to_string(process::workspace().join("hub-userspace/Cargo.toml")).unwrap();
    assert!(manifest.contains(&format!("\"../target/package/root/{FILE}\", \"usr/share/doc/vpnhub/\"")), "{manifest}");
}

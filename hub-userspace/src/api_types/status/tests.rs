//! The JSON of `vpnhub status`, `vpnhub diagnose` and `vpnhub trace` is a contract. tests/status has two files for each of its forms:
//!
//! - `FORM.schema.json`: its current JSON schema;
//! - `FORM.contract.txt`: its fields with their types, and the values of enumerations, one per line. Lines are added,
//!   never changed or removed.
//!
//! `UPDATE_EXPECTED=1 cargo test -p hub-userspace --lib status::` writes the schemas, and adds to the contracts.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use super::{FullStatus, WithoutAgent};
use crate::api_types::{
    diagnose::Diagnosis,
    packet::{LeftOut, PacketEvent},
    trace::{CaptureTrace, Trace},
};

const UPDATE: &str = "UPDATE_EXPECTED=1 cargo test -p hub-userspace --lib status::";

/// The schema of the output, without texts from the source.
fn schema<T: JsonSchema>() -> Value {
    let schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>();
    let mut schema = Value::from(schema);
    remove_texts(&mut schema);
    schema
}

fn remove_texts(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            // A field with this name has a schema as its value, not a string.
            keys.retain(|key, value| !(["description", "title"].contains(&key.as_str()) && value.is_string()));
            keys.values_mut().for_each(remove_texts);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_texts),
        _ => {}
    }
}

fn forms() -> [(&'static str, Value); 7] {
    [
        ("status", schema::<FullStatus>()),
        ("without-agent", schema::<WithoutAgent>()),
        ("diagnose", schema::<Diagnosis>()),
        ("packet", schema::<PacketEvent>()),
        ("packets-left-out", schema::<LeftOut>()),
        ("trace", schema::<Trace>()),
        ("trace-pcap", schema::<CaptureTrace>()),
    ]
}

/// Cargo runs tests in the directory of their package.
fn file(form: &str, ending: &str) -> PathBuf {
    Path::new("tests/status").join(format!("{form}.{ending}"))
}

fn is_update() -> bool {
    env::var_os("UPDATE_EXPECTED").is_some()
}

#[derive(Default)]
struct Shape {
    /// By path, such as `connections[].name`.
    types: BTreeMap<String, BTreeSet<String>>,
    /// Values of enumerations, and fields that are always present.
    others: BTreeSet<String>,
    /// References on the way to the current schema. A tunnel is a connection, and has none itself.
    open: Vec<String>,
}

impl Shape {
    fn lines(schema: &Value) -> BTreeSet<String> {
        let mut shape = Self::default();
        shape.read(schema, schema, "", true);
        let types = shape.types.into_iter().map(|(path, types)| {
            let types: Vec<_> = types.into_iter().collect();
            format!("{path}: {}", types.join(" or "))
        });
        types.chain(shape.others).collect()
    }

    /// `is_certain`: the schema applies unconditionally, not as one of several alternatives.
    fn read(&mut self, root: &Value, schema: &Value, path: &str, is_certain: bool) {
        if let Some(reference) = schema["$ref"].as_str() {
            if self.open.iter().any(|open| open == reference) {
                return;
            }
            self.open.push(reference.to_owned());
            let place = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
            self.read(root, place.unwrap_or_else(|| panic!("no {reference}")), path, is_certain);
            self.open.pop();
        }
        let types = match &schema["type"] {
            Value::Array(types) => types.clone(),
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        let types = types.iter().map(|one| one.as_str().expect("a type's name").to_owned());
        if !path.is_empty() {
            self.types.entry(path.to_owned()).or_default().extend(types);
        }
        let values = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
        self.others.extend(values.map(|value| format!("{path} may be {value}")));
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.read(root, property, &below(name), true);
        }
        if is_certain {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            self.others.extend(required.map(|name| format!("{} is always there", below(name))));
        }
        for (key, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
            if schema[key].is_object() {
                self.read(root, &schema[key], &format!("{path}{suffix}"), true);
            }
        }
        for all in schema["allOf"].as_array().into_iter().flatten() {
            self.read(root, all, path, is_certain);
        }
        let either = ["anyOf", "oneOf"].map(|key| schema[key].as_array()).into_iter().flatten().flatten();
        // If the other alternative is null, the object's fields are certain whenever it is present.
        let either: Vec<_> = either.filter(|schema| schema["type"] != "null" || !path.is_empty()).collect();
        let objects = either.iter().filter(|schema| schema["type"] != "null").count();
        for one in either {
            self.read(root, one, path, is_certain && objects == 1);
        }
    }
}

fn lines_of(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn status_json_contains_contract() {
    for (form, schema) in forms() {
        let file = file(form, "contract.txt");
        let contract = lines_of(&fs::read_to_string(&file).unwrap_or_default());
        let shape = Shape::lines(&schema);
        if is_update() {
            let all: Vec<_> = contract.union(&shape).cloned().collect();
            fs::write(&file, all.join("\n") + "\n").expect("the file is ours");
        }
        let broken: Vec<_> = contract.difference(&shape).cloned().collect();
        assert!(
            broken.is_empty(),
            "the JSON of `vpnhub status` is a contract: fields may be added, never changed or removed. Of {} this does not \
             hold any more, and no update of files makes it right:\n{}",
            file.display(),
            broken.join("\n")
        );
        let new: Vec<_> = shape.difference(&contract).cloned().collect();
        assert!(
            new.is_empty() || is_update(),
            "new in the JSON of `vpnhub status`, and part of the contract from now on: `{UPDATE}` adds it to {}:\n{}",
            file.display(),
            new.join("\n")
        );
    }
}

#[test]
fn status_schema_equals_committed_file() {
    for (form, schema) in forms() {
        let file = file(form, "schema.json");
        let text = format!("{schema:#}\n");
        if is_update() {
            fs::write(&file, &text).expect("the file is ours");
        }
        let committed = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == text,
            "the JSON schema of `vpnhub status` is another than {}: if fields were added, `{UPDATE}` writes it. Fields may \
             be added, never changed or removed. It is now:\n{text}",
            file.display()
        );
    }
}

/// Tests the comparison itself.
#[test]
fn contract_breaks_on_removed_or_changed_field_only() {
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of use")]
    struct Before {
        count: u64,
        name: String,
        inner: Option<Inner>,
        kind: Kind,
    }
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of use")]
    struct Inner {
        list: Vec<u32>,
    }
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of use")]
    enum Kind {
        A,
        B,
    }
    let before = schema::<Before>();
    let contract = Shape::lines(&before);
    for line in [
        "count: integer",
        "inner: null or object",
        "inner.list[]: integer",
        "kind may be \"B\"",
        "name is always there",
    ] {
        assert!(contract.contains(line), "{line} is not in {contract:#?}");
    }
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut after = before.clone();
        edit(&mut after);
        contract.difference(&Shape::lines(&after)).count()
    };
    assert_eq!(edited(&|schema| schema["properties"]["new"] = serde_json::json!({ "type": "string" })), 0);
    let breaking: [&dyn Fn(&mut Value); 4] = [
        &|schema| drop(schema["properties"].as_object_mut().expect("an object").remove("count")),
        &|schema| schema["properties"]["count"]["type"] = "string".into(),
        &|schema| schema["required"] = serde_json::json!(["count"]),
        &|schema| schema["$defs"]["Kind"]["enum"] = serde_json::json!(["A"]),
    ];
    for (number, edit) in breaking.into_iter().enumerate() {
        assert!(edited(edit) > 0, "edit {number}: {before:#}");
    }
}

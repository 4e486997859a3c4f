use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use serde_json::Value;

use crate::api::operations;

/// Cargo runs tests in the directory of their package.
const FILE: &str = "../docs/openapi.json";
const UPDATE: &str = "UPDATE_EXPECTED=1 cargo test -p hub-userspace --lib openapi::";

fn document() -> Value {
    super::document(&operations().described().operations)
}

#[test]
fn committed_file_equals_description() {
    let text = format!("{:#}\n", document());
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(FILE, &text).expect("it is ours");
    }
    let committed = fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        committed == text,
        "the description of the API is another than {FILE}. New versions may add to it, and change nothing: `{UPDATE}` \
         writes it. It is now:\n{text}"
    );
}

#[test]
fn router_and_description_have_the_same_paths() {
    let router = format!("{:?}", operations().finish());
    let of_router: BTreeSet<&str> = router.split('"').filter(|part| part.starts_with("/v1/")).collect();
    let document = document();
    let described = document["paths"].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(of_router, described);
}

#[test]
fn path_parameters_are_those_of_the_path_and_ids_are_unique() {
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for (path, methods) in document()["paths"].as_object().expect("an object") {
        for (method, operation) in methods.as_object().expect("an object") {
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            let other = ids.insert(id, format!("{method} {path}"));
            assert_eq!(other, None, "{method} {path}");
            let of_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let required = parameters.filter(|parameter| parameter["in"] == "path" && parameter["required"] == true);
            let required: BTreeSet<&str> = required.filter_map(|parameter| parameter["name"].as_str()).collect();
            assert_eq!(required, of_path.collect(), "{method} {path}");
        }
    }
}

#[test]
fn every_reference_has_a_schema() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(keys) => {
                found.extend(keys.get("$ref").and_then(Value::as_str));
                keys.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
    }
}

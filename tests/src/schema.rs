//! Validates JSON against a JSON schema, for the keywords that this project's schemas use. A validator from crates.io
//! would add thirty crates.

use serde_json::Value;

/// Keywords that no value can violate here.
const NOTES: [&str; 6] = ["$schema", "$defs", "default", "format", "title", "description"];

/// Every violation of the schema in a value, with its place.
///
/// # Panics
/// As [`violations_of`].
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    violations_of(schema, schema, value)
}

/// As [`violations`], of a schema that is part of a document: its references are to places in `document`.
///
/// # Panics
/// When the schema has an unsupported keyword: it must not pass unchecked.
pub fn violations_of(schema: &Value, document: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { root: document }.run(schema, value, "", &mut found);
    found
}

struct Check<'s> {
    root: &'s Value,
}

impl Check<'_> {
    fn run(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let keywords = match schema {
            Value::Object(keywords) => keywords,
            Value::Bool(true) => return,
            Value::Bool(false) => return found.push(format!("{at}: nothing is allowed here")),
            _ => panic!("no schema at {at:?}"),
        };
        let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for (keyword, argument) in keywords {
            match keyword.as_str() {
                "$ref" => {
                    let pointer = argument.as_str().and_then(|text| text.strip_prefix('#'));
                    let place = pointer.and_then(|pointer| self.root.pointer(pointer));
                    self.run(place.unwrap_or_else(|| panic!("no {argument}")), value, at, found);
                }
                "type" => {
                    if !list(argument).iter().any(|name| is_of(name, value)) {
                        found.push(format!("{at}: {value} is no {argument}"));
                    }
                }
                "enum" | "const" => {
                    if !list(argument).contains(value) {
                        found.push(format!("{at}: {value} is not of {argument}"));
                    }
                }
                "minimum" | "maximum" => {
                    let (Some(number), Some(limit)) = (value.as_f64(), argument.as_f64()) else { continue };
                    if if keyword == "minimum" { number < limit } else { number > limit } {
                        found.push(format!("{at}: {value} is beyond the {keyword} {argument}"));
                    }
                }
                "required" => {
                    let names = list(argument);
                    let missing = names.iter().filter_map(Value::as_str).filter(|name| value.get(name).is_none());
                    found.extend(missing.map(|name| format!("{at}: {name} is missing")));
                }
                "properties" | "additionalProperties" => {}
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.run(argument, item, &format!("{at}[{index}]"), found);
                    }
                }
                "allOf" => list(argument).iter().for_each(|all| self.run(all, value, at, found)),
                "anyOf" | "oneOf" => self.alternatives(keyword == "oneOf", &list(argument), value, at, found),
                note => assert!(NOTES.contains(&note), "the keyword {note} at {at:?} is not known"),
            }
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let property = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
            if let Some(property) = property {
                self.run(property, value, &format!("{at}.{name}"), found);
            }
        }
    }

    fn alternatives(&self, is_one: bool, schemas: &[Value], value: &Value, at: &str, found: &mut Vec<String>) {
        let mut missed = Vec::new();
        let mut met = 0;
        for schema in schemas {
            let before = missed.len();
            self.run(schema, value, at, &mut missed);
            met += usize::from(missed.len() == before);
        }
        match met {
            0 => found.append(&mut missed),
            1 => {}
            _ if is_one => found.push(format!("{at}: {value} is of {met} alternatives")),
            _ => {}
        }
    }
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => panic!("there is no type {name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schema_violations_are_all_found() {
        let schema = json!({
            "$defs": { "Kind": { "type": "string", "enum": ["a", "b"] } },
            "type": "object",
            "properties": {
                "kind": { "$ref": "#/$defs/Kind" },
                "counts": { "type": "object", "additionalProperties": { "type": "integer", "minimum": 0 } },
                "list": { "type": "array", "items": { "type": ["string", "null"] } },
                "inner": { "anyOf": [{ "type": "object", "required": ["x"] }, { "type": "null" }] },
                "closed": { "type": "object", "properties": {}, "additionalProperties": false },
                "origin": { "oneOf": [{ "const": "file" }, { "const": "store" }] },
            },
            "required": ["kind"],
        });
        let good = json!({
            "kind": "a", "counts": { "n": 1 }, "list": ["x", null], "inner": { "x": 1, "more": 2 }, "origin": "store",
            "closed": {}, "new": [1]
        });
        assert_eq!(violations(&schema, &good), [""; 0]);
        for (pointer, bad) in [
            ("/kind", json!("c")),
            ("/counts/n", json!(-1)),
            ("/counts/n", json!("1")),
            ("/list/0", json!(1)),
            ("/list", json!({})),
            ("/inner", json!({ "y": 1 })),
            ("/origin", json!("nowhere")),
            ("", json!({})),
            ("", json!([])),
            ("/closed", json!({ "more": 1 })),
        ] {
            let mut value = good.clone();
            *value.pointer_mut(pointer).unwrap() = bad;
            assert!(!violations(&schema, &value).is_empty(), "{value}");
        }
    }
}

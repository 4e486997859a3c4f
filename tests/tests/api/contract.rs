//! The API's description, and answers held against it.

use std::collections::{BTreeMap, BTreeSet};

use hub_tests::lab::{Agent, Reply};
use hub_tests::schema;
use serde_json::{Value, json};

pub const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const PROBLEM: &str = "application/problem+json";
const URN: &str = "urn:vpnhub:problem:";

/// The description that an agent serves, and which of its operations have answered.
pub struct Contract {
    pub document: Value,
    /// Status codes by method and path.
    pub seen: BTreeMap<(String, String), BTreeSet<u16>>,
}

impl Contract {
    pub fn of(agent: &Agent) -> Self {
        let reply = agent.request("GET", "/v1/openapi.json", "").unwrap();
        assert_eq!((reply.status, reply.media_type.as_str()), (200, "application/json"));
        Self { document: reply.json(), seen: BTreeMap::new() }
    }

    /// The described path that a request's path matches.
    fn template(&self, path: &str) -> Option<String> {
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let is_it = |template: &&String| {
            let described: Vec<&str> = template.split('/').collect();
            described.len() == parts.len()
                && described.iter().zip(&parts).all(|(described, part)| described.starts_with('{') || described == part)
        };
        self.document["paths"].as_object()?.keys().find(is_it).cloned()
    }

    /// The description of an operation's answer; null if there is none.
    pub fn answer<'c>(&'c self, operation: &'c Value, status: u16) -> &'c Value {
        let answer = &operation["responses"][status.to_string()];
        let reference = answer["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        reference.map_or(answer, |pointer| self.document.pointer(pointer).unwrap())
    }

    /// In which ways an answer is not as described.
    pub fn violations(&self, method: &str, path: &str, reply: &Reply) -> Vec<String> {
        let template = self.template(path);
        let operation = template.as_ref().map(|path| &self.document["paths"][path][method.to_lowercase()]);
        let mut found = Vec::new();
        let schema = if let Some(operation) = operation.filter(|operation| operation.is_object()) {
            let answer = self.answer(operation, reply.status);
            let content = answer["content"].get(&reply.media_type);
            if answer.is_null() {
                found.push(format!("{} is not described", reply.status));
            } else if content.is_none() {
                found.push(format!("{} as {:?} is not described", reply.status, reply.media_type));
            }
            content.map(|content| content["schema"].clone())
        } else {
            let (status, name) = if template.is_some() { (405, "method-not-allowed") } else { (404, "no-such-path") };
            if (reply.status, reply.media_type.as_str()) != (status, PROBLEM) {
                found.push(format!("{} {:?} of what is not described", reply.status, reply.media_type));
            }
            Some(json!({
                "$ref": "#/components/schemas/ProblemDetails",
                "properties": { "type": { "const": format!("{URN}{name}") } },
            }))
        };
        let is_json = ["application/json", PROBLEM].contains(&reply.media_type.as_str());
        if let Some(schema) = schema.filter(|_| is_json) {
            found.extend(schema::violations_of(&schema, &self.document, &reply.json()));
        }
        if reply.media_type == PROBLEM {
            let problem = reply.json();
            if problem["status"] != reply.status || problem["detail"] != problem["error"] {
                found.push(format!("{problem} with {}", reply.status));
            }
        }
        found
    }

    /// Sends a request, whose answer must be as described.
    pub fn request(&mut self, agent: &Agent, method: &str, path: &str, body: &str) -> Reply {
        let reply =
            agent.request(method, path, body).unwrap_or_else(|error| panic!("{method} {path} {body}: {error:#}"));
        let found = self.violations(method, path, &reply);
        assert_eq!(found, [""; 0], "{method} {path} {body}: {}", String::from_utf8_lossy(&reply.body));
        self.note(method, path, reply.status);
        reply
    }

    pub fn note(&mut self, method: &str, path: &str, status: u16) {
        if let Some(template) = self.template(path) {
            self.seen.entry((method.to_owned(), template)).or_default().insert(status);
        }
    }

    /// Method, path and description of each operation.
    pub fn operations(&self) -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        for (path, methods) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                all.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
        all
    }
}

/// The last part of a problem's type; empty without one.
pub fn kind(reply: &Reply) -> String {
    let body = reply.json();
    body["type"].as_str().and_then(|urn| urn.strip_prefix(URN)).unwrap_or_default().to_owned()
}

/// The schema of an `OpenAPI` 3.1 document (specification, section 4.8), as far as this API uses it. Nothing else is
/// allowed.
pub fn openapi_schema() -> Value {
    let closed = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let map = |of: &str| json!({ "type": "object", "additionalProperties": { "$ref": format!("#/$defs/{of}") } });
    let text = json!({ "type": "string" });
    let license = closed(json!({ "name": text, "identifier": text }), &["name"]);
    let info = json!({ "title": text, "version": text, "description": text, "license": license });
    let body = json!({ "required": { "type": "boolean" }, "content": map("media") });
    let operation = json!({
        "operationId": text,
        "summary": text,
        "tags": { "type": "array", "items": text },
        "parameters": { "type": "array", "items": { "$ref": "#/$defs/parameter" } },
        "requestBody": closed(body, &["content"]),
        "responses": {
            "type": "object",
            "additionalProperties": { "anyOf": [{ "$ref": "#/$defs/response" }, { "$ref": "#/$defs/reference" }] },
        },
    });
    let parameter = json!({
        "name": text,
        "in": { "enum": ["path", "query"] },
        "required": { "type": "boolean" },
        "description": text,
        "schema": { "$ref": "#/$defs/schema" },
    });
    let operations = METHODS.map(|method| (method.to_lowercase(), json!({ "$ref": "#/$defs/operation" })));
    let methods: Value = operations.into_iter().collect::<serde_json::Map<_, _>>().into();
    let server = closed(json!({ "url": text, "description": text }), &["url"]);
    let mut schema = closed(
        json!({
            "openapi": { "const": "3.1.0" },
            "info": closed(info, &["title", "version"]),
            "servers": { "type": "array", "items": server },
            "paths": map("path"),
            "components": closed(json!({ "schemas": map("schema"), "responses": map("response") }), &[]),
        }),
        &["openapi", "info", "paths"],
    );
    schema["$defs"] = json!({
        "path": closed(methods, &[]),
        "operation": closed(operation, &["operationId", "responses"]),
        "parameter": closed(parameter, &["name", "in", "required", "schema"]),
        "response": closed(json!({ "description": text, "content": map("media") }), &["description"]),
        "reference": closed(json!({ "$ref": text }), &["$ref"]),
        "media": closed(json!({ "schema": { "$ref": "#/$defs/schema" } }), &["schema"]),
        "schema": { "type": ["object", "boolean"] },
    });
    schema
}

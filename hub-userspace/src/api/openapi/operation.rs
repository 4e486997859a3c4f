//! An operation of the API, described by the types of its handler: [`Input`] for each argument, [`Output`] for the
//! answer.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
    response::Response,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::{Map, Value, json};

use super::About;
use crate::{
    api::failure::{Failure, PROBLEM_JSON},
    api_types::problem::{ProblemDetails, ProblemType},
    config_manager::Changed,
};

pub(super) const JSON: &str = "application/json";
const DEFINITIONS: &str = "/components/schemas";

/// The schemas of all operations. What is read and what is written may differ: a field with a default is optional in a
/// request, and always in an answer.
pub(in crate::api) struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
    /// Answers with errors, by name.
    problems: Map<String, Value>,
}

impl Default for Schemas {
    fn default() -> Self {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = DEFINITIONS.into();
        settings.meta_schema = None;
        settings.transforms.push(Box::new(RecursiveTransform(in_terms_of_json)));
        let requests = settings.clone().for_deserialize().into_generator();
        Self { requests, answers: settings.for_serialize().into_generator(), problems: Map::new() }
    }
}

/// Replaces Rust's terms in texts from the source.
fn in_terms_of_json(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace("`None`", "`null`").replace("[`", "`").replace("`]", "`").replace("`THE_VPC`", "`vpc`");
    }
}

impl Schemas {
    /// An answer with an error of one of these types, which have one status code.
    fn problems(&mut self, kinds: &[ProblemType]) -> Value {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let name = names.join(".");
        let reference = json!({ "$ref": format!("#/components/responses/{name}") });
        if !self.problems.contains_key(&name) {
            let sentences: Vec<String> =
                kinds.iter().map(|kind| format!("`{}`: {}.", kind.name(), kind.title())).collect();
            let urns: Vec<String> = kinds.iter().map(|kind| kind.urn()).collect();
            let mut schema = Value::from(self.answers.subschema_for::<ProblemDetails>());
            schema["properties"] = json!({ "type": { "enum": urns } });
            let content = json!({ PROBLEM_JSON: { "schema": schema } });
            self.problems.insert(name, json!({ "description": sentences.join(" "), "content": content }));
        }
        reference
    }

    /// What the operations refer to.
    ///
    /// # Panics
    /// When a type is read and written differently, which tests rule out: one name has one schema.
    pub fn finish(mut self) -> Value {
        let mut all = self.requests.take_definitions(true);
        for (name, schema) in self.answers.take_definitions(true) {
            let described = all.insert(name.clone(), schema.clone());
            assert!(described.is_none_or(|other| other == schema), "{name} is read and written differently");
        }
        json!({ "schemas": all, "responses": self.problems })
    }
}

/// The description of one operation.
pub(in crate::api) struct Operation<'a> {
    schemas: &'a mut Schemas,
    about: &'a About,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// By status code.
    answers: BTreeMap<u16, Value>,
    problems: Vec<ProblemType>,
}

impl<'a> Operation<'a> {
    pub fn new(schemas: &'a mut Schemas, about: &'a About) -> Self {
        Self { schemas, about, parameters: Vec::new(), body: None, answers: BTreeMap::new(), problems: Vec::new() }
    }

    pub fn fails(&mut self, problems: impl IntoIterator<Item = ProblemType>) {
        self.problems.extend(problems);
    }

    /// A parameter for each field of `T`. `place`: `path` or `query`.
    fn parameters<T: JsonSchema>(&mut self, place: &str) {
        let mut fields = Value::from(T::json_schema(&mut self.schemas.requests));
        let required = fields["required"].take();
        let is_required = |name: &str| required.as_array().is_some_and(|names| names.iter().any(|other| other == name));
        for (name, mut schema) in fields["properties"].as_object().cloned().unwrap_or_default() {
            if let Some(types) = schema["type"].as_array().cloned() {
                // Absent, never null.
                let kind = types.into_iter().find(|kind| kind != "null");
                schema["type"] = kind.unwrap_or_default();
            }
            let mut parameter = json!({ "name": name, "in": place, "required": is_required(&name) });
            if let Some(description) = schema.as_object_mut().and_then(|keys| keys.remove("description")) {
                parameter["description"] = description;
            }
            parameter["schema"] = schema;
            self.parameters.push(parameter);
        }
        self.fails([ProblemType::InvalidRequest]);
    }

    fn answers<T: JsonSchema>(&mut self, status: StatusCode, description: &str) {
        let schema = self.schemas.answers.subschema_for::<T>();
        let content = json!({ JSON: { "schema": schema } });
        self.answers.insert(status.as_u16(), json!({ "description": description, "content": content }));
    }

    pub fn finish(mut self, path: &str) -> Value {
        let About { id, summary, contents, .. } = self.about;
        let contents = contents.iter().map(|(media_type, schema)| {
            let schema = schema(&mut self.schemas.answers);
            ((*media_type).to_owned(), json!({ "schema": schema }))
        });
        let contents: Map<String, Value> = contents.collect();
        if !contents.is_empty() {
            self.answers.insert(StatusCode::OK.as_u16(), json!({ "description": "Done.", "content": contents }));
        }
        self.problems.sort();
        self.problems.dedup();
        for of_status in self.problems.chunk_by(|one, other| one.status() == other.status()) {
            self.answers.insert(of_status[0].status(), self.schemas.problems(of_status));
        }
        let answers: Map<String, Value> =
            self.answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
        // The path without its version.
        let tag = path.split('/').nth(2).unwrap_or_default();
        let mut described = json!({ "operationId": id, "summary": summary, "tags": [tag], "responses": answers });
        if !self.parameters.is_empty() {
            described["parameters"] = self.parameters.into();
        }
        if let Some(body) = self.body {
            described["requestBody"] = body;
        }
        described
    }
}

/// An argument of a handler.
pub(in crate::api) trait Input {
    fn describe(_operation: &mut Operation<'_>) {}
}

impl<T> Input for State<T> {}
impl<T> Input for Extension<T> {}
impl Input for HeaderMap {}

impl<T: JsonSchema> Input for Result<Path<T>, PathRejection> {
    fn describe(operation: &mut Operation<'_>) {
        operation.parameters::<T>("path");
    }
}

impl<T: JsonSchema> Input for Result<Query<T>, QueryRejection> {
    fn describe(operation: &mut Operation<'_>) {
        operation.parameters::<T>("query");
    }
}

impl<T: JsonSchema> Input for Result<Json<T>, JsonRejection> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = operation.schemas.requests.subschema_for::<T>();
        operation.body = Some(json!({ "required": true, "content": { JSON: { "schema": schema } } }));
        operation.fails([ProblemType::InvalidRequest, ProblemType::UnsupportedMediaType]);
    }
}

/// The answer of a handler.
pub(in crate::api) trait Output {
    fn describe(operation: &mut Operation<'_>);
}

impl<T: JsonSchema> Output for Result<Json<T>, Failure> {
    fn describe(operation: &mut Operation<'_>) {
        operation.answers::<T>(StatusCode::OK, "Done.");
    }
}

/// Of a `PUT`.
impl Output for Result<(StatusCode, Json<Changed>), Failure> {
    fn describe(operation: &mut Operation<'_>) {
        operation.answers::<Changed>(StatusCode::OK, "The object existed; `changed` says whether it had other keys.");
        operation.answers::<Changed>(StatusCode::CREATED, "The object was created.");
    }
}

/// [`About::answers`] describes it.
impl Output for Result<Response, Failure> {
    fn describe(_: &mut Operation<'_>) {}
}

/// As above.
impl Output for Result<String, Failure> {
    fn describe(_: &mut Operation<'_>) {}
}

/// As above.
impl Output for Response {
    fn describe(_: &mut Operation<'_>) {}
}

/// A handler with these inputs.
pub(in crate::api) trait Described<Inputs> {
    fn describe(operation: &mut Operation<'_>);
}

macro_rules! described {
    ($($input:ident),*) => {
        impl<Call, Answer, $($input: Input),*> Described<($($input,)*)> for Call
        where
            Call: Fn($($input),*) -> Answer,
            Answer: Future<Output: Output>,
        {
            fn describe(operation: &mut Operation<'_>) {
                $($input::describe(operation);)*
                <Answer::Output as Output>::describe(operation);
            }
        }
    };
}

described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);

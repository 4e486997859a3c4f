//! The API's description: `OpenAPI` 3.1, at `GET /v1/openapi.json`.
//!
//! [`Api`] registers each handler once, for the router and for the description. Parameters, bodies and answers are
//! described by the handler's own types ([`operation`]), so that they cannot differ from the code. Chosen over aide,
//! whose releases need an older schemars than the one that describes this project's JSON, and over utoipa, which needs a
//! second description of every type.

mod operation;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use axum::{
    Extension, Router,
    handler::Handler,
    http::{Method, header},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, on},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use self::operation::{Described, JSON, Operation, Schemas};
use super::{AppState, failure::Failure};
use crate::api_types::problem::ProblemType;

pub(super) const OPENAPI: &str = "/v1/openapi.json";

const DESCRIPTION: &str = "\
The agent of VPN-Hub answers on a Unix socket, by default /run/vpnhub/vpnhub.sock. Each connection carries one request. \
Root may do everything; the group `vpnhub` may use GET. Paths that are not described here are answered with \
`no-such-path`, methods that are not with `method-not-allowed`. New versions may add paths, members, values of `type` \
and optional parameters: clients must ignore what they do not know. docs/api.md is the manual.";
const NO_PATH: &str = "the API does not have this path: /v1/openapi.json describes it";
const NO_METHOD: &str = "the path does not have this method: /v1/openapi.json describes it";
/// Errors that every request may have.
const ALWAYS: [ProblemType; 5] = [
    ProblemType::RequestTimeout,
    ProblemType::BodyTooLarge,
    ProblemType::Internal,
    ProblemType::Stopping,
    ProblemType::TooManyConnections,
];

/// Routes and their description.
#[derive(Default)]
pub(super) struct Api {
    router: Router<AppState>,
    operations: Vec<Registered>,
}

struct Registered {
    /// In lower case.
    method: String,
    path: String,
    about: About,
    describe: fn(&mut Operation<'_>),
}

/// What a handler's types do not say.
pub(super) struct About {
    /// Unique; for names in generated clients.
    id: &'static str,
    /// One sentence.
    summary: &'static str,
    /// Errors beyond those of each request and of the handler's inputs.
    problems: Vec<ProblemType>,
    /// Media types and schemas of an answer that is not JSON.
    contents: Vec<Content>,
}

/// A media type, and the schema of what has it.
type Content = (&'static str, fn(&mut SchemaGenerator) -> Schema);

pub(super) fn about(id: &'static str, summary: &'static str) -> About {
    About { id, summary, problems: Vec::new(), contents: Vec::new() }
}

impl About {
    /// Adds errors.
    pub fn fails(mut self, problems: &[ProblemType]) -> Self {
        self.problems.extend_from_slice(problems);
        self
    }

    /// Adds a media type of the answer. `T`: its content, or one of its lines.
    pub fn answers<T: JsonSchema>(mut self, media_type: &'static str) -> Self {
        self.contents.push((media_type, |schemas| schemas.subschema_for::<T>()));
        self
    }
}

impl Api {
    pub fn on<H, Inputs, T>(mut self, method: Method, path: &str, handler: H, about: About) -> Self
    where
        H: Described<Inputs> + Handler<T, AppState>,
        T: 'static,
    {
        let name = method.as_str().to_ascii_lowercase();
        let filter = MethodFilter::try_from(method).expect("the API uses standard methods");
        self.router = self.router.route(path, on(filter, handler));
        self.operations.push(Registered { method: name, path: path.to_owned(), about, describe: H::describe });
        self
    }

    /// Adds the path of the description.
    fn described(self) -> Self {
        self.on(Method::GET, OPENAPI, answer, about("openApi", "This description.").answers::<Value>(JSON))
    }

    /// The routes with their description. Other paths and methods are answered with an error.
    pub fn finish(self) -> Router<AppState> {
        let Self { router, operations } = self.described();
        let text = move || document(&operations).to_string();
        router
            .method_not_allowed_fallback(async || Failure::new(ProblemType::MethodNotAllowed, NO_METHOD))
            .fallback(async || Failure::new(ProblemType::NoSuchPath, NO_PATH))
            .layer(Extension(Document(Arc::new(LazyLock::new(Box::new(text))))))
    }
}

fn document(operations: &[Registered]) -> Value {
    let mut schemas = Schemas::default();
    let mut paths = json!({});
    for Registered { method, path, about, describe } in operations {
        let mut operation = Operation::new(&mut schemas, about);
        describe(&mut operation);
        let for_root = if method == "get" { None } else { Some(ProblemType::Forbidden) };
        operation.fails(ALWAYS.into_iter().chain(for_root).chain(about.problems.iter().copied()));
        paths[path][method] = operation.finish(path);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "VPN-Hub",
            "version": "1",
            "description": DESCRIPTION,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "http://vpnhub", "description": "Over the control socket; the host's name is ignored." }],
        "paths": paths,
        "components": schemas.finish(),
    })
}

/// The text of the description, made at the first request for it.
#[derive(Clone)]
struct Document(Arc<LazyLock<String, Box<dyn FnOnce() -> String + Send>>>);

async fn answer(Extension(Document(text)): Extension<Document>) -> Response {
    ([(header::CONTENT_TYPE, JSON)], text.to_string()).into_response()
}

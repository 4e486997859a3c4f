//! Errors of the control socket: problem details for HTTP APIs (RFC 9457). The types are a contract: types and members
//! may be added, never changed.

use std::{borrow::Cow, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::config::Diagnostic;

/// What a type's name follows in its URN.
const URN: &str = "urn:vpnhub:problem:";

/// The kind of an error. Serialized as a URN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemType {
    InvalidRequest,
    Ambiguous,
    Forbidden,
    NoSuchObject,
    NoSuchPath,
    MethodNotAllowed,
    RequestTimeout,
    DefinedInFile,
    AlreadyExists,
    RuleViolated,
    InvalidFiles,
    RestartRequired,
    NothingToConfirm,
    Superseded,
    CapacityExceeded,
    NotPossible,
    BodyTooLarge,
    UnsupportedMediaType,
    TooManyFilters,
    Internal,
    StoreFailed,
    NotInForce,
    Stopping,
    TooManyConnections,
}

impl ProblemType {
    pub const ALL: [Self; 24] = [
        Self::InvalidRequest,
        Self::Ambiguous,
        Self::Forbidden,
        Self::NoSuchObject,
        Self::NoSuchPath,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::DefinedInFile,
        Self::AlreadyExists,
        Self::RuleViolated,
        Self::InvalidFiles,
        Self::RestartRequired,
        Self::NothingToConfirm,
        Self::Superseded,
        Self::CapacityExceeded,
        Self::NotPossible,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::TooManyFilters,
        Self::Internal,
        Self::StoreFailed,
        Self::NotInForce,
        Self::Stopping,
        Self::TooManyConnections,
    ];

    /// Status code, name and title.
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalid-request", "The request is invalid"),
            Self::Ambiguous => (400, "ambiguous", "Several objects match the request"),
            Self::Forbidden => (403, "forbidden", "Only root may do this"),
            Self::NoSuchObject => (404, "no-such-object", "There is no such object"),
            Self::NoSuchPath => (404, "no-such-path", "The API does not have this path"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "The path does not have this method"),
            Self::RequestTimeout => (408, "request-timeout", "The body did not arrive in time"),
            Self::DefinedInFile => (409, "defined-in-file", "The object is defined in a file"),
            Self::AlreadyExists => (409, "already-exists", "The object exists with other keys"),
            Self::RuleViolated => (409, "rule-violated", "The configuration would break a rule"),
            Self::InvalidFiles => (409, "invalid-files", "The configuration files have errors"),
            Self::RestartRequired => (409, "restart-required", "A changed key takes effect only when the agent starts"),
            Self::NothingToConfirm => (409, "nothing-to-confirm", "No reload awaits confirmation"),
            Self::Superseded => (409, "superseded", "A later command replaces this one"),
            Self::CapacityExceeded => (409, "capacity-exceeded", "The kernel program's tables have no room"),
            Self::NotPossible => (409, "not-possible", "The connection or the host does not allow it now"),
            Self::BodyTooLarge => (413, "body-too-large", "The body is too long or truncated"),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "The body is not declared as JSON"),
            Self::TooManyFilters => (429, "too-many-filters", "Too many different packet filters are in use"),
            Self::Internal => (500, "internal", "The agent or the host failed"),
            Self::StoreFailed => (500, "store-failed", "The store cannot be read or written"),
            Self::NotInForce => (500, "not-in-force", "The change is saved, but not in force yet"),
            Self::Stopping => (500, "stopping", "The agent is stopping"),
            Self::TooManyConnections => (503, "too-many-connections", "Too many connections are open"),
        }
    }

    /// HTTP status code. A type always has the same.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// The last part of the URN.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// A summary, the same for all errors of the type.
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    pub fn urn(self) -> String {
        format!("{URN}{}", self.name())
    }
}

impl Serialize for ProblemType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{URN}{}", self.name()))
    }
}

impl JsonSchema for ProblemType {
    fn schema_name() -> Cow<'static, str> {
        "ProblemType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Self::ALL.map(Self::urn) })
    }
}

/// The body of an error.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ProblemDetails {
    #[serde(rename = "type")]
    pub kind: ProblemType,
    /// A summary of the type.
    pub title: &'static str,
    /// The status code of the answer.
    pub status: u16,
    /// What is wrong with this request and what to do: one sentence, or one line for each of `reasons` or `diagnostics`.
    pub detail: String,
    /// The same as `detail`, under the name of versions before RFC 9457.
    pub error: String,
    #[serde(flatten)]
    pub more: ProblemMembers,
}

/// Members that only errors of some types have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProblemMembers {
    /// `ambiguous`, and `no-such-object` of a next hop: the next hops that exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hops: Option<Vec<String>>,
    /// `defined-in-file`: where the object is defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// `defined-in-file`: counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// `rule-violated`: one sentence for each broken rule; the first ten, and the number of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<String>>,
    /// `invalid-files`: all errors and warnings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<Vec<Diagnostic>>,
}

impl ProblemDetails {
    /// `detail`: one sentence with the remedy.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let more = ProblemMembers::default();
        Self { kind, title: kind.title(), status: kind.status(), error: detail.clone(), detail, more }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, fs};

    use super::*;

    const UPDATE: &str = "UPDATE_EXPECTED=1 cargo test -p hub-userspace --lib problem::";
    const DOCUMENT: &str = "../docs/api.md";
    const HEADER: &str = "| status | type | title |\n| --- | --- | --- |\n";

    #[test]
    fn names_are_unique_and_in_order_of_status() {
        let names: BTreeSet<_> = ProblemType::ALL.map(ProblemType::name).into();
        assert_eq!(names.len(), ProblemType::ALL.len());
        assert!(ProblemType::ALL.is_sorted_by_key(|kind| (kind.status(), *kind)));
    }

    #[test]
    fn documentation_has_table_of_all_types() {
        let text = fs::read_to_string(DOCUMENT).expect("the manual");
        let row = |kind: ProblemType| format!("| {} | `{}` | {} |\n", kind.status(), kind.name(), kind.title());
        let table: String = ProblemType::ALL.map(row).concat();
        let start = text.find(HEADER).expect("the table of errors") + HEADER.len();
        let end = start + text[start..].find("\n\n").expect("the end of the table") + 1;
        if env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(DOCUMENT, [&text[..start], &table, &text[end..]].concat()).expect("it is ours");
            return;
        }
        assert_eq!(text[start..end], table, "`{UPDATE}` writes it");
    }

    #[test]
    fn problem_has_members_of_rfc_9457_and_of_earlier_versions() {
        let mut problem = ProblemDetails::new(ProblemType::Ambiguous, "there are several: choose one");
        problem.more.next_hops = Some(vec!["a".to_owned(), "b".to_owned()]);
        let expected = serde_json::json!({
            "type": "urn:vpnhub:problem:ambiguous", "title": "Several objects match the request", "status": 400,
            "detail": "there are several: choose one", "error": "there are several: choose one",
            "next_hops": ["a", "b"],
        });
        assert_eq!(serde_json::to_value(&problem).expect("JSON"), expected);
    }
}

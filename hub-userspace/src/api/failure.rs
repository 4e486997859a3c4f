//! Errors as answers: every failed request is answered with [`ProblemDetails`].

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    api_types::problem::{ProblemDetails, ProblemType},
    config::{Origin, in_force::ProposeError},
    config_manager::ChangeError,
    store::StoreError,
};

pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// The answer to a request: a value as JSON, or an error.
pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// An error answer.
#[derive(Debug)]
pub(super) struct Failure(Box<ProblemDetails>);

impl Failure {
    /// `detail`: one sentence with the remedy.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self(Box::new(ProblemDetails::new(kind, detail)))
    }

    pub fn stopping() -> Self {
        Self::new(ProblemType::Stopping, ChangeError::Stopping.to_string())
    }

    fn rejected(status: StatusCode, detail: String) -> Self {
        let kind = match status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ProblemType::UnsupportedMediaType,
            _ => ProblemType::InvalidRequest,
        };
        Self::new(kind, detail)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self::rejected(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::rejected(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self::rejected(rejection.status(), rejection.body_text())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(ProblemType::Internal, format!("{error:#}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(ProblemType::StoreFailed, error.to_string())
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let kind = match &error {
            ChangeError::Edit(error) | ChangeError::Refused(error) => type_of(error),
            ChangeError::Load(_) => ProblemType::InvalidFiles,
            ChangeError::Restart(_) => ProblemType::RestartRequired,
            ChangeError::NothingToConfirm => ProblemType::NothingToConfirm,
            ChangeError::OtherRole(_) => ProblemType::Superseded,
            ChangeError::Full(_) => ProblemType::CapacityExceeded,
            ChangeError::Store(_) => ProblemType::StoreFailed,
            ChangeError::NotApplied(_) => ProblemType::NotInForce,
            ChangeError::Stopping => ProblemType::Stopping,
        };
        let mut failure = Self::new(kind, error.to_string());
        let more = &mut failure.0.more;
        match error {
            ChangeError::Edit(
                ProposeError::Ambiguous { next_hops, .. }
                | ProposeError::AmbiguousPolicyRoute { next_hops, .. }
                | ProposeError::NoSuchHop { next_hops, .. },
            ) => more.next_hops = Some(next_hops),
            ChangeError::Edit(ProposeError::DefinedInFile { origin: Origin::File { file, line }, .. }) => {
                (more.file, more.line) = (Some(file), Some(line));
            }
            ChangeError::Refused(ProposeError::Refused(reasons)) => more.reasons = Some(reasons),
            ChangeError::Load(error) => more.diagnostics = Some(error.diagnostics),
            _ => {}
        }
        failure
    }
}

fn type_of(error: &ProposeError) -> ProblemType {
    match error {
        ProposeError::Ambiguous { .. } | ProposeError::AmbiguousPolicyRoute { .. } => ProblemType::Ambiguous,
        ProposeError::NextHopMissing | ProposeError::NothingAsked => ProblemType::InvalidRequest,
        ProposeError::Unknown { .. }
        | ProposeError::NoRoute { .. }
        | ProposeError::NoSuchHop { .. }
        | ProposeError::NoPolicyRoute { .. } => ProblemType::NoSuchObject,
        ProposeError::RouteExists { .. } | ProposeError::Exists { .. } | ProposeError::PolicyRouteExists { .. } => {
            ProblemType::AlreadyExists
        }
        ProposeError::DefinedInFile { .. } => ProblemType::DefinedInFile,
        ProposeError::Refused(_) => ProblemType::RuleViolated,
    }
}

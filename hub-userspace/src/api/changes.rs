//! Changes over the control socket.
//!
//! | request | body |
//! | --- | --- |
//! | `POST /v1/routes` | `{"destination", "next_hop", "weight"?, "publish"?}` |
//! | `PATCH /v1/routes` | `{"destination", "next_hop"?, "weight"?, "publish"?}` |
//! | `DELETE /v1/routes` | `{"destination", "next_hop"?}` |
//! | `POST /v1/connections/{name}/up`, `.../down`, `POST /v1/reload` | none |
//!
//! 200 and a [`Changed`], or `{"error"}`, after a reload with `"diagnostics"` besides: 400 what makes no sense by itself,
//! 403 who is not root, 404 what is not there, 409 what does not go with the configuration, 500 what the host refuses.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};
use reqwest::Method;
use serde_json::json;
use tokio::sync::oneshot;

use super::{CONNECTIONS, Client, Doors, Failure, RELOAD, ROUTES, connections, routes};
use crate::{
    changer::{ChangeError, Changed, Wish},
    config::edit::{AddRoute, DeleteRoute, Edit, EditError, Enable, SetRoute},
};

type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) fn router() -> Router<Doors> {
    Router::new()
        .route(ROUTES, post(add_route).patch(set_route).delete(delete_route).get(routes))
        .route(CONNECTIONS, axum::routing::get(connections))
        .route(&format!("{CONNECTIONS}/{{name}}/up"), post(up))
        .route(&format!("{CONNECTIONS}/{{name}}/down"), post(down))
        .route(RELOAD, post(reload))
}

async fn add_route(State(doors): State<Doors>, body: Body<AddRoute>) -> Response {
    change(&doors, body.map(|Json(add)| Edit::AddRoute(add))).await
}

async fn set_route(State(doors): State<Doors>, body: Body<SetRoute>) -> Response {
    change(&doors, body.map(|Json(set)| Edit::SetRoute(set))).await
}

async fn delete_route(State(doors): State<Doors>, body: Body<DeleteRoute>) -> Response {
    change(&doors, body.map(|Json(delete)| Edit::DeleteRoute(delete))).await
}

async fn up(State(doors): State<Doors>, Path(connection): Path<String>) -> Response {
    change(&doors, Ok(Edit::Enable(Enable { connection, enabled: true }))).await
}

async fn down(State(doors): State<Doors>, Path(connection): Path<String>) -> Response {
    change(&doors, Ok(Edit::Enable(Enable { connection, enabled: false }))).await
}

async fn reload(State(doors): State<Doors>) -> Response {
    ask(&doors, Wish::Reload).await
}

async fn change(doors: &Doors, edit: Result<Edit, JsonRejection>) -> Response {
    match edit {
        Ok(edit) => ask(doors, Wish::Edit(edit)).await,
        Err(rejection) => {
            let status = match rejection.status() {
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                status => status,
            };
            failure(status, rejection.body_text())
        }
    }
}

async fn ask(doors: &Doors, wish: Wish) -> Response {
    let (sender, answer) = oneshot::channel();
    // A wish that nobody takes is dropped, and the answer with it.
    drop(doors.changer.send((wish, sender)).await);
    match answer.await {
        Ok(Ok(changed)) => Json(changed).into_response(),
        Ok(Err(ChangeError::Load(error))) => {
            let (diagnostics, error) = (error.diagnostics.clone(), ChangeError::Load(error));
            let body = json!({ "error": error.to_string(), "diagnostics": diagnostics });
            (status_of(&error), Json(body)).into_response()
        }
        Ok(Err(error)) => failure(status_of(&error), error.to_string()),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, ChangeError::Stopping.to_string()),
    }
}

fn status_of(error: &ChangeError) -> StatusCode {
    match error {
        ChangeError::Edit(EditError::Ambiguous { .. } | EditError::NothingAsked) => StatusCode::BAD_REQUEST,
        ChangeError::Edit(EditError::NoConnection { .. } | EditError::NoRoute { .. } | EditError::NoSuchHop { .. }) => {
            StatusCode::NOT_FOUND
        }
        ChangeError::Edit(_)
        | ChangeError::Refused(_)
        | ChangeError::Load(_)
        | ChangeError::Restart(_)
        | ChangeError::Full(_) => StatusCode::CONFLICT,
        ChangeError::Store(error) if error.is_conflict() => StatusCode::CONFLICT,
        ChangeError::Store(_) | ChangeError::NotApplied(_) | ChangeError::Stopping => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failure(status: StatusCode, error: String) -> Response {
    (status, Json(Failure { error })).into_response()
}

impl Client {
    /// Has the agent make a change.
    pub async fn change(&self, edit: &Edit) -> anyhow::Result<Changed> {
        let (method, path, body) = match edit {
            Edit::AddRoute(add) => (Method::POST, ROUTES.to_owned(), Some(serde_json::to_value(add)?)),
            Edit::SetRoute(set) => (Method::PATCH, ROUTES.to_owned(), Some(serde_json::to_value(set)?)),
            Edit::DeleteRoute(delete) => (Method::DELETE, ROUTES.to_owned(), Some(serde_json::to_value(delete)?)),
            Edit::Enable(Enable { connection, enabled }) => {
                let way = if *enabled { "up" } else { "down" };
                (Method::POST, format!("{CONNECTIONS}/{}/{way}", segment(connection)), None)
            }
        };
        self.send(method, &path, body).await
    }

    /// Has the agent read its file again.
    pub async fn reload(&self) -> anyhow::Result<Changed> {
        self.send(Method::POST, RELOAD, None).await
    }
}

/// A name as a segment of a path: whatever it is, it must not become another path.
pub(super) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

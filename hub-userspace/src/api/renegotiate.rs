//! Renegotiation of a connection's SAs: not a change of the configuration.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{AppState, CONNECTIONS, Client, failure, path::segment};
use crate::agent::Request;

#[derive(Deserialize)]
pub(super) struct RenegotiateQuery {
    /// Rekey the child SAs, too.
    #[serde(default)]
    children: bool,
}

/// The commands that strongSwan executes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Renegotiation {
    /// One sentence for the user, without a full stop.
    pub message: String,
    /// Such as `initiate vpnhub-shanghai`; empty if nothing is missing.
    pub commands: Vec<String>,
}

pub(super) async fn renegotiate(
    State(state): State<AppState>,
    Path(name): Path<String>,
    query: Result<Query<RenegotiateQuery>, QueryRejection>,
) -> Response {
    let children = match query {
        Ok(Query(RenegotiateQuery { children })) => children,
        Err(rejection) => return failure(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let (sender, config) = oneshot::channel();
    drop(state.agent.send(Request::Config(sender)).await);
    let members: Vec<String> = match config.await {
        Ok(config) => match config.any_member(&name).map(|connection| connection.ipsec.is_some()) {
            Some(true) => config.members(&name).map(|(member, _)| member.clone()).collect(),
            Some(false) => return failure(StatusCode::CONFLICT, format!("connection {name} has no IPsec")),
            None => return failure(StatusCode::NOT_FOUND, format!("there is no connection {name}")),
        },
        Err(_) => return stopping(),
    };
    let mut commands = Vec::new();
    for name in members {
        let (answer, answered) = oneshot::channel();
        drop(state.agent.send(Request::Renegotiate { name, children, answer }).await);
        match answered.await {
            Ok(Ok(more)) => commands.extend(more),
            Ok(Err(why)) => return failure(StatusCode::CONFLICT, why),
            Err(_) => return stopping(),
        }
    }
    let message = match commands.is_empty() {
        true => format!("connection {name}: nothing to negotiate, its SAs admit all selectors of the configuration"),
        false => format!("connection {name}: strongSwan has started: {}", commands.join(", ")),
    };
    Json(Renegotiation { message, commands }).into_response()
}

fn stopping() -> Response {
    failure(StatusCode::INTERNAL_SERVER_ERROR, "the agent is stopping")
}

impl Client {
    /// Has strongSwan negotiate what a connection lacks; with `children`, also rekey its child SAs.
    pub async fn renegotiate(&self, connection: &str, children: bool) -> anyhow::Result<Renegotiation> {
        let path = format!("{CONNECTIONS}/{}/renegotiate?children={children}", segment(connection));
        self.send(Method::POST, &path, None).await
    }
}

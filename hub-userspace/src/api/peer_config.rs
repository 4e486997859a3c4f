//! The configuration of a site's device, from the configuration in force: `GET /v1/peer-config/{name}/{format}`, with
//! `?secret=true` including the secret. The answer is text, or `{"error"}`: 403 secret requested without root, 404
//! unknown connection, 409 not possible with the configuration.

use anyhow::Result;
use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{AppState, Client, access::Peer, client::PATIENCE, failure, path::segment};
use crate::{
    agent::Request,
    peer_config::{Format, PeerConfigError, render},
};

pub const PEER_CONFIG: &str = "/v1/peer-config";

#[derive(Deserialize)]
pub(super) struct Parameters {
    #[serde(default)]
    secret: bool,
}

pub(super) async fn peer_config(
    State(state): State<AppState>,
    Extension(peer): Extension<Peer>,
    Path((name, format)): Path<(String, Format)>,
    Query(parameters): Query<Parameters>,
) -> Response {
    if parameters.secret && !peer.is_root {
        return failure(StatusCode::FORBIDDEN, "only root can read secrets: run as root");
    }
    let (sender, answer) = oneshot::channel();
    // If the receiver is gone, the request is dropped together with its answer channel.
    drop(state.agent.send(Request::Config(sender)).await);
    let Ok(config) = answer.await else {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "the agent is stopping");
    };
    // Reading a secret may block on the disk.
    match spawn_blocking(move || render(&config, &name, format, parameters.secret)).await {
        Ok(Ok(text)) => text.into_response(),
        Ok(Err(error @ PeerConfigError::NoConnection { .. })) => failure(StatusCode::NOT_FOUND, error.to_string()),
        Ok(Err(error)) => failure(StatusCode::CONFLICT, error.to_string()),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "the configuration could not be written"),
    }
}

impl Client {
    /// The configuration of a connection's site.
    pub async fn peer_config(&self, name: &str, format: Format, with_secret: bool) -> Result<String> {
        let path = format!("{PEER_CONFIG}/{}/{}?secret={with_secret}", segment(name), format.name());
        let answer = self.ask(Method::GET, &path, None, Some(PATIENCE)).await?;
        answer.text().await
    }
}

//! The configuration of a site's device, from the configuration in force: `GET /v1/peer-config/{name}/{format}`, with
//! `?secret=true` including the secret. The answer is text.

use anyhow::{Context as _, Result};
use axum::{
    Extension,
    extract::{Path, Query, State},
    http::Method,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    AppState, Client,
    access::Peer,
    client::PATIENCE,
    failure::Failure,
    path::{PathOf, QueryOf, segment},
};
use crate::{
    agent::Request,
    api_types::problem::ProblemType,
    background::spawn_blocking,
    peer_config::{Format, PeerConfigError, render},
};

pub const PEER_CONFIG: &str = "/v1/peer-config";

#[derive(Deserialize, JsonSchema)]
pub(super) struct PeerConfigPath {
    /// A connection's name.
    name: String,
    /// Syntax of the site's device.
    format: Format,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Parameters {
    /// Write the pre-shared key, for root only.
    #[serde(default)]
    secret: bool,
}

pub(super) async fn peer_config(
    State(state): State<AppState>,
    Extension(peer): Extension<Peer>,
    path: PathOf<PeerConfigPath>,
    query: QueryOf<Parameters>,
) -> Result<String, Failure> {
    let (Path(PeerConfigPath { name, format }), Query(Parameters { secret })) = (path?, query?);
    if secret && !peer.is_root {
        return Err(Failure::new(ProblemType::Forbidden, "only root can read secrets: run as root"));
    }
    let config = state.ask(Request::Config).await?;
    // Reading a secret may block on the disk.
    let rendered = spawn_blocking(move || render(&config, &name, format, secret)).await;
    let rendered = rendered.context("the configuration could not be written")?;
    rendered.map_err(|error| {
        let kind = match error {
            PeerConfigError::NoConnection { .. } => ProblemType::NoSuchObject,
            _ => ProblemType::NotPossible,
        };
        Failure::new(kind, error.to_string())
    })
}

impl Client {
    /// The configuration of a connection's site.
    pub async fn peer_config(&self, name: &str, format: Format, with_secret: bool) -> Result<String> {
        let path = format!("{PEER_CONFIG}/{}/{}?secret={with_secret}", segment(name), format.name());
        let answer = self.ask(Method::GET, &path, None, Some(PATIENCE)).await?;
        answer.text().await
    }
}

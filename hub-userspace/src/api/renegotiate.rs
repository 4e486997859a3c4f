//! Renegotiation of a connection's SAs: not a change of the configuration.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::Method,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AppState, CONNECTIONS, Client,
    failure::{Answer, Failure},
    path::{NamePath, PathOf, QueryOf, segment},
};
use crate::{agent::Request, api_types::problem::ProblemType};

#[derive(Deserialize, JsonSchema)]
pub(super) struct RenegotiateQuery {
    /// Rekey the child SAs, too.
    #[serde(default)]
    children: bool,
}

/// The commands that strongSwan executes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Renegotiation {
    /// One sentence for the user, without a full stop.
    pub message: String,
    /// Such as `initiate vpnhub-shanghai`; empty if nothing is missing.
    pub commands: Vec<String>,
}

pub(super) async fn renegotiate(
    State(state): State<AppState>,
    path: PathOf<NamePath>,
    query: QueryOf<RenegotiateQuery>,
) -> Answer<Renegotiation> {
    let (Path(NamePath { name }), Query(RenegotiateQuery { children })) = (path?, query?);
    let config = state.ask(Request::Config).await?;
    let failure = |kind, detail: String| Err(Failure::new(kind, detail));
    let members: Vec<String> = match config.any_member(&name).map(|connection| connection.ipsec.is_some()) {
        Some(true) => config.members(&name).map(|(member, _)| member.clone()).collect(),
        Some(false) => return failure(ProblemType::NotPossible, format!("connection {name} has no IPsec")),
        None => return failure(ProblemType::NoSuchObject, format!("there is no connection {name}")),
    };
    let mut commands = Vec::new();
    for name in members {
        match state.ask(|answer| Request::Renegotiate { name, children, answer }).await? {
            Ok(more) => commands.extend(more),
            Err(why) => return failure(ProblemType::NotPossible, why),
        }
    }
    let message = match commands.is_empty() {
        true => format!("connection {name}: nothing to negotiate, its SAs admit all selectors of the configuration"),
        false => format!("connection {name}: strongSwan has started: {}", commands.join(", ")),
    };
    Ok(Json(Renegotiation { message, commands }))
}

impl Client {
    /// Has strongSwan negotiate what a connection lacks; with `children`, also rekey its child SAs.
    pub async fn renegotiate(&self, connection: &str, children: bool) -> anyhow::Result<Renegotiation> {
        let path = format!("{CONNECTIONS}/{}/renegotiate?children={children}", segment(connection));
        self.send(Method::POST, &path, None).await
    }
}

//! The hub's role among several hubs.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Query, State},
    http::Method,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ACTIVE, AppState, Client, STANDBY,
    access::Peer,
    changes::ask,
    client::PATIENCE_FOR_CHANGES,
    failure::Answer,
    openapi::{Api, about},
    path::QueryOf,
};
use crate::{
    api_types::problem::ProblemType,
    config::Role,
    config_manager::{Changed, ConfigChange, RoleChange},
};

const ROLE: [ProblemType; 2] = [ProblemType::Superseded, ProblemType::NotInForce];

pub(super) fn operations(api: Api) -> Api {
    let to_active = about("active", "Makes the hub active: loads its tunnels, publishes its routes.").fails(&ROLE);
    let to_standby =
        about("standby", "Makes the hub standby: withdraws its routes, then unloads its tunnels.").fails(&ROLE);
    api.on(Method::POST, ACTIVE, active, to_active).on(Method::POST, STANDBY, standby, to_standby)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ActiveQuery {
    /// Seconds until the routes are published, if the tunnels are not up before.
    #[serde(default)]
    wait: u16,
}

async fn active(state: State<AppState>, peer: Extension<Peer>, query: QueryOf<ActiveQuery>) -> Answer<Changed> {
    let Query(ActiveQuery { wait }) = query?;
    role(&state, &peer, Role::Active, wait).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StandbyQuery {
    /// Seconds from the withdrawal of the routes to the end of the tunnels.
    #[serde(default)]
    drain: u16,
    /// Only withdraw the routes.
    #[serde(default)]
    keep_tunnels: bool,
}

async fn standby(state: State<AppState>, peer: Extension<Peer>, query: QueryOf<StandbyQuery>) -> Answer<Changed> {
    let Query(StandbyQuery { drain, keep_tunnels }) = query?;
    role(&state, &peer, if keep_tunnels { Role::Withdrawn } else { Role::Standby }, drain).await
}

async fn role(state: &AppState, peer: &Peer, role: Role, seconds: u16) -> Answer<Changed> {
    let change = RoleChange { role, after: Duration::from_secs(seconds.into()) };
    ask(state, peer, ConfigChange::Role(change)).await.map(Json)
}

impl Client {
    /// Makes the hub active; publishes when its tunnels are up, `wait` later at the latest.
    pub async fn active(&self, wait: Duration) -> anyhow::Result<Changed> {
        self.role(&format!("{ACTIVE}?wait={}", wait.as_secs()), wait).await
    }

    /// Makes the hub standby, `drain` after its routes are withdrawn.
    pub async fn standby(&self, drain: Duration) -> anyhow::Result<Changed> {
        self.role(&format!("{STANDBY}?drain={}", drain.as_secs()), drain).await
    }

    /// Withdraws the hub's routes.
    pub async fn withdraw(&self) -> anyhow::Result<Changed> {
        self.role(&format!("{STANDBY}?keep_tunnels=true"), Duration::ZERO).await
    }

    /// The answer comes up to `after` later than that of another change.
    async fn role(&self, path: &str, after: Duration) -> anyhow::Result<Changed> {
        self.ask(Method::POST, path, None, Some(PATIENCE_FOR_CHANGES + after)).await?.json().await
    }
}

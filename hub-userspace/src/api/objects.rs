//! Read access to the configuration in force and the store over the control socket.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/routes`, with `?destination=PREFIX` | routes as in the status |
//! | `GET /v1/policy-routes` | policy routes as in the status |
//! | `GET /v1/connections` | connections as in the status |
//! | `GET /v1/customer-gateways` | `[{"name", "address", "origin", ...}]` |
//! | `GET /v1/segments` | `[{"name", "reaches", "origin", ...}]` |
//! | `GET /v1/connections/{name}`, `/v1/customer-gateways/{name}`, `/v1/segments/{name}` | a [`Shown`] |
//! | `GET /v1/config` | the configuration in force, as TOML |
//! | `GET /v1/store/audit`, with `?last=N` | `[{"time", "uid", "action", "object", "before", "after"}]`, oldest first |
//! | `GET /v1/store/backup` | the store as a file |

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    AUDIT, AppState, BACKUP, CONFIG, CUSTOMER_GATEWAYS, Client, POLICY_ROUTES, ROUTES, SEGMENTS,
    client::PATIENCE_FOR_CHANGES, failure, path::path_of, respond, snapshot,
};
use crate::{
    agent::Request,
    api_types::status,
    config::{self, Config, Origin, SetAside, SiteAddress},
    config_manager::{ChangeError, ChangeRequest},
    store::{ObjectId, audit},
};

/// Default number of entries of the audit log.
const LAST: usize = 50;

/// A customer gateway in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerGatewayEntry {
    pub name: String,
    pub address: SiteAddress,
    #[serde(flatten)]
    pub origin: Origin,
}

/// A segment in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    pub name: String,
    /// As configured.
    pub reaches: Vec<String>,
    #[serde(flatten)]
    pub origin: Origin,
}

/// One object with all its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub name: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// As in a file, including defaults. For an object that is set aside, as in the store.
    pub keys: Value,
    /// Its section in a file; absent if it is set aside.
    #[serde(default)]
    pub toml: Option<String>,
    /// Why it is not in force.
    #[serde(default)]
    pub set_aside: Option<String>,
}

pub(super) fn router() -> Router<AppState> {
    Router::new().route(CONFIG, get(config_text)).route(AUDIT, get(audit_log)).route(BACKUP, get(backup))
}

#[derive(Deserialize)]
pub(super) struct RoutesQuery {
    destination: Option<IpNet>,
}

pub(super) async fn routes(
    State(state): State<AppState>,
    query: Result<Query<RoutesQuery>, QueryRejection>,
) -> Response {
    let destination = match query {
        Ok(Query(RoutesQuery { destination })) => destination,
        Err(rejection) => return failure(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let is_asked = |route: &status::RouteStatus| destination.is_none_or(|destination| route.destination == destination);
    let routes = snapshot(&state).await.map(|snapshot| snapshot.routes());
    respond(routes.map(|routes| routes.into_iter().filter(is_asked).collect::<Vec<_>>()))
}

pub(super) async fn policy_routes(State(state): State<AppState>) -> Response {
    respond(snapshot(&state).await.map(|snapshot| snapshot.policy_routes()))
}

pub(super) async fn connections(State(state): State<AppState>) -> Response {
    respond(snapshot(&state).await.map(|snapshot| snapshot.connections))
}

pub(super) async fn customer_gateways(State(state): State<AppState>) -> Response {
    let list = |config: Arc<Config>| {
        let gateway = |(name, gateway): (&String, &config::model::CustomerGateway)| CustomerGatewayEntry {
            name: name.clone(),
            address: gateway.address.clone(),
            origin: config.provenance.customer_gateway(name),
        };
        config.customer_gateways.iter().map(gateway).collect::<Vec<_>>()
    };
    respond(in_force(&state).await.map(list))
}

pub(super) async fn segments(State(state): State<AppState>) -> Response {
    let list = |config: Arc<Config>| {
        let segment = |(name, segment): (&String, &config::segments::Segment)| SegmentEntry {
            name: name.clone(),
            reaches: segment.reaches.clone(),
            origin: config.provenance.segment(name),
        };
        config.segments.iter().map(segment).collect::<Vec<_>>()
    };
    respond(in_force(&state).await.map(list))
}

pub(super) async fn segment(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    object(&state, ObjectId::Segment(name)).await
}

pub(super) async fn connection(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    object(&state, ObjectId::Connection(name)).await
}

pub(super) async fn customer_gateway(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    object(&state, ObjectId::CustomerGateway(name)).await
}

async fn object(state: &AppState, id: ObjectId) -> Response {
    let config = match in_force(state).await {
        Ok(config) => config,
        Err(error) => return respond(Err::<Value, _>(error)),
    };
    let name = id.name();
    if let Some((origin, text)) = config::show_object(&config, &id) {
        let keys = toml::from_str::<Value>(&text).unwrap_or_default();
        let keys = keys.get(id.kind()).and_then(|of_kind| of_kind.get(&name)).cloned().unwrap_or_default();
        return Json(Shown { name, origin, keys, toml: Some(text), set_aside: None }).into_response();
    }
    let is_it = |found: &&SetAside| found.kind == id.kind() && found.name == name;
    let reason = config.provenance.set_aside.iter().find(is_it).map(|found| found.reason.clone());
    let missing = format!("there is no {id}: see `vpnhub {} list`", id.kind().replace('_', "-"));
    let (sender, answer) = oneshot::channel();
    drop(state.changes.send(ChangeRequest::Stored(id, sender)).await);
    match answer.await.ok().flatten() {
        Some(keys) => Json(Shown { name, origin: Origin::Store, keys, toml: None, set_aside: reason }).into_response(),
        None => failure(StatusCode::NOT_FOUND, missing),
    }
}

async fn config_text(State(state): State<AppState>) -> Response {
    match in_force(&state).await {
        Ok(config) => ([(header::CONTENT_TYPE, "application/toml")], config::show(&config)).into_response(),
        Err(error) => respond(Err::<Value, _>(error)),
    }
}

async fn in_force(state: &AppState) -> anyhow::Result<Arc<Config>> {
    let (sender, answer) = oneshot::channel();
    state.agent.send(Request::Config(sender)).await.context("the agent is stopping")?;
    answer.await.context("the agent is stopping")
}

#[derive(Deserialize)]
struct AuditQuery {
    last: Option<usize>,
}

async fn audit_log(State(state): State<AppState>, query: Result<Query<AuditQuery>, QueryRejection>) -> Response {
    let last = match query {
        Ok(Query(AuditQuery { last })) => last.unwrap_or(LAST),
        Err(rejection) => return failure(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let (sender, answer) = oneshot::channel();
    drop(state.changes.send(ChangeRequest::Audit(last, sender)).await);
    respond(answer.await.map_err(|_| ChangeError::Stopping.into()).and_then(|found| Ok(found?)))
}

async fn backup(State(state): State<AppState>) -> Response {
    let (sender, answer) = oneshot::channel();
    drop(state.changes.send(ChangeRequest::Backup(sender)).await);
    match answer.await {
        Ok(Ok(bytes)) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Ok(Err(error)) => respond(Err::<Value, _>(error.into())),
        Err(_) => respond(Err::<Value, _>(ChangeError::Stopping.into())),
    }
}

impl Client {
    /// The routes to one destination.
    pub async fn routes_to(&self, destination: IpNet) -> anyhow::Result<Vec<status::RouteStatus>> {
        self.get(&format!("{ROUTES}?destination={destination}")).await
    }

    pub async fn policy_routes(&self) -> anyhow::Result<Vec<status::PolicyRouteStatus>> {
        self.get(POLICY_ROUTES).await
    }

    pub async fn customer_gateways(&self) -> anyhow::Result<Vec<CustomerGatewayEntry>> {
        self.get(CUSTOMER_GATEWAYS).await
    }

    pub async fn segments(&self) -> anyhow::Result<Vec<SegmentEntry>> {
        self.get(SEGMENTS).await
    }

    /// A connection, a customer gateway or a segment.
    pub async fn object(&self, id: &ObjectId) -> anyhow::Result<Shown> {
        self.get(&path_of(id)).await
    }

    /// The configuration in force, as TOML.
    pub async fn config(&self) -> anyhow::Result<String> {
        let answer = self.ask(Method::GET, CONFIG, None, Some(PATIENCE_FOR_CHANGES)).await?;
        answer.text().await
    }

    /// The newest entries of the audit log, oldest first.
    pub async fn audit(&self, last: usize) -> anyhow::Result<Vec<audit::AuditEntry>> {
        self.get(&format!("{AUDIT}?last={last}")).await
    }

    /// The store as a file.
    pub async fn backup(&self) -> anyhow::Result<Vec<u8>> {
        let answer = self.ask(Method::GET, BACKUP, None, Some(PATIENCE_FOR_CHANGES)).await?;
        Ok(answer.bytes().await?.into())
    }
}

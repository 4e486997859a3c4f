//! Read access to the configuration in force and the store over the control socket.

use anyhow::Context as _;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::{Method, header},
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    AUDIT, AppState, BACKUP, CONFIG, CONNECTIONS, CUSTOMER_GATEWAYS, Client, POLICY_ROUTES, ROUTES, SEGMENTS,
    client::PATIENCE_FOR_CHANGES,
    failure::{Answer, Failure},
    keys::{ConnectionKeys, CustomerGatewayKeys, SegmentKeys},
    openapi::{Api, about},
    path::{NamePath, PathOf, PolicyRoutePath, QueryOf, RoutePath, path_of},
};
use crate::{
    agent::Request,
    api_types::{problem::ProblemType, status},
    config::{self, Origin, SetAside, SiteAddress},
    config_manager::ChangeRequest,
    store::{ObjectId, PolicyRouteId, PolicyRouteKeys, RouteKeys, audit},
};

/// Media types of answers.
const TOML: &str = "application/toml";
const OCTETS: &str = "application/octet-stream";
/// Default number of entries of the audit log.
const LAST: usize = 50;

/// A customer gateway in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CustomerGatewayEntry {
    pub name: String,
    /// An address, a DNS name or `any`.
    #[schemars(with = "String")]
    pub address: SiteAddress,
    #[serde(flatten)]
    pub origin: Origin,
}

/// A segment in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentEntry {
    pub name: String,
    /// As configured.
    pub reaches: Vec<String>,
    #[serde(flatten)]
    pub origin: Origin,
}

/// One object with all its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Shown{K}")]
pub struct Shown<K = Value> {
    /// A route's is `DESTINATION NEXT_HOP`, a policy route's `SOURCE DESTINATION NEXT_HOP`.
    pub name: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// As in a file, including defaults, without those that identify the object. For an object that is set aside, as in
    /// the store. A `PUT` of them changes nothing.
    pub keys: K,
    /// Its section in a file; `null` if it is set aside.
    #[serde(default)]
    pub toml: Option<String>,
    /// Why it is not in force.
    #[serde(default)]
    pub set_aside: Option<String>,
}

pub(super) fn operations(api: Api) -> Api {
    let one = |id, summary| about(id, summary).fails(&[ProblemType::NoSuchObject]);
    let audit = about("audit", "The newest changes, oldest first.").fails(&[ProblemType::StoreFailed]);
    let backup = about("backup", "The store as a file.").answers::<Value>(OCTETS).fails(&[ProblemType::StoreFailed]);
    api.on(Method::GET, ROUTES, routes, about("listRoutes", "The routes in force, as in the status."))
        .on(Method::GET, &format!("{ROUTES}/{{destination}}/{{next_hop}}"), route, one("getRoute", "A route."))
        .on(
            Method::GET,
            POLICY_ROUTES,
            policy_routes,
            about("listPolicyRoutes", "The policy routes in force, as in the status."),
        )
        .on(
            Method::GET,
            &format!("{POLICY_ROUTES}/{{source}}/{{destination}}/{{next_hop}}"),
            policy_route,
            one("getPolicyRoute", "A policy route."),
        )
        .on(Method::GET, CONNECTIONS, connections, about("listConnections", "The connections, as in the status."))
        .on(Method::GET, &format!("{CONNECTIONS}/{{name}}"), connection, one("getConnection", "A connection."))
        .on(
            Method::GET,
            CUSTOMER_GATEWAYS,
            customer_gateways,
            about("listCustomerGateways", "The customer gateways in force."),
        )
        .on(
            Method::GET,
            &format!("{CUSTOMER_GATEWAYS}/{{name}}"),
            customer_gateway,
            one("getCustomerGateway", "A customer gateway."),
        )
        .on(Method::GET, SEGMENTS, segments, about("listSegments", "The segments in force."))
        .on(Method::GET, &format!("{SEGMENTS}/{{name}}"), segment, one("getSegment", "A segment."))
        .on(
            Method::GET,
            CONFIG,
            config_text,
            about("config", "The configuration in force, as a file.").answers::<String>(TOML),
        )
        .on(Method::GET, AUDIT, audit_log, audit)
        .on(Method::GET, BACKUP, get_backup, backup)
}

#[derive(Deserialize, JsonSchema)]
struct RoutesQuery {
    /// A prefix: only routes to this destination.
    #[schemars(with = "Option<String>")]
    destination: Option<IpNet>,
}

async fn routes(State(state): State<AppState>, query: QueryOf<RoutesQuery>) -> Answer<Vec<status::RouteStatus>> {
    let Query(RoutesQuery { destination }) = query?;
    let is_asked = |route: &status::RouteStatus| destination.is_none_or(|destination| route.destination == destination);
    Ok(Json(state.snapshot().await?.routes().into_iter().filter(is_asked).collect()))
}

async fn policy_routes(State(state): State<AppState>) -> Answer<Vec<status::PolicyRouteStatus>> {
    Ok(Json(state.snapshot().await?.policy_routes()))
}

async fn connections(State(state): State<AppState>) -> Answer<Vec<status::ConnectionStatus>> {
    Ok(Json(state.snapshot().await?.connections))
}

async fn customer_gateways(State(state): State<AppState>) -> Answer<Vec<CustomerGatewayEntry>> {
    let config = state.ask(Request::Config).await?;
    let gateway = |(name, gateway): (&String, &config::model::CustomerGateway)| CustomerGatewayEntry {
        name: name.clone(),
        address: gateway.address.clone(),
        origin: config.provenance.customer_gateway(name),
    };
    Ok(Json(config.customer_gateways.iter().map(gateway).collect()))
}

async fn segments(State(state): State<AppState>) -> Answer<Vec<SegmentEntry>> {
    let config = state.ask(Request::Config).await?;
    let segment = |(name, segment): (&String, &config::segments::Segment)| SegmentEntry {
        name: name.clone(),
        reaches: segment.reaches.clone(),
        origin: config.provenance.segment(name),
    };
    Ok(Json(config.segments.iter().map(segment).collect()))
}

async fn segment(State(state): State<AppState>, path: PathOf<NamePath>) -> Answer<Shown<SegmentKeys>> {
    let Path(NamePath { name }) = path?;
    object(&state, ObjectId::Segment(name)).await
}

async fn connection(State(state): State<AppState>, path: PathOf<NamePath>) -> Answer<Shown<ConnectionKeys>> {
    let Path(NamePath { name }) = path?;
    object(&state, ObjectId::Connection(name)).await
}

async fn customer_gateway(State(state): State<AppState>, path: PathOf<NamePath>) -> Answer<Shown<CustomerGatewayKeys>> {
    let Path(NamePath { name }) = path?;
    object(&state, ObjectId::CustomerGateway(name)).await
}

async fn route(State(state): State<AppState>, path: PathOf<RoutePath>) -> Answer<Shown<RouteKeys>> {
    let Path(RoutePath { destination, next_hop }) = path?;
    object(&state, ObjectId::Route((destination, next_hop))).await
}

async fn policy_route(State(state): State<AppState>, path: PathOf<PolicyRoutePath>) -> Answer<Shown<PolicyRouteKeys>> {
    let Path(PolicyRoutePath { source, destination, next_hop }) = path?;
    object(&state, ObjectId::PolicyRoute(PolicyRouteId { source, destination, next_hop })).await
}

async fn object<K: DeserializeOwned>(state: &AppState, id: ObjectId) -> Answer<Shown<K>> {
    let name = id.name();
    let config = state.ask(Request::Config).await?;
    let shown = |origin, keys, toml, set_aside| {
        let keys = serde_json::from_value(keys).context("the object has unknown keys")?;
        Ok(Json(Shown { name: name.clone(), origin, keys, toml, set_aside }))
    };
    if let Some((origin, text)) = config::show_object(&config, &id) {
        let keys = toml::from_str::<Value>(&text).unwrap_or_default();
        return shown(origin, own_keys(&id, keys), Some(text), None);
    }
    let is_it = |found: &&SetAside| found.kind == id.kind() && found.name == name;
    let reason = config.provenance.set_aside.iter().find(is_it).map(|found| found.reason.clone());
    let missing = format!("there is no {id}: see `vpnhub {} list`", id.kind().replace('_', "-"));
    match state.ask_manager(|answer| ChangeRequest::Stored(id, answer)).await? {
        Some(keys) => shown(Origin::Store, keys, None, reason),
        None => Err(Failure::new(ProblemType::NoSuchObject, missing)),
    }
}

/// The keys of an object, without those that identify it, from a document with its section alone.
fn own_keys(id: &ObjectId, mut document: Value) -> Value {
    let of_kind = document.get_mut(id.kind());
    let mut keys = of_kind.and_then(|of_kind| match id {
        ObjectId::Segment(name) | ObjectId::CustomerGateway(name) | ObjectId::Connection(name) => of_kind.get_mut(name),
        ObjectId::Route(_) | ObjectId::PolicyRoute(_) => of_kind.get_mut(0),
    });
    if let (ObjectId::Route(_) | ObjectId::PolicyRoute(_), Some(Value::Object(keys))) = (id, &mut keys) {
        keys.retain(|key, _| !["source", "destination", "next_hop"].contains(&key.as_str()));
    }
    keys.map(Value::take).unwrap_or_default()
}

async fn config_text(State(state): State<AppState>) -> Result<Response, Failure> {
    let config = state.ask(Request::Config).await?;
    Ok(([(header::CONTENT_TYPE, TOML)], config::show(&config)).into_response())
}

#[derive(Deserialize, JsonSchema)]
struct AuditQuery {
    /// Number of entries; 50 by default.
    last: Option<usize>,
}

async fn audit_log(State(state): State<AppState>, query: QueryOf<AuditQuery>) -> Answer<Vec<audit::AuditEntry>> {
    let Query(AuditQuery { last }) = query?;
    Ok(Json(state.ask_manager(|answer| ChangeRequest::Audit(last.unwrap_or(LAST), answer)).await??))
}

async fn get_backup(State(state): State<AppState>) -> Result<Response, Failure> {
    let file = state.ask_manager(ChangeRequest::Backup).await??;
    Ok(([(header::CONTENT_TYPE, OCTETS)], file).into_response())
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

//! Changes over the control socket.
//!
//! | request | body |
//! | --- | --- |
//! | `POST /v1/routes` | `{"destination", "next_hop", "weight"?, "publish"?}` |
//! | `PATCH /v1/routes`, `PUT /v1/routes` | `{"destination", "next_hop"?, "weight"?, "publish"?}` |
//! | `DELETE /v1/routes` | `{"destination", "next_hop"?}` |
//! | `POST`, `PATCH`, `PUT /v1/policy-routes` | `{"source", "destination", "next_hop"?, "priority"?, "weight"?, "publish"?}` |
//! | `DELETE /v1/policy-routes` | `{"source", "destination", "next_hop"?}` |
//! | `POST`, `PATCH`, `PUT /v1/connections/{name}` | the keys of `[connection.NAME]` |
//! | `POST`, `PATCH`, `PUT /v1/customer-gateways/{name}` | the keys of `[customer_gateway.NAME]` |
//! | `POST`, `PATCH`, `PUT /v1/segments/{name}` | the keys of `[segment.NAME]` |
//! | `DELETE` of the same | none |
//! | `POST /v1/connections/{name}/up`, `.../down` | none |
//! | `POST /v1/connections/{name}/renegotiate`, with `?children=true` | none |
//! | `POST /v1/active`, with `?wait=SECONDS` | none |
//! | `POST /v1/standby`, with `?drain=SECONDS` or `?keep_tunnels=true` | none |
//! | `POST /v1/reload`, with `?confirm=SECONDS`, `POST /v1/confirm` | none |
//!
//! `POST` adds a new object; `PUT` replaces all keys of an object; `PATCH` sets the keys in the body, where `null`
//! removes a key. `PUT` and `PATCH` add a missing object.
//!
//! The answer is 200 with a [`Changed`], or `{"error"}`, after a reload also with `"diagnostics"`: 400 invalid by
//! itself, 403 not root, 404 not found, 409 conflict with the configuration in force, 500 rejected by the host.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    ACTIVE, AppState, CONFIRM, CONNECTIONS, CUSTOMER_GATEWAYS, Client, POLICY_ROUTES, RELOAD, ROUTES, SEGMENTS,
    STANDBY,
    access::Peer,
    client::PATIENCE_FOR_CHANGES,
    failure, objects,
    path::{path_of, segment},
};
use crate::{
    config::Role,
    config::in_force::{
        AddRoute, Admin, DeleteRoute, ObjectChange, PolicyRouteChange, ProposeError, PutMode, PutObject, SetRoute,
    },
    config_manager::{ChangeError, ChangeRequest, Changed, ConfigChange, RoleChange},
    store::{Keys, ObjectId},
};

type JsonBody<T> = Result<Json<T>, JsonRejection>;

pub(super) fn router() -> Router<AppState> {
    let connection = post(add_connection).patch(set_connection).put(put_connection).delete(delete_connection);
    let gateway = post(add_gateway).patch(set_gateway).put(put_gateway).delete(delete_gateway);
    let segment = post(add_segment).patch(set_segment).put(put_segment).delete(delete_segment);
    let policy_route = post(add_policy_route).patch(set_policy_route).put(put_policy_route).delete(delete_policy_route);
    Router::new()
        .route(ROUTES, post(add_route).patch(set_route).put(put_route).delete(delete_route).get(objects::routes))
        .route(POLICY_ROUTES, policy_route.get(objects::policy_routes))
        .route(CONNECTIONS, axum::routing::get(objects::connections))
        .route(&format!("{CONNECTIONS}/{{name}}"), connection.get(objects::connection))
        .route(&format!("{CONNECTIONS}/{{name}}/up"), post(up))
        .route(&format!("{CONNECTIONS}/{{name}}/down"), post(down))
        .route(&format!("{CONNECTIONS}/{{name}}/renegotiate"), post(super::renegotiate::renegotiate))
        .route(CUSTOMER_GATEWAYS, axum::routing::get(objects::customer_gateways))
        .route(&format!("{CUSTOMER_GATEWAYS}/{{name}}"), gateway.get(objects::customer_gateway))
        .route(SEGMENTS, axum::routing::get(objects::segments))
        .route(&format!("{SEGMENTS}/{{name}}"), segment.get(objects::segment))
        .route(ACTIVE, post(active))
        .route(STANDBY, post(standby))
        .route(RELOAD, post(reload))
        .route(CONFIRM, post(confirm))
}

async fn add_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<AddRoute>) -> Response {
    change(&state, &peer, body.map(|Json(add)| ObjectChange::AddRoute(add))).await
}

async fn set_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<SetRoute>) -> Response {
    change(&state, &peer, body.map(|Json(set)| ObjectChange::SetRoute(set))).await
}

async fn put_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<SetRoute>) -> Response {
    let set = body.map(|Json(set)| ObjectChange::SetRoute(SetRoute { replace: true, ..set }));
    change(&state, &peer, set).await
}

async fn delete_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<DeleteRoute>) -> Response {
    change(&state, &peer, body.map(|Json(delete)| ObjectChange::DeleteRoute(delete))).await
}

type PolicyBody = JsonBody<PolicyRouteChange>;

async fn add_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Response {
    change(&state, &peer, body.map(|Json(keys)| ObjectChange::PutPolicyRoute(keys, PutMode::Add))).await
}

async fn set_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Response {
    change(&state, &peer, body.map(|Json(keys)| ObjectChange::PutPolicyRoute(keys, PutMode::Merge))).await
}

async fn put_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Response {
    change(&state, &peer, body.map(|Json(keys)| ObjectChange::PutPolicyRoute(keys, PutMode::Replace))).await
}

async fn delete_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Response {
    change(&state, &peer, body.map(|Json(keys)| ObjectChange::DeletePolicyRoute(keys))).await
}

/// The handlers of a kind of named objects.
macro_rules! named {
    ($kind:path: $add:ident, $set:ident, $put:ident, $delete:ident) => {
        async fn $add(
            state: State<AppState>,
            peer: Extension<Peer>,
            Path(name): Path<String>,
            body: JsonBody<Keys>,
        ) -> Response {
            put(&state, &peer, $kind(name), body, PutMode::Add).await
        }

        async fn $set(
            state: State<AppState>,
            peer: Extension<Peer>,
            Path(name): Path<String>,
            body: JsonBody<Keys>,
        ) -> Response {
            put(&state, &peer, $kind(name), body, PutMode::Merge).await
        }

        async fn $put(
            state: State<AppState>,
            peer: Extension<Peer>,
            Path(name): Path<String>,
            body: JsonBody<Keys>,
        ) -> Response {
            put(&state, &peer, $kind(name), body, PutMode::Replace).await
        }

        async fn $delete(state: State<AppState>, peer: Extension<Peer>, Path(name): Path<String>) -> Response {
            change(&state, &peer, Ok(ObjectChange::Delete($kind(name)))).await
        }
    };
}

named!(ObjectId::Connection: add_connection, set_connection, put_connection, delete_connection);
named!(ObjectId::CustomerGateway: add_gateway, set_gateway, put_gateway, delete_gateway);
named!(ObjectId::Segment: add_segment, set_segment, put_segment, delete_segment);

async fn put(state: &AppState, peer: &Peer, id: ObjectId, body: JsonBody<Keys>, mode: PutMode) -> Response {
    change(state, peer, body.map(|Json(keys)| ObjectChange::Put(PutObject { id, keys, mode }))).await
}

async fn up(state: State<AppState>, peer: Extension<Peer>, Path(connection): Path<String>) -> Response {
    change(&state, &peer, Ok(ObjectChange::Admin(Admin { connection, up: true }))).await
}

async fn down(state: State<AppState>, peer: Extension<Peer>, Path(connection): Path<String>) -> Response {
    change(&state, &peer, Ok(ObjectChange::Admin(Admin { connection, up: false }))).await
}

#[derive(Deserialize)]
struct ReloadQuery {
    /// Seconds until the revert.
    confirm: Option<u32>,
}

async fn reload(
    state: State<AppState>,
    peer: Extension<Peer>,
    query: Result<Query<ReloadQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(ReloadQuery { confirm: Some(0) })) => {
            failure(StatusCode::BAD_REQUEST, "confirm must be at least one second")
        }
        Ok(Query(ReloadQuery { confirm })) => {
            let confirm = confirm.map(|seconds| Duration::from_secs(seconds.into()));
            ask(&state, &peer, ConfigChange::Reload(confirm)).await
        }
        Err(rejection) => failure(StatusCode::BAD_REQUEST, rejection.body_text()),
    }
}

async fn confirm(state: State<AppState>, peer: Extension<Peer>) -> Response {
    ask(&state, &peer, ConfigChange::Confirm).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActiveQuery {
    /// Seconds.
    #[serde(default)]
    wait: u16,
}

async fn active(
    state: State<AppState>,
    peer: Extension<Peer>,
    query: Result<Query<ActiveQuery>, QueryRejection>,
) -> Response {
    let change = query.map(|Query(ActiveQuery { wait })| (Role::Active, wait));
    role(&state, &peer, change).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandbyQuery {
    /// Seconds.
    #[serde(default)]
    drain: u16,
    #[serde(default)]
    keep_tunnels: bool,
}

async fn standby(
    state: State<AppState>,
    peer: Extension<Peer>,
    query: Result<Query<StandbyQuery>, QueryRejection>,
) -> Response {
    let change = query.map(|Query(StandbyQuery { drain, keep_tunnels })| {
        (if keep_tunnels { Role::Withdrawn } else { Role::Standby }, drain)
    });
    role(&state, &peer, change).await
}

async fn role(state: &AppState, peer: &Peer, change: Result<(Role, u16), QueryRejection>) -> Response {
    match change {
        Ok((role, seconds)) => {
            let after = Duration::from_secs(seconds.into());
            ask(state, peer, ConfigChange::Role(RoleChange { role, after })).await
        }
        Err(rejection) => failure(StatusCode::BAD_REQUEST, rejection.body_text()),
    }
}

async fn change(state: &AppState, peer: &Peer, edit: Result<ObjectChange, JsonRejection>) -> Response {
    match edit {
        Ok(edit) => ask(state, peer, ConfigChange::Edit(edit)).await,
        Err(rejection) => {
            let status = match rejection.status() {
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                status => status,
            };
            failure(status, rejection.body_text())
        }
    }
}

async fn ask(state: &AppState, peer: &Peer, change: ConfigChange) -> Response {
    let (answer, answered) = oneshot::channel();
    // If the receiver is gone, the change is dropped together with its answer channel.
    drop(state.changes.send(ChangeRequest::Change { change, uid: Some(peer.uid), answer }).await);
    match answered.await {
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
        ChangeError::Edit(
            ProposeError::Ambiguous { .. }
            | ProposeError::AmbiguousPolicyRoute { .. }
            | ProposeError::NextHopMissing
            | ProposeError::NothingAsked,
        ) => StatusCode::BAD_REQUEST,
        ChangeError::Edit(
            ProposeError::Unknown { .. }
            | ProposeError::NoRoute { .. }
            | ProposeError::NoSuchHop { .. }
            | ProposeError::NoPolicyRoute { .. },
        ) => StatusCode::NOT_FOUND,
        ChangeError::Edit(_)
        | ChangeError::Refused(_)
        | ChangeError::Load(_)
        | ChangeError::Restart(_)
        | ChangeError::NothingToConfirm
        | ChangeError::OtherRole(_)
        | ChangeError::Full(_) => StatusCode::CONFLICT,
        ChangeError::Store(_) | ChangeError::NotApplied(_) | ChangeError::Stopping => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

const fn method_of(mode: PutMode) -> Method {
    match mode {
        PutMode::Add => Method::POST,
        PutMode::Merge => Method::PATCH,
        PutMode::Replace => Method::PUT,
    }
}

impl Client {
    /// Requests a change from the agent.
    pub async fn change(&self, change: &ObjectChange) -> anyhow::Result<Changed> {
        let (method, path, body) = match change {
            ObjectChange::AddRoute(add) => (Method::POST, ROUTES.to_owned(), Some(serde_json::to_value(add)?)),
            ObjectChange::SetRoute(set) => {
                let method = if set.replace { Method::PUT } else { Method::PATCH };
                (method, ROUTES.to_owned(), Some(serde_json::to_value(set)?))
            }
            ObjectChange::DeleteRoute(delete) => {
                (Method::DELETE, ROUTES.to_owned(), Some(serde_json::to_value(delete)?))
            }
            ObjectChange::Put(PutObject { id, keys, mode }) => {
                (method_of(*mode), path_of(id), Some(Value::Object(keys.clone())))
            }
            ObjectChange::PutPolicyRoute(keys, mode) => {
                (method_of(*mode), POLICY_ROUTES.to_owned(), Some(serde_json::to_value(keys)?))
            }
            ObjectChange::DeletePolicyRoute(keys) => {
                (Method::DELETE, POLICY_ROUTES.to_owned(), Some(serde_json::to_value(keys)?))
            }
            ObjectChange::Delete(id) => (Method::DELETE, path_of(id), None),
            ObjectChange::Admin(Admin { connection, up }) => {
                let way = if *up { "up" } else { "down" };
                (Method::POST, format!("{CONNECTIONS}/{}/{way}", segment(connection)), None)
            }
        };
        self.send(method, &path, body).await
    }

    /// Requests a reload; with a time, reverted after it unless confirmed.
    pub async fn reload(&self, confirm: Option<Duration>) -> anyhow::Result<Changed> {
        let query = confirm.map(|time| format!("?confirm={}", time.as_secs())).unwrap_or_default();
        self.send(Method::POST, &format!("{RELOAD}{query}"), None).await
    }

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

    /// Confirms a temporary reload.
    pub async fn confirm(&self) -> anyhow::Result<Changed> {
        self.send(Method::POST, CONFIRM, None).await
    }
}

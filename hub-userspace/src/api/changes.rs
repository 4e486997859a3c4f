//! Changes over the control socket.
//!
//! `POST` adds a new object; `PUT` replaces all keys of an object; `PATCH` sets the keys in the body, where `null`
//! removes a key. `PUT` and `PATCH` add a missing object. The answer is a [`Changed`].

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::{Method, StatusCode},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{
    AppState, CONFIRM, CONNECTIONS, CUSTOMER_GATEWAYS, Client, POLICY_ROUTES, RELOAD, ROUTES, SEGMENTS,
    access::Peer,
    failure::{Answer, Failure},
    keys::{ConnectionKeys, CustomerGatewayKeys, PolicyRouteBody, RouteBody, SegmentKeys},
    openapi::{About, Api, about},
    path::{NamePath, PathOf, PolicyRoutePath, QueryOf, RoutePath, path_of, segment},
    renegotiate,
};
use crate::{
    api_types::problem::ProblemType,
    config::in_force::{AddRoute, Admin, DeleteRoute, ObjectChange, PolicyRouteChange, PutMode, PutObject, SetRoute},
    config_manager::{ChangeRequest, Changed, ConfigChange},
    store::ObjectId,
};

type JsonBody<T> = Result<Json<T>, JsonRejection>;
type PutAnswer = Result<(StatusCode, Json<Changed>), Failure>;

/// Errors of all changes of objects.
const CHANGE: [ProblemType; 6] = [
    ProblemType::NoSuchObject,
    ProblemType::DefinedInFile,
    ProblemType::RuleViolated,
    ProblemType::CapacityExceeded,
    ProblemType::StoreFailed,
    ProblemType::NotInForce,
];
const AMBIGUOUS: [ProblemType; 1] = [ProblemType::Ambiguous];
const EXISTS: [ProblemType; 1] = [ProblemType::AlreadyExists];

/// An operation that changes an object.
fn change_of(id: &'static str, summary: &'static str) -> About {
    about(id, summary).fails(&CHANGE)
}

pub(super) fn operations(api: Api) -> Api {
    let reload = about("reload", "Reads the files again and applies the difference.").fails(&[
        ProblemType::InvalidFiles,
        ProblemType::RestartRequired,
        ProblemType::CapacityExceeded,
        ProblemType::StoreFailed,
        ProblemType::NotInForce,
    ]);
    let confirm = about("confirm", "Confirms a temporary reload.").fails(&[
        ProblemType::NothingToConfirm,
        ProblemType::StoreFailed,
        ProblemType::NotInForce,
    ]);
    of_named_objects(of_routes(api)).on(Method::POST, RELOAD, reload_files, reload).on(
        Method::POST,
        CONFIRM,
        confirm_reload,
        confirm,
    )
}

fn of_routes(api: Api) -> Api {
    let route = format!("{ROUTES}/{{destination}}/{{next_hop}}");
    let policy_route = format!("{POLICY_ROUTES}/{{source}}/{{destination}}/{{next_hop}}");
    api.on(Method::POST, ROUTES, add_route, change_of("addRoute", "Adds a route.").fails(&EXISTS))
        .on(Method::PATCH, ROUTES, set_route, change_of("setRoute", "Changes keys of a route.").fails(&AMBIGUOUS))
        .on(
            Method::PUT,
            ROUTES,
            put_route,
            change_of("putRoute", "Creates a route or replaces its keys.").fails(&AMBIGUOUS),
        )
        .on(Method::DELETE, ROUTES, delete_route, change_of("deleteRoute", "Removes a route.").fails(&AMBIGUOUS))
        .on(Method::PUT, &route, put_one_route, change_of("putOneRoute", "Creates a route or replaces its keys."))
        .on(Method::DELETE, &route, delete_one_route, change_of("deleteOneRoute", "Removes a route."))
        .on(
            Method::POST,
            POLICY_ROUTES,
            add_policy_route,
            change_of("addPolicyRoute", "Adds a policy route.").fails(&EXISTS),
        )
        .on(
            Method::PATCH,
            POLICY_ROUTES,
            set_policy_route,
            change_of("setPolicyRoute", "Changes keys of a policy route.").fails(&AMBIGUOUS),
        )
        .on(
            Method::PUT,
            POLICY_ROUTES,
            put_policy_route,
            change_of("putPolicyRoute", "Creates a policy route or replaces its keys.").fails(&AMBIGUOUS),
        )
        .on(
            Method::DELETE,
            POLICY_ROUTES,
            delete_policy_route,
            change_of("deletePolicyRoute", "Removes a policy route.").fails(&AMBIGUOUS),
        )
        .on(
            Method::PUT,
            &policy_route,
            put_one_policy_route,
            change_of("putOnePolicyRoute", "Creates a policy route or replaces its keys."),
        )
        .on(
            Method::DELETE,
            &policy_route,
            delete_one_policy_route,
            change_of("deleteOnePolicyRoute", "Removes a policy route."),
        )
}

fn of_named_objects(api: Api) -> Api {
    let connection = format!("{CONNECTIONS}/{{name}}");
    let gateway = format!("{CUSTOMER_GATEWAYS}/{{name}}");
    let segment = format!("{SEGMENTS}/{{name}}");
    let renegotiate = about("renegotiateConnection", "Negotiates the SAs that a connection lacks. Not a change.")
        .fails(&[ProblemType::NoSuchObject, ProblemType::NotPossible]);
    api.on(Method::POST, &connection, add_connection, change_of("addConnection", "Adds a connection.").fails(&EXISTS))
        .on(Method::PATCH, &connection, set_connection, change_of("setConnection", "Changes keys of a connection."))
        .on(
            Method::PUT,
            &connection,
            put_connection,
            change_of("putConnection", "Creates a connection or replaces its keys."),
        )
        .on(Method::DELETE, &connection, delete_connection, change_of("deleteConnection", "Removes a connection."))
        .on(
            Method::POST,
            &format!("{connection}/up"),
            up,
            change_of("connectionUp", "Lets a connection carry traffic again."),
        )
        .on(Method::POST, &format!("{connection}/down"), down, change_of("connectionDown", "Drains a connection."))
        .on(Method::POST, &format!("{connection}/renegotiate"), renegotiate::renegotiate, renegotiate)
        .on(
            Method::POST,
            &gateway,
            add_gateway,
            change_of("addCustomerGateway", "Adds a customer gateway.").fails(&EXISTS),
        )
        .on(
            Method::PATCH,
            &gateway,
            set_gateway,
            change_of("setCustomerGateway", "Changes keys of a customer gateway."),
        )
        .on(
            Method::PUT,
            &gateway,
            put_gateway,
            change_of("putCustomerGateway", "Creates a customer gateway or replaces its keys."),
        )
        .on(Method::DELETE, &gateway, delete_gateway, change_of("deleteCustomerGateway", "Removes a customer gateway."))
        .on(Method::POST, &segment, add_segment, change_of("addSegment", "Adds a segment.").fails(&EXISTS))
        .on(Method::PATCH, &segment, set_segment, change_of("setSegment", "Changes keys of a segment."))
        .on(Method::PUT, &segment, put_segment, change_of("putSegment", "Creates a segment or replaces its keys."))
        .on(Method::DELETE, &segment, delete_segment, change_of("deleteSegment", "Removes a segment."))
}

async fn add_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<AddRoute>) -> Answer<Changed> {
    let Json(add) = body?;
    change(&state, &peer, ObjectChange::AddRoute(add)).await
}

async fn set_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<SetRoute>) -> Answer<Changed> {
    let Json(set) = body?;
    change(&state, &peer, ObjectChange::SetRoute(set)).await
}

async fn put_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<SetRoute>) -> PutAnswer {
    let Json(set) = body?;
    put(&state, &peer, ObjectChange::SetRoute(SetRoute { replace: true, ..set })).await
}

async fn delete_route(state: State<AppState>, peer: Extension<Peer>, body: JsonBody<DeleteRoute>) -> Answer<Changed> {
    let Json(delete) = body?;
    change(&state, &peer, ObjectChange::DeleteRoute(delete)).await
}

async fn put_one_route(
    state: State<AppState>,
    peer: Extension<Peer>,
    path: PathOf<RoutePath>,
    body: JsonBody<RouteBody>,
) -> PutAnswer {
    let (Path(RoutePath { destination, next_hop }), Json(RouteBody { weight, publish })) = (path?, body?);
    let set = SetRoute { destination, next_hop: Some(next_hop), weight, publish, replace: true };
    put(&state, &peer, ObjectChange::SetRoute(set)).await
}

async fn delete_one_route(state: State<AppState>, peer: Extension<Peer>, path: PathOf<RoutePath>) -> Answer<Changed> {
    let Path(RoutePath { destination, next_hop }) = path?;
    change(&state, &peer, ObjectChange::DeleteRoute(DeleteRoute { destination, next_hop: Some(next_hop) })).await
}

type PolicyBody = JsonBody<PolicyRouteChange>;

async fn add_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Answer<Changed> {
    let Json(keys) = body?;
    change(&state, &peer, ObjectChange::PutPolicyRoute(keys, PutMode::Add)).await
}

async fn set_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Answer<Changed> {
    let Json(keys) = body?;
    change(&state, &peer, ObjectChange::PutPolicyRoute(keys, PutMode::Merge)).await
}

async fn put_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> PutAnswer {
    let Json(keys) = body?;
    put(&state, &peer, ObjectChange::PutPolicyRoute(keys, PutMode::Replace)).await
}

async fn delete_policy_route(state: State<AppState>, peer: Extension<Peer>, body: PolicyBody) -> Answer<Changed> {
    let Json(keys) = body?;
    change(&state, &peer, ObjectChange::DeletePolicyRoute(keys)).await
}

async fn put_one_policy_route(
    state: State<AppState>,
    peer: Extension<Peer>,
    path: PathOf<PolicyRoutePath>,
    body: JsonBody<PolicyRouteBody>,
) -> PutAnswer {
    let (Path(path), Json(PolicyRouteBody { priority, weight, publish })) = (path?, body?);
    let keys = PolicyRouteChange { priority, weight, publish, ..path.into() };
    put(&state, &peer, ObjectChange::PutPolicyRoute(keys, PutMode::Replace)).await
}

async fn delete_one_policy_route(
    state: State<AppState>,
    peer: Extension<Peer>,
    path: PathOf<PolicyRoutePath>,
) -> Answer<Changed> {
    let Path(path) = path?;
    change(&state, &peer, ObjectChange::DeletePolicyRoute(path.into())).await
}

/// The handlers of a kind of named objects.
macro_rules! named {
    ($kind:path, $keys:ident: $add:ident, $set:ident, $put:ident, $delete:ident) => {
        async fn $add(
            state: State<AppState>,
            peer: Extension<Peer>,
            path: PathOf<NamePath>,
            body: JsonBody<$keys>,
        ) -> Answer<Changed> {
            let (Path(NamePath { name }), Json($keys(keys))) = (path?, body?);
            let put = PutObject { id: $kind(name), keys, mode: PutMode::Add };
            change(&state, &peer, ObjectChange::Put(put)).await
        }

        async fn $set(
            state: State<AppState>,
            peer: Extension<Peer>,
            path: PathOf<NamePath>,
            body: JsonBody<$keys>,
        ) -> Answer<Changed> {
            let (Path(NamePath { name }), Json($keys(keys))) = (path?, body?);
            let put = PutObject { id: $kind(name), keys, mode: PutMode::Merge };
            change(&state, &peer, ObjectChange::Put(put)).await
        }

        async fn $put(
            state: State<AppState>,
            peer: Extension<Peer>,
            path: PathOf<NamePath>,
            body: JsonBody<$keys>,
        ) -> PutAnswer {
            let (Path(NamePath { name }), Json($keys(keys))) = (path?, body?);
            let object = PutObject { id: $kind(name), keys, mode: PutMode::Replace };
            put(&state, &peer, ObjectChange::Put(object)).await
        }

        async fn $delete(state: State<AppState>, peer: Extension<Peer>, path: PathOf<NamePath>) -> Answer<Changed> {
            let Path(NamePath { name }) = path?;
            change(&state, &peer, ObjectChange::Delete($kind(name))).await
        }
    };
}

named!(ObjectId::Connection, ConnectionKeys: add_connection, set_connection, put_connection, delete_connection);
named!(ObjectId::CustomerGateway, CustomerGatewayKeys: add_gateway, set_gateway, put_gateway, delete_gateway);
named!(ObjectId::Segment, SegmentKeys: add_segment, set_segment, put_segment, delete_segment);

async fn up(state: State<AppState>, peer: Extension<Peer>, path: PathOf<NamePath>) -> Answer<Changed> {
    let Path(NamePath { name: connection }) = path?;
    change(&state, &peer, ObjectChange::Admin(Admin { connection, up: true })).await
}

async fn down(state: State<AppState>, peer: Extension<Peer>, path: PathOf<NamePath>) -> Answer<Changed> {
    let Path(NamePath { name: connection }) = path?;
    change(&state, &peer, ObjectChange::Admin(Admin { connection, up: false })).await
}

#[derive(Deserialize, JsonSchema)]
struct ReloadQuery {
    /// Seconds until the agent rolls back, unless `POST /v1/confirm` arrives before.
    #[schemars(range(min = 1))]
    confirm: Option<u32>,
}

async fn reload_files(state: State<AppState>, peer: Extension<Peer>, query: QueryOf<ReloadQuery>) -> Answer<Changed> {
    let Query(ReloadQuery { confirm }) = query?;
    if confirm == Some(0) {
        return Err(Failure::new(ProblemType::InvalidRequest, "confirm must be at least one second"));
    }
    let confirm = confirm.map(|seconds| Duration::from_secs(seconds.into()));
    ask(&state, &peer, ConfigChange::Reload(confirm)).await.map(Json)
}

async fn confirm_reload(state: State<AppState>, peer: Extension<Peer>) -> Answer<Changed> {
    ask(&state, &peer, ConfigChange::Confirm).await.map(Json)
}

async fn change(state: &AppState, peer: &Peer, edit: ObjectChange) -> Answer<Changed> {
    ask(state, peer, ConfigChange::Edit(edit)).await.map(Json)
}

/// 201 if the object is new (RFC 9110 section 9.3.4).
async fn put(state: &AppState, peer: &Peer, edit: ObjectChange) -> PutAnswer {
    let changed = ask(state, peer, ConfigChange::Edit(edit)).await?;
    Ok((if changed.created { StatusCode::CREATED } else { StatusCode::OK }, Json(changed)))
}

pub(super) async fn ask(state: &AppState, peer: &Peer, change: ConfigChange) -> Result<Changed, Failure> {
    let uid = Some(peer.uid);
    Ok(state.ask_manager(|answer| ChangeRequest::Change { change, uid, answer }).await??)
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

    /// Confirms a temporary reload.
    pub async fn confirm(&self) -> anyhow::Result<Changed> {
        self.send(Method::POST, CONFIRM, None).await
    }
}

//! The control socket: HTTP and JSON over a Unix socket. The group `vpnhub` may read, only root may make changes. The
//! metrics also have a listener on TCP.

mod access;
mod changes;
mod client;
mod connections;
mod events;
mod metrics;
mod objects;
mod packets;
mod path;
mod peer_config;
mod renegotiate;
mod server;
mod socket;
mod trace;

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

pub use self::{
    client::Client,
    metrics::{MetricsListener, ScrapeLock},
    objects::{CustomerGatewayEntry, SegmentEntry, Shown},
    packets::PacketQuery,
    socket::Socket,
    trace::TraceLoad,
};
use crate::{
    agent::{Request, Snapshot},
    api_types::{event::ConnectionEvent, status::FullStatus},
    config_manager::{ChangeRequest, ReloadState},
    observe::packets::PacketListeners,
    store::WriteState,
};

/// Paths of the socket's HTTP service.
pub const STATUS: &str = "/v1/status";
pub const ROUTES: &str = "/v1/routes";
pub const POLICY_ROUTES: &str = "/v1/policy-routes";
pub const CONNECTIONS: &str = "/v1/connections";
pub const SEGMENTS: &str = "/v1/segments";
pub const CUSTOMER_GATEWAYS: &str = "/v1/customer-gateways";
pub const RELOAD: &str = "/v1/reload";
pub const CONFIRM: &str = "/v1/confirm";
pub const ACTIVE: &str = "/v1/active";
pub const STANDBY: &str = "/v1/standby";
pub const CONFIG: &str = "/v1/config";
pub const AUDIT: &str = "/v1/store/audit";
pub const BACKUP: &str = "/v1/store/backup";
pub const EVENTS: &str = "/v1/events";
pub const PACKETS: &str = "/v1/packets";
pub const METRICS: &str = "/v1/metrics";

/// The answer to a request that fails.
#[derive(Debug, Serialize, Deserialize)]
struct RequestFailure {
    error: String,
}

pub fn router(state: AppState) -> Router {
    changes::router()
        .merge(objects::router())
        .route(STATUS, get(status))
        .route(EVENTS, get(events::follow))
        .route(PACKETS, get(packets::follow))
        .route(METRICS, get(metrics::answer))
        .route(trace::TRACE, post(trace::trace))
        .route(&format!("{}/{{name}}/{{format}}", peer_config::PEER_CONFIG), get(peer_config::peer_config))
        .layer(from_fn(access::guard))
        .with_state(state)
}

/// The receivers of requests.
#[derive(Clone)]
pub struct AppState {
    pub agent: mpsc::Sender<Request>,
    pub changes: mpsc::Sender<ChangeRequest>,
    /// Closed when the agent ends.
    pub events: broadcast::WeakSender<ConnectionEvent>,
    pub packets: PacketListeners,
    pub store: WriteState,
    pub reloads: ReloadState,
    pub scrapes: ScrapeLock,
    pub metrics: MetricsListener,
    pub trace: TraceLoad,
}

async fn status(State(state): State<AppState>) -> Response {
    let store = Some((&state.store).into());
    respond(snapshot(&state).await.map(|snapshot| FullStatus {
        status: snapshot.status(),
        store,
        metrics: state.metrics.status(),
    }))
}

async fn snapshot(state: &AppState) -> Result<Snapshot> {
    let (sender, answer) = oneshot::channel();
    state.agent.send(Request::Status(sender)).await.context("the agent is stopping")?;
    answer.await.context("the agent is stopping")?
}

fn respond(answer: Result<impl Serialize>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}

fn failure(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(RequestFailure { error: error.into() })).into_response()
}

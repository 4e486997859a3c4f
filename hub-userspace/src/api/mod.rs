//! The control socket: HTTP and JSON over a Unix socket. The group `vpnhub` may read, only root may make changes. The
//! metrics also have a listener on TCP.

mod access;
mod changes;
mod client;
mod connections;
mod events;
mod failure;
mod keys;
mod metrics;
mod objects;
mod openapi;
mod packets;
mod path;
mod peer_config;
mod renegotiate;
mod role;
mod server;
mod socket;
mod trace;

use axum::{Json, Router, extract::State, http::Method, middleware::from_fn};
use tokio::sync::{broadcast, mpsc, oneshot};

pub use self::{
    client::Client,
    metrics::{MetricsListener, ScrapeLock},
    objects::{CustomerGatewayEntry, SegmentEntry, Shown},
    packets::PacketQuery,
    socket::Socket,
    trace::TraceLoad,
};
use self::{
    events::JSON_LINES,
    failure::{Answer, Failure},
    openapi::{Api, about},
};
use crate::{
    agent::{Request, Snapshot},
    api_types::{event::ConnectionEvent, packet::PacketLine, problem::ProblemType, status::FullStatus},
    config_manager::{ChangeRequest, ReloadState},
    observe::{metrics::Format, packets::PacketListeners},
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

pub fn router(state: AppState) -> Router {
    operations().finish().layer(from_fn(access::guard)).with_state(state)
}

fn operations() -> Api {
    let status = about("status", "What `vpnhub status --output json` prints.");
    let events =
        about("events", "The state of each connection, then each change, while the client reads: one per line.");
    let packets =
        about("packets", "Packets that the program drops, passes or forwards, while the client reads: one per line.");
    let metrics = about("metrics", "The metrics in Prometheus's text format, or OpenMetrics if `Accept` prefers it.");
    let trace = about("trace", "Runs a packet through the program. Not a change.");
    let peer_config = about("peerConfig", "The configuration for the site's device, as text.");
    role::operations(objects::operations(changes::operations(Api::default())))
        .on(Method::GET, STATUS, get_status, status)
        .on(Method::GET, EVENTS, events::follow, events.answers::<ConnectionEvent>(JSON_LINES))
        .on(
            Method::GET,
            PACKETS,
            packets::follow,
            packets.answers::<PacketLine>(JSON_LINES).fails(&[ProblemType::Forbidden, ProblemType::TooManyFilters]),
        )
        .on(
            Method::GET,
            METRICS,
            metrics::answer,
            metrics
                .answers::<String>(Format::Prometheus.content_type())
                .answers::<String>(Format::OpenMetrics.content_type()),
        )
        .on(
            Method::POST,
            trace::TRACE,
            trace::trace,
            trace.fails(&[ProblemType::NoSuchObject, ProblemType::NotPossible]),
        )
        .on(
            Method::GET,
            &format!("{}/{{name}}/{{format}}", peer_config::PEER_CONFIG),
            peer_config::peer_config,
            peer_config.answers::<String>("text/plain; charset=utf-8").fails(&[
                ProblemType::Forbidden,
                ProblemType::NoSuchObject,
                ProblemType::NotPossible,
            ]),
        )
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

impl AppState {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Failure> {
        let (sender, answer) = oneshot::channel();
        // If the receiver is gone, the request is dropped together with its answer channel.
        drop(self.agent.send(request(sender)).await);
        answer.await.map_err(|_| Failure::stopping())
    }

    async fn ask_manager<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> ChangeRequest) -> Result<T, Failure> {
        let (sender, answer) = oneshot::channel();
        // As above.
        drop(self.changes.send(request(sender)).await);
        answer.await.map_err(|_| Failure::stopping())
    }

    async fn snapshot(&self) -> Result<Snapshot, Failure> {
        Ok(self.ask(Request::Status).await??)
    }
}

async fn get_status(State(state): State<AppState>) -> Answer<FullStatus> {
    let store = Some((&state.store).into());
    let snapshot = state.snapshot().await?;
    Ok(Json(FullStatus { status: snapshot.status(), store, metrics: state.metrics.status() }))
}

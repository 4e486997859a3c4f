//! The control socket: HTTP and JSON over a unix socket. The group `vpnhub` may read, root alone may change.

mod access;
mod changes;
mod connections;
mod events;
mod objects;
mod peer_config;
mod server;
mod socket;

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::get,
};
use reqwest::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

pub use self::{
    objects::{CustomerGateway, Shown},
    socket::Socket,
};
use crate::{
    agent::{Request, Snapshot},
    changer::Order,
    event::Event,
    status::{Connection, Route, Status},
};

/// Paths of the socket's HTTP service.
pub const STATUS: &str = "/v1/status";
pub const ROUTES: &str = "/v1/routes";
pub const CONNECTIONS: &str = "/v1/connections";
pub const CUSTOMER_GATEWAYS: &str = "/v1/customer-gateways";
pub const RELOAD: &str = "/v1/reload";
pub const CONFIRM: &str = "/v1/confirm";
pub const CONFIG: &str = "/v1/config";
pub const AUDIT: &str = "/v1/store/audit";
pub const BACKUP: &str = "/v1/store/backup";
pub const EVENTS: &str = "/v1/events";

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for changes, which write the store and the tables of up to a hundred thousand routes.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(60);

/// What a request that fails is answered with.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    error: String,
}

fn router(doors: Doors) -> Router {
    changes::router()
        .merge(objects::router())
        .route(STATUS, get(status))
        .route(EVENTS, get(events::follow))
        .route(&format!("{}/{{name}}/{{format}}", peer_config::PEER_CONFIG), get(peer_config::peer_config))
        .layer(from_fn(access::guard))
        .with_state(doors)
}

/// Where requests go.
#[derive(Clone)]
pub struct Doors {
    pub agent: mpsc::Sender<Request>,
    pub changer: mpsc::Sender<Order>,
    /// Ends with the agent.
    pub events: broadcast::WeakSender<Event>,
}

async fn status(State(doors): State<Doors>) -> Response {
    respond(snapshot(&doors).await.map(Snapshot::status))
}

async fn snapshot(doors: &Doors) -> Result<Snapshot> {
    let (sender, answer) = oneshot::channel();
    doors.agent.send(Request::Status(sender)).await.context("the agent is stopping")?;
    answer.await.context("the agent is stopping")?
}

fn respond(answer: Result<impl Serialize>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, Json(Failure { error: format!("{error:#}") })).into_response()
        }
    }
}

/// The other end of the socket.
pub struct Client {
    socket: PathBuf,
    http: reqwest::Client,
}

impl Client {
    pub fn new(socket: &Path) -> Result<Self> {
        let http = reqwest::Client::builder().unix_socket(socket).build().context("cannot make an HTTP client")?;
        Ok(Self { socket: socket.to_owned(), http })
    }

    pub async fn status(&self) -> Result<Status> {
        self.get(STATUS).await
    }

    pub async fn routes(&self) -> Result<Vec<Route>> {
        self.get(ROUTES).await
    }

    pub async fn connections(&self) -> Result<Vec<Connection>> {
        self.get(CONNECTIONS).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(Method::GET, path, None).await
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        let patience = if method == Method::GET { PATIENCE } else { PATIENCE_FOR_CHANGES };
        let answer = self.ask(method, path, body, Some(patience)).await?;
        answer.json().await.context("the agent answers something else: it may be of another version")
    }

    /// The agent's answer, if it is not a refusal; for `patience`, or for ever.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        patience: Option<Duration>,
    ) -> Result<reqwest::Response> {
        let socket = self.socket.display();
        if let Err(error) = StdUnixStream::connect(&self.socket) {
            match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    bail!("no access to {socket}: run as root, or as a member of its group")
                }
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    bail!("no agent answers on {socket}: start one with `vpnhub run`, or name its socket with --socket")
                }
                _ => return Err(error).with_context(|| format!("cannot open {socket}")),
            }
        }
        let mut request = self.http.request(method, format!("http://vpnhub{path}"));
        if let Some(patience) = patience {
            request = request.timeout(patience);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.with_context(|| format!("the agent on {socket} does not answer"))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        match answer.json::<Failure>().await {
            Ok(failure) => bail!("{}", failure.error),
            Err(_) => {
                bail!("the agent on {socket} does not know {path}: it may be of another version")
            }
        }
    }
}

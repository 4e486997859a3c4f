//! Metrics: `GET /v1/metrics` on the control socket, and `GET /metrics` on a TCP address.
//!
//! The listener is a task of its own. An address that cannot be bound is tried again and shown in the status; nothing
//! else waits for it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    AppState,
    connections::Connections,
    failure::Failure,
    server::{PAUSE, talk},
};
use crate::{
    agent::Request,
    api_types::status::MetricsStatus,
    background::spawn_blocking,
    observe::metrics::{Format, encode},
};

/// Maximum number of concurrent connections: a Prometheus server has one. An answer may have some megabytes.
const MOST: usize = 8;
/// Time limit for a connection.
const WITHIN: Duration = Duration::from_secs(60);
/// Delay before an address is bound again.
const RETRY: Duration = Duration::from_secs(5);
/// Answer when there are too many connections.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\ncontent-length: 42\r\n\r\ntoo many open connections: try again later";

/// One scrape at a time: it bounds the load of the agent's loop, and saved counts never go back.
#[derive(Clone)]
pub struct ScrapeLock(Arc<Semaphore>);

impl Default for ScrapeLock {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// The state of the listener, shared by its clones.
#[derive(Debug, Clone, Default)]
pub struct MetricsListener(Arc<Mutex<Option<MetricsStatus>>>);

impl MetricsListener {
    /// `None`: none is configured.
    pub fn status(&self) -> Option<MetricsStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, status: Option<MetricsStatus>) -> Option<MetricsStatus> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), status)
    }

    /// Serves metrics at the configured address, and follows it, until the agent ends.
    pub fn serve(&self, address: watch::Receiver<Option<SocketAddr>>, state: AppState) {
        let router =
            Router::new().route("/metrics", get(answer).fallback(not_allowed)).fallback(not_found).with_state(state);
        tokio::spawn(follow(self.clone(), address, router));
    }
}

pub(super) async fn answer(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Failure> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::preferred(&accept.collect::<Vec<_>>().join(","));
    let text = scrape(&state, format).await?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}

async fn scrape(state: &AppState, format: Format) -> Result<String, Failure> {
    let permit = Arc::clone(&state.scrapes.0).acquire_owned().await.context("the agent is stopping")?;
    let snapshot = state.ask(Request::Metrics).await??;
    let last_reload_success = state.reloads.is_successful();
    let text = spawn_blocking(move || {
        // Also if the client has gone.
        let _permit = permit;
        snapshot.scrape(last_reload_success).map(|scrape| encode(scrape, format))
    });
    Ok(text.await.context("the metrics could not be written")??)
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is only /metrics here\n").into_response()
}

async fn not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], "use GET or HEAD\n").into_response()
}

async fn follow(listener: MetricsListener, mut address: watch::Receiver<Option<SocketAddr>>, router: Router) {
    let connections = Arc::new(Connections::new(MOST, 0));
    let permits = Arc::new(Semaphore::new(MOST));
    loop {
        let desired = *address.borrow_and_update();
        let Some(desired) = desired else {
            listener.set(None);
            if address.changed().await.is_err() {
                return;
            }
            continue;
        };
        let problem = match TcpListener::bind(desired).await {
            Ok(socket) => {
                info!(name: "metrics_served", "metrics are served on http://{desired}/metrics");
                listener.set(Some(MetricsStatus { listen: desired.to_string(), problem: None }));
                tokio::select! {
                    changed = address.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    () = accept(&socket, &connections, &permits, &router) => continue,
                }
            }
            Err(error) => problem(&error),
        };
        let status = Some(MetricsStatus { listen: desired.to_string(), problem: Some(problem.clone()) });
        if listener.set(status.clone()) != status {
            warn!(name: "metrics_not_served", "metrics are not served on {desired}: {problem}; next attempts every {} s", RETRY.as_secs());
        }
        tokio::select! {
            changed = address.changed() => if changed.is_err() {
                return;
            },
            () = sleep(RETRY) => {}
        }
    }
}

/// Why an address cannot be bound, and what to do.
fn problem(error: &std::io::Error) -> String {
    let help = match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop the process that listens there, or choose another port",
        std::io::ErrorKind::AddrNotAvailable => "the host does not have this address",
        std::io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            "add RestrictAddressFamilies=AF_INET AF_INET6 to the systemd unit and restart it"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {help}")
}

/// Serves forever.
async fn accept(listener: &TcpListener, connections: &Arc<Connections>, permits: &Arc<Semaphore>, router: &Router) {
    let mut is_refused = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                is_refused = false;
                admit(stream, connections, permits, router).await;
            }
            Err(error) => {
                if !is_refused {
                    warn!(name: "metrics_accept_failed", "cannot accept a connection for metrics: {error}");
                }
                is_refused = true;
                sleep(PAUSE).await;
            }
        }
    }
}

async fn admit(stream: TcpStream, connections: &Arc<Connections>, permits: &Arc<Semaphore>, router: &Router) {
    let Ok(entry) = connections.admit(false) else {
        // As on the control socket.
        let _ = stream.try_write(BUSY);
        return;
    };
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
    let exchange = talk(stream, None, Arc::clone(&entry), router.clone());
    let (connections, listed) = (Arc::clone(connections), Arc::clone(&entry));
    let task = tokio::spawn(async move {
        // An error is the client's: it is too slow.
        let _ = timeout(WITHIN, exchange).await;
        connections.remove(&listed);
        drop(permit);
    });
    entry.runs_as(task.abort_handle());
}

#[cfg(test)]
mod tests {
    use super::BUSY;

    #[test]
    fn busy_response_has_correct_content_length() {
        let text = std::str::from_utf8(BUSY).expect("a text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{} bytes", body.len());
    }
}

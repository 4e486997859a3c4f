//! The servers of the control socket and of the metrics: one request per connection, with time limits and a limited
//! number of connections. A client can therefore neither exhaust the agent's file descriptors nor block other clients.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::Service as _, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, Sleep, interval, sleep},
};
use tracing::warn;

use super::{
    access::Peer,
    connections::{ClientConnection, Connections, FOR_ROOT, MOST},
    failure::PROBLEM_JSON,
    socket::{Socket, SocketFile},
};
use crate::api_types::problem::{ProblemDetails, ProblemType};

/// Time limit for receiving a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Time limit for a client to read an answer.
const UNREAD: Duration = Duration::from_secs(30);
/// Maximum size of a request's head in bytes.
const LARGEST_HEAD: usize = 16 * 1024;
/// Interval of the check that the socket file exists.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failed accept.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Answer when there are too many connections. It needs no task and no request.
static BUSY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let detail = "too many open connections to the agent: try again later";
    let problem = ProblemDetails::new(ProblemType::TooManyConnections, detail);
    // Only strings and numbers: serialization cannot fail.
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let head = format!("content-type: {PROBLEM_JSON}\r\nconnection: close\r\ncontent-length: {}", body.len());
    format!("HTTP/1.1 503 Service Unavailable\r\n{head}\r\n\r\n{body}").into_bytes()
});

impl Socket {
    /// Serves requests, one task each, until the runtime ends.
    pub fn serve(&mut self, router: Router) {
        if let Some(listener) = self.listener.take() {
            tokio::spawn(serve(Arc::clone(&self.file), listener, router));
        }
    }
}

/// Serves until the runtime ends.
async fn serve(file: Arc<SocketFile>, mut listener: UnixListener, router: Router) {
    let connections = Arc::new(Connections::new(MOST, FOR_ROOT));
    let permits = Arc::new(Semaphore::new(MOST));
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_refused = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    is_refused = false;
                    admit(stream, &connections, &permits, &router).await;
                }
                Err(error) => {
                    if !is_refused {
                        warn!(name: "socket_accept_failed", "cannot accept a connection on the control socket: {error}");
                    }
                    is_refused = true;
                    sleep(PAUSE).await;
                }
            },
            _ = look.tick() => if let Some(again) = file.listen_again() {
                listener = again;
            }
        }
    }
}

async fn admit(stream: UnixStream, connections: &Arc<Connections>, permits: &Arc<Semaphore>, router: &Router) {
    let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { return };
    let is_root = uid == 0;
    let Ok(entry) = connections.admit(is_root) else {
        // A new socket has buffer space for it. Do not wait for a client that does not read.
        let _ = stream.try_write(&BUSY);
        return;
    };
    // A closed connection keeps its descriptor until its task ends.
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
    let exchange = talk(stream, Some(Peer { is_root, uid }), Arc::clone(&entry), router.clone());
    let (connections, listed) = (Arc::clone(connections), Arc::clone(&entry));
    let task = tokio::spawn(async move {
        exchange.await;
        connections.remove(&listed);
        drop(permit);
    });
    entry.runs_as(task.abort_handle());
}

/// One request and its answer. `peer`: of the control socket.
pub(super) async fn talk<S>(stream: S, peer: Option<Peer>, entry: Arc<ClientConnection>, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        entry.asks();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let answer = router.call(request);
        async move { answer.await as Result<Response<Body>, Infallible> }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(TimedReader::new(stream)), service);
    // Errors are the client's: it has disconnected, or was too slow.
    let _ = connection.await;
}

/// A connection with a time limit on the peer's reads.
struct TimedReader<S> {
    stream: S,
    /// Expires when the peer has not read for too long; `None` while it reads.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedReader<S> {
    fn new(stream: S) -> Self {
        Self { stream, stalled: None }
    }

    /// Returns `polled`, or an error if it has been pending for too long.
    fn within<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + UNREAD)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedReader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedReader<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.within(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

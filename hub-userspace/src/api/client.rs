//! The client side of the control socket: one request per connection, as the server requires.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use axum::http::{
    Method, Request, Response,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Instant, sleep, timeout_at},
};

use super::{CONNECTIONS, ROUTES, STATUS};
use crate::{
    api_types::{
        problem::ProblemType,
        status::{ConnectionStatus, FullStatus, RouteStatus},
    },
    config::Origin,
};

/// Time limit for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit for changes, which write the store and the tables of up to a hundred thousand routes.
pub(super) const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(60);
/// Pause between attempts while the socket's backlog is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(10);
const ANOTHER_VERSION: &str = "unexpected answer from the agent: it may be of another version";

/// The answer to a request that fails, from agents of any version.
#[derive(Deserialize)]
struct RequestFailure {
    error: String,
    /// The URN of a [`ProblemType`].
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The agent, reached through its socket.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A successful answer whose body has not been read yet.
pub(super) struct PendingAnswer {
    body: Incoming,
    /// Time limit; `None`: no limit.
    deadline: Option<Instant>,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn status(&self) -> Result<FullStatus> {
        self.get(STATUS).await
    }

    /// The status in the agent's own words. Reading it into [`FullStatus`] and writing it again takes longer than the
    /// agent's answer, and would lose the fields of a later version.
    pub async fn status_json(&self) -> Result<String> {
        let text = self.ask(Method::GET, STATUS, None, Some(PATIENCE)).await?.text().await?;
        serde_json::from_str::<IgnoredAny>(&text).context(ANOTHER_VERSION)?;
        Ok(text)
    }

    pub async fn routes(&self) -> Result<Vec<RouteStatus>> {
        self.get(ROUTES).await
    }

    /// The routes of a routing daemon.
    pub async fn learned_routes(&self) -> Result<Vec<RouteStatus>> {
        let routes = self.routes().await?;
        Ok(routes.into_iter().filter(|route| route.origin == Origin::Learned).collect())
    }

    pub async fn connections(&self) -> Result<Vec<ConnectionStatus>> {
        self.get(CONNECTIONS).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        let patience = if method == Method::GET { PATIENCE } else { PATIENCE_FOR_CHANGES };
        self.ask(method, path, body, Some(patience)).await?.json().await
    }

    /// The agent's answer, unless it is an error. The time limit covers the whole answer, including its body.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        patience: Option<Duration>,
    ) -> Result<PendingAnswer> {
        let socket = self.socket.display();
        let deadline = patience.map(|patience| Instant::now() + patience);
        let no_answer = || format!("the agent on {socket} does not answer");
        let stream = match within(deadline, self.connect()).await.with_context(no_answer)? {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    bail!("no access to {socket}: run as root, or as a member of its group")
                }
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    bail!("no agent answers on {socket}: start one with `vpnhub run`, or name its socket with --socket")
                }
                _ => return Err(error).with_context(|| format!("cannot open {socket}")),
            },
        };
        let request = Request::builder().method(method).uri(path).header(HOST, "vpnhub");
        let request = match body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(Full::from(body.to_string())),
            None => request.body(Full::default()),
        };
        let request = request.context("cannot make the request")?;
        let response = within(deadline, exchange(stream, request)).await.and_then(|done| Ok(done?));
        let response = response.with_context(no_answer)?;
        let status = response.status();
        let answer = PendingAnswer { body: response.into_body(), deadline };
        if status.is_success() {
            return Ok(answer);
        }
        let is_unknown = |kind: &str| {
            [ProblemType::NoSuchPath, ProblemType::MethodNotAllowed].map(ProblemType::urn).iter().any(|urn| urn == kind)
        };
        match answer.json::<RequestFailure>().await {
            Ok(failure) if !failure.kind.as_deref().is_some_and(is_unknown) => bail!("{}", failure.error),
            // Agents before RFC 9457 answer without a body.
            _ => bail!("the agent on {socket} does not know {path}: it may be of another version"),
        }
    }

    /// Waits while the server's backlog is full: a Unix socket then rejects a non-blocking connect immediately.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_PAUSE).await,
                done => return done,
            }
        }
    }
}

async fn exchange(stream: UnixStream, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(AskFirst { stream, is_asked: false, reader: None })).await?;
    // Ends with the body, which reports its errors.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// Reads nothing before the first write. A busy server answers immediately and closes. hyper treats an answer before
/// the request as an error, and does not read it after a failed write.
struct AskFirst {
    stream: UnixStream,
    is_asked: bool,
    /// The waiting reader.
    reader: Option<Waker>,
}

impl AsyncRead for AskFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for AskFirst {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Poll::Ready(Ok(bytes.len())),
            written => written,
        };
        if written.is_ready() {
            self.is_asked = true;
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| anyhow!("timed out")),
        None => Ok(work.await),
    }
}

impl PendingAnswer {
    pub async fn bytes(self) -> Result<Bytes> {
        let Self { body, deadline } = self;
        let collected = within(deadline, body.collect()).await.and_then(|done| Ok(done?.to_bytes()));
        collected.context("the agent's answer is truncated")
    }

    pub async fn text(self) -> Result<String> {
        String::from_utf8(self.bytes().await?.into()).context(ANOTHER_VERSION)
    }

    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?).context(ANOTHER_VERSION)
    }

    /// The next chunk of the body, independent of the fragmentation in transit; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = within(self.deadline, self.body.frame()).await? {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

//! Events over the control socket: `GET /v1/events`, one JSON object per line for as long as the client listens.
//! First the state of every connection, then changes.

use std::convert::Infallible;

use anyhow::{Context as _, Result, bail};
use axum::{
    body::Body,
    extract::State,
    http::{Method, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{AppState, Client, EVENTS, client::PendingAnswer};
use crate::api_types::{
    event::{ConnectionEvent, now},
    status::ConnectionStatus,
};

/// One JSON text per line.
pub(super) const JSON_LINES: &str = "application/x-ndjson";

pub(super) async fn follow(State(state): State<AppState>) -> Response {
    let lines = stream::unfold(None, move |events| {
        let state = state.clone();
        async move { next(events, &state).await }
    });
    ([(header::CONTENT_TYPE, JSON_LINES)], Body::from_stream(lines.map(Ok::<_, Infallible>))).into_response()
}

/// The next lines, and the source of the following ones; `None` when the agent ends. A client that is new or too slow
/// gets the state of all connections.
async fn next(
    events: Option<Receiver<ConnectionEvent>>,
    state: &AppState,
) -> Option<(String, Option<Receiver<ConnectionEvent>>)> {
    if let Some(mut events) = events {
        match events.recv().await {
            Ok(event) => return Some((line(&event), Some(events))),
            Err(RecvError::Closed) => return None,
            Err(RecvError::Lagged(_)) => {}
        }
    }
    // Subscribe before the snapshot, so that no event is missed.
    let events = state.events.upgrade()?.subscribe();
    let present = state.snapshot().await.ok()?.connections;
    let present = present.iter().flat_map(ConnectionStatus::members).cloned();
    let lines = present.map(|ConnectionStatus { name, state, state_reason, state_seconds, ipsec, health, .. }| {
        let selectors = ipsec.and_then(|ipsec| ipsec.selectors);
        let health = health.and_then(|health| health.state);
        let time = now() - state_seconds;
        line(&ConnectionEvent { time, connection: name, state, health, was: None, reason: state_reason, selectors })
    });
    Some((lines.collect(), Some(events)))
}

fn line(event: &ConnectionEvent) -> String {
    // Only strings and numbers: serialization cannot fail.
    serde_json::to_string(event).unwrap_or_default() + "\n"
}

impl Client {
    /// Passes each event to `tell` until that fails or the agent ends, which is also an error.
    pub async fn follow(&self, mut handle: impl FnMut(&ConnectionEvent) -> Result<()>) -> Result<()> {
        let mut lines = Lines { answer: self.ask(Method::GET, EVENTS, None, None).await?, rest: Vec::new() };
        while let Some(event) = lines.next().await? {
            handle(&event)?;
        }
        bail!("the agent has stopped")
    }
}

/// The lines of an answer without an end.
pub(super) struct Lines {
    pub answer: PendingAnswer,
    pub rest: Vec<u8>,
}

impl Lines {
    /// The next line; `None` at the end of the answer.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.rest[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=searched + end).collect();
                let line = serde_json::from_slice(&line);
                return line.context("unexpected line from the agent: it may be of another version").map(Some);
            }
            searched = self.rest.len();
            let Some(bytes) = self.answer.chunk().await.context("the agent has stopped")? else { return Ok(None) };
            self.rest.extend_from_slice(&bytes);
        }
    }
}

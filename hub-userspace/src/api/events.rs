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
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{AppState, Client, EVENTS, snapshot};
use crate::api_types::{
    event::{ConnectionEvent, now},
    status::ConnectionStatus,
};

pub(super) async fn follow(State(state): State<AppState>) -> Response {
    let lines = stream::unfold(None, move |events| {
        let state = state.clone();
        async move { next(events, &state).await }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines.map(Ok::<_, Infallible>)))
        .into_response()
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
    let present = snapshot(state).await.ok()?.connections.into_iter();
    let lines = present.map(|ConnectionStatus { name, state, state_reason, state_seconds, ipsec, .. }| {
        let selectors = ipsec.and_then(|ipsec| ipsec.selectors);
        let time = now() - state_seconds;
        line(&ConnectionEvent { time, connection: name, state, was: None, reason: state_reason, selectors })
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
        let mut answer = self.ask(Method::GET, EVENTS, None, None).await?;
        let mut rest = Vec::new();
        while let Some(bytes) = answer.chunk().await.context("the agent has stopped")? {
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                handle(&event.context("unexpected event from the agent: it may be of another version")?)?;
            }
        }
        bail!("the agent has stopped")
    }
}

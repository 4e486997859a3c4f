//! Events over the control socket: `GET /v1/events`, a JSON object a line for as long as the client listens. First how
//! every connection is, then what changes.

use std::convert::Infallible;

use anyhow::{Context as _, Result, bail};
use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{Client, Doors, EVENTS, respond, snapshot};
use crate::{
    event::{Event, now},
    status::Connection,
};

pub(super) async fn follow(State(doors): State<Doors>) -> Response {
    // First: what happens from here on is not missed.
    let events = doors.events.subscribe();
    let present = match snapshot(&doors).await {
        Ok(snapshot) => snapshot.connections,
        Err(error) => return respond(Err::<(), _>(error)),
    };
    let present = present.into_iter().map(|Connection { name, state, state_reason, state_seconds, .. }| {
        line(&Event { time: now() - state_seconds, connection: name, state, was: None, reason: state_reason })
    });
    let changes = stream::unfold(events, |mut events| async { Some((next(&mut events).await?, events)) });
    let lines = stream::iter(present.collect::<Vec<_>>()).chain(changes).map(Ok::<_, Infallible>);
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// The next event as a line; nothing when the agent ends. A client that is too slow misses the oldest ones.
async fn next(events: &mut Receiver<Event>) -> Option<String> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(line(&event)),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

fn line(event: &Event) -> String {
    // Strings and numbers only: nothing in it can fail to be written.
    serde_json::to_string(event).unwrap_or_default() + "\n"
}

impl Client {
    /// Hands each event to `tell` until that fails or the agent ends, which is an error as well.
    pub async fn follow(&self, mut tell: impl FnMut(&Event) -> Result<()>) -> Result<()> {
        let mut answer = self.ask(Method::GET, EVENTS, None, None).await?;
        let mut rest = Vec::new();
        while let Some(bytes) = answer.chunk().await.context("the agent has gone")? {
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                tell(&event.context("the agent tells something else: it may be of another version")?)?;
            }
        }
        bail!("the agent has gone")
    }
}

//! `POST /v1/trace` with a [`TraceRequest`] answers with a [`Trace`]. It changes nothing, but loads a program into the
//! kernel, which only root may do.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::Method,
};
use tokio::{sync::Mutex, time::sleep};

use super::{
    AppState, Client,
    failure::{Answer, Failure},
};
use crate::{
    agent::Request,
    api_types::{
        problem::ProblemType,
        trace::{Trace, TraceRequest},
    },
    background::spawn_blocking,
    datapath::{LiveTables, TraceRun, Tracer},
    trace::{Prepared, TraceError, report},
};

pub const TRACE: &str = "/v1/trace";

/// Time without a trace after which the load is dropped.
const IDLE: Duration = Duration::from_secs(30);

/// The second load of the program: at most one, made at the first trace, dropped when idle. One packet at a time.
#[derive(Clone, Default)]
pub struct TraceLoad {
    tables: Option<Arc<LiveTables>>,
    loaded: Arc<Mutex<Loaded>>,
}

#[derive(Default)]
struct Loaded {
    tracer: Option<Tracer>,
    used: Option<Instant>,
}

impl TraceLoad {
    pub fn new(tables: Arc<LiveTables>) -> Self {
        Self { tables: Some(tables), loaded: Arc::default() }
    }

    /// Runs a packet, on a thread of its own: the verifier takes some tenths of a second for the load.
    async fn run(&self, prepared: &Prepared) -> Result<TraceRun> {
        let mut loaded = Arc::clone(&self.loaded).lock_owned().await;
        let tables = self.tables.clone().context("no program is loaded")?;
        let arrived = prepared.arrived.clone();
        let likely = prepared.explanation.likely.clone();
        if loaded.tracer.is_none() {
            // Before the load: the client may be gone when that is done.
            tokio::spawn(drop_when_idle(Arc::downgrade(&self.loaded)));
        }
        let run = spawn_blocking(move || {
            // After an error or a panic it is not put back: what it has counted is unknown.
            let mut tracer = match loaded.tracer.take() {
                Some(tracer) => tracer,
                None => Tracer::load(&tables)?,
            };
            let run = tracer.run(&arrived, &likely)?;
            *loaded = Loaded { tracer: Some(tracer), used: Some(Instant::now()) };
            Ok::<_, anyhow::Error>(run)
        });
        run.await.context("the packet could not be run")?
    }
}

/// Drops a load once it is idle.
async fn drop_when_idle(loaded: Weak<Mutex<Loaded>>) {
    loop {
        sleep(IDLE).await;
        let Some(loaded) = loaded.upgrade() else { return };
        let mut loaded = loaded.lock_owned().await;
        if loaded.used.is_none_or(|used| used.elapsed() >= IDLE) {
            drop(spawn_blocking(move || loaded.tracer = None).await);
            return;
        }
    }
}

pub(super) async fn trace(
    State(state): State<AppState>,
    request: Result<Json<TraceRequest>, JsonRejection>,
) -> Answer<Trace> {
    let Json(request) = request?;
    let prepared = state.ask(|answer| Request::Trace(request, answer)).await?;
    let prepared = prepared.map_err(|error| Failure::new(type_of(&error), error.to_string()))?;
    let run = state.trace.run(&prepared).await?;
    Ok(Json(report(&prepared, &run)))
}

fn type_of(error: &TraceError) -> ProblemType {
    match error {
        TraceError::NoConnection { .. } => ProblemType::NoSuchObject,
        TraceError::NoInterface { .. } | TraceError::NotAttached { .. } => ProblemType::NotPossible,
        TraceError::SeveralTunnels { .. }
        | TraceError::Packet(_)
        | TraceError::OneOfBoth
        | TraceError::Hex
        | TraceError::TooLong { .. }
        | TraceError::TooShort { .. } => ProblemType::InvalidRequest,
    }
}

impl Client {
    /// What happens to a packet.
    pub async fn trace(&self, request: &TraceRequest) -> Result<Trace> {
        self.send(Method::POST, TRACE, Some(serde_json::to_value(request)?)).await
    }
}

//! The task that reconciles charon with the configuration and reports the state of the tunnels.
//!
//! Only this task talks to charon. After any loss of the session, including a restart of charon, it reconnects, loads
//! the complete desired state, and lists all SAs. The listing includes the changes missed meanwhile.

mod retries;
mod task;

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::task::DriverTask;
use super::{session::SessionError, tunnels::Tunnels};
use crate::config::Config;

/// Requests that the task may lag behind.
const REQUESTS: usize = 64;

/// The task; it ends when this is dropped.
pub struct Driver {
    config: watch::Sender<Arc<Config>>,
    views: watch::Receiver<Arc<Tunnels>>,
    renegotiations: mpsc::Sender<Renegotiation>,
    task: JoinHandle<()>,
}

/// A request to negotiate what a connection lacks now.
#[derive(Debug)]
pub struct Renegotiation {
    name: String,
    /// Rekey its child SAs, too.
    children: bool,
    answer: oneshot::Sender<Renegotiated>,
}

/// What charon has been asked to do, or why it cannot be.
pub type Renegotiated = Result<Vec<String>, String>;

impl Renegotiation {
    fn refuse(self, why: String) {
        drop(self.answer.send(Err(why)));
    }

    /// Passes on the result. Returns the error that ends the session.
    fn answer(self, result: Result<Renegotiated, SessionError>) -> Result<(), SessionError> {
        match result {
            Ok(result) => drop(self.answer.send(result)),
            Err(error) => {
                self.refuse(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Driver {
    pub fn start(config: &Config) -> Self {
        let (config, configs) = watch::channel(without_routes(config));
        let (publisher, views) = watch::channel(Arc::default());
        let (renegotiations, requests) = mpsc::channel(REQUESTS);
        let task = tokio::spawn(async move { DriverTask::new(configs, requests, publisher).run().await });
        Self { config, views, renegotiations, task }
    }

    /// Sets the desired configuration.
    pub fn set(&self, config: &Config) {
        self.config.send_replace(without_routes(config));
    }

    /// Has charon negotiate what a connection lacks; with `children`, also rekey its child SAs. The answer is sent to
    /// `answer` when charon has begun.
    pub fn renegotiate(&self, name: String, children: bool, answer: oneshot::Sender<Renegotiated>) {
        if let Err(error) = self.renegotiations.try_send(Renegotiation { name, children, answer }) {
            let (mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request)) = error;
            request.refuse("strongSwan is busy with earlier requests: try again later".to_owned());
        }
    }

    /// The current state of the tunnels.
    pub fn view(&self) -> Arc<Tunnels> {
        Arc::clone(&self.views.borrow())
    }

    /// Returns when the state has changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.views.changed().await.is_err() {
            // The task runs as long as `self` exists.
            std::future::pending::<()>().await;
        }
    }
}

/// The relevant part of the configuration. Holding the agent's own `Arc` here would force a copy at each of its
/// changes.
fn without_routes(config: &Config) -> Arc<Config> {
    let Config { gateway, dataplane, vpc, customer_gateways, connections, routes: _, provenance } = config;
    Arc::new(Config {
        gateway: gateway.clone(),
        dataplane: dataplane.clone(),
        vpc: vpc.clone(),
        customer_gateways: customer_gateways.clone(),
        connections: connections.clone(),
        routes: Vec::new(),
        provenance: Arc::clone(provenance),
    })
}

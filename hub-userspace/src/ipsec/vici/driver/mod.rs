//! The task that reconciles charon with the configuration and reports the state of the tunnels.
//!
//! Only this task talks to charon. After any loss of the session, including a restart of charon, it reconnects, loads
//! the complete desired state, and lists all SAs. The listing includes the changes missed meanwhile.

mod retries;
mod rush;
mod strangers;
mod task;

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::task::DriverTask;
use super::tunnels::Tunnels;
use crate::config::Config;

/// Requests that the task may lag behind.
const REQUESTS: usize = 64;

/// The task; it ends when this is dropped.
pub struct Driver {
    config: watch::Sender<Arc<Config>>,
    views: watch::Receiver<Arc<Tunnels>>,
    requests: mpsc::Sender<DriverRequest>,
    task: JoinHandle<()>,
}

/// A request to the task.
#[derive(Debug)]
enum DriverRequest {
    /// Negotiate what a connection lacks; with `children`, also rekey its child SAs.
    Renegotiate { name: String, children: bool, answer: oneshot::Sender<Renegotiated> },
    /// Read all files again. The answer names the connections whose secrets or certificates have other contents.
    ReadFiles(oneshot::Sender<Vec<String>>),
}

/// What charon has been asked to do, or why it cannot be.
pub type Renegotiated = Result<Vec<String>, String>;

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Driver {
    pub fn start(config: &Config) -> Self {
        let (config, configs) = watch::channel(without_routes(config));
        let (publisher, views) = watch::channel(Arc::default());
        let (requests, queue) = mpsc::channel(REQUESTS);
        let task = tokio::spawn(async move { DriverTask::new(configs, queue, publisher).run().await });
        Self { config, views, requests, task }
    }

    /// Sets the desired configuration.
    pub fn set(&self, config: &Config) {
        self.config.send_replace(without_routes(config));
    }

    /// Has charon negotiate what a connection lacks; with `children`, also rekey its child SAs. The answer is sent to
    /// `answer` when charon has begun.
    pub fn renegotiate(&self, name: String, children: bool, answer: oneshot::Sender<Renegotiated>) {
        let request = DriverRequest::Renegotiate { name, children, answer };
        if let Err(error) = self.requests.try_send(request)
            && let DriverRequest::Renegotiate { answer, .. } = error.into_inner()
        {
            let why = "earlier requests to strongSwan are not finished: try again later";
            drop(answer.send(Err(why.to_owned())));
        }
    }

    /// Reads secrets, keys and certificates again. The answer names the connections for which they have changed since
    /// the last answer.
    pub fn read_files(&self, answer: oneshot::Sender<Vec<String>>) {
        // If the queue is full, the dropped sender is the answer.
        drop(self.requests.try_send(DriverRequest::ReadFiles(answer)));
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
    let Config {
        gateway,
        dataplane,
        metrics: _,
        learn: _,
        vpc,
        underlays: _,
        segments: _,
        customer_gateways,
        connections,
        routes: _,
        policy_routes: _,
        role,
        provenance,
    } = config;
    Arc::new(Config {
        gateway: gateway.clone(),
        dataplane: dataplane.clone(),
        metrics: None,
        learn: None,
        vpc: vpc.clone(),
        underlays: BTreeMap::new(),
        segments: BTreeMap::new(),
        customer_gateways: customer_gateways.clone(),
        connections: connections.clone(),
        routes: Vec::new(),
        policy_routes: Vec::new(),
        role: *role,
        provenance: Arc::clone(provenance),
    })
}

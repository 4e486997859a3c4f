//! The task that reconciles charon with the configuration and reports the state of the tunnels.
//!
//! Only this task talks to charon. After any loss of the session, including a restart of charon, it reconnects, loads
//! the complete desired state, and lists all SAs. The listing includes the changes missed meanwhile.

mod task;

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};

use self::task::DriverTask;
use super::tunnels::Tunnels;
use crate::config::Config;

/// The task; it ends when this is dropped.
pub struct Driver {
    config: watch::Sender<Arc<Config>>,
    views: watch::Receiver<Arc<Tunnels>>,
    task: JoinHandle<()>,
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
        let task = tokio::spawn(async move { DriverTask::new(configs, publisher).run().await });
        Self { config, views, task }
    }

    /// Sets the desired configuration.
    pub fn set(&self, config: &Config) {
        self.config.send_replace(without_routes(config));
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

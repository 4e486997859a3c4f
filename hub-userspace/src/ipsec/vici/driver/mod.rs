//! The task that keeps charon in step with the configuration, and tells what becomes of the tunnels.
//!
//! It alone talks to charon. Whatever breaks the session, charon's restart included, it connects again, tells charon all
//! that is wanted, and looks at all SAs anew; what happened in between is in that look.

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

    /// What is wanted from now on.
    pub fn set(&self, config: &Config) {
        self.config.send_replace(without_routes(config));
    }

    /// How the tunnels are now.
    pub fn view(&self) -> Arc<Tunnels> {
        Arc::clone(&self.views.borrow())
    }

    /// Returns when they are otherwise than when this was called last. May be cancelled.
    pub async fn changed(&mut self) {
        if self.views.changed().await.is_err() {
            // The task goes on as long as this is there.
            std::future::pending::<()>().await;
        }
    }
}

/// All that matters here. The agent's own would be copied at each of its changes, were it held here as well.
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

//! A Prometheus at the hub, as an operator has one.

use std::time::Duration;

use hub_tests::lab::{Agent, HUB, Prometheus, World, retry_within};

use crate::{PATIENCE, output};

/// Returns when it has scraped the agent.
pub fn start(agent: &Agent, world: &World) -> Prometheus {
    let prometheus = Prometheus::start(&world[HUB], Duration::from_millis(200)).unwrap();
    wait_for(agent, world, "vpnhub_connection_up");
    prometheus
}

/// Waits until the query has a result.
pub fn wait_for(agent: &Agent, world: &World, query: &str) {
    let command = format!("promtool query instant http://localhost:9090 '{query}' 2>&1");
    retry_within(PATIENCE, &format!("Prometheus has no {query}"), || {
        Ok(output(agent, world, &command)?.contains("=> ").then_some(()))
    })
    .unwrap();
}

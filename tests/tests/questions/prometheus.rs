//! A Prometheus at the hub, as an operator has one.

use std::path::PathBuf;

use hub_tests::lab::{Agent, Background, HUB, Scratch, World, retry_within};
use hub_tests::tools;

use crate::{PATIENCE, output};

pub const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9118\"\n";

fn binary() -> Option<PathBuf> {
    let binary = tools::promtool()?.with_file_name("prometheus");
    binary.is_file().then_some(binary)
}

pub fn missing() -> Option<String> {
    binary().is_none().then(|| "needs prometheus: cargo xtask setup".to_owned())
}

/// Ends when dropped.
pub struct Prometheus {
    _process: Background,
    _files: Scratch,
}

impl Prometheus {
    /// Returns when it has scraped the agent.
    pub fn start(agent: &Agent, world: &World) -> Self {
        let files = Scratch::new().unwrap();
        let text = "global: { scrape_interval: 200ms }\nscrape_configs:\n  - job_name: vpnhub\n    static_configs: \
                    [{ targets: [\"127.0.0.1:9118\"] }]\n";
        std::fs::write(files.file("prometheus.yml"), text).unwrap();
        let mut command = world[HUB].command(binary().expect("prometheus: cargo xtask setup"));
        command
            .arg(format!("--config.file={}", files.file("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", files.file("data").display()))
            .args(["--web.listen-address=127.0.0.1:9090", "--log.level=error"]);
        let prometheus = Self { _process: Background::start(&mut command).unwrap(), _files: files };
        wait_for(agent, world, "vpnhub_connection_up");
        prometheus
    }
}

/// Waits until the query has a result.
pub fn wait_for(agent: &Agent, world: &World, query: &str) {
    let command = format!("promtool query instant http://localhost:9090 '{query}' 2>&1");
    retry_within(PATIENCE, &format!("Prometheus has no {query}"), || {
        Ok(output(agent, world, &command)?.contains("=> ").then_some(()))
    })
    .unwrap();
}

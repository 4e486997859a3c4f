//! The agent's metrics.

use anyhow::{Context as _, ensure};

use super::Agent;
use crate::exposition::{Exposition, TextFormat};

impl Agent {
    /// Its metrics, over the control socket.
    ///
    /// # Errors
    /// When it does not answer, or not with valid metrics.
    pub fn metrics(&self) -> anyhow::Result<Exposition> {
        let reply = self.request("GET", "/v1/metrics", "")?;
        let text = String::from_utf8(reply.body).context("metrics that are no text")?;
        ensure!(reply.status == 200, "the agent answered {}: {text}", reply.status);
        Exposition::parse(&text, TextFormat::Prometheus)
    }
}

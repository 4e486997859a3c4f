//! The agent's metrics.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;

use super::Agent;
use crate::exposition::{Exposition, TextFormat};

impl Agent {
    /// Its metrics, over the control socket.
    ///
    /// # Errors
    /// When it does not answer, or not with valid metrics.
    pub fn metrics(&self) -> anyhow::Result<Exposition> {
        let mut stream = UnixStream::connect(self.socket()).context("connecting to the control socket")?;
        stream.write_all(b"GET /v1/metrics HTTP/1.1\r\nhost: vpnhub\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200 "));
        Exposition::parse(body.with_context(|| format!("the agent answered {answer}"))?.1, TextFormat::Prometheus)
    }
}

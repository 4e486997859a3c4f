//! `vpnhub monitor`, running beside a test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Events of an agent since this value was created. Dropping it ends the program.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

impl Monitor {
    /// Runs `command`, which prints an event a line, as JSON.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("running vpnhub monitor")?;
        let stdout = BufReader::new(child.stdout.take().context("its stdout is piped")?);
        let (sender, lines) = channel();
        // Ends with the program, or when the receiver is dropped.
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, lines })
    }

    /// The next event.
    ///
    /// # Errors
    /// When none arrives within `timeout`, or the line is not an event.
    pub fn next(&self, timeout: Duration) -> anyhow::Result<Value> {
        let Ok(line) = self.lines.recv_timeout(timeout) else {
            bail!("no event within {timeout:?}");
        };
        serde_json::from_str(&line).with_context(|| format!("not an event: {line}"))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have exited already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

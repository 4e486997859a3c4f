//! Requests on the agent's control socket: HTTP as bytes, not by the agent's own client.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Agent;

/// Time limit for each read. It passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent's answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// `content-type`; empty if there is none.
    pub media_type: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The body; null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer whose body is lines without an end.
#[derive(Debug)]
pub struct LinesReply {
    /// Without a body.
    pub head: Reply,
    reader: BufReader<UnixStream>,
    /// Received, and not returned yet.
    rest: Vec<u8>,
}

impl LinesReply {
    /// The next line, which must be JSON.
    ///
    /// # Errors
    /// When the answer ends, or nothing comes for a minute.
    pub fn next_line(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).context("a line that is not JSON");
            }
            // A chunk: its length in hexadecimal, its bytes, an empty line (RFC 9112 section 7.1).
            let length = line(&mut self.reader)?;
            let length = usize::from_str_radix(&length, 16).with_context(|| format!("no chunk: {length:?}"))?;
            if length == 0 {
                bail!("the answer has ended");
            }
            let mut chunk = vec![0; length + 2];
            self.reader.read_exact(&mut chunk)?;
            self.rest.extend_from_slice(&chunk[..length]);
        }
    }
}

impl Agent {
    /// A request. `body`: JSON; empty for none.
    ///
    /// # Errors
    /// When there is no answer with a length.
    pub fn request(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Reply> {
        let (mut reply, length, mut reader) = self.send(method, path, body)?;
        reply.body = vec![0; length.with_context(|| format!("{method} {path}: the answer has no length"))?];
        reader.read_exact(&mut reply.body).with_context(|| format!("{method} {path}: the answer is truncated"))?;
        Ok(reply)
    }

    /// `GET` of a path whose answer has no end.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn lines(&self, path: &str) -> anyhow::Result<LinesReply> {
        let (head, _, reader) = self.send("GET", path, "")?;
        Ok(LinesReply { head, reader, rest: Vec::new() })
    }

    /// Sends a request; the answer without its body, the length of that if it has one, and the connection.
    fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<(Reply, Option<usize>, BufReader<UnixStream>)> {
        let mut stream = UnixStream::connect(self.socket()).context("connecting to the control socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: vpnhub\r\n{kind}content-length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut reader = BufReader::new(stream);
        let first = line(&mut reader).with_context(|| format!("{method} {path}: no answer"))?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("{method} {path}: no status code in {first:?}"))?;
        let (mut media_type, mut length) = (String::new(), None);
        loop {
            let line = line(&mut reader)?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name {
                "content-type" => value.clone_into(&mut media_type),
                "content-length" => length = value.parse().ok(),
                _ => {}
            }
        }
        Ok((Reply { status, media_type, body: Vec::new() }, length, reader))
    }
}

fn line(reader: &mut BufReader<UnixStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

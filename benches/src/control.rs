//! The agent's control socket: HTTP over a unix socket, a connection for each request.
//!
//! Not the agent's own client: a bench knows the agent from outside only.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// For a change of very many routes.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Control {
    path: PathBuf,
}

impl Control {
    pub fn new(socket: &Path) -> Self {
        Self { path: socket.to_owned() }
    }

    pub fn add_route(&mut self, destination: &str, next_hop: &str, weight: u8) -> Result<Value> {
        let body = json!({ "destination": destination, "next_hop": next_hop, "weight": weight });
        self.request("POST", "/v1/routes", Some(&body))
    }

    pub fn set_weight(&mut self, destination: &str, next_hop: &str, weight: u8) -> Result<Value> {
        let body = json!({ "destination": destination, "next_hop": next_hop, "weight": weight });
        self.request("PATCH", "/v1/routes", Some(&body))
    }

    pub fn delete_route(&mut self, destination: &str, next_hop: &str) -> Result<Value> {
        self.request("DELETE", "/v1/routes", Some(&json!({ "destination": destination, "next_hop": next_hop })))
    }

    /// Takes a connection up or down.
    pub fn enable(&mut self, connection: &str, enabled: bool) -> Result<Value> {
        let way = if enabled { "up" } else { "down" };
        self.request("POST", &format!("/v1/connections/{connection}/{way}"), None)
    }

    pub fn reload(&mut self) -> Result<Value> {
        self.request("POST", "/v1/reload", None)
    }

    /// # Errors
    /// When there is no answer, or it is an error: the agent's message.
    pub fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut stream = self.connect()?;
        let (code, answer) = exchange(&mut stream, method, path, body).with_context(|| format!("{method} {path}"))?;
        if code != 200 {
            bail!("{method} {path}: the agent answers {code}: {}", answer["error"].as_str().unwrap_or_default());
        }
        Ok(answer)
    }

    fn connect(&self) -> Result<BufReader<UnixStream>> {
        let stream =
            UnixStream::connect(&self.path).with_context(|| format!("connecting to {}", self.path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

fn exchange(
    stream: &mut BufReader<UnixStream>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: vpnhub\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).context("asking the agent")?;
    let mut line = String::new();
    stream.read_line(&mut line).context("waiting for the agent's answer")?;
    // "HTTP/1.1 200 OK"
    let code = line.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let code = code.with_context(|| format!("the agent answers {line:?}"))?;
    let mut length = None;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.trim().parse().context("the length of the agent's answer")?);
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut answer = vec![0; length.context("the agent's answer has no length")?];
    stream.read_exact(&mut answer)?;
    Ok((code, serde_json::from_slice(&answer).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn control_request_returns_answer_or_error() {
        let path = std::env::temp_dir().join(format!("vhb-control-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let served = thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in [
                "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"changed\":true}",
                "HTTP/1.1 409 Conflict\r\nContent-Length: 17\r\n\r\n{\"error\":\"no it\"}",
            ] {
                let mut stream = BufReader::new(listener.accept().unwrap().0);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    stream.read_line(&mut head).unwrap();
                }
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                requests.push((head.lines().next().unwrap().to_owned(), String::from_utf8(body).unwrap()));
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        let mut control = Control::new(&path);
        assert_eq!(control.delete_route("10.0.0.0/8", "b").unwrap(), json!({ "changed": true }));
        let error = control.reload().unwrap_err().to_string();
        assert!(error.contains("409") && error.contains("no it"), "{error}");
        let requests = served.join().unwrap();
        assert_eq!(requests[0].0, "DELETE /v1/routes HTTP/1.1");
        assert!(requests[0].1.contains("\"next_hop\":\"b\""));
        assert_eq!(requests[1], ("POST /v1/reload HTTP/1.1".to_owned(), String::new()));
        std::fs::remove_file(&path).unwrap();
    }
}

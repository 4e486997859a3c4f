//! Runs iperf3 and reads its report.

use std::{net::IpAddr, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use hub_tests::lab::{self, Namespace};
use serde::Deserialize;

use crate::forward::routes::Family;

const PORT: u16 = 5201;
/// State of a socket that listens (`TCP_LISTEN`, `net/tcp_states.h`), as /proc has it.
const LISTENS: &str = "0A";

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Megabits a second at the receiver.
    pub received: f64,
    /// Received by the receiver.
    pub bytes: u64,
    /// Segments that the sender sent again.
    pub retransmits: f64,
}

/// The used part of iperf3's output with `--json`.
#[derive(Deserialize)]
struct Output {
    error: Option<String>,
    #[serde(default)]
    end: End,
}

#[derive(Default, Deserialize)]
struct End {
    #[serde(default)]
    streams: Vec<serde::de::IgnoredAny>,
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bytes: u64,
    bits_per_second: f64,
    /// The sender's only.
    #[serde(default)]
    retransmits: u32,
}

/// # Errors
/// When there is no iperf3: how to come by it.
pub fn must_be_there() -> Result<()> {
    let output = Command::new("iperf3").arg("--version").output();
    output.map(drop).context(
        "iperf3 is not installed: `cargo xtask bench tcp` installs it on Debian, or by hand `apt-get install iperf3`",
    )
}

/// A server, until it is ended.
pub fn server(namespace: &Namespace, address: IpAddr) -> Command {
    let mut command = namespace.command("iperf3");
    command.arg("--server").arg("--bind").arg(address.to_string()).arg("--port").arg(PORT.to_string());
    command
}

/// Whether there is a listener on the server's port.
pub fn listens(namespace: &Namespace, family: Family) -> Result<bool> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/tcp",
        Family::V6 => "/proc/thread-self/net/tcp6",
    };
    let table = namespace.enter(|| std::fs::read_to_string(file))?.with_context(|| format!("reading {file}"))?;
    Ok(has_listener(&table, PORT))
}

/// Of a table such as /proc/net/tcp: number, local address and port, remote ones, state, all hexadecimal.
fn has_listener(table: &str, port: u16) -> bool {
    let ending = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().is_some_and(|local| local.ends_with(&ending));
        local && words.nth(1) == Some(LISTENS)
    })
}

/// Sends for so many seconds, after one that is not counted: streams grow fast first.
pub fn client(namespace: &Namespace, (from, to): (IpAddr, IpAddr), streams: u32, seconds: u32) -> Result<Report> {
    let mut command = namespace.command("iperf3");
    command.args(["--json", "--connect-timeout", "3000", "--omit", "1"]);
    command.args(["--client", &to.to_string(), "--bind", &from.to_string(), "--port", &PORT.to_string()]);
    command.args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()]);
    let output = lab::output(&mut command)?;
    // On an error iperf3 exits with 1, and its JSON has the message.
    parse(&String::from_utf8_lossy(&output.stdout), streams)
        .with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn parse(json: &str, streams: u32) -> Result<Report> {
    let Output { error, end } = serde_json::from_str(json).context("iperf3 wrote no JSON")?;
    if let Some(error) = error {
        bail!("iperf3: {error}");
    }
    let (Some(sent), Some(received)) = (end.sum_sent, end.sum_received) else { bail!("iperf3 gives no sums") };
    ensure!(end.streams.len() == streams as usize, "iperf3 had {} streams of {streams}", end.streams.len());
    ensure!(received.bytes > 0, "iperf3 got nothing through");
    let retransmits = f64::from(sent.retransmits);
    Ok(Report { received: received.bits_per_second / 1e6, bytes: received.bytes, retransmits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf3_report_is_parsed() {
        let json = r#"{ "start": { "version": "iperf 3.12" }, "intervals": [], "end": {
            "streams": [{ "sender": { "socket": 5, "bytes": 5 }, "receiver": {} }],
            "sum_sent": { "start": 0, "end": 3.0, "seconds": 3.0, "bytes": 2097152000, "bits_per_second": 5592405333.3,
                "retransmits": 12, "sender": true },
            "sum_received": { "start": 0, "end": 3.0, "seconds": 3.0, "bytes": 2096103424,
                "bits_per_second": 5589609130.6, "sender": true },
            "cpu_utilization_percent": { "host_total": 99.0 }, "sender_tcp_congestion": "cubic" } }"#;
        let report = parse(json, 1).unwrap();
        assert_eq!((report.bytes, report.retransmits), (2_096_103_424, 12.0));
        assert!((report.received - 5589.6).abs() < 0.1);
        assert!(parse(json, 8).unwrap_err().to_string().contains("1 streams of 8"));
    }

    #[test]
    fn iperf3_error_is_reported() {
        let json = r#"{ "start": {}, "intervals": [], "end": {}, "error": "unable to connect to server: timed out" }"#;
        assert!(parse(json, 1).unwrap_err().to_string().contains("timed out"));
        assert!(parse("", 1).is_err());
        let nothing = r#"{ "end": { "streams": [{}], "sum_sent": { "bytes": 0, "bits_per_second": 0 },
            "sum_received": { "bytes": 0, "bits_per_second": 0 } } }"#;
        assert!(parse(nothing, 1).unwrap_err().to_string().contains("nothing"));
    }

    #[test]
    fn listener_is_found_by_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 01140A0A:1451 00000000:0000 0A 00000000:00000000\n   \
            1: 01140A0A:1F90 00000000:0000 0A 00000000:00000000\n   \
            2: 01140A0A:0050 0A0A0A0A:1451 01 00000000:00000000\n";
        assert!(has_listener(table, 0x1451) && has_listener(table, 8080));
        assert!(!has_listener(table, 80) && !has_listener(table, 0x145));
    }
}

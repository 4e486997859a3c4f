//! One flood from Shanghai to Hangzhou, by vpnhub-bench.

use anyhow::{Context as _, Result, bail};
use hub_tests::lab::{self, HANGZHOU, HUB, SHANGHAI, Site, World};

use super::grouped;
use crate::process;

/// From the Ethernet header on: the smallest frames are the hardest on a forwarder.
const BYTES: u64 = 64;

/// The report of vpnhub-bench; see benches/README.md.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flood {
    pub sent: u64,
    pub received: u64,
    pub garbled: u64,
    pub packets_per_second: f64,
    /// Frames were lost or wrong: the rate is meaningless.
    pub void: bool,
}

impl Flood {
    /// Sends `frames` through the world's hub, every one counted and checked at the far end.
    ///
    /// Generator, hub and sink share one core, the last that this process may run on: the same in each run.
    ///
    /// # Errors
    /// When there is no report: the message of vpnhub-bench.
    pub fn run(world: &World, frames: u64) -> Result<Self> {
        let (from, to) = (world.place(&SHANGHAI.place)?, world.place(&HANGZHOU.place)?);
        let gateway = world[HUB].mac(&SHANGHAI.hub_device(0))?;
        let device = Site::device(0);
        // Inside the sender's namespace, where a later demo finds it, should this one be killed.
        let mut command = from.command(process::release_dir()?.join("vpnhub-bench"));
        command.args(["flood", "--json", "--from", from.name(), "--from-device", &device]);
        command.args(["--to", to.name(), "--to-device", &device, "--gateway-mac", &gateway.to_string()]);
        command.args(["--source", &SHANGHAI.host4().to_string()]);
        command.args(["--destination", &HANGZHOU.network4().to_string()]);
        command.args(["--frames", &frames.to_string(), "--bytes", &BYTES.to_string()]);
        let output = lab::output(&mut command)?;
        if !output.status.success() {
            bail!("the flood failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Self::parse(&output.stdout).context("the flood's report cannot be parsed")
    }

    fn parse(report: &[u8]) -> Result<Self> {
        let report: serde_json::Value = serde_json::from_slice(report)?;
        let count = |name: &str| report[name].as_u64().with_context(|| format!("{name} is missing"));
        Ok(Self {
            sent: count("sent")?,
            received: count("received")?,
            garbled: count("garbled")?,
            packets_per_second: report["packets_per_second"].as_f64().context("packets_per_second is missing")?,
            void: report["void"].as_bool().context("void is missing")?,
        })
    }

    /// Millions of packets a second.
    pub fn mpps(&self) -> f64 {
        self.packets_per_second / 1e6
    }

    /// The cause, for a void one.
    pub fn flaw(&self) -> String {
        let Self { sent, received, garbled, .. } = *self;
        if garbled > 0 {
            format!("{} of {} frames arrived corrupted", grouped(garbled), grouped(sent))
        } else if received > sent {
            format!("{} more frames arrived than were sent", grouped(received - sent))
        } else {
            format!("{} of {} frames were lost", grouped(sent - received), grouped(sent))
        }
    }

    /// The flood as a whole, for people.
    pub fn sentence(&self) -> String {
        let (from, to) = (SHANGHAI.place, HANGZHOU.place);
        let what = format!("{} frames of {BYTES} bytes from {from} to {to}", grouped(self.sent));
        if self.void {
            return format!("{what}: {}.", self.flaw());
        }
        format!("{what}: all arrived, each one checked,\n{:.2} million a second on one core.", self.mpps())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bench_report_is_parsed() {
        let report = br#"{"sent":10,"received":9,"garbled":0,"seconds":0.5,"packets_per_second":18.0,"void":true}"#;
        let flood = Flood { sent: 10, received: 9, garbled: 0, packets_per_second: 18.0, void: true };
        assert_eq!(Flood::parse(report).unwrap(), flood);
        assert!(Flood::parse(b"{}").is_err());
        assert!(Flood::parse(b"no frame").is_err());
    }

    #[test]
    fn void_flood_reports_loss_excess_or_garbling() {
        let flood =
            |received, garbled| Flood { sent: 2000, received, garbled, packets_per_second: 1e6, void: true }.sentence();
        assert!(flood(1999, 0).ends_with(": 1 of 2,000 frames were lost."), "{}", flood(1999, 0));
        assert!(flood(2001, 0).ends_with(": 1 more frames arrived than were sent."));
        assert!(flood(2000, 1500).ends_with(": 1,500 of 2,000 frames arrived corrupted."));
    }
}

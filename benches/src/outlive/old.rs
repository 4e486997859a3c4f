//! From version 0.1, whose datapath and routes end with its agent, and back: how long nothing is forwarded.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hub_tests::lab::{AgentCommand, HUB, Namespace, Scratch};
use nix::sys::signal::Signal;

use crate::testbed::FLOWS_WITHIN;
use crate::{
    arrivals,
    rows::Results,
    stats::float,
    stream::{self, Pace},
    tally::{Snapshot, Tally},
    testbed::{Endpoints, Running},
};

/// How often each way is gone.
const TIMES: usize = 5;

/// A way from one version to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `protect`, the old one stopped, the new one started.
    Upgrade,
    /// The new one stopped, `unload`, the old one started.
    Back,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "from 0.1",
            Self::Back => "back to 0.1",
        }
    }
}

/// Both versions in one hub.
pub struct Upgrade<'a> {
    pub endpoints: &'a Endpoints,
    pub old: PathBuf,
    pub new: PathBuf,
    pub config: &'a str,
    pub pace: Pace,
    pub pause: Duration,
}

impl Upgrade<'_> {
    pub fn run(&self, results: &mut Results) -> Result<()> {
        let mut running = self.start(&self.old, Scratch::new()?)?;
        let mut lost: [Vec<f64>; 2] = Default::default();
        for _ in 0..TIMES {
            for way in [Way::Upgrade, Way::Back] {
                eprintln!("{}", way.name());
                let (next, frames) = self.measure(way, running)?;
                running = next;
                lost[way as usize].push(float(frames));
            }
        }
        for (way, lost) in [Way::Upgrade, Way::Back].into_iter().zip(lost) {
            let case = [("run", way.name().into())];
            let milliseconds = lost.iter().map(|frames| frames / f64::from(self.pace.rate) * 1e3).collect::<Vec<_>>();
            results.add(&case, "lost", "frames", lost);
            results.add(&case, "lost", "ms", milliseconds);
        }
        running.agent.stop()
    }

    /// Goes this way beside the stream: the agent that runs then, and how many frames were lost.
    fn measure(&self, way: Way, running: Running) -> Result<(Running, u64)> {
        let Endpoints { programs, from, .. } = self.endpoints;
        let warm = Pace::new(self.pace.rate.min(50_000), self.pace.cpu);
        stream::during(programs, from, warm, || {
            arrivals::wait_for_shares(programs, warm.rate, FLOWS_WITHIN, |_| true)
        })?;
        running.rest()?;
        let before = Snapshot::now(programs)?;
        let (next, _) = stream::during(programs, from, self.pace, || {
            thread::sleep(self.pause);
            let next = self.go(way, running)?;
            thread::sleep(self.pause);
            Ok(next)
        })?;
        let tally = Tally::since(before, programs)?;
        ensure!(tally.garbled() == 0, "{}: {} frames arrived corrupted", way.name(), tally.garbled());
        Ok((next, tally.sent - tally.arrived()))
    }

    fn go(&self, way: Way, running: Running) -> Result<Running> {
        let agent = running.agent;
        match way {
            Way::Upgrade => {
                let config = agent.config();
                command(self.hub(), &self.new, &["protect", "--config", &config.display().to_string()])?;
                self.start(&self.new, agent.stop_with(Signal::SIGTERM)?)
            }
            Way::Back => {
                let files = agent.stop_with(Signal::SIGTERM)?;
                command(self.hub(), &self.new, &["unload", "--instance", &self.hub().instance()])?;
                self.start(&self.old, files)
            }
        }
    }

    fn start(&self, binary: &Path, files: Scratch) -> Result<Running> {
        std::fs::write(files.file("vpnhub.toml"), self.config).context("writing the configuration")?;
        let command = AgentCommand::new(binary);
        let command = if binary == self.old { command.without_instance() } else { command };
        Running::start_in(command, self.hub(), files)
    }

    fn hub(&self) -> &Namespace {
        &self.endpoints.world[HUB]
    }
}

/// Runs a command of the agent's that must succeed.
fn command(hub: &Namespace, binary: &Path, arguments: &[&str]) -> Result<()> {
    let output = hub.command(binary).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vpnhub {}: {}", arguments.join(" "), said.trim());
    Ok(())
}

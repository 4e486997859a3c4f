//! A world of offices with the agent running in its hub: the start of most tests.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Agent, AgentCommand, HUB, HubConfig, Namespace, Options, Ping, Site, VPC, World, agent_binary};

/// Time limit for actions of the agent or the kernel. It is far above the usual, and passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A world and the agent in its hub. The agent is dropped first.
#[derive(Debug)]
pub struct Rig {
    pub agent: Agent,
    pub world: World,
}

impl Rig {
    /// Builds the world and starts the agent.
    ///
    /// # Errors
    /// Those of [`World::three_offices`] and [`AgentCommand::start`].
    pub fn start(options: &Options, config: &HubConfig) -> anyhow::Result<Self> {
        Self::start_in(World::three_offices(options)?, config, &[])
    }

    /// Starts the agent in a world, with more arguments of `run`.
    ///
    /// # Errors
    /// Those of [`AgentCommand::start`].
    pub fn start_in(world: World, config: &HubConfig, arguments: &[&str]) -> anyhow::Result<Self> {
        let command = AgentCommand::new(agent_binary());
        let command = arguments.iter().fold(command, |command, argument| command.argument(argument));
        let agent = command.start_with(&world[HUB], &config.to_string())?;
        Ok(Self { agent, world })
    }

    /// Waits until the hub knows the link addresses of these sites' first links and of the VPC's host. Each is pinged,
    /// and pings, until it gets an answer, over IPv4 and IPv6.
    ///
    /// # Errors
    /// When one gets no answer within 20 s.
    pub fn warm_up(&self, sites: &[Site]) -> anyhow::Result<()> {
        for site in sites {
            for vpc in [VPC.host4.into(), VPC.host6.into()] {
                reach(&self.world[&site.place], vpc)?;
            }
        }
        Ok(())
    }

    /// Stops the agent, which must exit with 0, and takes the world down.
    ///
    /// # Errors
    /// As [`Agent::stop`].
    pub fn stop(self) -> anyhow::Result<()> {
        self.agent.stop()
    }
}

/// Pings until there is an answer.
///
/// # Errors
/// When there is none within 20 s.
pub fn reach(from: &Namespace, to: IpAddr) -> anyhow::Result<()> {
    retry(&format!("{to} does not answer pings from {}", from.name()), || {
        let report = Ping::new(to).timeout(Duration::from_millis(200)).run(from)?;
        Ok(report.complete().then_some(()))
    })
}

/// Retries `attempt` every 10 ms until it returns a value.
///
/// # Errors
/// `complaint` when it returns none within 20 s; its own error at once.
pub fn retry<T>(complaint: &str, attempt: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    retry_within(PATIENCE, complaint, attempt)
}

/// Like [`retry`], with another time limit.
///
/// # Errors
/// As [`retry`].
pub fn retry_within<T>(
    patience: Duration,
    complaint: &str,
    mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = attempt().with_context(|| complaint.to_owned())? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{complaint} (for {patience:?})");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

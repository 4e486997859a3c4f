//! Whether agents that are killed, stopped and replaced by others cost a stream a frame, and whether all of it is
//! counted.

mod old;

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hub_tests::lab::{AgentCommand, HUB, Namespace, Status};
use nix::sys::signal::Signal;

use crate::{
    arrivals,
    process::Datapath,
    rows::Results,
    settings::Spread,
    stats::{float, milliseconds},
    stream::{self, Pace, StreamSummary},
    tally::{Snapshot, Tally},
    testbed::{self, A, Common, Endpoints, PREFIXES, Running, TO_B, TO_C},
};

#[derive(Args)]
pub struct Arguments {
    /// Frames a second
    #[arg(long, default_value_t = 1_000_000)]
    rate: u32,
    /// Length of the run in which nothing happens
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How often the agent ends and the next one starts, in each run
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    times: u32,
    /// Milliseconds that an agent runs, and that none does
    #[arg(long, default_value_t = 250)]
    pause: u32,
    /// Routes in addition to that of the stream
    #[arg(long, default_value_t = 100)]
    routes: u32,
    /// Agent of another build, that takes turns with the one to measure in a run more: a version with other map layouts
    #[arg(long, value_name = "FILE")]
    other_agent: Option<PathBuf>,
    /// Agent of version 0.1, whose datapath and routes end with it: how long traffic is lost on the way from there, and
    /// back
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Activity while the stream runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Killed,
    Stopped,
    /// Each agent has the other look-up: programs of other instructions, with other maps.
    OtherLookup,
    /// Each agent is of the other build.
    OtherAgent,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { common, routes, rate, .. } = arguments;
    ensure!(*routes < PREFIXES, "--routes {routes}: fewer than {PREFIXES} are possible");
    let mut endpoints = Endpoints::make()?;
    endpoints.aim(Spread::Hosts, testbed::STREAM_ADDRESSES)?;
    let mut hub = Hub::start(arguments, &endpoints.world[HUB])?;
    let pace = Pace::new(*rate, common.cpu);

    let mut results = Results::new("outlive");
    let mut runs = vec![Beside::Nothing, Beside::Killed, Beside::Stopped, Beside::OtherLookup];
    runs.extend(arguments.other_agent.is_some().then_some(Beside::OtherAgent));
    for beside in runs {
        eprintln!("{}", beside.name());
        let found = measure(&endpoints, &mut hub, pace, arguments, beside)?;
        found.report(beside, &mut results);
        if beside == Beside::Nothing && !found.tally.is_exact() {
            results.finish(common.json.as_deref())?;
            bail!("frames are lost though nothing happens: void. Is the core shared with other work?");
        }
    }
    let Hub { agents, configs, .. } = &hub;
    let (new, config) = (agents[0].clone(), configs[0].clone());
    hub.running()?.agent.stop()?;
    if let Some(old) = arguments.from.clone() {
        // Of the same name: it would be taken over.
        drop(endpoints);
        let mut endpoints = Endpoints::make()?;
        endpoints.aim(Spread::Hosts, testbed::STREAM_ADDRESSES)?;
        old::Upgrade { endpoints: &endpoints, old, new, config: &config, pace, pause: pause(arguments) }
            .run(&mut results)?;
    }
    results.finish(common.json.as_deref())
}

fn pause(arguments: &Arguments) -> Duration {
    Duration::from_millis(arguments.pause.into())
}

/// The agents of the hub, one after the other.
struct Hub<'a> {
    namespace: &'a Namespace,
    /// The one to measure, and the other build.
    agents: Vec<PathBuf>,
    /// Configurations that differ in the look-up alone.
    configs: [String; 2],
    /// Which of both the running one has.
    agent: usize,
    config: usize,
    running: Option<Running>,
}

impl<'a> Hub<'a> {
    fn start(arguments: &Arguments, namespace: &'a Namespace) -> Result<Self> {
        let own = testbed::route(testbed::STREAM.to_owned(), TO_B[0], 100);
        let others = (0..arguments.routes).map(|number| testbed::route(testbed::prefix_c(number), TO_C, 100));
        let config = testbed::config(&arguments.common, [own].into_iter().chain(others), false);
        ensure!(!config.contains("[dataplane]"), "the look-up is the bench's own to choose: unset VPNHUB_TEST_LOOKUP");
        let configs = ["compiled", "lpm"].map(|lookup| format!("{config}\n[dataplane]\nlookup = \"{lookup}\"\n"));
        let agents = [arguments.common.agent()?].into_iter().chain(arguments.other_agent.clone()).collect::<Vec<_>>();
        let running = Running::start(&agents[0], namespace, &configs[0])?;
        Ok(Self { namespace, agents, configs, agent: 0, config: 0, running: Some(running) })
    }

    fn running(mut self) -> Result<Running> {
        self.running.take().context("no agent runs")
    }

    fn now(&self) -> Result<&Running> {
        self.running.as_ref().context("no agent runs")
    }

    /// Ends the agent and, after `pause`, starts the next one: how long that took until it was ready.
    fn restart(&mut self, beside: Beside, pause: Duration) -> Result<Duration> {
        let before = Datapath::of(self.now()?.agent.pid())?;
        let agent = self.running.take().context("no agent runs")?.agent;
        let files = match beside {
            Beside::Killed => agent.kill()?,
            _ => agent.stop_with(Signal::SIGTERM)?,
        };
        thread::sleep(pause);
        match beside {
            Beside::OtherLookup => self.config = 1 - self.config,
            Beside::OtherAgent => self.agent = 1 - self.agent,
            Beside::Nothing | Beside::Killed | Beside::Stopped => {}
        }
        let file = files.file("vpnhub.toml");
        fs::write(&file, &self.configs[self.config]).with_context(|| format!("writing {}", file.display()))?;
        let command = AgentCommand::new(&self.agents[self.agent]);
        let running = self.running.insert(Running::start_in(command, self.namespace, files)?);
        let differs = Datapath::of(running.agent.pid())? != before;
        let must_differ = matches!(beside, Beside::OtherLookup | Beside::OtherAgent);
        ensure!(
            differs == must_differ,
            "{}: programs and maps {}",
            beside.name(),
            if differs { "have changed" } else { "are the same as before" }
        );
        Ok(running.ready)
    }

    /// The agent's counters: received from the sender, and sent to the sinks.
    fn counted(&self) -> Result<[u64; 2]> {
        let status: Status = self.now()?.agent.status()?;
        let sent = TO_B.iter().map(|name| status.counter(name, "tx_packets")).sum();
        Ok([status.counter(&A.place, "rx_packets"), sent])
    }
}

fn measure(
    endpoints: &Endpoints,
    hub: &mut Hub<'_>,
    pace: Pace,
    arguments: &Arguments,
    beside: Beside,
) -> Result<Found> {
    let Endpoints { programs, from, .. } = endpoints;
    // Neighbours get resolved, caches warm.
    let warm = Pace::new(pace.rate.min(50_000), pace.cpu);
    stream::during(programs, from, warm, || {
        arrivals::wait_for_shares(programs, warm.rate, testbed::FLOWS_WITHIN, |_| true)
    })?;
    hub.now()?.rest()?;

    let counted_before = hub.counted()?;
    let before = Snapshot::now(programs)?;
    let pause = pause(arguments);
    let (starts, summary) = stream::during(programs, from, pace, || {
        if beside == Beside::Nothing {
            thread::sleep(Duration::from_secs(arguments.seconds.into()));
            return Ok(Vec::new());
        }
        let mut starts = Vec::new();
        for _ in 0..arguments.times {
            thread::sleep(pause);
            starts.push(milliseconds(hub.restart(beside, pause)?));
        }
        thread::sleep(pause);
        Ok(starts)
    })?;
    let tally = Tally::since(before, programs)?;
    let counted = hub.counted()?;
    let counted = [0, 1].map(|side| counted[side] - counted_before[side]);
    Ok(Found { tally, counted, starts, summary })
}

struct Found {
    tally: Tally,
    /// By the agent: received from the sender, sent to the sinks.
    counted: [u64; 2],
    /// From each start until the agent was ready, milliseconds.
    starts: Vec<f64>,
    summary: StreamSummary,
}

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Killed => "killed and started",
            Self::Stopped => "stopped and started",
            Self::OtherLookup => "replaced by the other look-up",
            Self::OtherAgent => "replaced by the other build",
        }
    }
}

impl Found {
    fn report(&self, beside: Beside, results: &mut Results) {
        let Self { tally, counted, starts, summary } = self;
        let case = [("run", beside.name().into())];
        tally.report(&case, results);
        results.add(&case, "counted as received", "frames", [float(counted[0])]);
        results.add(&case, "counted as sent", "frames", [float(counted[1])]);
        results.add(&case, "rate", "frames/s", [(float(tally.sent) / summary.elapsed.as_secs_f64()).round()]);
        results.add(&case, "longest pause of sender", "ms", [milliseconds(summary.longest_pause)]);
        results.add(&case, "start until ready", "ms", starts.iter().copied());
        let (arrived, sent, garbled) = (tally.arrived(), tally.sent, tally.garbled());
        let what = format!("{}: every frame arrives as it must; {arrived} of {sent}, {garbled} wrong", beside.name());
        results.target(what, tally.is_exact());
        let [received, out] = counted;
        let what = format!("{}: every frame is counted once; {received} in, {out} out, of {sent}", beside.name());
        results.target(what, *counted == [tally.sent; 2]);
    }
}

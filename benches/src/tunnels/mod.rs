//! An agent with very many tunnels: its load while they are idle, dead or coming up, how fast it answers and fails over
//! meanwhile; and starts with as many interfaces.

mod crowd;
mod events;
mod interfaces;
mod metrics;
mod player;
mod recording;
mod vici;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use hub_tests::lab::{Agent, HUB};
use serde_json::Value;

use self::crowd::{Charons, Sites};
use crate::{
    failover,
    process::{self, Memory},
    rows::Results,
    stats::{Summary, milliseconds},
    stream::Pace,
    testbed::{Common, Running, Testbed},
};

#[derive(Args)]
pub struct Arguments {
    /// Tunnels or interfaces, a measurement after the other
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000],
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    count: Vec<u32>,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Live, Part::Dead, Part::Interfaces])]
    part: Vec<Part>,
    /// Starts of each kind
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Seconds over which the agent's load is measured
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Calls of `vpnhub status`, scrapes, and failovers
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Tunnels of strongSwan at both ends: coming up, idle, closed and initiated again during failovers
    Live,
    /// Sites that never answer
    Dead,
    /// Connections on as many interfaces, without IPsec: start, restart, stop
    Interfaces,
    /// Scrapes of metrics, with 100,000 routes to destinations with two next hops
    Metrics,
    /// Events of strongSwan, recorded and told of so many tunnels: idle, eight hours at speed, and failovers
    Events,
}

/// Connections of the offices.
const OFFICES: u32 = 4;
/// The quota for connections is up to 4000.
const MOST: u32 = 4_000 - OFFICES;
/// Prefixes routed to the site with two tunnels.
const PREFIXES: u32 = 10;
/// Frames a second of the stream that shows a failover.
const RATE: u32 = 100_000;

/// Upper limits of a measure, by the number of tunnels.
type Limits = [(u32, f64); 3];
const IDLE_CPU: Limits = [(100, 0.3), (1_000, 2.0), (4_000, 8.0)];
const STATUS: Limits = [(100, 20.0), (1_000, 60.0), (4_000, 200.0)];
const DEAD_CPU: Limits = [(100, 0.5), (1_000, 3.0), (4_000, f64::INFINITY)];
const FAILOVER_MEDIAN: Limits = [(100, 3.0), (1_000, 3.0), (4_000, 5.0)];
const FAILOVER_P99: Limits = [(100, 10.0), (1_000, 15.0), (4_000, 20.0)];
const UP_MULTIPLE: Limits = [(100, 1.1), (1_000, 1.1), (4_000, f64::INFINITY)];
const MEMORY: Limits = [(100, 30.0), (1_000, 80.0), (4_000, 250.0)];

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut results = Results::new("tunnels");
    for &count in &arguments.count {
        for part in &arguments.part {
            match part {
                Part::Live => live(arguments, count, &mut results)?,
                Part::Dead => dead(arguments, count, &mut results)?,
                Part::Events => events::measure(arguments, count, &mut results)?,
                Part::Metrics => metrics::measure(&arguments.common, count, arguments.runs, &mut results)?,
                Part::Interfaces => interfaces::measure(&arguments.common, count, arguments.repeats, &mut results)?,
            }
        }
    }
    results.finish(arguments.common.json.as_deref())
}

/// Tunnels that come up, are idle, and are closed and initiated again while links fail.
fn live(arguments: &Arguments, count: u32, results: &mut Results) -> Result<()> {
    let Arguments { repeats, seconds, runs, common, .. } = arguments;
    let case: [(&str, Value); 2] = [("tunnels", count.into()), ("sites", "alive".into())];
    let offices = failover::standby(common, PREFIXES);

    let (mut alone, mut with_agent) = (Vec::new(), Vec::new());
    let (mut charon_alone, mut charon_with_agent, mut agent) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in 1..=*repeats {
        let world = crowd::world(count)?;
        let charons = Charons::start(&world, Sites::Alive, count)?;
        let begin = Instant::now();
        charons.load_into_hub()?;
        charons.wait_until_up()?;
        alone.push(begin.elapsed().as_secs_f64());
        charon_alone.push(charons.processor_time()?.as_secs_f64());
        drop(charons);

        let charons = Charons::start(&world, Sites::Alive, count)?;
        let begin = Instant::now();
        let running = Running::start(&common.agent()?, &world[HUB], &charons.config(&offices))?;
        charons.wait_until_up()?;
        with_agent.push(begin.elapsed().as_secs_f64());
        charon_with_agent.push(charons.processor_time()?.as_secs_f64());
        agent.push(process::processor_time(running.agent.pid())?.as_secs_f64());
        eprintln!(
            "start {repeat} of {repeats}, {count} tunnels: {:.2} s by charon alone, which uses {:.2} s; {:.2} s with \
             the agent, ready after {:.2} s, charon uses {:.2} s, the agent {:.2} s",
            alone[alone.len() - 1],
            charon_alone[charon_alone.len() - 1],
            with_agent[with_agent.len() - 1],
            running.ready.as_secs_f64(),
            charon_with_agent[charon_with_agent.len() - 1],
            agent[agent.len() - 1],
        );
        running.agent.stop()?;
    }
    let ratios = with_agent.iter().zip(&alone).map(|(with, without)| with / without);
    let up = results.add(&case, "all up, by charon alone", "s", alone.iter().copied());
    ensure!(up.is_some(), "there was no start");
    results.add(&case, "all up, with the agent", "s", with_agent.iter().copied());
    let up = results.add(&case, "all up, ratio", "", ratios);
    results.add(&case, "all up, charon's processor time, alone", "s", charon_alone);
    results.add(&case, "all up, charon's processor time, with the agent", "s", charon_with_agent);
    results.add(&case, "all up, the agent's processor time", "s", agent);

    let world = crowd::world(count)?;
    let charons = Charons::start(&world, Sites::Alive, count)?;
    let testbed = Testbed::start_in(world, common, &charons.config(&offices), failover::addresses(PREFIXES))?;
    charons.wait_until_up()?;
    all_up(&testbed.running.agent, count)?;
    testbed.running.rest()?;
    let idle = load(&testbed.running.agent, *seconds)?;
    let idle = results.add(&case, "agent's load, idle", "% of a core", [idle]);
    let status = results.add(&case, "status", "ms", status_times(&testbed.running.agent, *runs)?);
    let memory = Memory::of(testbed.running.agent.pid())?;
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
    let memory = results.add(&case, "agent, resident", "MiB", [memory.resident as f64 / 1024.0 / 1024.0]);

    let mut hub = failover::Case::busy(testbed, PREFIXES, Pace::new(RATE, common.cpu))?;
    let closed = while_closing(&charons, count, || {
        (1..=*runs).try_for_each(|run| {
            hub.fail(run)?;
            if let Some(found) = hub.found.last() {
                eprintln!("failover {run} of {runs}, {count} tunnels: {:?}", found.restored);
            }
            Ok(())
        })
    })?;
    let restored = hub.found.iter().map(|found| milliseconds(found.restored));
    let restored = results.add(&case, "failover meanwhile", "ms", restored);
    results.add(&case, "tunnels closed and initiated meanwhile", "", [f64::from(closed)]);
    hub.testbed.stop()?;

    target(results, count, "all up, multiple of charon alone", up, Quantile::Median, UP_MULTIPLE, "");
    target(results, count, "load with idle tunnels", idle, Quantile::Median, IDLE_CPU, " %");
    target(results, count, "status", status, Quantile::P99, STATUS, " ms");
    target(results, count, "memory", memory, Quantile::Median, MEMORY, " MiB");
    target(results, count, "failover", restored, Quantile::Median, FAILOVER_MEDIAN, " ms");
    target(results, count, "failover", restored, Quantile::P99, FAILOVER_P99, " ms");
    Ok(())
}

/// Sites that never answer.
fn dead(arguments: &Arguments, count: u32, results: &mut Results) -> Result<()> {
    let Arguments { seconds, runs, common, .. } = arguments;
    let case: [(&str, Value); 2] = [("tunnels", count.into()), ("sites", "dead".into())];
    let world = crowd::world(count)?;
    let charons = Charons::start(&world, Sites::Dead, count)?;
    let config = charons.config(&failover::standby(common, PREFIXES));
    let running = Running::start(&common.agent()?, &world[HUB], &config)?;
    let used = load(&running.agent, *seconds)?;
    let used = results.add(&case, "agent's load", "% of a core", [used]);
    let status = results.add(&case, "status", "ms", status_times(&running.agent, *runs)?);
    running.agent.stop()?;
    target(results, count, "load with dead sites", used, Quantile::Median, DEAD_CPU, " %");
    target(results, count, "status with dead sites", status, Quantile::P99, STATUS, " ms");
    Ok(())
}

/// A configuration with room for so many more sites.
fn with_quota(offices: &str, sites: u32) -> String {
    let quota = format!("[gateway]\nmax_connections = {}\n", sites + OFFICES);
    offices.replacen("[gateway]\n", &quota, 1)
}

/// Closes one tunnel after another until `body` is done; returns their number.
fn while_closing(charons: &Charons, count: u32, body: impl FnOnce() -> Result<()>) -> Result<u32> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<u32> {
            let mut closed = 0;
            while !done.load(Ordering::Relaxed) {
                // One that is not up again yet cannot be closed.
                closed += u32::from(charons.close(closed % count).is_ok());
                thread::sleep(Duration::from_millis(20));
            }
            Ok(closed)
        });
        let result = body();
        done.store(true, Ordering::Relaxed);
        let closed = worker.join().expect("closing does not panic")?;
        result?;
        ensure!(closed > 0, "no tunnel could be closed");
        Ok(closed)
    })
}

/// The agent must report all of these tunnels as up.
fn all_up(agent: &Agent, count: u32) -> Result<()> {
    let up = |status: &hub_tests::lab::Status| {
        let connections = status["connections"].as_array().into_iter().flatten();
        let tunnels = connections.filter(|connection| connection["interface"] == "ipsec0");
        tunnels.filter(|connection| connection["state"] == "up").count() == count as usize
    };
    agent.wait_for_status(Duration::from_secs(60), up).map(drop).context("not all tunnels are up")
}

/// The agent's processor time over so many seconds, in percent of a core.
fn load(agent: &Agent, seconds: u32) -> Result<f64> {
    let before = process::processor_time(agent.pid())?;
    thread::sleep(Duration::from_secs(seconds.into()));
    let used = process::processor_time(agent.pid())?.saturating_sub(before);
    Ok(used.as_secs_f64() / f64::from(seconds) * 100.0)
}

/// Milliseconds of `vpnhub --output json status`, the start of the command included.
fn status_times(agent: &Agent, runs: u32) -> Result<Vec<f64>> {
    (0..runs)
        .map(|_| {
            let begin = Instant::now();
            let said = agent.cli(&["--output", "json", "status"])?;
            let time = milliseconds(begin.elapsed());
            ensure!(said.status.success(), "status failed: {}", String::from_utf8_lossy(&said.stderr));
            Ok(time)
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Quantile {
    Median,
    P99,
}

/// Adds the target for this number of tunnels, if there is one.
fn target(
    results: &mut Results,
    count: u32,
    what: &str,
    found: Option<Summary>,
    quantile: Quantile,
    limits: Limits,
    unit: &str,
) {
    let Some(summary) = found else { return };
    let Some((_, limit)) = limits.into_iter().find(|(most, limit)| count <= *most && limit.is_finite()) else { return };
    let (name, value) = match quantile {
        Quantile::Median => ("median", summary.median),
        Quantile::P99 => ("p99", summary.p99),
    };
    results.target(format!("{what}, {count}: {name} at most {limit}{unit}; {value:.2}"), value <= limit);
}

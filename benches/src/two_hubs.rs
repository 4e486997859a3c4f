//! How long traffic stops when one of two hubs ends, and whether a drained one loses a packet.
//!
//! Pings on several flows, each every 2 ms; an answer that takes more than 10 ms counts as lost. The gap of a flow is the
//! longest time between two of its answers in a row.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use hub_tests::lab::{HUB, Namespace, Ping, PingReport, SHANGHAI, StandbyPair, TwoHubs, VPC};

use crate::{
    rows::Results,
    stats::{float, milliseconds},
    testbed,
};

const INTERVAL: Duration = Duration::from_millis(2);
const TIMEOUT: Duration = Duration::from_millis(10);
/// Pings of a flow: some seconds.
const COUNT: u16 = 1500;
/// Before the event, all must be answered.
const BEFORE: Duration = Duration::from_millis(700);
const KINDS: [&str; 3] = ["site to VPC", "VPC to site", "site to site"];
/// Flows of each kind.
const FLOWS: std::ops::Range<u8> = 10..14;

const WORST_KILLED: f64 = 300.0;
const WORST_STANDBY: f64 = 3000.0;

#[derive(Args)]
pub struct Arguments {
    /// How often a hub ends, and comes back
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// The agent to measure; the default is the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Leave out active/standby
    #[arg(long)]
    without_standby: bool,
    /// File for the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut results = Results::new("two-hubs");
    let agent = testbed::agent(arguments.agent.as_deref())?;
    active_active(&agent, arguments.runs, &mut results)?;
    if !arguments.without_standby {
        active_standby(&agent, arguments.runs, &mut results)?;
    }
    results.finish(arguments.json.as_deref())
}

fn active_active(agent: &Path, runs: u32, results: &mut Results) -> Result<()> {
    let mut lab = TwoHubs::start(agent)?;
    let (mut killed, mut drained, mut returned) = (Found::default(), Found::default(), Found::default());
    for run in 1..=runs {
        let hub = usize::try_from(run % 2)?;
        wait_for_answers(&lab)?;
        drained.add(&during(flows(&lab)?, || lab.agent(hub).json(&["standby", "--drain", "1s"]).map(drop))?);
        returned.add(&during(flows(&lab)?, || {
            lab.agent(hub).json(&["active"])?;
            lab.wait_for_next_hops(2)
        })?);
        wait_for_answers(&lab)?;
        killed.add(&during(flows(&lab)?, || lab.kill_hub(hub))?);
        lab.wait_for_next_hops(1)?;
        lab.start_hub(hub)?;
        lab.wait_for_next_hops(2)?;
        eprintln!("run {run} of {runs}: gaps {:?} ms", killed.gaps.each_ref().map(|gaps| gaps.last().copied()));
    }
    let worst = killed.report("killed", results);
    results.target(format!("killed hub: longest gap {worst:.0} ms, at most {WORST_KILLED} ms"), worst <= WORST_KILLED);
    for (name, found) in [("drained", drained), ("returned", returned)] {
        found.report(name, results);
        let lost: u64 = found.lost.iter().flatten().sum();
        results.target(format!("{name} hub: {lost} of {} pings lost", found.sent), lost == 0);
    }
    lab.stop()
}

/// By kind of traffic, a value for each run.
#[derive(Default)]
struct Found {
    /// The longest of a flow, in milliseconds.
    gaps: [Vec<f64>; KINDS.len()],
    lost: [Vec<u64>; KINDS.len()],
    sent: u64,
}

impl Found {
    fn add(&mut self, reports: &[Vec<PingReport>]) {
        for (kind, reports) in reports.iter().enumerate() {
            let gap = reports.iter().filter_map(|report| report.longest_gap).max().unwrap_or(Duration::MAX);
            self.gaps[kind].push(milliseconds(gap));
            self.lost[kind].push(reports.iter().map(|report| u64::from(report.sent - report.received)).sum());
            self.sent += reports.iter().map(|report| u64::from(report.sent)).sum::<u64>();
        }
    }

    /// Returns the longest gap.
    fn report(&self, hub: &str, results: &mut Results) -> f64 {
        for (kind, name) in KINDS.iter().enumerate() {
            let case = [("hub", hub.into()), ("traffic", (*name).into())];
            results.add(&case, "longest gap", "ms", self.gaps[kind].iter().copied());
            results.add(&case, "lost", "pings", self.lost[kind].iter().map(|lost| float(*lost)));
        }
        self.gaps.iter().flatten().copied().fold(0.0, f64::max)
    }
}

/// A place, an address of it, and the destination.
type Flow = (Namespace, IpAddr, IpAddr);

/// By kind.
fn flows(lab: &TwoHubs) -> Result<Vec<Vec<Flow>>> {
    let of_flow = |kind: usize, number: u8| {
        let (from, source, to) = lab.flow(kind, number);
        Ok((from.duplicate()?, source, to))
    };
    (0..KINDS.len()).map(|kind| FLOWS.map(|number| of_flow(kind, number)).collect()).collect()
}

/// Pings on all flows, with the event in between. Returns the reports by kind.
fn during(flows: Vec<Vec<Flow>>, event: impl FnOnce() -> Result<()>) -> Result<Vec<Vec<PingReport>>> {
    let start = |(from, source, to): Flow| {
        let ping = Ping::new(to).source(source).count(COUNT).interval(INTERVAL).timeout(TIMEOUT);
        thread::spawn(move || ping.run(&from))
    };
    let pingers: Vec<Vec<_>> = flows.into_iter().map(|flows| flows.into_iter().map(start).collect()).collect();
    thread::sleep(BEFORE);
    let result = event();
    let join = |flows: Vec<thread::JoinHandle<Result<PingReport>>>| {
        flows.into_iter().map(|flow| flow.join().expect("pinging does not panic")).collect()
    };
    let reports = pingers.into_iter().map(join).collect();
    result.and(reports)
}

fn wait_for_answers(lab: &TwoHubs) -> Result<()> {
    let begin = Instant::now();
    loop {
        let all = (0..KINDS.len()).flat_map(|kind| FLOWS.map(move |number| (kind, number)));
        let mut lost = 0;
        for (kind, number) in all {
            let (from, source, to) = lab.flow(kind, number);
            lost += u16::from(!Ping::new(to).source(source).timeout(TIMEOUT).run(from)?.complete());
        }
        match lost {
            0 => return Ok(()),
            _ => anyhow::ensure!(begin.elapsed() < Duration::from_secs(20), "{lost} flows have no answer"),
        }
    }
}

/// The active hub's links and processes end, and the other one becomes active at once: VRRP's own time to notice comes on
/// top.
fn active_standby(agent: &Path, runs: u32, results: &mut Results) -> Result<()> {
    let mut gaps = [Vec::new(), Vec::new()];
    for run in 1..=runs {
        let StandbyPair { other, other_charon, mut lab, .. } = StandbyPair::start(agent)?;
        let [site, host] = [IpAddr::from(SHANGHAI.host4()), VPC.host4.into()];
        let world = &lab.world;
        let flows = vec![
            vec![(world[&SHANGHAI.place].duplicate()?, site, host)],
            vec![(world[VPC.place].duplicate()?, host, site)],
        ];
        let reports = during(flows, || {
            world[HUB].ip("link set wan0 down")?;
            lab.hub.kill()?;
            lab.agent.kill()?;
            StandbyPair::move_addresses(world, true)?;
            // Without its carrier the VPC could not even send.
            world[HUB].ip("link set vpc0 down")?;
            other.json(&["active"]).map(drop)
        })?;
        for (gaps, reports) in gaps.iter_mut().zip(&reports) {
            gaps.push(milliseconds(reports[0].longest_gap.context("nothing was answered")?));
        }
        eprintln!("standby, run {run} of {runs}: gaps {:?} ms", gaps.each_ref().map(|gaps| gaps.last().copied()));
        other.stop()?;
        drop(other_charon);
    }
    for (name, gaps) in ["site to VPC", "VPC to site"].iter().zip(&gaps) {
        let case = [("hub", "replaced by its standby".into()), ("traffic", (*name).into())];
        results.add(&case, "longest gap", "ms", gaps.iter().copied());
    }
    let worst = gaps.iter().flatten().copied().fold(0.0, f64::max);
    results
        .target(format!("standby hub: longest gap {worst:.0} ms, at most {WORST_STANDBY} ms"), worst <= WORST_STANDBY);
    Ok(())
}

//! Whether changes of some routes cost other traffic a frame, and whether replacing its own route does.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::{
    arrivals,
    control::Control,
    rows::Results,
    stats::{float, milliseconds},
    stream::{self, Pace, StreamSummary},
    tally::{Snapshot, Tally},
    testbed::{self, Common, Endpoints, PREFIXES, TO_B, TO_C, Testbed},
};

#[derive(Args)]
pub struct Arguments {
    /// Frames a second
    #[arg(long, default_value_t = 1_000_000)]
    rate: u32,
    /// Length of each run
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Changes a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// How often the stream's own route is replaced in its run
    #[arg(long, default_value_t = 20)]
    replacements: u32,
    /// Routes in addition to that of the stream
    #[arg(long, default_value_t = 100)]
    routes: u32,
    /// Routes that come and go with a reload
    #[arg(long, default_value_t = 10_000)]
    reloaded: u32,
    #[command(flatten)]
    common: Common,
}

/// Activity while the stream runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Others,
    OthersAndOwn,
    Reloads,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { common, routes, rate, .. } = arguments;
    ensure!(*routes < PREFIXES / 2, "--routes {routes}: fewer than {} are possible", PREFIXES / 2);
    ensure!(routes + arguments.reloaded < PREFIXES, "--reloaded {}: too many", arguments.reloaded);
    let mut testbed = Testbed::start(common, &config(arguments, *routes, 100), testbed::STREAM_ADDRESSES)?;
    testbed.running.control.add_route(testbed::STREAM, TO_B[0], 100)?;
    let pace = Pace::new(*rate, common.cpu);

    let mut results = Results::new("change");
    for beside in [Beside::Nothing, Beside::Others, Beside::OthersAndOwn, Beside::Reloads] {
        eprintln!("{}: {} s", beside.name(), arguments.seconds);
        let found = measure(&mut testbed, pace, arguments, beside)?;
        found.report(beside, &mut results);
    }
    results.finish(common.json.as_deref())?;
    testbed.stop()
}

/// So many routes with this weight. The stream's own is made by command, as it is to be replaced by command.
fn config(arguments: &Arguments, others: u32, weight: u8) -> String {
    let others = (0..others).map(|number| testbed::route(testbed::prefix_c(number), TO_C, weight));
    testbed::config(&arguments.common, others, false)
}

fn measure(testbed: &mut Testbed, pace: Pace, arguments: &Arguments, beside: Beside) -> Result<Found> {
    let Testbed { running, endpoints: Endpoints { programs, from, .. } } = testbed;
    // Neighbours get resolved, caches warm.
    let warm = Pace::new(pace.rate.min(50_000), pace.cpu);
    stream::during(programs, from, warm, || {
        arrivals::wait_for_shares(programs, warm.rate, testbed::FLOWS_WITHIN, |_| true)
    })?;
    running.rest()?;

    let before = Snapshot::now(programs)?;
    let file = running.agent.config();
    let control = &mut running.control;
    let (latencies, summary) = stream::during(programs, from, pace, || {
        let end = Instant::now() + Duration::from_secs(arguments.seconds.into());
        let latencies = match beside {
            Beside::Nothing => Vec::new(),
            Beside::Others | Beside::OthersAndOwn => Changes::new(control, arguments, beside).make(end)?,
            Beside::Reloads => reload(control, &file, arguments, end)?,
        };
        thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(latencies)
    })?;
    Ok(Found { tally: Tally::since(before, programs)?, latencies, summary })
}

/// Has routes by the thousand come, change and go until `end`: how long each reload took, in milliseconds.
fn reload(control: &mut Control, file: &Path, arguments: &Arguments, end: Instant) -> Result<Vec<f64>> {
    let Arguments { routes, reloaded, .. } = arguments;
    let texts = [(routes + reloaded, 100), (routes + reloaded, 50), (*routes, 100)]
        .map(|(others, weight)| config(arguments, others, weight));
    let mut latencies = Vec::new();
    // In whole turns: the last one leaves all as it was.
    while Instant::now() < end {
        for text in &texts {
            fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
            let begin = Instant::now();
            let answer = control.reload()?;
            latencies.push(milliseconds(begin.elapsed()));
            ensure!(answer["changed"] == true, "a reload changed nothing: {answer}");
        }
    }
    Ok(latencies)
}

/// The changes of a run, one after the other.
struct Changes<'a> {
    control: &'a mut Control,
    /// Between two changes of others.
    interval: Duration,
    /// Between two replacements of the stream's own route, and how many are left.
    own: (Duration, u32),
    /// The tunnel that carries the stream.
    current: usize,
    /// The first prefix of `c` that no route is to.
    free: u32,
    latencies: Vec<f64>,
}

impl<'a> Changes<'a> {
    fn new(control: &'a mut Control, arguments: &Arguments, beside: Beside) -> Self {
        let &Arguments { changes, seconds, replacements, routes, .. } = arguments;
        let replacements = if beside == Beside::OthersAndOwn { replacements } else { 0 };
        let own = (Duration::from_secs(seconds.into()) / (replacements + 1), replacements);
        Self { control, interval: Duration::from_secs(1) / changes, own, current: 0, free: routes, latencies: vec![] }
    }

    /// Makes them until `end`, and leaves all as it was: how long each took, in milliseconds.
    fn make(mut self, end: Instant) -> Result<Vec<f64>> {
        let begin = Instant::now();
        let mut replace_at = begin + self.own.0;
        for number in 0.. {
            let due = begin + self.interval * number;
            if due.max(Instant::now()) >= end {
                // Those of a slow agent's that are left, and then what puts all back.
                while self.own.1 > 0 {
                    self.replace()?;
                }
                self.restore(number)?;
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.other(number)?;
            if self.own.1 > 0 && Instant::now() >= replace_at {
                replace_at += self.own.0;
                self.replace()?;
            }
        }
        Ok(self.latencies)
    }

    /// Change `number` of what is not the stream's: in turns of ten, three routes come, change and go, and a connection
    /// goes down, or up.
    fn other(&mut self, number: u32) -> Result<()> {
        let (turn, step) = (number / 10, number % 10);
        let destination = testbed::prefix_c(self.free + (turn * 3 + step / 3) % (PREFIXES / 2));
        self.timed(|control| match (step, step % 3) {
            (9, _) => control.enable(TO_C, turn % 2 == 1),
            (_, 0) => control.add_route(&destination, TO_C, 100),
            (_, 1) => control.set_weight(&destination, TO_C, 50),
            _ => control.delete_route(&destination, TO_C),
        })
    }

    /// Makes the stream's own route one by the other tunnel.
    fn replace(&mut self) -> Result<()> {
        let (old, new) = (TO_B[self.current], TO_B[1 - self.current]);
        self.timed(|control| control.add_route(testbed::STREAM, new, 100))?;
        self.timed(|control| control.delete_route(testbed::STREAM, old))?;
        self.current = 1 - self.current;
        self.own.1 = self.own.1.saturating_sub(1);
        Ok(())
    }

    /// After `number` changes: for the next run.
    fn restore(&mut self, number: u32) -> Result<()> {
        if matches!(number % 10, 1 | 2 | 4 | 5 | 7 | 8) {
            let destination = testbed::prefix_c(self.free + (number / 10 * 3 + number % 10 / 3) % (PREFIXES / 2));
            self.control.delete_route(&destination, TO_C)?;
        }
        self.control.enable(TO_C, true)?;
        if self.current == 1 {
            self.replace()?;
        }
        Ok(())
    }

    fn timed(&mut self, change: impl FnOnce(&mut Control) -> Result<Value>) -> Result<()> {
        let begin = Instant::now();
        let answer = change(self.control)?;
        self.latencies.push(milliseconds(begin.elapsed()));
        ensure!(answer["changed"] == true, "a change changed nothing: {answer}");
        Ok(())
    }
}

struct Found {
    tally: Tally,
    latencies: Vec<f64>,
    summary: StreamSummary,
}

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no changes",
            Self::Others => "changes of others",
            Self::OthersAndOwn => "own route replaced too",
            Self::Reloads => "routes reloaded",
        }
    }
}

impl Found {
    fn report(&self, beside: Beside, results: &mut Results) {
        let Self { tally, latencies, summary } = self;
        let case = [("run", beside.name().into())];
        tally.report(&case, results);
        results.add(&case, "rate", "frames/s", [(float(tally.sent) / summary.elapsed.as_secs_f64()).round()]);
        results.add(&case, "longest pause of sender", "ms", [milliseconds(summary.longest_pause)]);
        results.add(&case, "changes", "in all", [float(latencies.len() as u64)]);
        results.add(&case, "change", "ms", latencies.iter().copied());
        let (arrived, sent, garbled) = (tally.arrived(), tally.sent, tally.garbled());
        let what = format!("{}: every frame arrives as it must; {arrived} of {sent}, {garbled} wrong", beside.name());
        results.target(what, tally.is_exact());
    }
}

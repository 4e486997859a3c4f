//! How fast an agent with many routes starts, reads its file again, and makes a single change; what it takes for it.

use std::{
    fs::{self, File},
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hub_tests::lab::{End, Link, PlaceSpec, Scratch, World};
use serde_json::Value;

use crate::{
    process::Memory,
    programs::Programs,
    rows::Results,
    stats::{Summary, float, milliseconds},
    stream::{self, Pace},
    testbed::{self, Common, PREFIX_SIZE, PREFIXES, TO_B, Testbed},
    watch,
};

#[derive(Args)]
pub struct Arguments {
    /// Routes in the configuration
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Starts, and reloads of each kind
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Changes of a single route, of each kind
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    #[command(flatten)]
    common: Common,
}

/// Frames a second that show when a change is in force: to 50 microseconds.
const RATE: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

const ALL: f64 = 2_000.0;
const ONE: f64 = 5.0;

pub fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments { routes, repeats, .. } = arguments;
    ensure!((1..PREFIXES).contains(&routes), "--routes {routes}: 1 to {} are possible", PREFIXES - 1);
    let mut found = Found::default();
    for repeat in 1..=repeats {
        eprintln!("start and reloads {repeat} of {repeats}");
        let mut testbed = found.start(arguments)?;
        found.reloads(&mut testbed, arguments)?;
        if repeat == repeats {
            eprintln!("{} changes of each kind", arguments.changes);
            found.changes(&mut testbed, arguments)?;
        }
        let begin = Instant::now();
        testbed.running.agent.stop()?;
        found.stop.push(milliseconds(begin.elapsed()));
        found.by_ip.push(milliseconds(by_ip(routes)?));
    }
    found.report(routes).finish(arguments.common.json.as_deref())
}

/// All in milliseconds, but for the memory.
#[derive(Default)]
struct Found {
    ready: Vec<f64>,
    reload_all: Vec<f64>,
    reload_one: Vec<f64>,
    reload_none: Vec<f64>,
    add: Answers,
    add_in_force: Vec<f64>,
    set: Answers,
    delete: Answers,
    delete_in_force: Vec<f64>,
    stop: Vec<f64>,
    by_ip: Vec<f64>,
    file: Vec<f64>,
    after_start: Vec<Memory>,
    after_reloads: Vec<Memory>,
}

/// How long changes took until they were answered, and how long without what it took to write the file, which is the
/// disk's affair: the agent tells.
#[derive(Default)]
struct Answers {
    all: Vec<f64>,
    file_apart: Vec<f64>,
}

impl Answers {
    fn push(&mut self, (all, file): (f64, f64)) {
        self.all.push(all);
        self.file_apart.push(all - file);
    }
}

impl Found {
    fn start(&mut self, arguments: &Arguments) -> Result<Testbed> {
        let config = config(arguments, |_| TO_B[0]);
        // All of the stream goes to the first prefix.
        let testbed = Testbed::start(&arguments.common, &config, PREFIX_SIZE - 1)?;
        self.ready.push(milliseconds(testbed.running.ready));
        testbed.running.rest()?;
        self.after_start.push(Memory::of(testbed.running.agent.pid())?);
        Ok(testbed)
    }

    /// Every route gets another next hop; then one gets its old one back; then nothing changes; then all is as before.
    fn reloads(&mut self, testbed: &mut Testbed, arguments: &Arguments) -> Result<()> {
        let last = arguments.routes - 1;
        let texts = [
            config(arguments, |_| TO_B[1]),
            config(arguments, |number| if number == last { TO_B[0] } else { TO_B[1] }),
            config(arguments, |number| if number == last { TO_B[0] } else { TO_B[1] }),
            config(arguments, |_| TO_B[0]),
        ];
        for (step, text) in texts.into_iter().enumerate() {
            let file = testbed.running.agent.config();
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            let begin = Instant::now();
            let answer = testbed.running.control.reload()?;
            let times = match step {
                0 | 3 => &mut self.reload_all,
                1 => &mut self.reload_one,
                _ => &mut self.reload_none,
            };
            times.push(milliseconds(begin.elapsed()));
            // With a single route, "all but one" is none.
            ensure!((answer["changed"] == true) == (step != 2), "a reload did something else: {answer}");
            testbed.running.rest()?;
        }
        self.after_reloads.push(Memory::of(testbed.running.agent.pid())?);
        Ok(())
    }

    /// The stream goes to a prefix by the first tunnel. A route to a part of it by the second comes, changes and goes.
    fn changes(&mut self, testbed: &mut Testbed, arguments: &Arguments) -> Result<()> {
        let Testbed { running, programs, from, .. } = testbed;
        let (control, programs) = (&mut running.control, &*programs);
        let part = testbed::prefix_b(0).replace("/28", "/29");
        let text = config(arguments, |_| TO_B[0]);
        let pace = Pace::new(RATE, arguments.common.cpu);
        let during = || {
            watch::wait_for_shares(programs, RATE, PATIENCE, |[_, second]| second == 0)?;
            for _ in 0..arguments.changes {
                self.file.push(replace_file(&text)?);
                let (answer, force) = in_force(programs, true, || control.add_route(&part, TO_B[1], 100))?;
                self.add.push(answer);
                self.add_in_force.push(force);
                self.set.push(timed(|| control.set_weight(&part, TO_B[1], 50))?);
                let (answer, force) = in_force(programs, false, || control.delete_route(&part, TO_B[1]))?;
                self.delete.push(answer);
                self.delete_in_force.push(force);
            }
            Ok(())
        };
        stream::during(programs, from, pace, during).map(drop)
    }

    fn report(&self, routes: u32) -> Results {
        let mut results = Results::new("update");
        let case = [("routes", Value::from(routes))];
        let mut add = |measure, values: &[f64]| results.add(&case, measure, "ms", values.iter().copied());
        let ready = add("start until ready", &self.ready);
        let reload_all = add("reload, every route changed", &self.reload_all);
        add("reload, one route changed", &self.reload_one);
        add("reload, nothing changed", &self.reload_none);
        add("route add", &self.add.all);
        add("route set", &self.set.all);
        add("route delete", &self.delete.all);
        let changes = [
            add("route add, file apart", &self.add.file_apart),
            add("route set, file apart", &self.set.file_apart),
            add("route delete, file apart", &self.delete.file_apart),
        ];
        add("route add, in force", &self.add_in_force);
        add("route delete, in force", &self.delete_in_force);
        add("such a file replaced", &self.file);
        add("stop", &self.stop);
        add("`ip -batch` of as many", &self.by_ip);
        for (when, memory) in [("after start", &self.after_start), ("after reloads", &self.after_reloads)] {
            let case = [case[0].clone(), ("when", when.into())];
            let mut add = |measure, bytes: fn(&Memory) -> u64| {
                results.add(&case, measure, "MiB", memory.iter().map(|memory| float(bytes(memory)) / 1024.0 / 1024.0));
            };
            add("agent, resident", |memory| memory.resident);
            add("agent, most ever resident", |memory| memory.peak);
            add("kernel, maps", |memory| memory.maps);
        }
        let mut target = |name: &str, summary: Option<Summary>, limit: f64| {
            if let Some(Summary { median, .. }) = summary {
                let what = format!("{name}, {routes} routes: median below {limit} ms; {median:.2} ms");
                results.target(what, median < limit);
            }
        };
        target("start", ready, ALL);
        target("reload of all", reload_all, ALL);
        for (name, summary) in
            ["route add, file apart", "route set, file apart", "route delete, file apart"].into_iter().zip(changes)
        {
            target(name, summary, ONE);
        }
        results
    }
}

/// Milliseconds until the answer, and of these to write the file.
fn timed(change: impl FnOnce() -> Result<Value>) -> Result<(f64, f64)> {
    let begin = Instant::now();
    let answer = change()?;
    let time = milliseconds(begin.elapsed());
    ensure!(answer["changed"] == true, "a change changed nothing: {answer}");
    let file = answer["took"]["writing"].as_f64().context("the answer does not tell how long the file took")?;
    Ok((time, file))
}

/// Makes a change after which frames come by the second tunnel, or do not any more. As [`timed`], and milliseconds until
/// the first frame there, or the last.
fn in_force(
    programs: &Programs,
    come: bool,
    change: impl FnOnce() -> Result<Value> + Send,
) -> Result<((f64, f64), f64)> {
    let (made, event) = (programs.made()?, watch::clock()?);
    thread::scope(|scope| {
        // The record does not go back as far as a slow answer.
        let answer = scope.spawn(|| timed(change));
        let force = watch::second_tunnel(programs, event, made, RATE, come, PATIENCE);
        let answer = answer.join().expect("asking does not panic")?;
        Ok((answer, milliseconds(force?)))
    })
}

fn config(arguments: &Arguments, next_hop: impl Fn(u32) -> &'static str) -> String {
    let routes = (0..arguments.routes).map(|number| testbed::route(testbed::prefix_b(number), next_hop(number), 100));
    testbed::config(&arguments.common, routes, false)
}

/// How long a file with this text takes to be written and to replace another one, so that it is there after a crash.
fn replace_file(text: &str) -> Result<f64> {
    let scratch = Scratch::new()?;
    let begin = Instant::now();
    let mut file = File::create(scratch.file("new"))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(scratch.file("new"), scratch.file("old"))?;
    File::open(scratch.path())?.sync_all()?;
    Ok(milliseconds(begin.elapsed()))
}

/// How long `ip` takes to write as many routes into a kernel that has none.
fn by_ip(routes: u32) -> Result<Duration> {
    let here = End::new("here", "wan0").address("169.254.1.1/30");
    let world = World::builder()
        .place(PlaceSpec::new("here"))
        .place(PlaceSpec::new("there"))
        .link(Link::new(here, End::new("there", "wan0")))
        .build()?;
    let lines: Vec<String> = (0..routes)
        .map(|number| format!("route add {} via 169.254.1.2 dev wan0\n", testbed::prefix_b(number)))
        .collect();
    let lines = lines.concat();
    let begin = Instant::now();
    world["here"].batch(&lines)?;
    Ok(begin.elapsed())
}

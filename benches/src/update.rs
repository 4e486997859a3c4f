//! How fast an agent with many routes starts, reads its file again, and makes a single change; what it takes for it;
//! and how that compares with the kernel's own routes and `ip -batch`.

mod kernel;
mod learned;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hub_tests::lab::HUB;
use serde_json::Value;

use self::learned::Learned;
use crate::{
    arrivals::{self, Sign},
    process::Memory,
    programs::Programs,
    rows::Results,
    settings::Spread,
    stats::{Summary, float, milliseconds},
    stream::{self, Pace},
    testbed::{self, Common, Endpoints, PREFIX_LENGTH, PREFIX_SIZE, PREFIXES, Running, TO_B, Testbed},
};

#[derive(Args)]
pub struct Arguments {
    /// Routes in the configuration, a measurement after the other
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["100000"],
        value_parser = clap::value_parser!(u32).range(2..i64::from(PREFIXES)))]
    routes: Vec<u32>,
    /// Starts, and reloads of each kind
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Changes of a single route, of each kind
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// Measure routes that a routing daemon writes into a table of the kernel instead
    #[arg(long)]
    learned: bool,
    #[command(flatten)]
    common: Common,
}

/// Frames a second that show when a change is in force: to 50 microseconds.
const RATE: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(300);
/// Addresses that show when all routes are in force, evenly spread over them. Each gets a frame every 3 ms.
const SAMPLES: u32 = 64;

/// Milliseconds for all routes, of so many at most.
const ALL: (f64, u32) = (2_000.0, 100_000);
const ONE: f64 = 5.0;
/// Of the time that `ip -batch` takes.
const OF_IP: f64 = 0.5;
/// The same for learned routes.
const LEARNED: f64 = 2.0;

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut results = Results::new("update");
    for &routes in &arguments.routes {
        if arguments.learned {
            learned(arguments, routes, &mut results)?;
            continue;
        }
        Found { routes, ..Found::default() }.measure(arguments)?.report(&mut results);
    }
    results.finish(arguments.common.json.as_deref())
}

fn learned(arguments: &Arguments, routes: u32, results: &mut Results) -> Result<()> {
    let mut found = Learned::default();
    for repeat in 1..=arguments.repeats {
        eprintln!("{routes} learned routes, {repeat} of {}", arguments.repeats);
        found.measure(arguments, routes)?;
    }
    let Learned { in_force, by_kernel, lost } = found;
    let case = [("learned routes", Value::from(routes))];
    let in_force = results.add(&case, "until all are in force", "ms", in_force);
    let by_kernel = results.add(&case, "`ip -batch` of as many", "ms", by_kernel);
    let lost = results.add(&case, "frames lost by a flap of others", "", lost);
    if let (Some(Summary { median, .. }), Some(kernel), Some(lost)) = (in_force, by_kernel, lost) {
        let limit = kernel.median * LEARNED;
        let what = format!("{routes} learned: median below {limit:.0} ms, twice `ip -batch`; {median:.0} ms");
        results.target(what, median < limit);
        results.target(format!("frames lost by a flap of others: none; {}", lost.median), lost.median < 0.5);
    }
    Ok(())
}

/// All in milliseconds, except the memory.
#[derive(Default)]
struct Found {
    routes: u32,
    ready: Vec<f64>,
    loaded: Vec<f64>,
    reload_all: Vec<f64>,
    changed: Vec<f64>,
    reload_one: Vec<f64>,
    reload_none: Vec<f64>,
    add: Vec<f64>,
    add_in_force: Vec<f64>,
    set: Vec<f64>,
    delete: Vec<f64>,
    delete_in_force: Vec<f64>,
    stop: Vec<f64>,
    loaded_by_ip: Vec<f64>,
    changed_by_ip: Vec<f64>,
    /// Bytes.
    kernel: Vec<u64>,
    after_start: Vec<Memory>,
    after_reloads: Vec<Memory>,
}

impl Found {
    fn measure(mut self, arguments: &Arguments) -> Result<Self> {
        let &Arguments { repeats, .. } = arguments;
        for repeat in 1..=repeats {
            eprintln!("{} routes: start and reloads {repeat} of {repeats}", self.routes);
            let mut testbed = self.start(arguments)?;
            self.reloads(&mut testbed, arguments)?;
            if repeat == repeats {
                eprintln!("{} changes of each kind", arguments.changes);
                self.changes(&mut testbed, arguments)?;
            }
            let begin = Instant::now();
            testbed.running.agent.stop_within(PATIENCE)?;
            self.stop.push(milliseconds(begin.elapsed()));
            let (loaded, changed, memory) = kernel::measure(self.routes)?;
            self.loaded_by_ip.push(milliseconds(loaded));
            self.changed_by_ip.push(milliseconds(changed));
            self.kernel.push(memory);
        }
        Ok(self)
    }

    /// The stream shows when the last of the routes is in force in the program, whatever else the agent does before it
    /// says that it is ready.
    fn start(&mut self, arguments: &Arguments) -> Result<Testbed> {
        let config = self.config(arguments, |_| TO_B[0]);
        let agent = arguments.common.agent()?;
        let mut endpoints = Endpoints::make()?;
        let samples = SAMPLES.min(self.routes);
        let stride = (self.routes - 1) / (samples - 1);
        endpoints.aim(Spread::Apart(stride * PREFIX_SIZE), samples)?;
        endpoints.know_neighbours()?;
        let Endpoints { programs, from, world, .. } = &endpoints;
        let during = || {
            let (made, event) = (programs.made()?, arrivals::clock()?);
            thread::scope(|scope| {
                let start = scope.spawn(|| Running::start(&agent, &world[HUB], &config));
                let loaded = arrivals::all_reached(programs, event, made, samples, PATIENCE);
                // If the agent did not start, its error is more useful than missing traffic.
                let running = start.join().expect("starting an agent does not panic")?;
                Ok((running, loaded?))
            })
        };
        let ((running, loaded), _) = stream::during(programs, from, pace(arguments), during)?;
        self.ready.push(milliseconds(running.ready));
        self.loaded.push(milliseconds(loaded));
        running.rest()?;
        self.after_start.push(Memory::of(running.agent.pid())?);
        Ok(Testbed { running, endpoints })
    }

    /// Every route gets another next hop; then one gets its old one back; then nothing changes; then all is as before.
    fn reloads(&mut self, testbed: &mut Testbed, arguments: &Arguments) -> Result<()> {
        let last = self.routes - 1;
        let texts = [
            self.config(arguments, |_| TO_B[1]),
            self.config(arguments, |number| if number == last { TO_B[0] } else { TO_B[1] }),
            self.config(arguments, |number| if number == last { TO_B[0] } else { TO_B[1] }),
            self.config(arguments, |_| TO_B[0]),
        ];
        let Testbed { running, endpoints: Endpoints { programs, from, .. } } = testbed;
        for (step, text) in texts.into_iter().enumerate() {
            let file = running.agent.config();
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            let all = match step {
                0 => Some(Sign::AllBy(1)),
                3 => Some(Sign::AllBy(0)),
                _ => None,
            };
            let control = &mut running.control;
            let mut reload = || {
                let begin = Instant::now();
                let answer = control.reload()?;
                // With a single route, "all but one" is none.
                ensure!((answer["changed"] == true) == (step != 2), "a reload did something else: {answer}");
                Ok(milliseconds(begin.elapsed()))
            };
            if let Some(sign) = all {
                let during = || watch_change(programs, sign, reload);
                let ((time, changed), _) = stream::during(programs, from, pace(arguments), during)?;
                self.reload_all.push(time);
                self.changed.push(changed);
            } else {
                let times = if step == 1 { &mut self.reload_one } else { &mut self.reload_none };
                times.push(reload()?);
            }
            running.rest()?;
        }
        self.after_reloads.push(Memory::of(running.agent.pid())?);
        Ok(())
    }

    /// The stream goes to a prefix by the first tunnel. A route to a part of it by the second comes, changes and goes.
    fn changes(&mut self, testbed: &mut Testbed, arguments: &Arguments) -> Result<()> {
        let Testbed { running, endpoints } = testbed;
        // All of the stream goes to the first prefix.
        endpoints.aim(Spread::Hosts, PREFIX_SIZE - 1)?;
        let Endpoints { programs, from, .. } = &*endpoints;
        let control = &mut running.control;
        let length = |bits: u8| format!("/{bits}");
        let part = testbed::prefix_b(0).replace(&length(PREFIX_LENGTH), &length(PREFIX_LENGTH + 1));
        let during = || {
            arrivals::wait_for_shares(programs, RATE, PATIENCE, |[_, second]| second == 0)?;
            for _ in 0..arguments.changes {
                let (answer, force) =
                    watch_change(programs, Sign::FirstBy(1), || timed(|| control.add_route(&part, TO_B[1], 100)))?;
                self.add.push(answer);
                self.add_in_force.push(force);
                self.set.push(timed(|| control.set_weight(&part, TO_B[1], 50))?);
                let (answer, force) =
                    watch_change(programs, Sign::AllBy(0), || timed(|| control.delete_route(&part, TO_B[1])))?;
                self.delete.push(answer);
                self.delete_in_force.push(force);
            }
            Ok(())
        };
        stream::during(programs, from, pace(arguments), during).map(drop)
    }

    fn report(&self, results: &mut Results) {
        let routes = self.routes;
        let case = [("routes", Value::from(routes))];
        let mut add = |measure, values: &[f64]| results.add(&case, measure, "ms", values.iter().copied());
        let loaded = add("start until all routes in force", &self.loaded);
        let ready = add("start until ready", &self.ready);
        let changed = add("reload until every route changed", &self.changed);
        let reload_all = add("reload, every route changed", &self.reload_all);
        add("reload, one route changed", &self.reload_one);
        add("reload, nothing changed", &self.reload_none);
        let singles = [
            ("route add", add("route add", &self.add)),
            ("route set", add("route set", &self.set)),
            ("route delete", add("route delete", &self.delete)),
        ];
        add("route add, in force", &self.add_in_force);
        add("route delete, in force", &self.delete_in_force);
        add("stop", &self.stop);
        let loaded_by_ip = add("`ip -batch` of as many", &self.loaded_by_ip);
        let changed_by_ip = add("`ip -batch`, every route changed", &self.changed_by_ip);
        for (measure, times) in [
            ("loaded by the agent", &self.loaded),
            ("loaded by `ip -batch`", &self.loaded_by_ip),
            ("changed by the agent", &self.changed),
            ("changed by `ip -batch`", &self.changed_by_ip),
        ] {
            let rates = times.iter().map(|milliseconds| f64::from(routes) / milliseconds * 1e3);
            results.add(&case, measure, "routes/s", rates);
        }
        let mebibytes = |bytes: u64| float(bytes) / 1024.0 / 1024.0;
        results.add(&case, "kernel, as many routes", "MiB", self.kernel.iter().map(|bytes| mebibytes(*bytes)));
        for (when, memory) in [("after start", &self.after_start), ("after reloads", &self.after_reloads)] {
            let case = [case[0].clone(), ("when", when.into())];
            let mut add = |measure, bytes: fn(&Memory) -> u64| {
                results.add(&case, measure, "MiB", memory.iter().map(|memory| mebibytes(bytes(memory))));
            };
            add("agent, resident", |memory| memory.resident);
            add("agent, most ever resident", |memory| memory.peak);
            add("kernel, maps", |memory| memory.maps);
        }

        let mut target = |name: &str, summary: Option<Summary>, limit: f64, of: &str| {
            if let Some(Summary { median, .. }) = summary {
                let what = format!("{name}, {routes} routes: median below {limit:.0} ms{of}; {median:.2} ms");
                results.target(what, median < limit);
            }
        };
        if routes <= ALL.1 {
            target("start", ready, ALL.0, "");
            target("reload of all", reload_all, ALL.0, "");
        }
        for (name, summary) in singles {
            target(name, summary, ONE, "");
        }
        for (name, agent, ip) in [("all loaded", loaded, loaded_by_ip), ("all changed", changed, changed_by_ip)] {
            if let Some(ip) = ip {
                target(name, agent, ip.median * OF_IP, ", half of `ip -batch`");
            }
        }
    }

    fn config(&self, arguments: &Arguments, next_hop: impl Fn(u32) -> &'static str) -> String {
        let routes = (0..self.routes).map(|number| testbed::route(testbed::prefix_b(number), next_hop(number), 100));
        testbed::config(&arguments.common, routes, false)
    }
}

fn pace(arguments: &Arguments) -> Pace {
    Pace::new(RATE, arguments.common.cpu)
}

/// Milliseconds until the answer.
fn timed(change: impl FnOnce() -> Result<Value>) -> Result<f64> {
    let begin = Instant::now();
    let answer = change()?;
    let time = milliseconds(begin.elapsed());
    ensure!(answer["changed"] == true, "a change changed nothing: {answer}");
    Ok(time)
}

/// Makes a change that shows in the stream. Returns its result, and the milliseconds until the sign.
fn watch_change<T: Send>(
    programs: &Programs,
    sign: Sign,
    change: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, f64)> {
    let (made, event) = (programs.made()?, arrivals::clock()?);
    thread::scope(|scope| {
        // The record does not go back as far as a slow answer.
        let answer = scope.spawn(change);
        let force = arrivals::moved(programs, event, made, RATE, sign, PATIENCE);
        let answer = answer.join().expect("asking does not panic")?;
        Ok((answer, milliseconds(force?)))
    })
}

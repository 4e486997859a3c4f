//! Cost of forwarding a frame, by forwarder and number of routes: contenders in turn on one core.

pub mod cases;
mod flowtable;
pub mod hubs;
mod plot;
pub mod results;
pub mod routes;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::{
    cases::{Dimensions, Program, Table},
    hubs::{Hubs, Load},
    results::{Missing, Results, Row},
    routes::{Family, MOST},
};
use crate::{dispatcher::Idle, programs::Programs, testbed};

#[derive(Args)]
pub struct Arguments {
    /// Forwarders to compare with `bare`, which always runs
    #[arg(long, value_delimiter = ',', default_values = ["hub", "hub-lpm", "fib", "ip_forward", "flowtable"])]
    programs: Vec<Program>,
    /// IP versions
    #[arg(long, value_delimiter = ',', default_values = ["4", "6"])]
    family: Vec<Family>,
    /// Routes of the hub. Default: 10, 1000, 10000, 100000 and 1000000; with --quick 10 and 10000
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    routes: Vec<u32>,
    /// Addresses that the frames go to, each by a route of its own: no more than there are routes
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["1", "1000", "64000"],
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    destinations: Vec<u32>,
    /// Length of a frame, from the Ethernet header on, without the frame check sequence. IPv6 frames have 72 at least
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["64"],
        value_parser = clap::value_parser!(u32).range(60..=1514))]
    packet_bytes: Vec<u32>,
    /// Measurements of each contender, one after the other in turn
    #[arg(long, default_value_t = ENOUGH_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Frames of a measurement. Default: 500000; with --quick 200000
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    frames: Option<u64>,
    /// Fewer routes and frames: a minute or two
    #[arg(long)]
    quick: bool,
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Core that everything runs on: generator, hub and sink. Default: the last that is allowed
    #[arg(long)]
    cpu: Option<usize>,
    /// Writes the rows here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the ratio to `bare` by routes here
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// With fewer rounds a median is not reliable.
const ENOUGH_ROUNDS: u32 = 7;
const ROUTES: [u32; 5] = [10, 1000, 10_000, 100_000, 1_000_000];
const QUICK_ROUTES: [u32; 2] = [10, 10_000];
const FRAMES: u64 = 500_000;
const QUICK_FRAMES: u64 = 200_000;
/// For the kernel to clean up after a world that is gone.
const SETTLE: Duration = Duration::from_secs(1);

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut bench = Bench::new(arguments)?;
    let tables = bench.dimensions.tables();
    for (number, table) in (1..).zip(&tables) {
        eprintln!("table {number} of {}: IPv{}, {} routes", tables.len(), table.family.number(), table.routes);
        bench.table(table).with_context(|| format!("IPv{} with {} routes", table.family.number(), table.routes))?;
        // Write after each world, so that an interrupt loses no results.
        bench.save(arguments)?;
        thread::sleep(SETTLE);
    }
    bench.finish();
    Ok(())
}

struct Bench {
    dimensions: Dimensions,
    /// `bare` first.
    contenders: Vec<Program>,
    rounds: u32,
    frames: u64,
    cpu: Option<usize>,
    agent: PathBuf,
    programs: Programs,
    _idle: Idle,
    results: Results,
}

impl Bench {
    fn new(arguments: &Arguments) -> Result<Self> {
        let quick = arguments.quick;
        let routes = match (&arguments.routes[..], quick) {
            ([], true) => QUICK_ROUTES.to_vec(),
            ([], false) => ROUTES.to_vec(),
            (routes, _) => routes.to_vec(),
        };
        let dimensions = Dimensions {
            families: arguments.family.clone(),
            routes,
            destinations: arguments.destinations.clone(),
            packet_bytes: arguments.packet_bytes.clone(),
        };
        let mut results = Results::default();
        let mut contenders = vec![Program::Bare];
        for program in &arguments.programs {
            let missing = if *program == Program::FlowTable { flowtable::missing() } else { None };
            match missing {
                Some(why) => results.notes.push(format!("{} is left out: {why}", program.name())),
                None if contenders.contains(program) => {}
                None => contenders.push(*program),
            }
        }
        let mut programs = Programs::load()?;
        let idle = Idle::attach(&mut programs)?;
        Ok(Self {
            dimensions,
            contenders,
            rounds: arguments.rounds,
            frames: arguments.frames.unwrap_or(if quick { QUICK_FRAMES } else { FRAMES }),
            cpu: arguments.cpu,
            agent: testbed::agent(arguments.agent.as_deref())?,
            programs,
            _idle: idle,
            results,
        })
    }

    /// All cases of one table of routes.
    fn table(&mut self, table: &Table) -> Result<()> {
        let &Table { family, routes, .. } = table;
        let mut hubs = Hubs::make(&mut self.programs, family, routes)?;
        let mut contenders = self.contenders.clone();
        for program in self.contenders.iter().copied().filter(|program| program.lookup().is_some()) {
            match hubs.start_agent(&mut self.programs, program, &self.agent, (family, routes)) {
                Ok(ready) => eprintln!("  {} was ready after {:.1} s", program.name(), ready.as_secs_f64()),
                Err(error) => {
                    contenders.retain(|other| *other != program);
                    // The agent's log can be long, and is on stderr already.
                    let why = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                    self.results.missing.push(Missing { program, family, routes, why });
                }
            }
        }
        for &(destinations, bytes) in &table.cases {
            let load = Load { family, routes, destinations, bytes, frames: self.frames, cpu: self.cpu };
            self.case(&hubs, &contenders, load)?;
        }
        hubs.end()
    }

    /// Rounds, in each of which every contender has its turn. A round counts if none of its runs is void.
    fn case(&mut self, hubs: &Hubs, contenders: &[Program], load: Load) -> Result<()> {
        let Load { family, routes, destinations, bytes, .. } = load;
        let mut contenders = contenders.to_vec();
        let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut voids: BTreeMap<&str, u32> = BTreeMap::new();
        let mut rounds = 0;
        while rounds < self.rounds {
            let mut round = Vec::new();
            for &program in &contenders {
                let report = hubs.run(&mut self.programs, program, load).with_context(|| program.name().to_owned())?;
                if report.void {
                    eprintln!("  not counted: {}: {report}", program.name());
                    let count = voids.entry(program.name()).or_default();
                    *count += 1;
                    if *count > self.rounds {
                        ensure!(
                            program != Program::Bare,
                            "bare loses frames in most rounds: is the machine very busy?"
                        );
                        let why = format!("with {destinations} destinations, too many runs are void: {report}");
                        self.results.missing.push(Missing { program, family, routes, why });
                    }
                    break;
                }
                round.push((program.name(), report.nanoseconds_per_packet()));
            }
            if round.len() == contenders.len() {
                rounds += 1;
                for (name, time) in round {
                    times.entry(name).or_default().push(time);
                }
            }
            contenders.retain(|program| voids.get(program.name()).is_none_or(|count| *count <= self.rounds));
        }
        let bare = times[Program::Bare.name()].clone();
        for program in contenders {
            let row = Row::new(program, (family, routes), (destinations, bytes), &times[program.name()], &bare);
            let row = row.context("no round counted")?;
            eprintln!(
                "  destinations {destinations}, bytes {bytes}: {:<10} {:>6.0} ns, {:.2} times bare",
                program.name(),
                row.ns_per_packet,
                row.ratio_to_bare
            );
            self.results.rows.push(row);
        }
        Ok(())
    }

    fn save(&self, arguments: &Arguments) -> Result<()> {
        let write =
            |file: &Path, text: String| fs::write(file, text).with_context(|| format!("writing {}", file.display()));
        if let Some(file) = &arguments.json {
            write(file, serde_json::to_string_pretty(&self.results.rows)? + "\n")?;
        }
        if let Some(file) = &arguments.svg {
            write(file, plot::svg(&self.results.rows, &self.dimensions)?)?;
        }
        Ok(())
    }

    fn finish(mut self) {
        self.results.notes.push(format!(
            "Medians of {} interleaved rounds of {} frames, all counted and checked; the time is that of generator, hub \
             and sink on one core.",
            self.rounds, self.frames
        ));
        if self.rounds < ENOUGH_ROUNDS {
            self.results.notes.push(format!("Fewer than {ENOUGH_ROUNDS} rounds: not to be quoted."));
        }
        print!("\n{}", self.results);
    }
}

//! Cost of forwarding a frame, by forwarder and number of routes: contenders in turn on one core.

pub mod cases;
mod flowtable;
pub mod hub;
pub mod hubs;
mod plot;
pub mod results;
pub mod routes;
mod targets;

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
    cases::{Dimensions, Interfaces, Program, Table},
    hubs::{Hubs, Load},
    results::{Missing, Results},
    routes::{Family, MOST},
};
use crate::{dispatcher::Idle, programs::Programs, testbed};

#[derive(Args)]
pub struct Arguments {
    /// Forwarders to compare with the floor of their hook, which always runs: `bare` between veth devices, and `bare-tc`
    /// beside `hub-tc` and wherever there is a TUN device
    #[arg(long, value_delimiter = ',',
        default_values = ["hub", "hub-lpm", "hub-tc", "fib", "ip_forward", "flowtable"])]
    programs: Vec<Program>,
    /// The hub's devices that frames come in and go out by
    #[arg(long, value_delimiter = ',', default_values = ["veth", "tun", "veth-tun", "tun-veth"])]
    interfaces: Vec<Interfaces>,
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
    /// Fewer routes and frames: a few minutes
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
    /// Draws the ratio to the floor by routes here: to `bare`, or `bare-tc` where there is a TUN device
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
        let Table { interfaces, family, routes, .. } = table;
        let name = format!("{}, IPv{}, {routes} routes", interfaces.name(), family.number());
        eprintln!("table {number} of {}: {name}", tables.len());
        bench.table(table).context(name)?;
        // Write after each world, so that an interrupt loses no results.
        bench.save(arguments)?;
        thread::sleep(SETTLE);
    }
    bench.finish();
    Ok(())
}

struct Bench {
    dimensions: Dimensions,
    /// Forwarders to compare, as far as this kernel has them.
    asked: Vec<Program>,
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
            interfaces: arguments.interfaces.clone(),
            families: arguments.family.clone(),
            routes,
            destinations: arguments.destinations.clone(),
            packet_bytes: arguments.packet_bytes.clone(),
        };
        let mut results = Results::default();
        let mut asked = arguments.programs.clone();
        if asked.contains(&Program::FlowTable)
            && let Some(why) = flowtable::missing()
        {
            asked.retain(|program| *program != Program::FlowTable);
            results.notes.push(format!("{} is left out: {why}", Program::FlowTable.name()));
        }
        let mut programs = Programs::load()?;
        let idle = Idle::attach(&mut programs)?;
        Ok(Self {
            dimensions,
            asked,
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
        let &Table { interfaces, family, routes, .. } = table;
        let all = interfaces.contenders(&self.asked);
        if all.is_empty() {
            eprintln!("  none of the programs forwards here at a hook of its own");
            return Ok(());
        }
        let mut hubs = Hubs::make(&mut self.programs, interfaces, family, routes)?;
        let mut contenders = all.clone();
        for program in all.into_iter().filter(|program| program.lookup().is_some()) {
            match hubs.start_agent(&mut self.programs, program, &self.agent, (family, routes)) {
                Ok(ready) => eprintln!("  {} was ready after {:.1} s", program.name(), ready.as_secs_f64()),
                Err(error) => {
                    contenders.retain(|other| *other != program);
                    // The agent's log can be long, and is on stderr already.
                    let why = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                    self.missing(table, program, &why);
                }
            }
        }
        for &(destinations, bytes) in &table.cases {
            let load = Load { family, routes, destinations, bytes, frames: self.frames, cpu: self.cpu };
            self.case(&hubs, table, &contenders, load)?;
        }
        hubs.end()
    }

    /// Rounds, in each of which every contender has its turn. A round counts if none of its runs is void.
    fn case(&mut self, hubs: &Hubs, table: &Table, contenders: &[Program], load: Load) -> Result<()> {
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
                            !program.is_floor(),
                            "{} loses frames in most rounds: is the machine very busy?",
                            program.name()
                        );
                        let why = format!("with {destinations} destinations, too many runs are void: {report}");
                        self.missing(table, program, &why);
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
        let times: Vec<_> =
            contenders.iter().map(|program| (*program, times.remove(program.name()).unwrap_or_default())).collect();
        let rows = results::rows(table.interfaces, (family, routes), (destinations, bytes), &times);
        for row in &rows {
            let (name, ns) = (row.measured.program.name(), row.measured.ns_per_packet);
            let ratio = results::shown(row.ratio_to_floor());
            eprintln!("  destinations {destinations}, bytes {bytes}: {name:<10} {ns:>6.0} ns, {ratio} times the floor");
        }
        self.results.rows.extend(rows);
        Ok(())
    }

    fn missing(&mut self, table: &Table, program: Program, why: &str) {
        let &Table { interfaces, family, routes, .. } = table;
        let why = format!("{}: {why}", interfaces.name());
        self.results.missing.push(Missing { program, family, routes, why });
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

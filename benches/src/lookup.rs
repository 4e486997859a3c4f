//! Cost of each stage of the hub's program: the hub's own code, in programs with one stage more each, in turn on one
//! core.

mod ladder;
mod results;
mod shared;
mod times;
mod worlds;

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::{
    ladder::{Counted, Ladder},
    results::{Conditions, Results},
    times::{Hub, Times},
    worlds::World,
};
use crate::{
    cpu::{go_first, pin},
    forward::{
        cases::{Dimensions, Interfaces},
        results::Missing,
        routes::{Family, MOST},
    },
    scale::MOST_CONNECTIONS,
    settings::Traffic,
    stages::Stage,
    testbed,
};

#[derive(Args)]
pub struct Arguments {
    /// Ways to look up
    #[arg(long, value_delimiter = ',', default_values = ["hub", "hub-lpm"])]
    programs: Vec<Hub>,
    /// IP versions
    #[arg(long, value_delimiter = ',', default_values = ["4", "6"])]
    family: Vec<Family>,
    /// Routes of the hub. Default: 10, 10000 and 1000000; with --quick 10000
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    routes: Vec<u32>,
    /// Addresses that the packets go to, each by a route of its own: no more than there are routes. Default: 1, 1000
    /// and 64000; with --quick 1000
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    destinations: Vec<u32>,
    /// Connections instead, in hubs as `scale` has them: each with a network of its own that packets go to. 4000 at
    /// most
    #[arg(long, value_delimiter = ',', value_name = "N", conflicts_with_all = ["routes", "destinations"],
        value_parser = clap::value_parser!(u32).range(2..=MOST_CONNECTIONS))]
    connections: Vec<u32>,
    /// Length of a frame, from the Ethernet header on, without the frame check sequence. IPv6 frames have 72 at least
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["64"],
        value_parser = clap::value_parser!(u32).range(60..=1514))]
    packet_bytes: Vec<u32>,
    /// Measurements of each stage, one after the other in turn
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets of a measurement
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Fewer routes and destinations: a minute
    #[arg(long)]
    quick: bool,
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Core that everything runs on. Default: the last that is allowed
    #[arg(long)]
    cpu: Option<usize>,
    /// Writes the rows here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// With fewer rounds a median is not reliable.
const ENOUGH_ROUNDS: u32 = 7;
/// A stage's cost is a small difference of two times. Many short measurements are more precise than few long ones.
const ROUNDS: u32 = 21;
const ROUTES: [u32; 3] = [10, 10_000, 1_000_000];
const QUICK_ROUTES: [u32; 1] = [10_000];
const DESTINATIONS: [u32; 3] = [1, 1000, 64_000];
const QUICK_DESTINATIONS: [u32; 1] = [1000];
/// With more destinations a few packets to each come before a measurement, uncounted. Fewer are warm after a hundredth
/// of it.
const SOON_WARM: u32 = 1000;
/// Packets of each round whose bytes are checked.
const SAMPLES: u32 = 16;
/// Until packets get all the way: the agent resolves neighbours.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);
/// For the kernel to clean up after a world that is gone.
const SETTLE: Duration = Duration::from_secs(1);

pub fn run(arguments: &Arguments) -> Result<()> {
    let or = |asked: &[u32], quick: &[u32], full: &[u32]| match (asked, arguments.quick) {
        ([], true) => quick.to_vec(),
        ([], false) => full.to_vec(),
        (asked, _) => asked.to_vec(),
    };
    let dimensions = Dimensions {
        interfaces: vec![Interfaces::Veth],
        families: arguments.family.clone(),
        routes: or(&arguments.routes, &QUICK_ROUTES, &ROUTES),
        destinations: or(&arguments.destinations, &QUICK_DESTINATIONS, &DESTINATIONS),
        packet_bytes: arguments.packet_bytes.clone(),
    };
    let agent = testbed::agent(arguments.agent.as_deref())?;
    let mut results = Results::default();
    let worlds = match arguments.connections[..] {
        [] => worlds::by_routes(&dimensions),
        _ => worlds::by_connections(arguments),
    };
    for (number, world) in (1..).zip(&worlds) {
        let &World { family, routes, connections, .. } = world;
        let what = format!("IPv{}, {routes} routes, {connections} connections", family.number());
        eprintln!("table {number} of {}: {what}", worlds.len());
        let mut ladders = Vec::new();
        for hub in &arguments.programs {
            let program = hub.program();
            match Ladder::set_up(program, &agent, &world.config()) {
                Ok(ladder) => {
                    eprintln!("  {} was ready after {:.1} s", program.name(), ladder.ready().as_secs_f64());
                    ladders.push(ladder);
                }
                Err(error) => {
                    eprintln!("  not measured: {error:#}");
                    // The agent's log can be long.
                    let why = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                    results.missing.push(Missing { program, family, routes, why });
                }
            }
        }
        for traffic in &world.traffic {
            let times = thread::scope(|scope| {
                // A thread of its own is pinned: the agents run where they like.
                scope.spawn(|| case(&mut ladders, traffic, arguments)).join().expect("a case does not panic")
            });
            let times = times.with_context(|| what.clone())?;
            let &Traffic { destinations, bytes, .. } = traffic;
            let conditions = Conditions { family, routes, connections, destinations, bytes };
            for (ladder, times) in ladders.iter().zip(&times) {
                results.rows.extend(results::rows(ladder.program, conditions, times));
            }
        }
        for ladder in ladders {
            ladder.end()?;
        }
        // Write after each world, so that an interrupt loses no results.
        if let Some(file) = &arguments.json {
            fs::write(file, serde_json::to_string_pretty(&results.rows)? + "\n")
                .with_context(|| format!("writing {}", file.display()))?;
        }
        thread::sleep(SETTLE);
    }
    finish(results, arguments)
}

fn finish(mut results: Results, arguments: &Arguments) -> Result<()> {
    results.notes.push(format!(
        "Medians of {} interleaved rounds of {} packets each. NS/PACKET includes restoring the packet's \
         header; STAGE is the difference to the stage before, SHARE its share of the whole program without `drop`.",
        arguments.rounds, arguments.frames
    ));
    if arguments.rounds < ENOUGH_ROUNDS {
        results.notes.push(format!("Fewer than {ENOUGH_ROUNDS} rounds: not to be quoted."));
    }
    print!("\n{results}");
    ensure!(!results.rows.is_empty(), "nothing could be measured");
    Ok(())
}

/// Measures all stages of all programs, in rounds. A round with a void run is discarded.
fn case(ladders: &mut [Ladder], traffic: &Traffic, arguments: &Arguments) -> Result<Vec<Times>> {
    pin(arguments.cpu)?;
    go_first()?;
    let mut all: Vec<Times> = ladders.iter().map(|_| Times::default()).collect();
    for ladder in &mut *ladders {
        ladder.set(traffic)?;
        for attempt in 0.. {
            match ladder.sample() {
                Err(error) if attempt == PATIENCE => {
                    return Err(error).with_context(|| format!("{} does not forward", ladder.program.name()));
                }
                Err(_) => thread::sleep(PAUSE),
                Ok(()) => break,
            }
        }
    }
    let (mut rounds, mut voids) = (0, 0);
    while rounds < arguments.rounds {
        match ladders.iter_mut().map(|ladder| round(ladder, traffic, arguments.frames)).collect::<Result<Vec<_>>>() {
            Ok(times) => {
                rounds += 1;
                for (all, times) in all.iter_mut().zip(times) {
                    all.add(times);
                }
            }
            Err(error) => {
                eprintln!("  not counted: {error:#}");
                voids += 1;
                ensure!(voids <= arguments.rounds, "too many rounds are void: {error:#}");
            }
        }
    }
    Ok(all)
}

/// Measures all stages of one program.
///
/// # Errors
/// When a packet was not forwarded, had wrong bytes, or was not counted: the round is void.
fn round(ladder: &mut Ladder, traffic: &Traffic, frames: u32) -> Result<[f64; Stage::ALL.len()]> {
    let warm_up = if traffic.destinations > SOON_WARM { traffic.destinations.saturating_mul(4).min(frames) } else { 0 };
    let (before, mut expected) = (ladder.counted()?, Counted::default());
    let mut times = [0.0; Stage::ALL.len()];
    for (stage, time) in Stage::ALL.into_iter().zip(&mut times) {
        if warm_up > 0 {
            ladder.run(stage, warm_up)?;
        }
        *time = ladder.run(stage, frames)?;
        let packets = u64::from(frames) + u64::from(warm_up);
        if stage.counts() {
            expected.received += packets;
            expected.sent += packets;
        }
    }
    for _ in 0..SAMPLES {
        ladder.sample()?;
    }
    expected.received += u64::from(SAMPLES);
    expected.sent += u64::from(SAMPLES);
    let after = ladder.counted()?;
    let counted = Counted { received: after.received - before.received, sent: after.sent - before.sent };
    let name = ladder.program.name();
    ensure!(counted == expected, "{name} counted {counted:?}, and should have {expected:?}");
    Ok(times)
}

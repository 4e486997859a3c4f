//! Whether a frame costs more where there is more of what should not matter: next hops, connections, selectors; and
//! what generic XDP, limits of the MSS and translated addresses cost. Two hubs of each, and the floor, in turn on one core.

mod hubs;
mod listeners;
mod policies;
mod results;
pub mod subjects;
mod ways;

use std::{fs, iter, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use self::{
    hubs::{Floor, Side},
    results::{Missing, Results, Row},
    subjects::{Subject, Variant},
};
use crate::{
    dispatcher::Idle,
    forward::{cases::Program, routes::Family},
    programs::Programs,
    report::Report,
    testbed,
};

#[derive(Args)]
pub struct Arguments {
    /// Subjects to vary
    #[arg(long, value_delimiter = ',', value_name = "SUBJECT",
        default_values = ["next-hops", "connections", "selectors", "mode", "mss", "translate", "policy-routes", "segments", "listeners"])]
    subjects: Vec<Subject>,
    /// IP versions
    #[arg(long, value_delimiter = ',', default_values = ["4", "6"])]
    family: Vec<Family>,
    /// Next hops that are compared
    #[arg(long, value_delimiter = ',', value_name = "FEW,MANY", default_values = ["2", "64"],
        value_parser = clap::value_parser!(u32).range(1..=i64::from(subjects::MOST_NEXT_HOPS)))]
    next_hops: Vec<u32>,
    /// Interfaces that are compared, with a connection, a next hop and a route each
    #[arg(long, value_delimiter = ',', value_name = "FEW,MANY", default_values = ["64", "3999"],
        value_parser = clap::value_parser!(u32).range(2..MOST_CONNECTIONS))]
    interfaces: Vec<u32>,
    /// Connections that are compared, with the one that the frames come by
    #[arg(long, value_delimiter = ',', value_name = "FEW,MANY", default_values = ["10", "4000"],
        value_parser = clap::value_parser!(u32).range(2..=MOST_CONNECTIONS))]
    connections: Vec<u32>,
    /// Selectors that are compared
    #[arg(long, value_delimiter = ',', value_name = "FEW,MANY", default_values = ["1", "10000"],
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    selectors: Vec<u32>,
    /// Policy routes that are compared
    #[arg(long, value_delimiter = ',', value_name = "FEW,MANY", default_values = ["0", "1000"],
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    policy_routes: Vec<u32>,
    /// Attach the program at TC where the mode does not vary
    #[arg(long)]
    tc: bool,
    /// Length of a frame, from the Ethernet header on, without the frame check sequence. IPv6 frames have 72 at least
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(60..=1514))]
    packet_bytes: u32,
    /// Measurements of each hub, one after the other in turn
    #[arg(long, default_value_t = ENOUGH_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Frames of a measurement
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    frames: u64,
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Core that everything runs on: generator, hub and sink. Default: the last that is allowed
    #[arg(long)]
    cpu: Option<usize>,
    /// Writes the rows here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// With fewer rounds a median is not reliable.
const ENOUGH_ROUNDS: u32 = 7;
/// The most that a gateway can have.
pub const MOST_CONNECTIONS: i64 = 4000;
/// Clients that are shown what is dropped, where there are any.
const LISTENERS: u32 = 3;
/// For the kernel to clean up after a world that is gone.
const SETTLE: Duration = Duration::from_secs(1);

/// The way to forward that is measured.
const PROGRAM: Program = Program::Hub;

pub fn run(arguments: &Arguments) -> Result<()> {
    let agent = testbed::agent(arguments.agent.as_deref())?;
    let mut results = Results::default();
    for &subject in &arguments.subjects {
        for &family in &arguments.family {
            let case = Case { subject, family, arguments, agent: &agent };
            eprintln!("{}, IPv{}", subject.name(), family.number());
            // Maps and programs of its own: nothing of the one before is left.
            let mut programs = Programs::load()?;
            let _idle = Idle::attach(&mut programs)?;
            match case.measure(&mut programs) {
                Ok(rows) => results.add(rows),
                // The agent's log can be long.
                Err(error) => {
                    let why = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                    eprintln!("  not measured: {error:#}");
                    results.missing.push(Missing { subject, family, why });
                }
            }
            // Write after each world, so that an interrupt loses no results.
            if let Some(file) = &arguments.json {
                fs::write(file, serde_json::to_string_pretty(&results.rows)? + "\n")
                    .with_context(|| format!("writing {}", file.display()))?;
            }
            thread::sleep(SETTLE);
        }
    }
    results.finish(arguments.rounds, arguments.frames, arguments.rounds < ENOUGH_ROUNDS);
    ensure!(!results.rows.is_empty(), "nothing could be measured");
    Ok(())
}

struct Case<'a> {
    subject: Subject,
    family: Family,
    arguments: &'a Arguments,
    agent: &'a std::path::Path,
}

impl Case<'_> {
    fn variants(&self) -> Result<(Vec<Variant>, u32)> {
        let Arguments { next_hops, interfaces, connections, selectors, policy_routes, .. } = self.arguments;
        let counts = match self.subject {
            Subject::NextHops => next_hops,
            Subject::Interfaces => interfaces,
            Subject::Connections => connections,
            Subject::Selectors => selectors,
            Subject::Mode => return Ok((named(&["native", "generic"]), 0)),
            Subject::Mss => return Ok((named(&["off", "auto"]), 0)),
            Subject::Translate => return Ok((named(&["none", "source", "destination", "both"]), 0)),
            Subject::Segments => return Ok((named(&["none", "two"]), 0)),
            Subject::PolicyRoutes => policy_routes,
            Subject::Listeners => &vec![0, LISTENERS],
        };
        let &[few, many] = &counts[..] else { bail!("two numbers are needed, such as 2,64") };
        ensure!(few < many, "{few},{many}: the first must be the smaller one");
        Ok((vec![Variant::Count(few), Variant::Count(many)], many))
    }

    /// All hubs and the floor of each take turns. A round counts if none of its runs is void.
    fn measure(&self, programs: &mut Programs) -> Result<Vec<Row>> {
        let &Self { subject, family, arguments, agent } = self;
        let bytes = arguments.packet_bytes;
        let (variants, most) = self.variants()?;
        let mut plans: Vec<_> =
            variants.iter().map(|variant| subjects::plan(subject, *variant, most, family)).collect();
        for plan in plans.iter_mut().filter(|plan| arguments.tc && plan.arguments.is_empty()) {
            plan.arguments = vec!["--attach", "tc"];
        }
        // The floor is the same for all, unless there are more devices in one.
        let own_floors = plans.iter().any(|plan| plan.devices != plans[0].devices);
        let floors = if own_floors { &plans[..] } else { &plans[..1] };
        let floors = floors.iter().map(|plan| Floor::make(programs, plan.devices)).collect::<Result<Vec<_>>>()?;
        let sides = plans.iter().map(|plan| Side::start(programs, agent, plan, family)).collect::<Result<Vec<_>>>()?;

        let mut times = vec![Vec::new(); floors.len() + sides.len()];
        let (mut rounds, mut voids) = (0, 0);
        while rounds < arguments.rounds {
            let mut round: Vec<Report> = Vec::new();
            for ((floor, plan), side) in floors.iter().map(Some).chain(iter::repeat(None)).zip(&plans).zip(&sides) {
                if let Some(floor) = floor {
                    let traffic = subjects::traffic(plan, family, bytes, true);
                    round.push(floor.run(programs, &traffic, arguments.frames, arguments.cpu)?);
                }
                let traffic = subjects::traffic(plan, family, bytes, false);
                round.push(side.run(programs, &traffic, arguments.frames, arguments.cpu)?);
            }
            if let Some(report) = round.iter().find(|report| report.void) {
                eprintln!("  not counted: {report}");
                voids += 1;
                ensure!(voids <= arguments.rounds, "too many rounds are void: {report}");
                continue;
            }
            rounds += 1;
            for (times, report) in times.iter_mut().zip(&round) {
                times.push(report.nanoseconds_per_packet());
            }
        }
        for (side, plan) in sides.iter().zip(&plans) {
            side.check(plan)?;
        }
        for side in sides {
            side.end()?;
        }
        Ok(self.rows(&variants, &plans, &times))
    }

    /// `times` are those of the first floor, the first side, the second floor if there is one, the second side, and so on.
    fn rows(&self, variants: &[Variant], plans: &[subjects::Plan], times: &[Vec<f64>]) -> Vec<Row> {
        let &Self { subject, family, arguments, .. } = self;
        let bytes = arguments.packet_bytes.max(family.shortest());
        let own_floors = times.len() == 2 * plans.len();
        let mut rows = Vec::new();
        for (index, (&variant, plan)) in variants.iter().zip(plans).enumerate() {
            let (floor, side) = if own_floors { (index * 2, index * 2 + 1) } else { (0, index + 1) };
            let conditions = results::Conditions { subject, variant, family, plan, bytes };
            if index == 0 || own_floors {
                rows.extend(Row::new(&conditions, Program::Bare, &times[floor], &times[floor], &times[0]));
            }
            rows.extend(Row::new(&conditions, PROGRAM, &times[side], &times[floor], &times[1]));
        }
        for row in &rows {
            eprintln!("  {}", row.line());
        }
        rows
    }
}

fn named(names: &[&'static str]) -> Vec<Variant> {
    names.iter().copied().map(Variant::Named).collect()
}

//! ESP of several tunnels between two addresses, from one receive queue: decrypted on the CPU that receives it, and on
//! all CPUs, by the agent's `[underlay.X] spread`.

mod lab;
mod results;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use hub_tests::lab::Esp;

use self::{
    lab::{Kind, Lab, Spread},
    results::{Condition, Found},
};
use super::replay::{IN_TURN, Replay};
use crate::{cpu, rows::Results, testbed};

#[derive(Args)]
pub struct Arguments {
    /// Who distributes, compared with none
    #[arg(long, value_delimiter = ',', default_values = ["none", "rps", "xdp"])]
    spread: Vec<Spread>,
    /// Packets on the outside
    #[arg(long, value_delimiter = ',', default_values = ["esp", "nat-t"])]
    kinds: Vec<Kind>,
    /// Tunnels, all between the same two addresses
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["8", "1"],
        value_parser = clap::value_parser!(u32).range(1..=i64::from(IN_TURN)))]
    tunnels: Vec<u32>,
    /// Sizes of a packet inside the tunnels, from its IP header on
    #[arg(long, value_delimiter = ',', value_name = "BYTES", default_values = ["64", "1372"],
        value_parser = clap::value_parser!(u16).range(36..=1400))]
    packet_bytes: Vec<u16>,
    /// Loads the module esp4_offload first, with which GRO decrypts before RPS. It stays loaded
    #[arg(long)]
    esp_offload: bool,
    /// Packets of a measurement
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Measurements of each, one after the other in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Writes the results here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(lacking) = Esp::kernel_lacks() {
        bail!("this kernel lacks {lacking}: `cargo xtask bench spread` boots one that does not");
    }
    let agent = testbed::agent(arguments.agent.as_deref())?;
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus > 1, "there is one CPU, and nothing to distribute to");
    if arguments.esp_offload {
        lab::load_offload()?;
    }
    let mut found = Vec::new();
    for &kind in &arguments.kinds {
        for &tunnels in &arguments.tunnels {
            // Maps and programs of its own: nothing of the one before is left.
            let mut replay = Replay::load_in_turn()?;
            let build = |spread: &Spread| Lab::build(*spread, kind, tunnels, &agent);
            let labs = arguments.spread.iter().map(build).collect::<Result<Vec<_>>>()?;
            // The agents run where they like.
            cpu::pin(None)?;
            for lab in &labs {
                lab.sinks()?.iter().try_for_each(|sink| replay.attach_sink(sink))?;
            }
            for &bytes in &arguments.packet_bytes {
                let condition = Condition { kind, tunnels, bytes: bytes.into(), esp_offload: lab::has_offload() };
                found.extend(measure(arguments, condition, &labs, &mut replay)?);
            }
            cpu::unpin()?;
            labs.into_iter().try_for_each(Lab::end)?;
        }
    }
    let mut results = Results::new("spread");
    results::report(&mut results, cpus, &found);
    results.finish(arguments.json.as_deref())
}

/// All ways to distribute, in turn.
fn measure(arguments: &Arguments, condition: Condition, labs: &[Lab], replay: &mut Replay) -> Result<Vec<Found>> {
    eprintln!("{condition}");
    replay.expect_nothing()?;
    let mut subjects = Vec::new();
    for lab in labs {
        let found = Found { condition, spread: lab.spread, times: Vec::new(), cpus: Vec::new() };
        subjects.push((found, lab.record(condition.bytes)?));
    }
    for (_, flights) in &subjects {
        replay.run_in_turn(flights, arguments.packets.div_ceil(8))?;
    }
    for round in 1..=arguments.rounds {
        for (found, flights) in &mut subjects {
            let before = replay.arrived_by_cpu()?;
            let time = replay.run_in_turn(flights, arguments.packets)?;
            let after = replay.arrived_by_cpu()?;
            found.cpus = after.iter().zip(&before).map(|(after, before)| after - before).collect();
            eprintln!("  round {round}: {:<5} {time:>8.0} ns a packet, by CPU {:?}", found.spread.name(), found.cpus);
            found.times.push(time);
        }
    }
    Ok(subjects.into_iter().map(|(found, _)| found).collect())
}

//! Cost of a packet from site to site through two tunnels with the kernel's own ESP: the hub, a bare redirect, and the
//! kernel's forwarding, in equal networks, in turn.

mod bulk;
mod lab;
mod program_time;
mod replay;
mod results;
pub mod spread;
mod tunnels;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hub_tests::lab::Esp;

use crate::{cpu, forward::routes::Family, rows::Results, testbed};
use lab::{Forwarder, Lab};
use replay::{Flight, Replay};
use results::{Bulk, Condition, Found};
use tunnels::Encryption;

#[derive(Args)]
pub struct Arguments {
    /// Forwarders; bare-tc-nftables needs the hub
    #[arg(long, value_delimiter = ',', default_values = ["hub", "ip_forward", "bare-tc", "bare-tc-nftables"])]
    programs: Vec<Forwarder>,
    /// Protection of the packets
    #[arg(long, value_delimiter = ',', default_values = ["aes-gcm", "null"])]
    encryption: Vec<Encryption>,
    /// IP versions inside the tunnels; outside it is IPv4
    #[arg(long, value_delimiter = ',', default_values = ["4"])]
    family: Vec<Family>,
    /// Sizes of a packet inside the tunnels, from its IP header on; at least 36, with IPv6 56
    #[arg(long, value_delimiter = ',', value_name = "BYTES", default_values = ["36", "1372"],
        value_parser = clap::value_parser!(u16).range(1..=1400))]
    packet_bytes: Vec<u16>,
    /// Tunnels of the hub, each with an interface, SAs and a connection. The packets take two of them
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["2", "100", "1000"],
        value_parser = clap::value_parser!(u32).range(2..=4000))]
    attachments: Vec<u32>,
    /// Packets of a measurement
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Measurements of each, one after the other in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// MiB of a TCP transfer, with the first number of attachments; 0: none
    #[arg(long, default_value_t = 8, value_name = "MIB")]
    tcp: u32,
    /// The clock counts instructions, one a nanosecond (QEMU's -icount)
    #[arg(long)]
    instructions: bool,
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Writes the results here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(lacking) = Esp::kernel_lacks() {
        bail!("this kernel lacks {lacking}: `cargo xtask bench ipsec` boots one that does not");
    }
    let agent = testbed::agent(arguments.agent.as_deref())?;
    cpu::pin(None)?;
    let mut replay = Replay::load()?;
    let (mut found, mut bulk) = (Vec::new(), Vec::new());
    for (number, &attachments) in arguments.attachments.iter().enumerate() {
        let mut labs = set_up(&arguments.programs, attachments, &agent, &mut replay)?;
        for &encryption in &arguments.encryption {
            labs.iter_mut().try_for_each(|lab| lab.encrypt(encryption))?;
            for &family in &arguments.family {
                for &bytes in &arguments.packet_bytes {
                    let bytes = usize::from(bytes).max(lab::smallest(family));
                    let condition = Condition { encryption, family, bytes, attachments };
                    found.extend(packets(arguments, condition, &labs, &mut replay)?);
                }
            }
            if number == 0 && arguments.tcp > 0 {
                replay.expect_nothing()?;
                bulk.extend(transfers(arguments, encryption, attachments, &labs)?);
            }
        }
        labs.into_iter().try_for_each(Lab::end)?;
    }
    let mut results = Results::new("ipsec");
    let unit = if arguments.instructions { "instructions" } else { "ns" };
    results::report(&mut results, unit, &found, &bulk);
    results.finish(arguments.json.as_deref())
}

/// A network for each forwarder.
fn set_up(programs: &[Forwarder], attachments: u32, agent: &Path, replay: &mut Replay) -> Result<Vec<Lab>> {
    let programs = BTreeSet::from_iter(programs);
    let mut labs: Vec<Lab> = Vec::new();
    for &&forwarder in &programs {
        eprintln!("{attachments} attachments: setting up {}", forwarder.name());
        let lab = Lab::build(forwarder, attachments, agent, replay)?;
        if forwarder == Forwarder::BareWithTable {
            let hub = labs.first().filter(|lab| lab.forwarder == Forwarder::Hub);
            lab.load_table(
                &hub.context("bare-tc-nftables takes the table of the hub: add hub to --programs")?.table()?,
            )?;
        }
        labs.push(lab);
    }
    Ok(labs)
}

/// All forwarders under one condition.
fn packets(arguments: &Arguments, condition: Condition, labs: &[Lab], replay: &mut Replay) -> Result<Vec<Found>> {
    let Condition { encryption, family, bytes, attachments } = condition;
    eprintln!("{attachments} attachments, {}, IPv{}, {bytes} bytes", encryption.name(), family.number());
    replay.expect_nothing()?;
    let mut subjects: Vec<(Found, [Flight; 2])> = Vec::new();
    for lab in labs {
        let found = Found { condition, forwarder: lab.forwarder, path: Vec::new(), site: Vec::new(), program: None };
        subjects.push((found, lab.record(family, bytes)?));
    }
    for (_, flights) in &subjects {
        for flight in flights {
            replay.run(flight, arguments.packets.div_ceil(8))?;
        }
    }
    for round in 1..=arguments.rounds {
        for (found, [path, site]) in &mut subjects {
            found.path.push(replay.run(path, arguments.packets)?);
            found.site.push(replay.run(site, arguments.packets)?);
            let last = |times: &[f64]| times.last().copied().unwrap_or_default();
            let (path, site) = (last(&found.path), last(&found.site));
            eprintln!("  round {round}: {:<16} {:>8.0}, the site {site:>8.0}", found.forwarder.name(), path - site);
        }
    }
    for (found, [path, _]) in &mut subjects {
        let sink = replay.sink()?;
        let send = || replay.run(path, arguments.packets).map(drop);
        found.program = program_time::measure(arguments.packets, sink, send)?;
    }
    Ok(subjects.into_iter().map(|(found, _)| found).collect())
}

fn transfers(arguments: &Arguments, encryption: Encryption, attachments: u32, labs: &[Lab]) -> Result<Vec<Bulk>> {
    eprintln!("{attachments} attachments, {}, TCP", encryption.name());
    let bulk = |lab: &Lab| Bulk { forwarder: lab.forwarder, encryption, attachments, costs: vec![], sizes: vec![] };
    let mut all: Vec<Bulk> = labs.iter().map(bulk).collect();
    for round in 1..=arguments.rounds {
        for (bulk, lab) in all.iter_mut().zip(labs) {
            let (cost, size) = bulk::run(lab, u64::from(arguments.tcp) << 20)?;
            eprintln!("  round {round}: {:<16} {cost:>8.2} a byte, packets of {size:.0} bytes", lab.forwarder.name());
            bulk.costs.push(cost);
            bulk.sizes.push(size);
        }
    }
    Ok(all)
}

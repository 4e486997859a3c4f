//! Connections on as many interfaces, without IPsec: start, restart and stop of an agent.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use hub_tests::lab::{AgentCommand, HUB, Scratch, World};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Limits, MEMORY, Quantile, target};
use crate::{
    process::Memory,
    rows::Results,
    testbed::{self, Common, Running},
};

/// Networks behind the sites, a /24 each.
const BEHIND: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Maximum time of a stop.
const PATIENCE: Duration = Duration::from_secs(120);

const START: Limits = [(100, 0.8), (1_000, 3.0), (4_000, 12.0)];
const STOP: Limits = [(100, 0.3), (1_000, 1.0), (4_000, 4.0)];

pub fn measure(common: &Common, count: u32, repeats: u32, results: &mut Results) -> Result<()> {
    let case: [(&str, Value); 1] = [("interfaces", count.into())];
    let config = config(common, count);
    let (mut starts, mut restarts, mut stops, mut unloads, mut memory) =
        <(Vec<_>, Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    for repeat in 1..=repeats {
        let world = world(count)?;
        let running = Running::start(&common.agent()?, &world[HUB], &config)?;
        starts.push(running.ready.as_secs_f64());
        running.rest()?;
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
        memory.push(Memory::of(running.agent.pid())?.resident as f64 / 1024.0 / 1024.0);
        let (time, scratch) = stop(running)?;
        stops.push(time);

        let running = Running::start_in(AgentCommand::new(common.agent()?), &world[HUB], scratch)?;
        restarts.push(running.ready.as_secs_f64());
        running.rest()?;
        stops.push(stop(running)?.0);
        unloads.push(unload(common, &world)?);
        eprintln!(
            "run {repeat} of {repeats}, {count} interfaces: start {:.2} s, stop {:.2} s, restart {:.2} s, unload {:.2} s",
            starts[starts.len() - 1],
            stops[stops.len() - 1],
            restarts[restarts.len() - 1],
            unloads[unloads.len() - 1],
        );
    }
    let start = results.add(&case, "start until ready", "s", starts);
    results.add(&case, "restart until ready", "s", restarts);
    let stop = results.add(&case, "stop", "s", stops);
    results.add(&case, "unload", "s", unloads);
    let memory = results.add(&case, "agent, resident", "MiB", memory);
    target(results, count, "interfaces, start", start, Quantile::Median, START, " s");
    target(results, count, "interfaces, stop", stop, Quantile::Median, STOP, " s");
    target(results, count, "interfaces, memory", memory, Quantile::Median, MEMORY, " MiB");
    Ok(())
}

/// The offices, and TUN devices at the hub.
pub fn world(count: u32) -> Result<World> {
    let world = testbed::world()?;
    let mut lines = String::new();
    for site in 0..count {
        writeln!(lines, "tuntap add dev s{site} mode tun\nlink set dev s{site} up").expect("a string takes all");
    }
    world[HUB].batch(&lines)?;
    Ok(world)
}

fn config(common: &Common, count: u32) -> String {
    let mut text = super::with_quota(&testbed::config(common, [], false), count);
    for site in 0..count {
        let network = Ipv4Addr::from_bits(BEHIND.to_bits() + (site << 8));
        write!(
            text,
            "\n[customer_gateway.g{site}]\naddress = \"198.18.{}.{}\"\n\
             [connection.s{site}]\ncustomer_gateway = \"g{site}\"\ninterface = \"s{site}\"\n\
             local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"{network}/24\"]\n\
             [[route]]\ndestination = \"{network}/24\"\nnext_hop = \"s{site}\"\n",
            site >> 8,
            site & 0xff,
        )
        .expect("a string takes all");
    }
    text
}

/// Seconds until the agent has exited, and its files.
fn stop(running: Running) -> Result<(f64, Scratch)> {
    let begin = Instant::now();
    let scratch = running.agent.end_within(Signal::SIGTERM, PATIENCE)?;
    Ok((begin.elapsed().as_secs_f64(), scratch))
}

/// Seconds of `vpnhub unload`.
fn unload(common: &Common, world: &World) -> Result<f64> {
    let hub = &world[HUB];
    let begin = Instant::now();
    let mut command = hub.command(common.agent()?);
    let status = command.args(["unload", "--instance", &hub.instance()]).status()?;
    anyhow::ensure!(status.success(), "vpnhub unload ended with {status}");
    Ok(begin.elapsed().as_secs_f64())
}

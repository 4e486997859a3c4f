//! TCP throughput by iperf3 through the hub, and through the kernel's own forwarding in an equal world, in turn.

mod iperf;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use hub_tests::lab::{Background, HUB, HubConfig, Status};
use serde_json::Value;

use crate::{
    forward::{
        hub::{Hub, SITES},
        results::median,
        routes::Family,
    },
    programs::Programs,
    rows::Results,
    testbed::{self, A, B, Running},
};

#[derive(Args)]
pub struct Arguments {
    /// Forwarders
    #[arg(long, value_delimiter = ',', default_values = ["hub", "fib", "ip_forward", "ip_forward-without-gro"])]
    programs: Vec<Way>,
    /// IP versions
    #[arg(long, value_delimiter = ',', default_values = ["4", "6"])]
    family: Vec<Family>,
    /// TCP streams at once
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["1", "8"],
        value_parser = clap::value_parser!(u32).range(1..=128))]
    streams: Vec<u32>,
    /// Seconds of a measurement, after one that is not counted
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Measurements of each, one after the other in turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Writes the results here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// For a server to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// The forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The agent and its program
    #[value(name = "hub")]
    Hub,
    /// An XDP program that asks the kernel for the route (`bpf_fib_lookup`)
    #[value(name = "fib")]
    Fib,
    /// The kernel, which merges what comes in before it forwards it (GRO), as is the default
    #[value(name = "ip_forward")]
    Kernel,
    /// The kernel, frame by frame
    #[value(name = "ip_forward-without-gro")]
    KernelWithoutGro,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Fib => "fib",
            Self::Kernel => "ip_forward",
            Self::KernelWithoutGro => "ip_forward-without-gro",
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let agent = testbed::agent(arguments.agent.as_deref())?;
    iperf::must_be_there()?;
    let mut programs = Programs::load()?;
    let worlds = Worlds { hub: Side::hub(&agent)?, kernel: Side::kernel()? };
    let mut results = Results::new("tcp");
    for &family in &arguments.family {
        for &streams in &arguments.streams {
            eprintln!("IPv{}, {streams} streams", family.number());
            let mut found: Vec<(Way, Found)> = arguments.programs.iter().map(|way| (*way, Found::default())).collect();
            for round in 1..=arguments.rounds {
                for (way, found) in &mut found {
                    let report = worlds.measure(&mut programs, *way, family, streams, arguments.seconds)?;
                    eprintln!("  round {round}: {:<22} {:>8.0} Mbit/s", way.name(), report.received);
                    found.received.push(report.received);
                    found.retransmits.push(report.retransmits);
                }
            }
            report(&mut results, family, streams, &found);
        }
    }
    worlds.hub.end()?;
    worlds.kernel.end()?;
    results.finish(arguments.json.as_deref())
}

#[derive(Default)]
struct Found {
    /// Megabits a second.
    received: Vec<f64>,
    /// Segments, in a measurement.
    retransmits: Vec<f64>,
}

fn report(results: &mut Results, family: Family, streams: u32, found: &[(Way, Found)]) {
    for (way, found) in found {
        let case =
            [("program", Value::from(way.name())), ("family", family.number().into()), ("streams", streams.into())];
        results.add(&case, "received", "Mbit/s", found.received.iter().copied());
        results.add(&case, "sent again", "segments", found.retransmits.iter().copied());
    }
    // There is no figure to reach but that of the others.
    let of = |way| found.iter().find(|found| found.0 == way).and_then(|(_, found)| median(&found.received));
    for other in [Way::Fib, Way::Kernel, Way::KernelWithoutGro] {
        if let (Some(hub), Some(theirs)) = (of(Way::Hub), of(other)) {
            let what = format!(
                "IPv{}, {streams} streams: not less than by {}; {:.2} times as much",
                family.number(),
                other.name(),
                hub / theirs
            );
            results.target(what, hub >= theirs);
        }
    }
}

/// A world for the agent, and one for all that go by the kernel's routes.
struct Worlds {
    hub: Side,
    kernel: Side,
}

impl Worlds {
    /// Switches the way to forward on, measures, and switches it off again.
    fn measure(
        &self,
        programs: &mut Programs,
        way: Way,
        family: Family,
        streams: u32,
        seconds: u32,
    ) -> Result<iperf::Report> {
        let kernel = &self.kernel;
        let netdevs = [&kernel.hub.ingress, &kernel.hub.egress];
        let gro = |on| netdevs.iter().try_for_each(|netdev| kernel.hub.world[HUB].set_gro(&netdev.device, on));
        let measure = |side: &Side| side.measure(family, streams, seconds).with_context(|| way.name());
        match way {
            Way::Hub => measure(&self.hub),
            Way::Kernel => measure(kernel),
            Way::KernelWithoutGro => {
                gro(false)?;
                let report = measure(kernel);
                gro(true)?;
                report
            }
            Way::Fib => {
                let mut links = Vec::new();
                for netdev in netdevs {
                    programs.set_port(netdev)?;
                    links.push(programs.attach("fib", netdev)?);
                }
                let report = measure(kernel);
                links.into_iter().try_for_each(|link| programs.detach("fib", link))?;
                report
            }
        }
    }
}

/// A world with servers at `b`, and an agent where that forwards.
struct Side {
    running: Option<Running>,
    servers: Vec<Background>,
    hub: Hub,
}

impl Side {
    fn hub(agent: &Path) -> Result<Self> {
        let hub = Hub::make(false)?;
        let config = HubConfig::offices(&SITES).unpublished().to_string();
        let running = Running::start(agent, &hub.world[HUB], &config)?;
        running.rest()?;
        Self { running: Some(running), servers: Vec::new(), hub }.serve()
    }

    fn kernel() -> Result<Self> {
        let hub = Hub::make(true)?;
        hub.route_sites()?;
        Self { running: None, servers: Vec::new(), hub }.serve()
    }

    /// One server for each family: it listens on the address that the site is known by.
    fn serve(mut self) -> Result<Self> {
        let namespace = &self.hub.world[&B.place];
        for family in [Family::V4, Family::V6] {
            let server = Background::start(&mut iperf::server(namespace, family.host(&B)))?;
            let begin = Instant::now();
            while !iperf::listens(namespace, family)? {
                ensure!(server.runs() && begin.elapsed() < PATIENCE, "iperf3 does not listen on {}", family.host(&B));
                thread::sleep(Duration::from_millis(20));
            }
            self.servers.push(server);
        }
        Ok(self)
    }

    fn measure(&self, family: Family, streams: u32, seconds: u32) -> Result<iperf::Report> {
        let status = || self.running.as_ref().map(|running| running.agent.status()).transpose();
        let before = status()?;
        let report = iperf::client(&self.hub.world[&A.place], (family.host(&A), family.host(&B)), streams, seconds)?;
        if let (Some(before), Some(after)) = (before, status()?) {
            must_have_forwarded(&before, &after, report.bytes)?;
        }
        Ok(report)
    }

    fn end(self) -> Result<()> {
        self.running.map_or(Ok(()), |running| running.agent.stop())
    }
}

/// Checks that the traffic went through the agent's program.
fn must_have_forwarded(before: &Status, after: &Status, bytes: u64) -> Result<()> {
    let sent = after.since(before, &B.place, "tx_bytes");
    ensure!(sent >= bytes, "{bytes} bytes arrived, and the hub's program forwarded {sent}: the rest took another way");
    Ok(())
}

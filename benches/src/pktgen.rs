//! Throughput and latency by RFC 2544, with the kernel's own packet generator: of a gateway between two interfaces of
//! this machine, or of the hub and the kernel in worlds of their own.

mod control;
mod endpoints;
mod search;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hub_tests::lab::{HUB, HubConfig, Mac, Namespace};
use serde_json::Value;

use self::{
    control::{Frames, Outcome, Pace, Pktgen},
    endpoints::{Endpoints, Latency},
};
use crate::{
    expect::Expect,
    forward::{
        cases::Program,
        hub::{Hub, SITES},
        routes::Family,
    },
    netdev::Netdev,
    rows::Results,
    stats::float,
    testbed::{self, A, B, Running},
};

#[derive(Args)]
pub struct Arguments {
    /// Device of this machine that the frames leave by, on a link with the gateway. Without it, worlds are made and
    /// measured
    #[arg(long, value_name = "DEVICE", requires_all = ["to_device", "gateway_mac", "source", "destination"])]
    from_device: Option<String>,
    /// Network namespace of that device, if another
    #[arg(long, value_name = "NETNS", requires = "from_device")]
    from: Option<String>,
    /// Device that they must come to, on another link with the gateway; it gets an XDP program for the time of the run
    #[arg(long, value_name = "DEVICE", requires = "from_device")]
    to_device: Option<String>,
    /// Network namespace of that device, if another
    #[arg(long, value_name = "NETNS", requires = "from_device")]
    to: Option<String>,
    /// Ethernet address of the gateway on the sender's link
    #[arg(long, value_name = "MAC", requires = "from_device")]
    gateway_mac: Option<Mac>,
    /// Source address of all frames, which the gateway's selectors must admit
    #[arg(long, value_name = "ADDRESS", requires = "from_device")]
    source: Option<IpAddr>,
    /// Destination address of all frames; the gateway must know the neighbour behind the second device for it
    #[arg(long, value_name = "ADDRESS", requires = "from_device")]
    destination: Option<IpAddr>,
    /// IP versions, in worlds that are made
    #[arg(long, value_delimiter = ',', default_values = ["4"])]
    family: Vec<Family>,
    /// Length of a frame, from the Ethernet header on, without the frame check sequence. IPv6 frames have 78 at least
    #[arg(long, value_delimiter = ',', value_name = "N", default_values = ["60", "508", "1514"],
        value_parser = clap::value_parser!(u32).range(60..=1514))]
    packet_bytes: Vec<u32>,
    /// Source ports, one after the other
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=32_767))]
    flows: u32,
    /// Copies of a frame that the driver gets at once: a driver must allow it, and a veth does not
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    burst: u32,
    /// Threads of pktgen, one on each CPU from the first on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Length of a trial
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Part of the highest rate to which the throughput is found, in percent
    #[arg(long, default_value_t = 1.0)]
    resolution: f64,
    /// Frames that may be lost, in percent. With 0 it is the throughput of RFC 2544
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Searches, of each gateway in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Agent to measure in worlds that are made. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Writes the results here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Frames of the first run, which shows how fast pktgen is here, and in which neighbours are found.
const FIRST: u64 = 20_000;

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(why) = Pktgen::missing() {
        bail!("{why}");
    }
    ensure!((0.01..50.0).contains(&arguments.resolution), "--resolution {}: 0.01 to 50", arguments.resolution);
    ensure!((0.0..100.0).contains(&arguments.loss), "--loss {}: 0 to 100", arguments.loss);
    let gateways = gateways(arguments)?;
    let mut results = Results::new("pktgen");
    for &bytes in &arguments.packet_bytes {
        let families = gateways.first().map_or(0, |gateway| gateway.addresses.len());
        for family in 0..families {
            let mut found: Vec<Vec<Found>> = gateways.iter().map(|_| Vec::new()).collect();
            for round in 1..=arguments.rounds {
                for (gateway, found) in gateways.iter().zip(&mut found) {
                    let case = Case::new(arguments, gateway, family, bytes);
                    let result = case.measure().with_context(|| format!("{}, {bytes} bytes", gateway.name))?;
                    eprintln!("round {round}: {}, {} bytes: {result}", gateway.name, case.frames.bytes);
                    found.push(result);
                }
            }
            for (gateway, found) in gateways.iter().zip(&found) {
                report(&mut results, &Case::new(arguments, gateway, family, bytes), found);
            }
        }
    }
    for gateway in gateways {
        gateway.end()?;
    }
    results.finish(arguments.json.as_deref())
}

/// The measured path: where frames enter and leave.
struct Gateway {
    name: &'static str,
    /// Source and destination, of each family.
    addresses: Vec<(IpAddr, IpAddr)>,
    from: Netdev,
    to: Netdev,
    mac: Mac,
    /// Of the world that was made for it.
    running: Option<Running>,
    _hub: Option<Hub>,
}

fn gateways(arguments: &Arguments) -> Result<Vec<Gateway>> {
    let Arguments { from_device, to_device, gateway_mac, source, destination, .. } = arguments;
    let named = from_device.as_ref().zip(to_device.as_ref()).zip(*gateway_mac).zip(source.zip(*destination));
    let Some((((from, to), mac), addresses)) = named else {
        let agent = testbed::agent(arguments.agent.as_deref())?;
        return Ok(vec![Gateway::hub(arguments, &agent)?, Gateway::kernel(arguments)?]);
    };
    let (source, destination) = addresses;
    ensure!(source.is_ipv4() == destination.is_ipv4(), "{source} and {destination}: one is IPv4, one IPv6");
    let gateway = Gateway {
        name: "gateway",
        addresses: vec![addresses],
        from: netdev(arguments.from.as_deref(), from)?,
        to: netdev(arguments.to.as_deref(), to)?,
        mac,
        running: None,
        _hub: None,
    };
    Ok(vec![gateway])
}

/// A device in a namespace, or in this one.
fn netdev(namespace: Option<&str>, device: &str) -> Result<Netdev> {
    if let Some(name) = namespace {
        return Netdev::find(name, device);
    }
    let namespace = Namespace::current()?;
    let index = namespace.ifindex(device)?;
    Ok(Netdev { namespace, device: device.to_owned(), index })
}

impl Gateway {
    fn hub(arguments: &Arguments, agent: &Path) -> Result<Self> {
        let hub = Hub::make(false)?;
        let config = HubConfig::offices(&SITES).unpublished().to_string();
        let running = Running::start(agent, &hub.world[HUB], &config)?;
        running.rest()?;
        Self::of(arguments, Program::Hub, hub, Some(running))
    }

    fn kernel(arguments: &Arguments) -> Result<Self> {
        let hub = Hub::make(true)?;
        hub.route_sites()?;
        Self::of(arguments, Program::Kernel, hub, None)
    }

    fn of(arguments: &Arguments, program: Program, hub: Hub, running: Option<Running>) -> Result<Self> {
        let duplicate = |netdev: &Netdev| {
            let namespace = netdev.namespace.duplicate()?;
            Ok::<_, anyhow::Error>(Netdev { namespace, device: netdev.device.clone(), index: netdev.index })
        };
        Ok(Self {
            name: program.name(),
            addresses: arguments.family.iter().map(|family| (family.host(&A), family.host(&B))).collect(),
            from: duplicate(&hub.from)?,
            to: duplicate(&hub.sink)?,
            mac: hub.macs.gateway,
            running,
            _hub: Some(hub),
        })
    }

    fn end(self) -> Result<()> {
        self.running.map_or(Ok(()), |running| running.agent.stop())
    }
}

/// Result of a search.
struct Found {
    /// Frames a second that pktgen made without a limit, and the part that was lost then.
    most: f64,
    lost: f64,
    /// Frames a second of the fastest trial that passed.
    throughput: f64,
    latency: Option<Latency>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { most, lost, throughput, latency } = self;
        write!(f, "{throughput:.0} frames/s")?;
        if throughput < most {
            write!(f, "; of {most:.0} frames/s {:.2} % are lost", lost * 100.0)?;
        } else {
            write!(f, ", and pktgen makes no more")?;
        }
        latency.map_or(Ok(()), |latency| write!(f, "; {:.1} us at the throughput", latency.median))
    }
}

/// A gateway and frames for it.
struct Case<'a> {
    arguments: &'a Arguments,
    gateway: &'a Gateway,
    frames: Frames,
}

/// Result of a trial.
struct Trial {
    rate: f64,
    lost: f64,
}

impl<'a> Case<'a> {
    fn new(arguments: &'a Arguments, gateway: &'a Gateway, family: usize, bytes: u32) -> Self {
        let (source, destination) = gateway.addresses[family];
        // An Ethernet, an IPv6, a UDP header and pktgen's own.
        let shortest = if source.is_ipv6() { 78 } else { 60 };
        let &Arguments { flows, burst, .. } = arguments;
        let frames = Frames { source, destination, mac: gateway.mac, bytes: bytes.max(shortest), flows, burst };
        Self { arguments, gateway, frames }
    }

    fn measure(&self) -> Result<Found> {
        let &Self { arguments, gateway, .. } = self;
        let Gateway { from, to, .. } = gateway;
        let pktgen = Pktgen::take(from.namespace.duplicate()?, &from.device, arguments.threads)?;
        let mut endpoints = Endpoints::attach(to)?;
        endpoints.expect(&self.expect(false)?)?;

        let seconds = arguments.seconds;
        let fastest = |frames| Pace { rate: None, frames, queued: false };
        let first = self.trial(&pktgen, &mut endpoints, fastest(FIRST)).context("the first run")?;
        let most = self.trial(&pktgen, &mut endpoints, fastest(frames_of(first.rate, seconds)))?;
        ensure!(most.lost < 1.0, "no frame arrived: does the gateway know the route, and the neighbour?");
        let mut best = most.rate;
        if !self.passes(&most) {
            let found = search::highest(whole(most.rate), arguments.resolution / 100.0, |rate| {
                let pace = Pace { rate: Some(rate), frames: rate * seconds, queued: false };
                let trial = self.trial(&pktgen, &mut endpoints, pace)?;
                let passes = self.passes(&trial);
                if passes {
                    best = trial.rate;
                }
                Ok::<_, anyhow::Error>(passes)
            })?;
            best = if found.is_some() { best } else { 0.0 };
        }
        let latency = if best > 0.0 {
            // By another way, on which the stamp sees the frames; at the same rate.
            endpoints.stamp(Netdev {
                namespace: from.namespace.duplicate()?,
                device: from.device.clone(),
                index: from.index,
            })?;
            endpoints.expect(&self.expect(true)?)?;
            let pace = Pace { rate: Some(whole(best)), frames: frames_of(best, seconds), queued: true };
            self.trial(&pktgen, &mut endpoints, pace).context("timing frames")?;
            endpoints.latency()?
        } else {
            None
        };
        Ok(Found { most: most.rate, lost: most.lost, throughput: best, latency })
    }

    fn trial(&self, pktgen: &Pktgen, endpoints: &mut Endpoints, pace: Pace) -> Result<Trial> {
        let before = endpoints.tally()?;
        let outcomes = pktgen.send(&self.frames, pace)?;
        let sent: u64 = outcomes.iter().map(|outcome| outcome.sent).sum();
        let tally = endpoints.drain(before, sent)?;
        ensure!(tally.garbled == 0, "{} of {sent} frames arrived corrupted", tally.garbled);
        ensure!(
            tally.good <= sent,
            "{} frames came of {sent} that were sent: does something else send such frames?",
            tally.good
        );
        let rate: f64 =
            outcomes.iter().map(|Outcome { sent, microseconds, .. }| float(*sent) / float(*microseconds) * 1e6).sum();
        ensure!(sent > 0, "pktgen sent nothing: is {} up?", self.gateway.from.device);
        Ok(Trial { rate, lost: 1.0 - float(tally.good) / float(sent) })
    }

    fn passes(&self, trial: &Trial) -> bool {
        trial.lost <= self.arguments.loss / 100.0
    }

    fn expect(&self, stamped: bool) -> Result<Expect> {
        let Frames { source, destination, bytes, .. } = self.frames;
        Ok(Expect {
            source: octets(source),
            destination: octets(destination),
            mac: self.gateway.to.mac()?.0,
            version: if source.is_ipv4() { 4 } else { 6 },
            stamped: u8::from(stamped),
            length: bytes,
        })
    }
}

/// An IPv4 address in the first four bytes.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
    }
}

fn whole(rate: f64) -> u64 {
    #[expect(clippy::cast_sign_loss, reason = "a rate")]
    let whole = rate as u64;
    whole.max(1)
}

fn frames_of(rate: f64, seconds: u64) -> u64 {
    whole(rate) * seconds
}

fn report(results: &mut Results, case: &Case<'_>, found: &[Found]) {
    let Frames { source, bytes, flows, burst, .. } = case.frames;
    let case = [
        ("program", Value::from(case.gateway.name)),
        ("family", if source.is_ipv4() { 4 } else { 6 }.into()),
        ("packet_bytes", bytes.into()),
        ("flows", flows.into()),
        ("burst", burst.into()),
        ("threads", case.arguments.threads.into()),
    ];
    let mut add = |measure, unit, value: fn(&Found) -> Option<f64>| {
        results.add(&case, measure, unit, found.iter().filter_map(value));
    };
    add("throughput", "frames/s", |found| Some(found.throughput));
    add("latency at it, median", "us", |found| Some(found.latency?.median));
    add("latency at it, p99", "us", |found| Some(found.latency?.p99));
    add("latency at it, most", "us", |found| Some(found.latency?.most));
    add("sent without a limit", "frames/s", |found| Some(found.most));
    add("lost of these", "%", |found| Some(found.lost * 100.0));
    let bits = found.iter().map(|found| found.throughput * f64::from(bytes) * 8.0 / 1e6);
    results.add(&case, "throughput", "Mbit/s", bits);
}

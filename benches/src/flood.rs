//! A flood: as many frames as asked for, as fast as one core forwards them, all counted and checked at the far end.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{programs::ProgramError, sys::SyscallError};
use clap::Args;
use hub_tests::lab::Mac;
use ipnet::IpNet;

use crate::{
    cpu::pin,
    dispatcher::Idle,
    netdev::Netdev,
    programs::{self, Programs},
    report::Report,
    settings::{Macs, Spread, Traffic, settings},
    shape::Counts,
};

#[derive(Args)]
pub struct Arguments {
    /// Network namespace that the frames come from
    #[arg(long, value_name = "NETNS")]
    from: String,
    /// Device there, on a link with the hub
    #[arg(long, value_name = "DEVICE")]
    from_device: String,
    /// Network namespace that the frames go to
    #[arg(long, value_name = "NETNS")]
    to: String,
    /// Device there, on a link with the hub; it gets an XDP program for the time of the run
    #[arg(long, value_name = "DEVICE")]
    to_device: String,
    /// Ethernet address of the hub on the sender's link
    #[arg(long, value_name = "MAC")]
    gateway_mac: Mac,
    /// Source address of all frames
    #[arg(long, value_name = "ADDRESS")]
    source: std::net::IpAddr,
    /// Frames go to the first hosts of this prefix, in scattered order
    #[arg(long, value_name = "PREFIX")]
    destination: IpNet,
    /// How many hosts; fewer when the prefix has fewer
    #[arg(long, default_value_t = 256)]
    destinations: u32,
    /// How many source ports
    #[arg(long, default_value_t = 64)]
    flows: u32,
    /// How many frames
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    frames: u64,
    /// Length of a frame, from the Ethernet header on, without the frame check sequence
    #[arg(long, default_value_t = 64)]
    bytes: u32,
    /// Frames made in one go, before the hub gets its turn
    #[arg(long, default_value_t = BATCH, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,
    /// Core that everything runs on: generator, hub and sink. Default: the last that is allowed
    #[arg(long)]
    cpu: Option<usize>,
    /// Expect the frames as they were sent, TTL and MACs too: for a hub that runs `bare`
    #[arg(long)]
    untouched: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Frames in one system call. The kernel itself ends it on a signal; between two, this program sees how far it got.
const CHUNK: u64 = 1 << 17;
/// More at a time, and a queue overflows when the hub's work moves to another core.
pub const BATCH: u32 = 64;
/// Not counted: caches, neighbours, route caches and the CPU's clock get warm.
pub const WARM_UP: u64 = 1 << 17;
/// The far end has got all when nothing has come for this long.
const QUIET: Duration = Duration::from_millis(200);
/// How long frames may still trickle in, at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many windows of frames in a row lost to the last one: the hub does not forward.
const HOPELESS: u32 = 5;

pub fn run(arguments: &Arguments) -> Result<()> {
    let from = Netdev::find(&arguments.from, &arguments.from_device)?;
    let to = Netdev::find(&arguments.to, &arguments.to_device)?;
    let traffic = Traffic {
        source: arguments.source,
        destination: arguments.destination,
        spread: Spread::Hosts,
        destinations: arguments.destinations,
        flows: arguments.flows,
        bytes: arguments.bytes,
        untouched: arguments.untouched,
        translated: None,
    };
    let macs = Macs { from: from.mac()?, gateway: arguments.gateway_mac, to: to.mac()? };
    let settings = settings(&traffic, macs)?;

    let mut programs = Programs::load()?;
    programs.set(&settings)?;
    let _idle = Idle::attach(&mut programs)?;
    programs.attach("sink", &to)?;
    // Of the whole process: the threads that enter namespaces inherit it.
    pin(arguments.cpu)?;

    let frame = vec![0; arguments.bytes as usize];
    let mut flood = Flood { programs: &mut programs, from: &from, frame, batch: arguments.batch };
    flood.measure(WARM_UP.min(arguments.frames)).context("warming up")?;
    let report = flood.measure(arguments.frames)?;

    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(hint) = report.hint() {
        eprintln!("{hint}");
    }
    Ok(())
}

/// The equipment of a flood: programs with their settings, and the attached sink.
pub struct Flood<'a> {
    pub programs: &'a mut Programs,
    pub from: &'a Netdev,
    /// Initial frame, in which the generator writes the head.
    pub frame: Vec<u8>,
    /// Frames made in one go.
    pub batch: u32,
}

impl Flood<'_> {
    /// Sends `frames`, waits until they have arrived or nothing more does, and counts. Sends fewer when nothing
    /// arrives.
    pub fn measure(&mut self, frames: u64) -> Result<Report> {
        let before = (self.programs.made()?, self.programs.counts(0)?);
        let start = Instant::now();
        // Windows of frames that were lost to the last one, in a row, and what had arrived before them.
        let (mut lost, mut arrived) = (0, 0);
        let mut sent = 0;
        while sent < frames && lost < HOPELESS {
            self.send(u32::try_from(CHUNK.min(frames - sent))?)?;
            let made = self.programs.made()? - before.0;
            if made > sent {
                sent = made;
                continue;
            }
            // The generator waits for frames that are slow, or lost.
            let (counts, _) = self.drain(sent, before.1)?;
            lost = if counts.total() == arrived { lost + 1 } else { 0 };
            arrived = counts.total();
            self.programs.forget_missing(before.0 + sent)?;
        }
        if sent == 0 {
            bail!("the generator made no frame: its program and its settings do not fit");
        }
        let (counts, end) = self.drain(sent, before.1)?;
        Ok(Report::new(sent, counts.total(), counts.garbled, end - start))
    }

    fn send(&mut self, frames: u32) -> Result<()> {
        let Self { programs, from, frame, batch } = self;
        let generator = programs.generator()?;
        match from.namespace.enter(|| programs::send(generator, frame, from.index, frames, *batch))? {
            // A signal that did not end the process: the next call makes what is missing.
            Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                if io_error.kind() == io::ErrorKind::Interrupted =>
            {
                Ok(())
            }
            result => result.context("running the generator: Linux 5.18 or later is needed, and this device up"),
        }
    }

    /// Counts of the sink since `before`, and time of the last frame.
    fn drain(&self, sent: u64, before: Counts) -> Result<(Counts, Instant)> {
        let begin = Instant::now();
        let (mut last, mut changed) = (Counts::default(), begin);
        loop {
            let now = self.programs.counts(0)?.since(before);
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            if now.total() >= sent || changed.elapsed() > QUIET || begin.elapsed() > PATIENCE {
                return Ok((last, changed));
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
}

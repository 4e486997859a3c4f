//! Runs the stages on the tables of a running agent.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    maps::{Array, DevMap, PerCpuArray},
};
use hub_common::maps::{self, MAX_CONNECTIONS};
use nix::time::{ClockId, clock_gettime};

use super::shared;
use crate::{
    forward::{
        cases::{Interfaces, Program},
        hub::Hub,
        hubs,
    },
    programs,
    settings::{Traffic, settings},
    shape::{Head, IPV4, IPV6_NETWORKS, Layout, Settings},
    stages::Stage,
    testbed::Running,
};

// enum xdp_action, linux/bpf.h.
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The maps that are not the hub's.
const OWN: [&str; 3] = ["SETTINGS", "SEQUENCE", "FLOOR"];
/// Slots of `TRAFFIC`: one for each connection, for the VPC, and for unattributed packets.
const SLOTS: u32 = MAX_CONNECTIONS + 2;
/// Extra bytes of the buffer for the output frame.
const ROOM: usize = 64;

/// The ladder of one agent.
pub struct Ladder {
    pub program: Program,
    running: Running,
    hub: Hub,
    ebpf: Ebpf,
    settings: Option<Settings>,
    frame: Vec<u8>,
}

/// Packets that the agent's counters have, of all connections together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub received: u64,
    pub sent: u64,
}

impl Ladder {
    /// Starts an agent and loads the programs with its maps.
    pub fn set_up(program: Program, agent: &Path, config: &str) -> Result<Self> {
        let (running, hub) = hubs::with_agent(program, Interfaces::Veth, agent, config)?;
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ladder-ebpf"));
        let mut ebpf = shared::load(object, running.agent.pid(), &OWN)?;
        for stage in Stage::ALL {
            programs::loaded(&mut ebpf, &stage.entry(program))?;
        }
        let mut floor: DevMap<_> = ebpf.map_mut("FLOOR").context("no map FLOOR")?.try_into()?;
        // A port is looked up in the namespace of the thread that names it.
        hub.egress.namespace.enter(|| floor.set(0, hub.egress.index, None, 0))?.context("setting the port")?;
        Ok(Self { program, running, hub, ebpf, settings: None, frame: Vec::new() })
    }

    pub fn ready(&self) -> Duration {
        self.running.ready
    }

    /// Sets the traffic of the next runs.
    pub fn set(&mut self, traffic: &Traffic) -> Result<()> {
        let settings = settings(traffic, self.hub.macs)?;
        let mut array: Array<_, Settings> = self.ebpf.map_mut("SETTINGS").context("no map SETTINGS")?.try_into()?;
        array.set(0, settings, 0).context("writing the settings")?;
        self.settings = Some(settings);
        self.frame = vec![0; traffic.bytes as usize];
        Ok(())
    }

    /// Nanoseconds of CPU time for a packet, averaged over `frames`.
    ///
    /// Measures the thread's CPU time: the kernel's own figure is in whole nanoseconds, and wall time includes other
    /// tasks.
    pub fn run(&mut self, stage: Stage, frames: u32) -> Result<f64> {
        self.running.agent.must_run()?;
        let time = self.test(stage, frames, None)?;
        Ok(time.as_secs_f64() * 1e9 / f64::from(frames))
    }

    /// Runs the whole program on one packet and checks the result.
    ///
    /// # Errors
    /// When the packet has wrong bytes.
    pub fn sample(&mut self) -> Result<()> {
        let mut out = vec![0; self.frame.len() + ROOM];
        self.test(Stage::Redirect, 1, Some(&mut out))?;
        let settings = self.settings.as_ref().context("no settings")?;
        let right = match settings.version {
            4 => is_right::<{ IPV4.words }>(&out, settings, &IPV4),
            _ => is_right::<{ IPV6_NETWORKS.words }>(&out, settings, &IPV6_NETWORKS),
        };
        ensure!(right, "a packet came out wrong: {out:02x?}");
        Ok(())
    }

    /// Runs a stage. Returns the CPU time of the thread. `out` is truncated to the length of the frame.
    fn test(&mut self, stage: Stage, repeat: u32, out: Option<&mut Vec<u8>>) -> Result<Duration> {
        let entry = stage.entry(self.program);
        let program = programs::loaded(&mut self.ebpf, &entry)?;
        let (frame, ingress) = (&self.frame, &self.hub.ingress);
        let (result, time, out) = ingress.namespace.enter(|| -> Result<_> {
            let mut out = out;
            let context = programs::context(frame, ingress.index);
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: out.as_mut().map(|out| out.as_mut_slice()),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::default()
            };
            let start = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            let result = program.test_run(options).with_context(|| format!("running {entry}"))?;
            let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            Ok((result, Duration::from(end - start), out))
        })??;
        let expected = if matches!(stage, Stage::Bare | Stage::Redirect) { XDP_REDIRECT } else { XDP_TX };
        if result.return_value != expected {
            bail!("the last packet of {entry} ended with {}, not {expected}", result.return_value);
        }
        if let Some(out) = out {
            out.truncate(result.data_size_out as usize);
        }
        Ok(time)
    }

    pub fn counted(&self) -> Result<Counted> {
        let traffic: PerCpuArray<_, maps::Traffic> = self.ebpf.map("TRAFFIC").context("no map TRAFFIC")?.try_into()?;
        let mut counted = Counted::default();
        for slot in 0..SLOTS {
            for cpu in traffic.get(&slot, 0).context("reading the counters")?.iter() {
                counted.received += cpu.rx_packets;
                counted.sent += cpu.tx_packets;
            }
        }
        Ok(counted)
    }

    /// Kills the agent. That a stopping agent leaves nothing behind is covered by tests, and takes long with many
    /// routes.
    pub fn end(self) -> Result<()> {
        self.running.agent.kill().map(drop)
    }
}

/// Whether a frame is one of the bench's frames, correctly forwarded.
fn is_right<const WORDS: usize>(frame: &[u8], settings: &Settings, layout: &Layout) -> bool {
    let (words, _) = frame.as_chunks::<8>();
    let Some(words) = words.first_chunk::<WORDS>() else { return false };
    let head = Head(words.map(u64::from_ne_bytes));
    let right = |number| layout.is_right(&head, settings, number);
    frame.len() == settings.length as usize && layout.generated(&head).is_some_and(right)
}

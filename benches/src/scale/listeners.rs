//! Packets that are dropped beside the measured ones, and clients that have each of them shown.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hub_tests::{
    lab::{Agent, Background, HUB, Status},
    packet::Packet,
};

use crate::{
    cpu::{go_first, pin_beside},
    forward::{hub::Hub, routes::Family},
    netdev::Netdev,
    programs::{self, Programs},
};

/// Frames of a turn, and its length: half a million a second. Each turn ends with a wait of some 30 ms for the kernel's
/// RCU (`xdp_test_run_teardown`), so that it is long.
const FRAMES: u32 = 1 << 16;
const TURN: Duration = Duration::from_micros(131_072);
const BATCH: u32 = 64;

/// Site `b` sends what it must not. Its link's far end is where the measured frames come out.
pub struct Drops {
    programs: Programs,
    from: Netdev,
    frame: Vec<u8>,
    _listeners: Vec<Background>,
}

impl Drops {
    /// Starts this many clients of the agent, each with a filter of its own.
    pub fn prepare(hub: &Hub, agent: (&Agent, &Path), family: Family, listeners: u32) -> Result<Self> {
        let (source, length, packet) = match family {
            Family::V4 => ("203.0.113.9", 32, Packet::ipv4("203.0.113.9", "16.0.0.1")),
            Family::V6 => ("2001:db8::9", 128, Packet::ipv6("2001:db8::9", "fd64:1:1000::1")),
        };
        let mac = hub.world[HUB].mac(&hub.egress.device)?.0;
        let frame = packet.udp(7001, 53).payload(32).ethernet(hub.macs.to.0, mac).build();
        let from = Netdev::find(hub.sink.namespace.name(), &hub.sink.device)?;
        let listen = |number: u32| {
            let mut command = Command::new(agent.1);
            command.arg("--socket").arg(agent.0.socket()).args(["monitor", "--packets"]);
            // Equal filters share a place in the program.
            command.args(["--src", &format!("{source}/{}", length - number)]);
            Background::start(&mut command)
        };
        let listeners = (0..listeners).map(listen).collect::<Result<_>>()?;
        let mut programs = Programs::load()?;
        programs::loaded(programs.object(), "back")?;
        Ok(Self { programs, from, frame, _listeners: listeners })
    }

    /// Sends until the flag is set, on another core than the measured frames, which are sent on `cpu`, and before all
    /// else there: clients that take time from this would seem to make the measured frames faster.
    ///
    /// # Errors
    /// When it sent less than planned: then runs cannot be compared.
    pub fn send_until(&self, ends: &AtomicBool, cpu: Option<usize>) -> Result<()> {
        pin_beside(cpu)?;
        go_first()?;
        let back = self.programs.loaded("back")?;
        let start = Instant::now();
        let mut next = start;
        while !ends.load(Ordering::Relaxed) {
            self.from
                .namespace
                .enter(|| programs::send(back, &self.frame, self.from.index, FRAMES, BATCH))?
                .context("sending what is dropped")?;
            next += TURN;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let late = start.elapsed().saturating_sub(next - start);
        ensure!(late < start.elapsed() / 20, "half a million drops a second were too many for this core");
        Ok(())
    }
}

/// # Errors
/// When nothing was dropped: then something else was measured than was meant.
pub fn check(status: &Status, name: &str) -> Result<()> {
    let dropped = status.connection(name)["drops"]["spoofed_source"].as_u64();
    ensure!(dropped > Some(0), "nothing was dropped: {dropped:?}");
    Ok(())
}

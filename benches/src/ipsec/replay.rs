//! The kernel programs at both ends of the path: a recorded frame is sent again and again, and what is decrypted at the
//! far end is compared and counted.

use std::{
    mem, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    maps::{Array, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, tc},
};

use crate::{
    dispatcher::Idle,
    netdev::Netdev,
    programs::{self, Programs},
    recording::{CAPACITY, HEAD_WORDS, Recording, Turn},
    shape::Counts,
    stats::float,
};

pub use crate::recording::IN_TURN;

// SAFETY: an integer and bytes without padding: the size is asserted beside the type.
unsafe impl aya::Pod for Recording {}
// SAFETY: two integers.
unsafe impl aya::Pod for Turn {}

/// Frames under way at a time.
const BATCH: u32 = 64;
/// Frames under way, at most, where several CPUs receive them: a veth's ring has room for 256 (`VETH_RING_SIZE`,
/// drivers/net/veth.c), a CPU's queue for 1,000.
const WINDOW: u32 = 192;
/// Attempts at a measurement.
const RUNS: u32 = 3;
/// After this time without another arrival, no more are expected.
const QUIET: Duration = Duration::from_millis(500);

/// A recorded frame, the device that sends it, and the packet in it as it must arrive.
pub struct Flight {
    pub from: Netdev,
    pub frame: Vec<u8>,
    pub arrives: Vec<u8>,
}

pub struct Replay {
    programs: Programs,
    _idle: Idle,
}

impl Replay {
    pub fn load() -> Result<Self> {
        Self::load_program("replay")
    }

    /// For [`Self::run_in_turn`].
    pub fn load_in_turn() -> Result<Self> {
        Self::load_program("replay_in_turn")
    }

    fn load_program(program: &str) -> Result<Self> {
        let mut programs = Programs::load()?;
        let idle = Idle::attach_program(&mut programs, program)?;
        Ok(Self { programs, _idle: idle })
    }

    /// Counts what arrives behind the decryption on this device.
    pub fn attach_sink(&mut self, netdev: &Netdev) -> Result<()> {
        self.classify("decrypted", netdev)
    }

    /// Redirects everything from each of the two devices to the other one.
    pub fn attach_bare(&mut self, pair: &[Netdev; 2]) -> Result<()> {
        let [one, other] = pair;
        let map = self.programs.object().map_mut("PAIR").context("no map PAIR")?;
        Array::<_, u32>::try_from(map)?.set(0, one.index ^ other.index, 0).context("writing PAIR")?;
        pair.iter().try_for_each(|netdev| self.classify("bare_pair", netdev))
    }

    /// Attaches a program to packets that a device receives, for the rest of the device's life.
    fn classify(&mut self, program: &str, netdev: &Netdev) -> Result<()> {
        let object = self.programs.object();
        let classifier: &mut SchedClassifier =
            object.program_mut(program).with_context(|| format!("no program {program}"))?.try_into()?;
        if classifier.fd().is_err() {
            classifier.load().with_context(|| format!("loading {program}"))?;
        }
        let mut attach = || classifier.attach(&netdev.device, TcAttachType::Ingress);
        let link = netdev.namespace.enter(|| {
            // Linux before 6.6 requires a clsact on the device.
            attach().or_else(|_| {
                tc::qdisc_add_clsact(&netdev.device)?;
                attach()
            })
        })?;
        let link = link.with_context(|| format!("attaching {program} to {}", netdev.device))?;
        // Its end would detach by the device's index, in this thread's namespace. It goes with the device.
        mem::forget(classifier.take_link(link)?);
        Ok(())
    }

    /// Id of the program that counts.
    pub fn sink(&mut self) -> Result<u32> {
        let sink: &mut SchedClassifier =
            self.programs.object().program_mut("decrypted").context("no program decrypted")?.try_into()?;
        Ok(sink.info()?.id())
    }

    /// Sends so many copies, all of which must arrive as expected: otherwise the run is void, and repeated. Returns the
    /// nanoseconds that each took.
    pub fn run(&mut self, flight: &Flight, packets: u32) -> Result<f64> {
        self.expect(flight)?;
        for _ in 0..RUNS {
            let (took, Counts { good, garbled }) = self.try_run(flight, packets)?;
            if good == u64::from(packets) {
                return Ok(float(took.as_nanos().try_into()?) / f64::from(packets));
            }
            eprintln!("  void: of {packets} packets {good} arrived as expected, and {garbled} others");
        }
        bail!("{RUNS} runs one after the other lost packets")
    }

    /// As [`Self::run`], with each frame in turn, and no more frames under way than a CPU's queue has room for. All
    /// have the same sender and the same packet inside.
    pub fn run_in_turn(&mut self, flights: &[Flight], packets: u32) -> Result<f64> {
        let first = flights.first().context("no frames")?;
        for (number, flight) in (0..).zip(flights) {
            let recording = recording(&flight.frame)?;
            let map = self.programs.object().map_mut("RECORDINGS").context("no map RECORDINGS")?;
            Array::<_, Recording>::try_from(map)?.set(number, recording, 0).context("writing RECORDINGS")?;
        }
        let turn = Turn { next: 0, count: flights.len().try_into()? };
        let map = self.programs.object().map_mut("TURN").context("no map TURN")?;
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
        PerCpuArray::<_, Turn>::try_from(map)?.set(0, vec![turn; cpus].try_into()?, 0).context("writing TURN")?;
        self.set_expected(head(&first.arrives)?)?;
        for _ in 0..RUNS {
            let before = self.counts()?;
            let took = first.from.namespace.enter(|| self.send_windows(first, before, packets))??;
            let Counts { good, garbled } = self.counts()?.since(before);
            if good == u64::from(packets) {
                return Ok(float(took.as_nanos().try_into()?) / f64::from(packets));
            }
            eprintln!("  void: of {packets} packets {good} arrived as expected, and {garbled} others");
        }
        bail!("{RUNS} runs one after the other lost packets")
    }

    /// Time until all have arrived, or no more do.
    fn send_windows(&mut self, first: &Flight, before: Counts, packets: u32) -> Result<Duration> {
        let begin = Instant::now();
        let mut sent = 0;
        while sent < packets {
            let now = (packets - sent).min(WINDOW / 2);
            let replay = programs::loaded(self.programs.object(), "replay_in_turn")?;
            programs::send(replay, &first.frame, first.from.index, now, BATCH)
                .with_context(|| format!("sending frames by {}", first.from.device))?;
            sent += now;
            self.drain(before, sent.saturating_sub(WINDOW / 2))?;
        }
        self.drain(before, packets)?;
        Ok(begin.elapsed())
    }

    /// Packets that have arrived as expected since the program was loaded, on each CPU.
    pub fn arrived_by_cpu(&mut self) -> Result<Vec<u64>> {
        let map = self.programs.object().map("DECRYPTED_COUNTS").context("no map DECRYPTED_COUNTS")?;
        let values = PerCpuArray::<_, Counts>::try_from(map)?.get(&0, 0).context("reading DECRYPTED_COUNTS")?;
        Ok(values.iter().map(|counts| counts.good).collect())
    }

    /// Time until all have arrived, or no more do; and what arrived.
    fn try_run(&mut self, flight: &Flight, packets: u32) -> Result<(Duration, Counts)> {
        let before = self.counts()?;
        let took = flight.from.namespace.enter(|| -> Result<Duration> {
            let begin = Instant::now();
            let replay = programs::loaded(self.programs.object(), "replay")?;
            programs::send(replay, &flight.frame, flight.from.index, packets, BATCH)
                .with_context(|| format!("sending frames by {}", flight.from.device))?;
            self.drain(before, packets)?;
            Ok(begin.elapsed())
        })??;
        Ok((took, self.counts()?.since(before)))
    }

    /// Leaves all that arrives to the kernel.
    pub fn expect_nothing(&mut self) -> Result<()> {
        self.set_expected([0; HEAD_WORDS])
    }

    fn expect(&mut self, flight: &Flight) -> Result<()> {
        let recording = recording(&flight.frame)?;
        let map = self.programs.object().map_mut("RECORDING").context("no map RECORDING")?;
        Array::<_, Recording>::try_from(map)?.set(0, recording, 0).context("writing RECORDING")?;
        self.set_expected(head(&flight.arrives)?)
    }

    fn set_expected(&mut self, head: [u32; HEAD_WORDS]) -> Result<()> {
        let map = self.programs.object().map_mut("DECRYPTED").context("no map DECRYPTED")?;
        Array::<_, [u32; HEAD_WORDS]>::try_from(map)?.set(0, head, 0).context("writing DECRYPTED")
    }

    /// Waits until all have arrived, or no more do.
    fn drain(&mut self, before: Counts, packets: u32) -> Result<()> {
        let (mut last, mut changed) = (0, Instant::now());
        loop {
            let arrived = self.counts()?.since(before).good;
            if arrived >= packets.into() || changed.elapsed() > QUIET {
                return Ok(());
            }
            if arrived != last {
                (last, changed) = (arrived, Instant::now());
            }
            // Not a sleep: the clock would count its time.
            thread::yield_now();
        }
    }

    fn counts(&mut self) -> Result<Counts> {
        let map = self.programs.object().map("DECRYPTED_COUNTS").context("no map DECRYPTED_COUNTS")?;
        let values = PerCpuArray::<_, Counts>::try_from(map)?.get(&0, 0).context("reading DECRYPTED_COUNTS")?;
        let sum = |field: fn(&Counts) -> u64| values.iter().map(field).sum();
        Ok(Counts { good: sum(|counts| counts.good), garbled: sum(|counts| counts.garbled) })
    }
}

fn recording(frame: &[u8]) -> Result<Recording> {
    let length = frame.len();
    ensure!(length <= CAPACITY, "a frame of {length} bytes: {CAPACITY} at most");
    let mut recording = Recording { length: u32::try_from(length)?, bytes: [0; CAPACITY] };
    recording.bytes[..length].copy_from_slice(frame);
    Ok(recording)
}

/// The first bytes of a packet, as the sink reads them.
fn head(packet: &[u8]) -> Result<[u32; HEAD_WORDS]> {
    let bytes = packet.first_chunk::<{ HEAD_WORDS * 4 }>().context("the packet is too short to be checked")?;
    let mut words = [0; HEAD_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into()?);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_head_is_read_in_memory_order() {
        let packet: Vec<u8> = (0..40).collect();
        let words = head(&packet).unwrap();
        assert_eq!(words.map(u32::to_ne_bytes).concat(), packet[..36]);
        assert!(head(&packet[..35]).is_err());
    }
}

//! A stream of frames with a pace, beside which something else happens.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{ProgramError, Xdp},
    sys::SyscallError,
};
use nix::sys::prctl;

use crate::{
    cpu::{go_first, pin},
    netdev::Netdev,
    programs::{self, Programs},
};

/// How fast, and where.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Frames a second.
    pub rate: u32,
    /// Frames of a batch. It bounds the precision of the pace.
    pub grain: u32,
    /// Frames under way before the hub gets its turn, at most.
    pub batch: u32,
    /// Bytes of a frame.
    pub bytes: u32,
    pub cpu: Option<usize>,
}

/// Precision of the pace.
#[derive(Debug, Clone, Copy)]
pub struct StreamSummary {
    pub elapsed: Duration,
    /// Between two calls that make frames: longer than planned when something else had the core.
    pub longest_pause: Duration,
}

/// Of a frame, from the Ethernet header on.
pub const BYTES: u32 = 64;
/// More than these at once lose some in the queues of veths, of 256, when the hub's work moves to another core.
const BATCH: u32 = 64;
/// One system call makes no more than this: the longer it takes, the less is known of when its frames left.
const MOST: u64 = 1 << 10;

impl Pace {
    /// At `rate`, to a tenth of a millisecond, or a quarter where frames are many: a system call costs as much as
    /// a hundred of them.
    pub fn new(rate: u32, cpu: Option<usize>) -> Self {
        let grain = (rate / 10_000).clamp(1, BATCH).max(rate / 4_000 / BATCH * BATCH);
        Self { rate, grain, batch: grain.min(BATCH), bytes: BYTES, cpu }
    }
}

/// Sends from `from` as long as `body` takes.
///
/// # Errors
/// Those of `body`, or why nothing can be sent.
pub fn during<T>(
    programs: &Programs,
    from: &Netdev,
    pace: Pace,
    body: impl FnOnce() -> Result<T>,
) -> Result<(T, StreamSummary)> {
    let generator = programs.loaded("generator")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let pump = scope.spawn(|| from.namespace.enter(|| pump(generator, from.index, pace, &stop))?);
        // Also when the body panics: the scope waits for the thread.
        let result = {
            let _stop = Stop(&stop);
            body()
        };
        let summary = pump.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A stream that failed is likely why the body did.
        let summary = summary?;
        Ok((result?, summary))
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pump(generator: &Xdp, index: u32, pace: Pace, stop: &AtomicBool) -> Result<StreamSummary> {
    let Pace { rate, grain, batch, bytes, cpu } = pace;
    if rate == 0 {
        bail!("--rate 0: at least 1 frame a second is needed");
    }
    pin(cpu)?;
    // Frames from a wire come by interrupt: no task gets before them.
    go_first()?;
    prctl::set_timerslack(1).context("asking for timers without slack")?;
    let frame = vec![0; bytes as usize];
    let start = Instant::now();
    let (mut asked, mut last, mut longest_pause) = (0, start, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(start.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000)? - asked;
        if due < u64::from(grain) {
            let next = Duration::from_nanos((asked + u64::from(grain)) * 1_000_000_000 / u64::from(rate));
            thread::sleep(next.saturating_sub(start.elapsed()));
            continue;
        }
        // Late frames are sent at once.
        let now = due.min(MOST);
        longest_pause = longest_pause.max(last.elapsed());
        last = Instant::now();
        match programs::send(generator, &frame, index, u32::try_from(now)?, batch) {
            // A signal that did not end the process.
            Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                if io_error.kind() == io::ErrorKind::Interrupted => {}
            result => result.context("running the generator: Linux 5.18 or later is needed, and this device up")?,
        }
        asked += now;
    }
    Ok(StreamSummary { elapsed: start.elapsed(), longest_pause })
}

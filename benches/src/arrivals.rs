//! Arrivals of the stream's frames: time and tunnel of each, and losses.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};

use crate::{
    programs::Programs,
    shape::{self, Arrival, TUNNELS},
};

/// A frame that has not arrived after this time is lost. On an idle machine a frame takes microseconds.
const LATE: Duration = Duration::from_millis(20);
/// Period over which shares are measured.
const LOOK: Duration = Duration::from_millis(50);

/// The clock that the kernel programs read, in nanoseconds.
pub fn clock() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    Ok(u64::try_from(Duration::from(now).as_nanos())?)
}

/// Frames of a period, by tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    pub by_tunnel: [u64; TUNNELS as usize],
    pub missing: u64,
}

/// Measures the current shares.
pub fn shares(programs: &Programs, rate: u32) -> Result<Shares> {
    let frames = frames(rate, LOOK);
    let end = programs.made()?;
    thread::sleep(LATE);
    let record = programs.record()?;
    let mut shares = Shares::default();
    for number in end.saturating_sub(frames)..end {
        match record.arrival(number)? {
            Some(arrival) => shares.by_tunnel[arrival.tunnel as usize] += 1,
            None => shares.missing += 1,
        }
    }
    Ok(shares)
}

/// Waits until the shares are accepted and no frame is lost.
pub fn wait_for_shares(
    programs: &Programs,
    rate: u32,
    patience: Duration,
    accept: impl Fn([u64; TUNNELS as usize]) -> bool,
) -> Result<()> {
    let begin = Instant::now();
    // Skip the frames that were sent before.
    thread::sleep(LOOK);
    loop {
        let found = shares(programs, rate)?;
        if found.missing == 0 && accept(found.by_tunnel) {
            return Ok(());
        }
        if begin.elapsed() > patience {
            bail!("the traffic does not take the expected tunnels within {patience:?}: {found:?}");
        }
    }
}

/// Effect of an event on the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disturbance {
    /// From the event until the first frame came out of the second tunnel.
    pub first: Option<Duration>,
    /// From the event until the first frame after which none was lost.
    pub restored: Duration,
    pub lost: u64,
}

/// Follows the stream after an event at `event` on the [`clock`], when `made` frames had been made, until all of `calm`
/// has arrived.
pub fn follow(
    programs: &Programs,
    event: u64,
    made: u64,
    rate: u32,
    calm: Duration,
    patience: Duration,
) -> Result<Disturbance> {
    let begin = Instant::now();
    let record = programs.record()?;
    let (calm, since) = (frames(rate, calm), |time: u64| Duration::from_nanos(time.saturating_sub(event)));
    let mut tracker = Tracker::default();
    let mut next = made;
    loop {
        let settled = programs.made()?;
        thread::sleep(LATE);
        for number in next..settled {
            tracker.frame(record.arrival(number)?.map(|arrival| (arrival.time, arrival.tunnel == 1)), event);
        }
        next = settled;
        // If the second tunnel carried traffic before, its first frame does not show a change.
        if tracker.calm >= if tracker.lost > 0 { calm } else { calm * 10 } {
            let restored = tracker.restored.filter(|_| tracker.lost > 0).map(since).unwrap_or_default();
            return Ok(Disturbance { first: tracker.first.map(since), restored, lost: tracker.lost });
        }
        if begin.elapsed() > patience {
            bail!("the traffic does not come back within {patience:?}: {} frames were lost", tracker.lost);
        }
    }
}

/// From an event at `event` on the [`clock`], when `made` frames had been made, until the first frame to each
/// destination has arrived. A lost frame only delays the result.
pub fn all_reached(
    programs: &Programs,
    event: u64,
    made: u64,
    destinations: u32,
    patience: Duration,
) -> Result<Duration> {
    let begin = Instant::now();
    let record = programs.record()?;
    let mut first = vec![None; destinations as usize];
    let mut next = made;
    while first.contains(&None) {
        let settled = programs.made()?;
        thread::sleep(LATE);
        for number in next..settled {
            if let Some(arrival) = record.arrival(number)? {
                // The low 32 bits identify a frame.
                first[shape::destination(number as u32, destinations) as usize].get_or_insert(arrival.time);
            }
        }
        next = settled;
        if begin.elapsed() > patience {
            bail!("the traffic does not reach all of {destinations} destinations within {patience:?}");
        }
    }
    let last = first.into_iter().flatten().max().unwrap_or(event);
    Ok(Duration::from_nanos(last.saturating_sub(event)))
}

/// The sign that the traffic has moved to another tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The first frame from this tunnel.
    FirstBy(u32),
    /// The first frame from this tunnel after which no other tunnel delivers frames for a period.
    AllBy(u32),
}

/// From an event at `event` on the [`clock`], when `made` frames had been made, until the traffic has moved.
pub fn moved(
    programs: &Programs,
    event: u64,
    made: u64,
    rate: u32,
    sign: Sign,
    patience: Duration,
) -> Result<Duration> {
    let begin = Instant::now();
    let record = programs.record()?;
    let (mut next, mut first, mut calm) = (made, None, 0);
    while calm < frames(rate, LOOK) {
        let settled = programs.made()?;
        thread::sleep(LATE);
        for number in next..settled {
            match (record.arrival(number)?, sign) {
                (Some(Arrival { time, tunnel, .. }), Sign::FirstBy(by)) if tunnel == by && time > event => {
                    return Ok(Duration::from_nanos(time - event));
                }
                (Some(Arrival { time, tunnel, .. }), Sign::AllBy(by)) if tunnel != by || time <= event => {
                    (first, calm) = (None, 0);
                }
                (Some(Arrival { time, .. }), Sign::AllBy(_)) => {
                    first.get_or_insert(time);
                    calm += 1;
                }
                // A lost frame shows no tunnel.
                (_, Sign::FirstBy(_)) | (None, Sign::AllBy(_)) => {}
            }
        }
        next = settled;
        if begin.elapsed() > patience {
            bail!("the traffic does not move within {patience:?}");
        }
    }
    Ok(Duration::from_nanos(first.map_or(0, |first| first - event)))
}

#[derive(Default)]
struct Tracker {
    first: Option<u64>,
    restored: Option<u64>,
    lost: u64,
    /// Consecutive frames without a loss.
    calm: u64,
}

impl Tracker {
    /// Adds the next frame: time and whether from the second tunnel; `None` if lost.
    fn frame(&mut self, came: Option<(u64, bool)>, event: u64) {
        let Some((time, second)) = came else {
            (self.lost, self.calm, self.restored) = (self.lost + 1, 0, None);
            return;
        };
        self.calm += 1;
        self.restored.get_or_insert(time);
        if second && time >= event {
            self.first.get_or_insert(time);
        }
    }
}

/// Frames of a period.
fn frames(rate: u32, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracker_restores_after_last_lost_frame() {
        let mut tracker = Tracker::default();
        let frames = [Some((90, false)), None, Some((110, true)), None, None, Some((140, true)), Some((150, true))];
        for came in frames {
            tracker.frame(came, 100);
        }
        assert_eq!((tracker.first, tracker.restored, tracker.lost, tracker.calm), (Some(110), Some(140), 3, 2));
    }

    #[test]
    fn tracker_frame_before_event_is_ignored() {
        let mut tracker = Tracker::default();
        for time in [90, 99, 100, 101] {
            tracker.frame(Some((time, true)), 100);
        }
        assert_eq!((tracker.first, tracker.lost), (Some(100), 0));
    }
}

//! Totals of a stream: frames made, and frames that arrived.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;

use crate::{programs::Programs, rows::Results, shape::Counts, stats::float};

/// The far end has got all when nothing has come for this long.
const QUIET: Duration = Duration::from_millis(200);

/// The counts of a moment, since the programs were loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    made: u64,
    /// By tunnel.
    counts: [Counts; 2],
}

impl Snapshot {
    pub fn now(programs: &Programs) -> Result<Self> {
        Ok(Self { made: programs.made()?, counts: [programs.counts(0)?, programs.counts(1)?] })
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(Counts::total).sum()
    }
}

/// Frames of a run.
#[derive(Clone, Copy)]
pub struct Tally {
    pub sent: u64,
    /// By tunnel.
    pub received: [Counts; 2],
}

impl Tally {
    /// Waits until all frames since `before` have come out, or none comes any more.
    pub fn since(before: Snapshot, programs: &Programs) -> Result<Self> {
        let (mut last, mut changed) = (Snapshot::now(programs)?, Instant::now());
        while changed.elapsed() < QUIET && last.total() - before.total() < last.made - before.made {
            thread::sleep(Duration::from_millis(1));
            let now = Snapshot::now(programs)?;
            if now != last {
                (last, changed) = (now, Instant::now());
            }
        }
        let received = [0, 1].map(|tunnel| last.counts[tunnel].since(before.counts[tunnel]));
        Ok(Self { sent: last.made - before.made, received })
    }

    pub fn arrived(&self) -> u64 {
        self.received.iter().map(Counts::total).sum()
    }

    pub fn garbled(&self) -> u64 {
        self.received.iter().map(|counts| counts.garbled).sum()
    }

    /// Every frame came out, once and as it must.
    pub fn is_exact(&self) -> bool {
        self.arrived() == self.sent && self.garbled() == 0
    }

    pub fn report(&self, case: &[(&str, Value)], results: &mut Results) {
        let mut count = |measure, value| results.add(case, measure, "frames", [value]);
        count("sent", float(self.sent));
        count("received by the first", float(self.received[0].total()));
        count("received by the second", float(self.received[1].total()));
        // More may arrive than were sent, if some come twice.
        count("lost", float(self.sent) - float(self.arrived()));
        count("garbled", float(self.garbled()));
    }
}

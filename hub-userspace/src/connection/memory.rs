//! Connection state that an agent passes on to the next one.

use std::time::{Duration, Instant};

use hub_common::maps::ConnectionRecord;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::state::{RecordedState, State};

/// The state of a connection, for the next agent. Times are of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionMemory {
    #[serde(with = "RecordedState")]
    pub state: State,
    pub since: Duration,
    pub healthy_since: Option<Duration>,
    pub failed: bool,
    pub changes: u64,
}

impl ConnectionMemory {
    /// Decodes a record; `None` if it was never written.
    pub fn of(record: &ConnectionRecord) -> Option<Self> {
        let state = match record.state {
            ConnectionRecord::UP if record.flags & ConnectionRecord::DEGRADED != 0 => State::Degraded,
            ConnectionRecord::UP => State::Up,
            ConnectionRecord::HOLD_DOWN => State::HoldDown,
            ConnectionRecord::DOWN => State::Down,
            ConnectionRecord::ADMIN_DOWN => State::AdminDown,
            _ => return None,
        };
        Some(Self {
            state,
            since: Duration::from_nanos(record.since),
            healthy_since: (record.healthy_since != 0).then(|| Duration::from_nanos(record.healthy_since)),
            failed: record.flags & ConnectionRecord::FAILED != 0,
            changes: record.changes,
        })
    }

    pub fn write(&self, record: &mut ConnectionRecord) {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        record.state = match self.state {
            State::Up | State::Degraded => ConnectionRecord::UP,
            State::HoldDown => ConnectionRecord::HOLD_DOWN,
            State::Down => ConnectionRecord::DOWN,
            State::AdminDown => ConnectionRecord::ADMIN_DOWN,
        };
        record.since = nanoseconds(self.since);
        record.healthy_since = self.healthy_since.map_or(0, nanoseconds);
        record.flags &= !(ConnectionRecord::FAILED | ConnectionRecord::DEGRADED);
        if self.failed {
            record.flags |= ConnectionRecord::FAILED;
        }
        if self.state == State::Degraded {
            record.flags |= ConnectionRecord::DEGRADED;
        }
        record.changes = self.changes;
    }
}

/// A moment by this process's clock and by `CLOCK_BOOTTIME`, which also advances while the machine is suspended.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    here: Instant,
    since_boot: Duration,
}

impl Clock {
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let since_boot = Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        );
        Self::at(Instant::now(), since_boot)
    }

    /// The same moment by both clocks.
    pub fn at(here: Instant, since_boot: Duration) -> Self {
        Self { here, since_boot }
    }

    pub fn since_boot(&self, time: Instant) -> Duration {
        match time.checked_duration_since(self.here) {
            Some(later) => self.since_boot + later,
            None => self.since_boot.saturating_sub(self.here.saturating_duration_since(time)),
        }
    }

    pub fn here(&self, time: Duration) -> Instant {
        let ago = self.since_boot.saturating_sub(time);
        self.here.checked_sub(ago).unwrap_or(self.here)
    }
}

//! Replaces filters of the `clsact` qdisc by TCX links, in the background.
//!
//! To attach by TCX, the kernel waits for an RCU grace period under its RTNL lock (`tcx_link_attach`, kernel/bpf/tcx.c):
//! 10 ms and more, in which no interface can be changed. A filter takes 0.2 ms, and 50 ns more per packet. So many
//! interfaces get filters at once, and a thread replaces them one by one: it attaches the link ahead of the filter, then
//! removes the filter. At every moment the interface has a program; while it has both, the variable `HANDOVER` makes the
//! filter skip what the link's program has passed, so that each packet is processed and counted once.
//!
//! The thread also detaches links at egress that have nothing to translate any more: that takes as long.
//!
//! If the agent ends in between, the filters stay, and the next agent continues.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData};
use rustix::io::Errno;
use tracing::{info, warn};

use super::{links::attach_tcx, named_map::Named, pins::Pins, tc::Direction};

/// The section of the program's variable `HANDOVER`.
pub const HANDOVER: &str = ".data.handover";
/// Interfaces that get a TCX link at once at a start: together they take a tenth of a second.
const AT_ONCE: u32 = 8;
/// The lock is free for others this many times as long as a link takes.
const PAUSE: u32 = 3;

/// The filters that are to be replaced.
pub struct Handover {
    flag: Option<Named<Array<MapData, u32>>>,
    shared: Arc<Shared>,
    /// Interfaces that may still get a TCX link at once.
    at_once: u32,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By interface index.
    waiting: BTreeMap<(u32, Direction), Work>,
    /// The agent is attaching: it would have to wait for the kernel's lock.
    is_attaching: bool,
    has_ended: bool,
    done: usize,
}

enum Work {
    /// Replace the filter by a link with this program.
    Replace(OwnedFd),
    /// Detach the link.
    Detach,
}

impl Handover {
    /// `flag` is the map of the variable [`HANDOVER`].
    pub fn new(flag: Named<Array<MapData, u32>>) -> Self {
        Self { flag: Some(flag), shared: Arc::default(), at_once: AT_ONCE }
    }

    /// Whether the next interface may wait for its TCX link. From the end of the start on none may: the agent's loop
    /// would wait, too.
    pub fn may_wait(&mut self) -> bool {
        let may = self.at_once > 0;
        self.at_once = self.at_once.saturating_sub(1);
        may
    }

    /// The interface has a filter. The thread starts with the first one.
    pub fn add(&mut self, ifindex: u32, direction: Direction, pins: &Pins, program: OwnedFd) {
        self.queue(ifindex, direction, pins, Work::Replace(program));
    }

    /// The program of the interface's link has nothing to do there any more. Detaching takes as long as attaching.
    pub fn detach_later(&mut self, ifindex: u32, direction: Direction, pins: &Pins) {
        self.queue(ifindex, direction, pins, Work::Detach);
    }

    fn queue(&mut self, ifindex: u32, direction: Direction, pins: &Pins, work: Work) {
        let mut queue = self.shared.lock();
        queue.is_attaching = true;
        queue.waiting.insert((ifindex, direction), work);
        drop(queue);
        if let Some(flag) = self.flag.take() {
            let (shared, pins) = (Arc::clone(&self.shared), pins.unlocked());
            let work = move || Worker { shared: &shared, flag, pins }.run();
            if let Err(error) = thread::Builder::new().name("tcx".to_owned()).spawn(work) {
                warn!("filters are not replaced by TCX links: {error}; packets take a little longer");
            }
        }
    }

    /// All interfaces have a program: their filters can be replaced.
    pub fn resume(&mut self) {
        self.at_once = 0;
        self.shared.lock().is_attaching = false;
        self.shared.changed.notify_one();
    }

    /// The caller attaches to the interface or detaches from it. Waits while its filter is being replaced.
    pub fn forget(&self, ifindex: u32, direction: Direction) {
        self.shared.lock().waiting.remove(&(ifindex, direction));
    }
}

/// Ends the thread. A filter that is being replaced is replaced before.
impl Drop for Handover {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; returns whether the thread may continue.
    fn pause(&self, time: Duration) -> bool {
        let end = |queue: &mut Queue| !queue.has_ended;
        let (queue, _) =
            self.changed.wait_timeout_while(self.lock(), time, end).unwrap_or_else(PoisonError::into_inner);
        !queue.has_ended
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    flag: Named<Array<MapData, u32>>,
    pins: Pins,
}

impl Worker<'_> {
    fn run(mut self) {
        let idle = |queue: &mut Queue| !queue.has_ended && (queue.is_attaching || queue.waiting.is_empty());
        loop {
            let queue =
                self.shared.changed.wait_while(self.shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            if queue.has_ended {
                return;
            }
            drop(queue);
            if let Err(error) = self.flag.put(&0, &1) {
                return warn!("filters are not replaced by TCX links: {error}");
            }
            if !self.replace_all() {
                return;
            }
            // The pause after the last one was longer than a packet takes.
            if let Err(error) = self.flag.put(&0, &0) {
                warn!("{error}");
            }
        }
    }

    /// Returns whether the thread may continue.
    fn replace_all(&self) -> bool {
        loop {
            let started = Instant::now();
            // Locked until the filter is replaced: the agent must not detach from the interface meanwhile.
            let mut queue = self.shared.lock();
            if queue.has_ended {
                return false;
            }
            let next = if queue.is_attaching { None } else { queue.waiting.pop_first() };
            let Some(((ifindex, direction), work)) = next else {
                if queue.waiting.is_empty() && queue.done > 0 {
                    info!(filters = std::mem::take(&mut queue.done), "TCX links have replaced the filters");
                }
                return true;
            };
            match work {
                Work::Replace(program) => match self.replace(ifindex, direction, &program) {
                    Ok(()) => queue.done += 1,
                    // Removed. Its filter has gone with it.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {}
                    Err(error) => warn!(ifindex, "the filter stays, which forwards as well: no TCX link ({error})"),
                },
                Work::Detach => self.pins.detach(direction.link(), ifindex),
            }
            drop(queue);
            if !self.shared.pause(started.elapsed() * PAUSE) {
                return false;
            }
        }
    }

    fn replace(&self, ifindex: u32, direction: Direction, program: &OwnedFd) -> io::Result<()> {
        attach_tcx(&self.pins, direction, ifindex, program.as_fd())?;
        self.pins.detach(direction.filter(), ifindex);
        Ok(())
    }
}

//! The task that reads the ring.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hub_common::maps::{CAPTURE_FILTERS, CAPTURE_OUTCOMES, CaptureFilter};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use super::{Delivery, EndGuard, Inner, Outbox, PacketListeners, Subscribe, SubscribeError, Subscription};
use crate::{
    background::Background,
    datapath::{PacketRecord, PacketTap, monotonic},
};

/// Records read at a time.
const TURN: usize = 256;
/// Interval of the counts of packets left out, and of [`PacketTap::renew`].
const TICK: Duration = Duration::from_secs(1);

/// The wall clock was set if it differs by more, in seconds.
const STEP: f64 = 0.01;

/// Starts the task, on a thread of its own. It ends with the last [`PacketListeners`].
pub fn start(tap: PacketTap) -> io::Result<PacketListeners> {
    let background = Background::start("packets")?;
    // The descriptor is watched by that thread.
    let handle = background.handle();
    let _entered = handle.as_ref().map(Handle::enter);
    // SAFETY: the tap owns its file descriptor, which stays open and unchanged until the tap is dropped.
    let mut tap = unsafe { AsyncFd::register_with_interest(tap, Interest::READABLE) }?;
    let (sender, mut requests) = mpsc::channel(1);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut listeners = Listeners { by_number: BTreeMap::new(), slots: Slots::default(), next: 0, behind: 0.0, ended };
    background.spawn(async move {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(number) = ends.recv() => listeners.remove(number, tap.get_mut()),
                request = requests.recv() => match request {
                    Some(Subscribe { filter, answer }) => {
                        // A client that is gone drops its subscription.
                        let _ = answer.send(listeners.add(filter, tap.get_mut()));
                    }
                    None => return,
                },
                _ = tick.tick(), if !listeners.by_number.is_empty() => listeners.tick(tap.get_mut()),
                Ok(mut ready) = tap.readable_mut() => {
                    if listeners.turn(ready.get_inner_mut()) {
                        ready.clear_ready();
                    }
                }
            }
        }
    });
    Ok(PacketListeners(Some(Inner { requests: sender, background: background.clone() })))
}

struct Listeners {
    by_number: BTreeMap<u64, Listener>,
    slots: Slots,
    next: u64,
    /// Seconds by which the monotonic clock is behind the wall clock.
    behind: f64,
    ended: mpsc::UnboundedSender<u64>,
}

struct Listener {
    slot: u32,
    outbox: Arc<Outbox>,
    /// Time of its start, as in the records.
    since: u64,
    /// Packets left out that it knows of, by outcome.
    left_out: [u64; CAPTURE_OUTCOMES as usize],
}

/// The filters in the program, each with the number of its listeners.
#[derive(Default)]
struct Slots([Option<(CaptureFilter, usize)>; CAPTURE_FILTERS as usize]);

impl Listeners {
    fn add(&mut self, filter: CaptureFilter, tap: &mut PacketTap) -> Result<Subscription, SubscribeError> {
        let (slot, is_new) = self.slots.take(filter).ok_or(SubscribeError::Full)?;
        if is_new && let Err(error) = tap.insert(slot, &filter) {
            self.slots.release(slot);
            return Err(SubscribeError::Program(error.to_string()));
        }
        let (number, outbox) = (self.next, Arc::<Outbox>::default());
        self.next += 1;
        let left_out = std::array::from_fn(|outcome| tap.left_out(slot, outcome as u32).unwrap_or_default());
        let listener = Listener { slot, outbox: Arc::clone(&outbox), since: monotonic(), left_out };
        self.by_number.insert(number, listener);
        Ok(Subscription { outbox, _end: EndGuard { number, ended: self.ended.clone() } })
    }

    fn remove(&mut self, number: u64, tap: &mut PacketTap) {
        let Some(Listener { slot, .. }) = self.by_number.remove(&number) else { return };
        if self.slots.release(slot)
            && let Err(error) = tap.remove(slot)
        {
            warn!(name: "packet_records_failed", "the kernel program still records packets, for some seconds: {error}");
        }
    }

    /// Distributes some records; returns whether the ring is empty.
    fn turn(&mut self, tap: &mut PacketTap) -> bool {
        let behind = wall_clock() - seconds(monotonic());
        // Two readings are never of the same moment, and times must not go backwards.
        if (behind - self.behind).abs() > STEP {
            self.behind = behind;
        }
        for _ in 0..TURN {
            let Some(record) = tap.read() else { return true };
            let time = self.behind + seconds(record.head.time);
            self.distribute(&Arc::new(record), time);
        }
        false
    }

    fn distribute(&self, record: &Arc<PacketRecord>, time: f64) {
        let head = &record.head;
        for listener in self.by_number.values() {
            // The record may be older than the slot's filter.
            let admits = || self.slots.0[listener.slot as usize].is_some_and(|(filter, _)| filter.admits(head));
            if head.filters >> listener.slot & 1 == 0 || head.time < listener.since || !admits() {
                continue;
            }
            listener.outbox.push(head.outcome, Delivery::Packet { record: Arc::clone(record), time });
        }
    }

    /// Reports what the program has left out, and keeps it recording.
    fn tick(&mut self, tap: &mut PacketTap) {
        if let Err(error) = tap.renew() {
            warn!(name: "packet_records_failed", "the kernel program stops recording packets: {error}");
        }
        for listener in self.by_number.values_mut() {
            let Some((filter, _)) = self.slots.0[listener.slot as usize] else { continue };
            for outcome in (0..CAPTURE_OUTCOMES).filter(|outcome| filter.outcomes >> outcome & 1 != 0) {
                let Ok(left_out) = tap.left_out(listener.slot, outcome) else { continue };
                let known = &mut listener.left_out[outcome as usize];
                let packets = left_out.saturating_sub(*known);
                if packets != 0 {
                    listener.outbox.left_out(outcome, packets);
                    *known = left_out;
                }
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.by_number.values().for_each(|listener| listener.outbox.close());
    }
}

impl Slots {
    /// The slot of a filter, and whether it is new; `None` when all are in use.
    fn take(&mut self, filter: CaptureFilter) -> Option<(u32, bool)> {
        let shared = self.0.iter_mut().position(|slot| matches!(slot, Some((other, _)) if *other == filter));
        let slot = shared.or_else(|| self.0.iter().position(Option::is_none))?;
        let (_, count) = self.0[slot].get_or_insert((filter, 0));
        *count += 1;
        Some((slot as u32, shared.is_none()))
    }

    /// Returns whether that was the last listener of the slot.
    fn release(&mut self, slot: u32) -> bool {
        let slot = &mut self.0[slot as usize];
        let Some((_, count)) = slot else { return false };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            *slot = None;
        }
        is_last
    }
}

fn wall_clock() -> f64 {
    // A clock before 1970 is wrong anyway.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use hub_common::maps::CapturePrefix;

    use super::*;

    fn filter(outcomes: u32) -> CaptureFilter {
        CaptureFilter {
            outcomes,
            connection: CaptureFilter::ANY_CONNECTION,
            source: CapturePrefix::ANY,
            destination: CapturePrefix::ANY,
            protocol: CaptureFilter::ANY_PROTOCOL,
            source_ports: CaptureFilter::ANY_PORT,
            destination_ports: CaptureFilter::ANY_PORT,
            snaplen: 128,
            one_in: 1,
            is_plain: 0,
        }
    }

    #[test]
    fn equal_filters_share_a_slot_and_the_last_listener_frees_it() {
        let mut slots = Slots::default();
        for number in 0..CAPTURE_FILTERS {
            assert_eq!(slots.take(filter(number)), Some((number, true)));
        }
        assert_eq!(slots.take(filter(99)), None);
        assert_eq!(slots.take(filter(3)), Some((3, false)));
        assert!(!slots.release(3));
        assert_eq!(slots.take(filter(99)), None);
        assert!(slots.release(3));
        assert_eq!(slots.take(filter(99)), Some((3, true)));
    }
}

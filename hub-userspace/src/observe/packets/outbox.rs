//! The queue of a listener. Its memory is bounded, and one reason alone cannot fill it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hub_common::maps::CAPTURE_OUTCOMES;
use tokio::sync::Notify;

use super::Delivery;

/// Bytes of waiting records.
const MOST: usize = 2 << 20;
/// While more than half of that is in use, an outcome gets no more than this.
const MOST_OF_ONE: usize = MOST / 8;
/// Counted for a record, in addition to the packet's bytes.
const OVERHEAD: usize = 256;
/// Packets delivered before the count of lost ones, if the queue does not become empty before.
const REPORT_AFTER: u32 = 256;

#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Delivery>,
    bytes: usize,
    bytes_of: [usize; CAPTURE_OUTCOMES as usize],
    /// Packets that had no room, by outcome.
    lost: [u64; CAPTURE_OUTCOMES as usize],
    since_report: u32,
    /// The agent ends.
    closed: bool,
}

impl Outbox {
    /// Adds a packet, or counts it as lost.
    pub fn push(&self, outcome: u32, delivery: Delivery) {
        let outcome = (outcome % CAPTURE_OUTCOMES) as usize;
        let bytes = size(&delivery);
        let mut queue = self.lock();
        let is_full = queue.bytes + bytes > MOST;
        let is_flood = queue.bytes > MOST / 2 && queue.bytes_of[outcome] > MOST_OF_ONE;
        if is_full || is_flood {
            queue.lost[outcome] += 1;
        } else {
            queue.bytes += bytes;
            queue.bytes_of[outcome] += bytes;
            queue.waiting.push_back(delivery);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Adds a count of packets that the program has left out. There is always room: there are few, and equal ones are
    /// merged.
    pub fn left_out(&self, outcome: u32, packets: u64) {
        let mut queue = self.lock();
        let same = queue.waiting.iter_mut().find_map(|waiting| match waiting {
            Delivery::LeftOut { outcome: other, packets } if *other == outcome => Some(packets),
            _ => None,
        });
        match same {
            Some(waiting) => *waiting += packets,
            None => queue.waiting.push_back(Delivery::LeftOut { outcome, packets }),
        }
        drop(queue);
        self.changed.notify_one();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The next delivery; `None` at the end. For one reader.
    pub async fn next(&self) -> Option<Delivery> {
        loop {
            let is_closed = {
                let mut queue = self.lock();
                if let Some(delivery) = queue.next() {
                    return Some(delivery);
                }
                queue.closed
            };
            if is_closed {
                return None;
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn next(&mut self) -> Option<Delivery> {
        if (self.waiting.is_empty() || self.since_report >= REPORT_AFTER)
            && let Some(outcome) = self.lost.iter().position(|lost| *lost != 0)
        {
            let packets = std::mem::take(&mut self.lost[outcome]);
            return Some(Delivery::Lost { outcome: outcome as u32, packets });
        }
        let delivery = self.waiting.pop_front()?;
        self.since_report = if self.since_report >= REPORT_AFTER { 0 } else { self.since_report + 1 };
        if let Delivery::Packet { record, .. } = &delivery {
            let bytes = size(&delivery);
            self.bytes -= bytes;
            self.bytes_of[(record.head.outcome % CAPTURE_OUTCOMES) as usize] -= bytes;
        }
        Some(delivery)
    }
}

fn size(delivery: &Delivery) -> usize {
    match delivery {
        Delivery::Packet { record, .. } => OVERHEAD + Arc::as_ref(record).bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hub_common::maps::CaptureRecord;

    use super::*;
    use crate::datapath::PacketRecord;

    fn packet(outcome: u32) -> Delivery {
        let head = CaptureRecord { outcome, ..CaptureRecord::default() };
        Delivery::Packet { record: Arc::new(PacketRecord { head, bytes: vec![0; 1000] }), time: 0.0 }
    }

    #[test]
    fn flood_of_a_reason_leaves_room_for_others_and_is_counted() {
        let outbox = Outbox::default();
        (0..10_000).for_each(|_| outbox.push(17, packet(17)));
        (0..100).for_each(|_| outbox.push(14, packet(14)));
        let mut queue = outbox.lock();
        assert!(queue.bytes <= MOST);
        let (mut flood, mut rare, mut lost) = (0, 0, 0);
        while let Some(delivery) = queue.next() {
            match delivery {
                Delivery::Packet { record, .. } if record.head.outcome == 17 => flood += 1,
                Delivery::Packet { .. } => rare += 1,
                Delivery::Lost { outcome, packets } => {
                    assert_eq!(outcome, 17);
                    lost += packets;
                }
                Delivery::LeftOut { .. } => unreachable!("none was added"),
            }
        }
        assert_eq!((rare, flood + lost), (100, 10_000));
        assert!(lost > 0);
        assert_eq!((queue.bytes, queue.bytes_of), (0, [0; CAPTURE_OUTCOMES as usize]));
    }

    #[test]
    fn counts_of_packets_left_out_are_merged() {
        let outbox = Outbox::default();
        (0..1000).for_each(|_| outbox.left_out(17, 2));
        outbox.left_out(14, 1);
        let mut queue = outbox.lock();
        assert!(matches!(queue.next(), Some(Delivery::LeftOut { outcome: 17, packets: 2000 })));
        assert!(matches!(queue.next(), Some(Delivery::LeftOut { outcome: 14, packets: 1 })));
        assert!(queue.next().is_none());
    }
}

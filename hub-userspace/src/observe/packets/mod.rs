//! Distributes the program's records of packets to any number of listeners.
//!
//! The program evaluates the listeners' filters. It has place for [`CAPTURE_FILTERS`]; listeners with equal filters share
//! one. A thread of its own reads the ring and writes the listeners' lines, so neither the agent's loop nor a health check
//! waits for it. Each listener has a bounded queue: one that does not read loses records, and holds up nobody.

mod outbox;
mod task;

use std::sync::Arc;

use hub_common::maps::{CAPTURE_FILTERS, CaptureFilter};
use tokio::sync::{mpsc, oneshot};

use self::outbox::Outbox;
pub use self::task::start;
use crate::{background::Background, datapath::PacketRecord};

/// Where listeners come in. The default value has no program behind it.
#[derive(Clone, Default)]
pub struct PacketListeners(Option<Inner>);

#[derive(Clone)]
struct Inner {
    requests: mpsc::Sender<Subscribe>,
    background: Background,
}

struct Subscribe {
    filter: CaptureFilter,
    answer: oneshot::Sender<Result<Subscription, SubscribeError>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error(
        "{CAPTURE_FILTERS} listeners with different filters are connected, the most that the kernel program has place \
         for: end one of them, or use the filter of one of them"
    )]
    Full,
    #[error("the agent is stopping")]
    Stopping,
    #[error("the kernel program does not take the filter: {0}")]
    Program(String),
}

/// A listener. Dropping it ends the subscription.
pub struct Subscription {
    outbox: Arc<Outbox>,
    _end: EndGuard,
}

/// What a listener gets.
#[derive(Debug, Clone)]
pub enum Delivery {
    Packet {
        record: Arc<PacketRecord>,
        /// Seconds since 1970-01-01 00:00 UTC.
        time: f64,
    },
    /// The program has left out this many packets with an outcome: above the rate limit, or the ring was full.
    LeftOut { outcome: u32, packets: u64 },
    /// This listener reads too slowly, and has lost this many packets with an outcome.
    Lost { outcome: u32, packets: u64 },
}

impl PacketListeners {
    /// # Errors
    /// When all filters are in use, or the agent is stopping.
    pub async fn subscribe(&self, filter: CaptureFilter) -> Result<Subscription, SubscribeError> {
        let (answer, subscription) = oneshot::channel();
        let inner = self.0.as_ref().ok_or(SubscribeError::Stopping)?;
        inner.requests.send(Subscribe { filter, answer }).await.map_err(|_| SubscribeError::Stopping)?;
        subscription.await.map_err(|_| SubscribeError::Stopping)?
    }

    /// Runs a listener's task on the thread that reads the records.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(inner) = &self.0 {
            inner.background.spawn(task);
        }
    }
}

impl Subscription {
    /// The next delivery; `None` when the agent ends.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.outbox.next().await
    }
}

/// Tells the task that a listener is gone.
struct EndGuard {
    number: u64,
    ended: mpsc::UnboundedSender<u64>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // The task may have ended.
        let _ = self.ended.send(self.number);
    }
}

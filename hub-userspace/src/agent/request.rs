//! Requests to the agent from the control socket and the configuration manager.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::oneshot;

use super::{effect::Settled, event::Transition, snapshot::Snapshot};
use crate::{config::Config, fib::id_allocator::Full};

/// A request to the agent.
pub enum Request {
    Status(oneshot::Sender<Result<Snapshot>>),
    /// The configuration in force.
    Config(oneshot::Sender<Arc<Config>>),
    /// Checks whether the kernel program's tables have room for a change.
    CheckCapacity(Arc<Transition>, oneshot::Sender<Result<(), Full>>),
    /// Reads secrets and certificates named by the configuration in force again.
    ReadSecrets,
    /// Puts a change in force. The answer is sent when the program has it. The receiver in the answer reports when
    /// the kernel has it, too.
    Commit(Arc<Transition>, oneshot::Sender<Result<oneshot::Receiver<Settled>>>),
}

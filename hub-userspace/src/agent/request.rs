//! What the control socket and the configuration's manager ask of the agent.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::oneshot;

use super::{effect::Settled, event::Transition, snapshot::Snapshot};
use crate::{config::Config, fib::id_allocator::Full};

/// What is asked of the agent.
pub enum Request {
    Status(oneshot::Sender<Result<Snapshot>>),
    /// The configuration in force.
    Config(oneshot::Sender<Arc<Config>>),
    /// Whether the kernel program's tables have room for a change.
    CheckCapacity(Arc<Transition>, oneshot::Sender<Result<(), Full>>),
    /// Reads the files anew that the configuration in force names: secrets, certificates.
    ReadSecrets,
    /// Puts a change in force. Answered when the program has it, with what tells that the kernel has it, too.
    Commit(Arc<Transition>, oneshot::Sender<Result<oneshot::Receiver<Settled>>>),
}

//! Requests to the agent from the control socket and the configuration manager.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::oneshot;

use super::{
    effect::Settled, event::Transition, metrics::MetricsSnapshot, packet_names::PacketNames, snapshot::Snapshot,
};
use crate::{
    api_types::trace::TraceRequest,
    config::Config,
    fib::id_allocator::Full,
    ipsec::vici::driver::Renegotiated,
    trace::{Prepared, TraceError},
};

/// A request to the agent.
pub enum Request {
    Status(oneshot::Sender<Result<Snapshot>>),
    Metrics(oneshot::Sender<Result<MetricsSnapshot>>),
    /// Prepares a packet for a trace.
    Trace(TraceRequest, oneshot::Sender<Result<Prepared, TraceError>>),
    /// What the numbers in records of packets mean.
    PacketNames(oneshot::Sender<PacketNames>),
    /// The configuration in force.
    Config(oneshot::Sender<Arc<Config>>),
    /// Whether all tunnels that the hub initiates are up.
    TunnelsUp(oneshot::Sender<bool>),
    /// Checks whether the kernel program's tables have room for a change.
    CheckCapacity(Arc<Transition>, oneshot::Sender<Result<(), Full>>),
    /// Reads secrets and certificates named by the configuration in force again. The answer names the connections for
    /// which they have changed; the sender is dropped if strongSwan's task is busy.
    ReadSecrets(oneshot::Sender<Vec<String>>),
    /// Has strongSwan negotiate what a connection lacks; with `children`, also rekey its child SAs.
    Renegotiate {
        name: String,
        children: bool,
        answer: oneshot::Sender<Renegotiated>,
    },
    /// Puts a change in force. The answer is sent when the program has it. The receiver in the answer reports when
    /// the kernel has it, too.
    Commit(Arc<Transition>, oneshot::Sender<Result<oneshot::Receiver<Settled>>>),
}

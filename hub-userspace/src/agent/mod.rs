//! The agent: follows the configuration and the host, and reconciles the eBPF program and the kernel with them.
//!
//! | file | contents |
//! | --- | --- |
//! | [`event`] | input: everything that can happen |
//! | [`world`] | state |
//! | [`step`] | computes effects from state and event; the only place that makes decisions (pure) |
//! | `states`, `selectors`, `tables`, `routes`, `guard`, `attachments` | its parts (pure) |
//! | [`effect`] | output: actions to perform |
//! | [`edge`] | performs effects: traits [`Datapath`](edge::Datapath), [`Kernel`](edge::Kernel), [`Ike`](edge::Ike) |
//! | `host` | the production implementations of these traits |
//! | `start`, `main_loop` | the start, and the loop |
//! | `snapshot`, `warnings` | the data of a status |
//! | `metrics` | the data of a scrape |
//! | `trace` | the look-ups of a trace |
//! | `packet_names` | names for records of packets |
//! | `record` | records events: `run --record` |
//!
//! One loop ([`Agent`]) owns all state and is the only writer. Slow work runs elsewhere: the
//! [`ConfigManager`](crate::config_manager::ConfigManager) reads files, and the
//! [`netlink::Reconciler`](crate::kernel::netlink::Reconciler) writes kernel routes. The loop can therefore react to
//! a failure immediately.

pub mod attachments;
pub mod cleanup;
pub mod edge;
pub mod effect;
pub mod event;
pub mod guard;
mod host;
mod learned;
mod links;
mod lock;
mod main_loop;
mod metrics;
mod packet_names;
pub mod process;
mod record;
mod request;
mod routes;
mod selectors;
mod snapshot;
mod start;
mod states;
pub mod step;
mod tables;
#[cfg(test)]
mod tests;
mod trace;
mod underlays;
mod warnings;
mod watchdog;
pub mod world;

pub use self::{
    event::Transition, main_loop::Agent, metrics::MetricsSnapshot, packet_names::PacketNames, request::Request,
    snapshot::Snapshot, world::RETRY,
};

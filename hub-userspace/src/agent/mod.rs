//! The agent: follows configuration and host, and keeps program and kernel in step with them.
//!
//! | file | holds |
//! | --- | --- |
//! | [`event`] | what happens |
//! | [`world`] | what is known |
//! | [`step`] | what follows from the one for the other: the only place that decides (pure) |
//! | `states`, `selectors`, `tables`, `routes`, `guard`, `attachments` | its parts (pure) |
//! | [`effect`] | what is to be done |
//! | [`edge`] | does it, through the traits [`Datapath`](edge::Datapath), [`Kernel`](edge::Kernel) and [`Ike`](edge::Ike) |
//! | `host` | these, for real |
//! | `main_loop` | the loop |
//! | `snapshot` | what a status shows |
//! | `record` | writes down what happens: `run --record` |
//!
//! One loop ([`Agent`]) holds all state and is the only writer. What takes long is done elsewhere: files by the
//! [`ConfigManager`](crate::config_manager::ConfigManager), kernel routes by [`netlink::Reconciler`](crate::kernel::netlink::Reconciler). So a failure is
//! acted on at once, whatever else is going on.

pub mod attachments;
pub mod cleanup;
pub mod edge;
pub mod effect;
pub mod event;
pub mod guard;
mod host;
mod lock;
mod main_loop;
pub mod process;
mod record;
mod request;
mod routes;
mod selectors;
mod snapshot;
mod states;
pub mod step;
mod tables;
#[cfg(test)]
mod tests;
mod watchdog;
pub mod world;

pub use self::{
    event::Transition, main_loop::Agent, record::Recording, request::Request, snapshot::Snapshot, world::RETRY,
};

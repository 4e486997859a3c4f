//! Controls and monitors strongSwan over VICI.
//!
//! [`desired`] computes charon's desired state and the steps to it; [`table`] holds the existing SAs. Both are pure.
//! [`driver`] communicates with charon over a [`session`].
//!
//! The protocol is implemented here, in [`message`] and [`session`]: the crate `rsvici` loses its position in the
//! stream when a command is sent while an event arrives, and does not report that charon closed the connection.

pub mod desired;
pub mod driver;
pub mod event;
pub mod fault;
pub mod hint;
pub mod message;
pub mod missing;
mod names;
pub mod per_cpu;
pub mod selector;
pub mod session;
pub mod table;
pub mod tunnels;

//! strongSwan, driven and followed over VICI.
//!
//! [`desired`] says what charon must have for a configuration, and what to do to get there; [`table`] knows the SAs that
//! there are. Both are pure. [`driver`] is the one that talks to charon, over a [`session`].
//!
//! The protocol is written out here, in [`message`] and [`session`]: the crate `rsvici` loses its place in the stream when a
//! command is sent while an event comes in, and does not say so when charon hangs up.

pub mod desired;
pub mod driver;
pub mod event;
pub mod fault;
pub mod message;
mod names;
pub mod selector;
pub mod session;
pub mod table;
pub mod tunnels;

//! Definitions that the kernel program and the agent share.
//!
//! Every type of a map is defined here once, without implicit padding, and its size is asserted. Integers are in the
//! host's byte order unless documented otherwise; addresses and MACs are bytes in network byte order.
//!
//! Feature `user` implements [`aya::Pod`] for the map types, for the agent.
#![no_std]

pub mod checksum;
pub mod class_trie;
pub mod flow;
pub mod maps;
pub mod mark;
pub mod reason;
pub mod spread;

pub use mark::Mark;
pub use reason::Reason;

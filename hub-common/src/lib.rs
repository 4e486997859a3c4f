//! What the kernel program and the agent agree on.
//!
//! Every type that stands in a map is defined here, once, without implicit padding, its size asserted. Integers are in
//! the host's byte order unless said otherwise; addresses and MACs are bytes as they are on the wire.
//!
//! Feature `user` makes the map types [`aya::Pod`] for the agent's side.
#![no_std]

pub mod checksum;
pub mod class_trie;
pub mod flow;
pub mod maps;
pub mod mark;
pub mod reason;

pub use mark::Mark;
pub use reason::Reason;

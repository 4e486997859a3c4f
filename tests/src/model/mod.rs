//! The reference model: what must happen to a packet, from the specification and the RFCs.
//!
//! Slow and obvious on purpose, and no code shared with the hub: every look-up is a linear scan, every IPv4 checksum is
//! summed up in full, buckets are shared out anew for each packet. What the kernel program does differently is a
//! mistake in one of the two.
//!
//! [`World::judge`] reads like the six stages of the program, a file each here too: [`parse`](self), selectors with the
//! checks of sources, routes, next hops, rewriting; counting is what a [`Judgement`] brings along.

mod flow;
mod hook;
mod judge;
mod parse;
mod prefix;
mod rewrite;
mod route;
mod selector;
mod source;
mod world;

pub use hook::Hook;
pub use judge::{Account, Count, Judgement, Mark, Verdict};
pub use world::{Agreement, Connection, Interface, Pair, ReversePath, Route, Vpc, World};

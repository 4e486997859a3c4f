//! The reference model: the correct verdict on a packet, from the specification and the RFCs.
//!
//! It is slow and obvious on purpose, and shares no code with the hub. Every look-up is a linear scan, every IPv4
//! checksum is summed in full, and buckets are recomputed for each packet. Any difference from the kernel program is a
//! bug in one of the two.
//!
//! [`World::predict`] reads like the stages of the program, one file each: [`parse`](self), translation, selectors with source
//! checks, routes, next hops, rewriting. A [`Prediction`] holds the counts.

mod flow;
mod hook;
mod mss;
mod parse;
mod predict;
mod prefix;
mod rewrite;
mod route;
mod segments;
mod selector;
mod source;
mod translate;
mod world;

pub use hook::Hook;
pub use predict::{Account, Count, Mark, Prediction, Verdict};
pub use translate::Translations;
pub use world::{
    Agreement, Connection, Interface, MssClamp, Pair, PolicyRoute, ReversePath, Route, Segment, Vpc, World,
    connection_of,
};

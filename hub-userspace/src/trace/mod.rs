//! `vpnhub trace`: what happens to a packet, and why.
//!
//! | file | content |
//! | --- | --- |
//! | `build` | a packet by its fields (pure) |
//! | `packet` | the headers of a frame (pure) |
//! | `view` | look-ups in the tables (pure) |
//! | `explain` | what each stage looks up, and which object answers (pure) |
//! | `prepare` | from a request to a frame on an interface, in the agent's loop (pure) |
//! | `report` | the answer, of the explanation and the program's result (pure) |
//! | `slow_path` | what the kernel does with a passed packet (pure) |
//! | `changes` | fields that the program has changed (pure) |
//! | `pcap` | reads captures (pure) |
//!
//! The verdict, the reason, the connections that are counted, the mark and the bytes are the program's: a second load of
//! the same object runs the packet against the live tables (`datapath/tracer.rs`). The program reports nothing else: it
//! is the one that forwards, to the instruction. So the look-ups are explained from the agent's copy of these tables,
//! and every fact that both have is compared. The tests of verdicts do that for each of their packets.

pub mod build;
mod changes;
pub mod explain;
pub mod hex;
pub mod packet;
pub mod pcap;
pub mod prepare;
pub mod report;
mod slow_path;
pub mod view;

pub use self::{
    prepare::{Prepared, TraceError, prepare},
    report::report,
    view::View,
};

#[cfg(test)]
mod tests;

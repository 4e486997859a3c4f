//! Packet in, verdict, bytes and counters out: every verdict and reason of the kernel program, by test runs.
//!
//! Each row contains its expectation, made by the packet builder and never by the model. The rows check the model as
//! well as the program.

mod gateway;
mod header;
mod hub;
mod link;
mod mark;
mod mss;
mod negotiated;
mod next_hops;
mod policy;
mod policy_routes;
#[path = "../program/mod.rs"]
mod program;
mod protocol;
mod record;
mod reverse;
mod rewriting;
mod row;
mod scope;
mod traced;
mod translate;

use hub_tests::model::World;

use crate::{
    gateway::DEVICES,
    program::with_program,
    row::{Expected, agree, check},
    traced::check_traces,
};

/// Checks a table, with each look-up in a namespace of its own: the program, then traces of the same packets.
fn table(world: &World, rows: &[Expected]) -> anyhow::Result<()> {
    agree(world, rows)?;
    with_program(&DEVICES, |_, program| {
        check(program, world, rows)?;
        check_traces(program, world, rows)
    })
}

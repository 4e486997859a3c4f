//! What the program's maps must hold. State in, tables out; the [`IdMaps`] carries the numbers over from one compilation
//! to the next.
//!
//! Four parts, each compiled when what it follows from has changed:
//!
//! | part | follows from | as large as |
//! | --- | --- | --- |
//! | [`policy_tables`] | connections, their selectors and SAs, interfaces | the connections and selectors |
//! | [`neighbour_table`] | neighbours of interfaces where each destination is one | these neighbours |
//! | [`egress_tables`] | groups of next hops, states, neighbours | the different groups, however many routes share them |
//! | [`CompiledEgress::routes`] | the RIB's destinations | those that changed |
//!
//! The kernel's own routes follow in [`slow_path`], and what the nftables table says in [`ruleset`].
//!
//! [`IdMaps`]: crate::fib::id_maps::IdMaps

pub mod diff;
mod egress;
pub mod id_allocator;
pub mod id_maps;
mod inputs;
mod neighbours;
pub mod old_group;
mod policy;
pub mod ruleset;
pub mod slow_path;
pub mod tables;

pub use self::{
    egress::{CompiledEgress, egress_tables},
    inputs::Inputs,
    neighbours::neighbour_table,
    policy::policy_tables,
};

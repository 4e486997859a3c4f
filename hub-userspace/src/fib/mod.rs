//! Compiles the contents of the program's maps from state. The [`IdMaps`] carries ids from one compilation to the next.
//!
//! There are five parts. Each is compiled when its inputs have changed, the policy and the egress tables only for the
//! connections whose inputs have changed:
//!
//! | part | inputs | size |
//! | --- | --- | --- |
//! | [`policy_tables`] | connections, their selectors and SAs, interfaces | connections and selectors |
//! | [`neighbour_table`] | neighbours on interfaces where each destination is its own neighbour | these neighbours |
//! | [`egress_tables`] | groups of next hops, states, neighbours | distinct groups, not routes |
//! | [`policy_route_tables`] | policy routes | combinations of their prefixes |
//! | [`CompiledEgress::routes`] | the RIB's destinations | changed destinations |
//!
//! [`slow_path`] compiles the kernel's routes, and [`ruleset`] the nftables table.
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
pub mod policy_routes;
pub mod ruleset;
mod segment_ids;
pub mod slow_path;
pub mod tables;

pub use self::{
    egress::{CompiledEgress, egress_tables},
    inputs::Inputs,
    neighbours::neighbour_table,
    policy::policy_tables,
    policy_routes::policy_route_tables,
};

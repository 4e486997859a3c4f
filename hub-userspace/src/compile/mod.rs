//! What the program's maps must hold. State in, tables out; the [`IdMaps`] carries the numbers over from one compilation
//! to the next.
//!
//! Three parts, each compiled when what it follows from has changed:
//!
//! | part | follows from | as large as |
//! | --- | --- | --- |
//! | [`policy_tables`] | connections, their selectors and SAs, interfaces | the connections and selectors |
//! | [`egress_tables`] | groups of next hops, states, neighbours | the different groups, however many routes share them |
//! | [`Compiled::routes`] | the RIB's destinations | those that changed |
//!
//! [`IdMaps`]: crate::id_maps::IdMaps

use std::collections::BTreeSet;

mod egress;
mod policy;

pub use self::{
    egress::{Compiled, egress_tables},
    policy::policy_tables,
};
use crate::{config::model::Config, netlink::HostState, selectors::Negotiated, state::States};

/// All that the tables follow from, but for the RIB.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub host: &'a HostState,
    pub states: &'a States,
    pub negotiated: &'a Negotiated,
    /// Indices of the interfaces that TC alone reaches.
    pub tc_only: &'a BTreeSet<u32>,
}

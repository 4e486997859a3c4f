//! All that the program's tables are compiled from.

use std::collections::BTreeSet;

use crate::{config::Config, connection::state::States, kernel::netlink::HostState, policy::selectors::Negotiated};

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

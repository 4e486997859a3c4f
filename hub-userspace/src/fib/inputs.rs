//! The inputs for compiling the program's tables.

use std::collections::BTreeSet;

use crate::{config::Config, connection::state::States, kernel::netlink::HostState, policy::selectors::Negotiated};

/// All inputs except the RIB.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub host: &'a HostState,
    pub states: &'a States,
    pub negotiated: &'a Negotiated,
    /// Indices of the interfaces served by TC only.
    pub tc_only: &'a BTreeSet<u32>,
}

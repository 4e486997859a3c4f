//! The agent's output.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::Config,
    connection::{
        memory::ConnectionMemory,
        state::{Health, State},
    },
    datapath::ToAttach,
    fib::{slow_path::KernelRoute, tables::Write},
    health::CheckTarget,
    ipsec::xfrm::translated::TranslatedSources,
    kernel::{
        netlink::{FollowedTable, KernelNeighbour, KernelRule, ReconcileFailure, Ruleset, XfrmLinks},
        spread::Underlays,
        sysctl::Settings,
    },
};

/// Changes that the kernel rejected after all have been tried, or why the kernel cannot be reached.
pub type Settled = Result<Vec<ReconcileFailure>, String>;

/// An action on the outside world. Effects are performed in the order in which [`step`](super::step::step) returns
/// them.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Load the connections of this configuration into charon.
    Ike(Arc<Config>),
    /// Create these xfrm interfaces, with these MTUs.
    XfrmLinks(XfrmLinks),
    /// Start or stop following the kernel's IPsec policies.
    FollowPolicies(bool),
    /// Follow the routes of this table, and of no other.
    FollowTable(Option<FollowedTable>),
    /// The kernel may have dropped routes of the followed table without an event.
    RereadTable,
    /// The health checks to run, by connection.
    Checks(BTreeMap<String, CheckTarget>),
    /// Add interfaces to the sites' device group.
    JoinGroup(BTreeSet<u32>),
    /// Remove all other interfaces from the sites' device group.
    LeaveGroup(BTreeSet<u32>),
    /// Write the nftables table.
    Guard(Arc<Ruleset>),
    /// Apply kernel settings. `audit` also rewrites settings that were applied before.
    Sysctls {
        settings: Settings,
        audit: bool,
    },
    /// Have the kernel's IPsec policies accept these translated sources, and no others.
    AcceptTranslated(TranslatedSources),
    /// Distribute received packets of these interfaces over the CPUs, and of no others.
    Spread(Underlays),
    /// Add or remove kernel routes.
    Routes(Vec<KernelRoute>),
    /// The complete set of kernel neighbours.
    Neighbours(BTreeSet<KernelNeighbour>),
    /// The complete set of rules.
    Rules(BTreeSet<KernelRule>),
    /// Compare the kernel's routes and neighbours with the desired state.
    AuditRoutes,
    /// Send [`Event::Settled`](super::event::Event::Settled) once all changes have been tried.
    Settle,
    /// Have the kernel resolve a neighbour: interface index and address.
    Probe(u32, IpAddr),
    /// Interfaces were removed.
    Forget(BTreeSet<u32>),
    /// Write the program's maps. Stops at the first error.
    Write(Vec<Write>),
    Attach(ToAttach),
    /// Detach the programs from all other interfaces.
    Keep(BTreeSet<u32>),
    /// Store a connection's state by slot, for the next agent.
    Remember {
        connection: String,
        slot: u32,
        memory: ConnectionMemory,
    },
    /// Start a grace period and send [`Event::GraceOver`](super::event::Event::GraceOver) when no packet in flight
    /// uses replaced data. `ids`: the world has IDs that wait for it.
    AwaitGrace {
        ids: bool,
    },
    /// Free the memory that waited for the grace period.
    Release,
    /// Notify listeners about a connection.
    Notify(Notice),
    /// Report an error: it is logged and returned to the requester.
    Fail(String),
}

/// A notification about a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    pub connection: String,
    pub state: State,
    pub health: Option<Health>,
    pub was: Option<State>,
    pub reason: Option<String>,
    pub selectors: Option<Vec<String>>,
}

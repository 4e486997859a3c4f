//! What the agent does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::Config,
    connection::{memory::ConnectionMemory, state::State},
    datapath::AttachMode,
    fib::{slow_path::KernelRoute, tables::Write},
    health::CheckTarget,
    kernel::{
        netlink::{KernelNeighbour, ReconcileFailure, Ruleset, XfrmLinks},
        sysctl::Settings,
    },
};

/// What the kernel refuses, everything having been tried; or why it cannot be asked.
pub type Settled = Result<Vec<ReconcileFailure>, String>;

/// Something to do in the world outside, in the order in which [`step`](super::step::step) gives it.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Charon is to have the connections of this configuration.
    Ike(Arc<Config>),
    /// These xfrm interfaces are to be there.
    XfrmLinks(XfrmLinks),
    /// Whether the kernel's IPsec policies are of interest.
    FollowPolicies(bool),
    /// Health checks to run, by connection.
    Checks(BTreeMap<String, CheckTarget>),
    /// Interfaces to be put into the sites' device group.
    JoinGroup(BTreeSet<u32>),
    /// All interfaces but these are to leave it.
    LeaveGroup(BTreeSet<u32>),
    /// The nftables table is to say this.
    Guard(Arc<Ruleset>),
    /// Settings of the kernel; with `audit` also where they were made before.
    Sysctls {
        settings: Settings,
        audit: bool,
    },
    /// Kernel routes that are to be there or to go.
    Routes(Vec<KernelRoute>),
    /// All neighbours that are to be there.
    Neighbours(BTreeSet<KernelNeighbour>),
    /// The kernel's routes and neighbours are to be compared with what they should be.
    AuditRoutes,
    /// [`Event::Settled`](super::event::Event::Settled) is to follow when the kernel has all of it.
    Settle,
    /// The kernel is to ask the link for a neighbour, by interface index and address.
    Probe(u32, IpAddr),
    /// An interface went.
    Forget(u32),
    /// The program's maps are to be written; after an error none of the rest.
    Write(Vec<Write>),
    Attach {
        name: String,
        ifindex: u32,
        mode: AttachMode,
        reason: Option<&'static str>,
    },
    /// The programs are to be detached from all other interfaces.
    Keep(BTreeSet<u32>),
    /// The next agent is to know of a connection, by slot.
    Remember {
        connection: String,
        slot: u32,
        memory: ConnectionMemory,
    },
    /// When no packet is on its way any more with what has been replaced, [`Event::GraceOver`](super::event::Event::GraceOver)
    /// is to follow; `ids`: the world has numbers that wait for it.
    AwaitGrace {
        ids: bool,
    },
    /// What waited for the grace period can be used again.
    Release,
    /// Who listens is to know of a connection.
    Notify(Notice),
    /// It cannot be done as it is: for the log, and for who asked for it.
    Fail(String),
}

/// What is told of a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    pub connection: String,
    pub state: State,
    pub was: Option<State>,
    pub reason: Option<String>,
    pub selectors: Option<Vec<String>>,
}

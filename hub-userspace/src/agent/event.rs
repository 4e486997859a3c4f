//! The agent's input.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::effect::Settled;
use crate::{
    config::{Config, difference::Difference},
    datapath::Attached,
    fib::tables::Write,
    health::HealthReport,
    ipsec::{vici::tunnels::Tunnels, xfrm::follow::Policies},
    kernel::netlink::{Changes, HostState, Problems, TableChanges},
};

/// An input of [`step`](super::step::step). It carries all external data that the step needs.
#[derive(Debug, Clone)]
pub enum Event {
    /// Enough is known to begin: reconcile everything.
    Start,
    /// The effects of [`Event::Start`] are in force.
    Started,
    /// The host's current state, and the parts of it that have changed.
    Host { host: HostState, changes: Changes },
    /// Reports of health checks that may have changed, by connection.
    Health(BTreeMap<String, HealthReport>),
    /// SAs as reported by charon.
    Tunnels(Arc<Tunnels>),
    /// The kernel's XFRM policies and SAs.
    Policies(Arc<Policies>),
    /// Why xfrm interfaces cannot be created, by name.
    Interfaces(Arc<Problems>),
    /// Changed routes of the followed table; before [`Self::Start`] all of them.
    Learned(TableChanges),
    /// The configuration changes.
    Change(Arc<Transition>),
    /// Secrets and certificates are read again: recorded alone.
    Secrets,
    /// The time of [`World::due`](super::world::World::due) has come.
    Due,
    /// Another process has modified the nftables table.
    GuardDisturbed,
    /// Another process may have modified routes or neighbours of the agent.
    RoutesDisturbed,
    /// Another process has modified a sysctl.
    SysctlsDisturbed,
    /// The program has no entry for a neighbour that a packet needed: interface index and address.
    NeighbourMiss(u32, IpAddr),
    /// Nothing more urgent is pending: kernel routes can be planned.
    Idle,
    /// The reconciler has tried every requested kernel change.
    Settled(Settled),
    /// The grace period is over: no packet in flight uses data read before it began.
    GraceOver,
    /// Result of an effect.
    Done(Done),
}

/// Change from one configuration to the next.
#[derive(Debug)]
pub struct Transition {
    pub difference: Difference,
    /// The complete new configuration, unless it follows from the difference: see [`Config::apply`].
    pub config: Option<Arc<Config>>,
}

/// Result of an effect that can fail or that returns data.
#[derive(Debug, Clone)]
pub enum Done {
    /// All of these writes were made; if `failed`, only the first `count` entries of the last one.
    Written {
        writes: Vec<Write>,
        count: usize,
        failed: bool,
    },
    /// The nftables table could not be written.
    GuardFailed,
    /// Interfaces could not be put into the device group.
    GroupFailed,
    Attached {
        name: String,
        ifindex: u32,
        result: Result<Attached, String>,
    },
    /// Attaching has been tried on all interfaces.
    Kept,
    /// Nothing waits for a grace period.
    NothingRests,
}

//! What happens to the agent.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::effect::Settled;
use crate::{
    config::{Config, difference::Difference},
    datapath::Attached,
    fib::tables::Write,
    health::HealthReport,
    ipsec::{vici::tunnels::Tunnels, xfrm::follow::Policies},
    kernel::netlink::{Changes, HostState, Problems},
};

/// Something that [`step`](super::step::step) acts on. It has all that the step needs to know of the world outside.
#[derive(Debug, Clone)]
pub enum Event {
    /// What is known is enough to begin with: everything is to be brought into step.
    Start,
    /// The effects of [`Event::Start`] are in force.
    Started,
    /// The host is like this, and these parts of it are new.
    Host { host: HostState, changes: Changes },
    /// How health checks are doing, by connection: those that may have changed.
    Health(BTreeMap<String, HealthReport>),
    /// What charon has.
    Tunnels(Arc<Tunnels>),
    /// What the kernel has of IPsec.
    Policies(Arc<Policies>),
    /// Why xfrm interfaces cannot be made, by name.
    Interfaces(Arc<Problems>),
    /// Another configuration.
    Change(Arc<Transition>),
    /// The files of secrets and certificates are to be read anew.
    Secrets,
    /// The time of [`World::due`](super::world::World::due) has come.
    Due,
    /// Somebody else has changed the nftables table.
    GuardDisturbed,
    /// A packet needed a neighbour, by interface index and address, that the program does not know.
    NeighbourMiss(u32, IpAddr),
    /// Nothing else is to be done: there is time for the kernel's routes.
    Idle,
    /// All that the kernel was asked for has been tried.
    Settled(Settled),
    /// No packet is on its way any more with what it read before the grace period began.
    GraceOver,
    /// What came of an effect.
    Done(Done),
}

/// From one configuration to the next.
#[derive(Debug)]
pub struct Transition {
    pub difference: Difference,
    /// All of it, unless it follows from the difference: see [`Config::apply`].
    pub config: Option<Arc<Config>>,
}

/// What came of an effect that can fail, or that tells something.
#[derive(Debug, Clone)]
pub enum Done {
    /// All of these writes were made, or the last but for its first `count` entries.
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
    /// All interfaces have been tried.
    Kept,
    /// Nothing waits for a grace period.
    NothingRests,
}

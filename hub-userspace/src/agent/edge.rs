//! Interface to the outside world: the only code that performs [`Effect`]s.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Instant,
};

use anyhow::{Result, anyhow};
use tokio::sync::broadcast;
use tracing::warn;

use super::{
    effect::{Effect, Notice},
    event::{Done, Event},
    step::step,
    world::World,
};
use crate::{
    api_types::event::{ConnectionEvent, now},
    config::Config,
    connection::memory::ConnectionMemory,
    datapath::{Attached, ToAttach},
    fib::{slow_path::KernelRoute, tables::Write},
    health::CheckTarget,
    ipsec::xfrm::translated::TranslatedSources,
    kernel::{
        netlink::{FollowedTable, KernelNeighbour, KernelRule, Ruleset, XfrmLinks},
        spread::{SpreadPlan, Underlays},
        sysctl::Settings,
    },
};

/// The programs, their maps and links.
pub trait Datapath {
    /// Returns the number of entries written, and the error that stopped the write.
    fn write(&mut self, write: &Write) -> (usize, Result<()>);
    fn attach(&mut self, interface: &ToAttach) -> Result<Attached>;
    /// Distributes received ESP over the CPUs, on these interfaces only.
    fn spread(&mut self, plan: &SpreadPlan);
    /// Detaches from all other interfaces.
    fn keep(&mut self, interfaces: &BTreeSet<u32>) -> Result<()>;
    /// Interfaces were removed.
    fn forget(&mut self, interfaces: &BTreeSet<u32>);
    /// Stores a connection's state by slot, for the next agent.
    fn remember(&mut self, slot: u32, memory: &ConnectionMemory) -> Result<()>;
    /// Marks unused memory for release; returns whether there is any.
    fn begin_release(&mut self) -> bool;
    /// Makes the marked memory reusable.
    fn release(&mut self);
}

/// The kernel's own forwarding, its settings, and the state of the links.
pub trait Kernel {
    fn set_xfrm_links(&mut self, links: XfrmLinks);
    fn follow_policies(&mut self, follow: bool);
    /// Follows the routes of this table, and of no other.
    fn follow_table(&mut self, followed: Option<FollowedTable>);
    /// Reads the followed table again.
    fn reread_table(&mut self);
    fn set_checks(&mut self, checks: BTreeMap<String, CheckTarget>);
    fn join_group(&mut self, interfaces: &BTreeSet<u32>) -> Result<()>;
    /// Removes all interfaces except these.
    fn leave_group(&mut self, others: &BTreeSet<u32>) -> Result<()>;
    /// The nftables table.
    fn guard(&mut self, ruleset: &Ruleset) -> Result<()>;
    fn set(&mut self, settings: &Settings, audit: bool);
    fn accept_translated(&mut self, sources: &TranslatedSources);
    /// Distributes received packets over the CPUs. Returns what the program is to do.
    fn spread(&mut self, underlays: &Underlays) -> SpreadPlan;
    /// Interfaces were removed.
    fn forget(&mut self, interfaces: &BTreeSet<u32>);
    fn routes(&mut self, entries: Vec<KernelRoute>);
    fn neighbours(&mut self, neighbours: BTreeSet<KernelNeighbour>);
    fn rules(&mut self, rules: BTreeSet<KernelRule>);
    fn audit(&mut self);
    /// [`Event::Settled`] follows.
    fn settle(&mut self);
    fn probe(&mut self, ifindex: u32, address: IpAddr);
    /// [`Event::GraceOver`] follows once all packets now in flight have left.
    fn await_grace(&mut self);
}

/// strongSwan.
pub trait Ike {
    /// Loads the connections of this configuration into charon.
    fn set(&mut self, config: &Config);
}

/// The outside world.
pub struct Edge<D, K, I> {
    pub datapath: D,
    pub kernel: K,
    pub ike: I,
    /// Listeners to connection events.
    pub listeners: broadcast::Sender<ConnectionEvent>,
}

impl<D: Datapath, K: Kernel, I: Ike> Edge<D, K, I> {
    /// Performs an effect. Returns its result, and an event where the step needs one.
    pub fn perform(&mut self, effect: Effect) -> (Result<()>, Option<Event>) {
        let Self { datapath, kernel, ike, .. } = self;
        let (mut result, mut done) = (Ok(()), None);
        match effect {
            Effect::Ike(config) => ike.set(&config),
            Effect::XfrmLinks(links) => kernel.set_xfrm_links(links),
            Effect::FollowPolicies(follow) => kernel.follow_policies(follow),
            Effect::FollowTable(followed) => kernel.follow_table(followed),
            Effect::RereadTable => kernel.reread_table(),
            Effect::Checks(checks) => kernel.set_checks(checks),
            Effect::JoinGroup(interfaces) => {
                result = kernel.join_group(&interfaces).inspect_err(|_| done = Some(Done::GroupFailed));
            }
            Effect::LeaveGroup(others) => result = kernel.leave_group(&others),
            Effect::Guard(ruleset) => {
                result = kernel.guard(&ruleset).inspect_err(|_| done = Some(Done::GuardFailed));
            }
            Effect::Sysctls { settings, audit } => kernel.set(&settings, audit),
            Effect::AcceptTranslated(sources) => kernel.accept_translated(&sources),
            Effect::Spread(underlays) => datapath.spread(&kernel.spread(&underlays)),
            Effect::Routes(entries) => kernel.routes(entries),
            Effect::Neighbours(neighbours) => kernel.neighbours(neighbours),
            Effect::Rules(rules) => kernel.rules(rules),
            Effect::AuditRoutes => kernel.audit(),
            Effect::Settle => kernel.settle(),
            Effect::Probe(ifindex, address) => kernel.probe(ifindex, address),
            Effect::Forget(interfaces) => {
                datapath.forget(&interfaces);
                kernel.forget(&interfaces);
            }
            Effect::Write(writes) => {
                let written;
                (written, result) = self.write(writes);
                done = Some(written);
            }
            Effect::Attach(interface) => {
                let result = datapath.attach(&interface).map_err(|error| error.to_string());
                let ToAttach { name, ifindex, .. } = interface;
                done = Some(Done::Attached { name, ifindex, result });
            }
            Effect::Keep(interfaces) => {
                result = datapath.keep(&interfaces);
                done = Some(Done::Kept);
            }
            Effect::Remember { connection, slot, memory } => {
                if let Err(error) = datapath.remember(slot, &memory) {
                    warn!(name: "state_not_recorded", "the next agent will not know how {connection} is: {error}");
                }
            }
            Effect::AwaitGrace { ids } => {
                if datapath.begin_release() || ids {
                    kernel.await_grace();
                } else {
                    done = Some(Done::NothingRests);
                }
            }
            Effect::Release => datapath.release(),
            Effect::Notify(notice) => self.notify(notice),
            Effect::Fail(error) => result = Err(anyhow!(error)),
        }
        (result, done.map(Event::Done))
    }

    fn write(&mut self, mut writes: Vec<Write>) -> (Done, Result<()>) {
        for index in 0..writes.len() {
            let (count, result) = self.datapath.write(&writes[index]);
            if result.is_err() {
                writes.truncate(index + 1);
                return (Done::Written { writes, count, failed: true }, result);
            }
        }
        (Done::Written { writes, count: 0, failed: false }, Ok(()))
    }

    fn notify(&self, notice: Notice) {
        let Notice { connection, state, health, was, reason, selectors } = notice;
        // Fails when there are no listeners.
        drop(self.listeners.send(ConnectionEvent { time: now(), connection, state, health, was, reason, selectors }));
    }
}

/// Handles an event and all effects that follow from it. Returns the first error; further errors are logged.
///
/// At the start, no effect is performed after an error. An earlier agent's programs then continue with their own
/// tables instead of half-written new ones. Without the nftables table the kernel would forward past the selectors.
pub fn drive<D: Datapath, K: Kernel, I: Ike>(
    world: &mut World,
    edge: &mut Edge<D, K, I>,
    event: Event,
    now: impl Fn() -> Instant,
) -> Result<()> {
    let mut result = Ok(());
    let mut effects = VecDeque::from(step(world, event, now()));
    while let Some(effect) = effects.pop_front() {
        let (outcome, event) = edge.perform(effect);
        result = match (result, outcome) {
            (Err(first), Err(other)) => {
                warn!(name: "effect_failed", "{other:#}");
                Err(first)
            }
            (first, outcome) => first.and(outcome),
        };
        if result.is_err() && world.is_starting() {
            break;
        }
        if let Some(event) = event {
            step(world, event, now()).into_iter().rev().for_each(|effect| effects.push_front(effect));
        }
    }
    result
}

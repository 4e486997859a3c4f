//! The plan of the nftables table that keeps the kernel to what the program has decided.
//!
//! A site's interface is in the table before the program is attached and before any route leads there, and stays in it
//! until the last route has gone.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Result;

use super::effect::Effect;
use crate::{
    config::Config,
    fib::{
        id_allocator::IdAllocator,
        ruleset::{ruleset, sites},
    },
    kernel::netlink::{Guard, HostState, Ruleset},
    policy::selectors::Negotiated,
};

/// What the table is to say, and which interfaces are in the sites' device group. Pure.
#[derive(Debug, Default)]
pub struct GuardPlan {
    desired: Arc<Ruleset>,
    /// It could not be written.
    failed: bool,
    /// Interfaces of connections that have left the configuration, to which routes may still lead.
    leaving: BTreeSet<String>,
    /// Indices of the sites' interfaces that have been put into the device group, by which the table knows them whatever
    /// they are called.
    grouped: BTreeSet<u32>,
    /// Some of them could not be.
    group_failed: bool,
    /// The group is as the last agent has left it: interfaces that are no site's any more may be in it.
    is_regrouped: bool,
}

impl GuardPlan {
    /// Has the kernel hold the table for this state. `slots` are the numbers of the connections, as far as they have some.
    pub fn follow(
        &mut self,
        config: &Config,
        host: &HostState,
        negotiated: &Negotiated,
        slots: &IdAllocator<String>,
        effects: &mut Vec<Effect>,
    ) {
        let mut desired = ruleset(config, host, negotiated, slots);
        self.leaving.extend(self.desired.sites.difference(&desired.sites).cloned());
        self.is_regrouped &= self.leaving.is_empty();
        self.leaving.retain(|name| !desired.sites.contains(name));
        desired.sites.extend(self.leaving.iter().cloned());
        let sites: BTreeSet<u32> = sites(config).filter_map(|name| host.link(name)).map(|link| link.index).collect();
        let new: BTreeSet<u32> = match std::mem::take(&mut self.group_failed) {
            true => sites.clone(),
            false => sites.difference(&self.grouped).copied().collect(),
        };
        if !new.is_empty() {
            effects.push(Effect::JoinGroup(new));
        }
        self.grouped = sites;
        if desired != *self.desired || std::mem::take(&mut self.failed) {
            self.desired = Arc::new(desired);
            self.repeat(effects);
        }
    }

    /// Writes what others have changed, or may have.
    pub fn repeat(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Guard(Arc::clone(&self.desired)));
    }

    /// The table could not be written.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// Interfaces could not be put into the group. None of the others has to leave it for that.
    pub fn group_failed(&mut self) {
        self.group_failed = true;
    }

    /// No route leads to connections any more that have left the configuration.
    pub fn routes_are_settled(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.is_regrouped, true) {
            effects.push(Effect::LeaveGroup(self.grouped.clone()));
        }
        let leaving = std::mem::take(&mut self.leaving);
        if !leaving.is_empty() {
            Arc::make_mut(&mut self.desired).sites.retain(|name| !leaving.contains(name));
            self.repeat(effects);
        }
    }
}

/// Before any agent runs, at boot: closes the sites' interfaces, whether they are there yet or not. A table that is there
/// already stays as it is: a datapath may be running behind it. Whether there was none.
///
/// # Errors
/// When the kernel has no nftables, or this process may not change them.
pub async fn protect(config: &Config) -> Result<bool> {
    let mut guard = Guard::open().await?;
    if guard.is_there().await? {
        return Ok(false);
    }
    let slots = IdAllocator::new("connections", 0..0);
    guard.apply(&ruleset(config, &HostState::default(), &Negotiated::new(), &slots)).await?;
    Ok(true)
}

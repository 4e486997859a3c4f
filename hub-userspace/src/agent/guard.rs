//! Desired state of the nftables table that restricts the kernel to the program's decisions.
//!
//! A site's interface is added before the program is attached and before any route to it exists. It is removed after
//! the last route.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Result;

use super::effect::Effect;
use crate::{
    config::Config,
    fib::{
        id_allocator::IdAllocator,
        ruleset::{Allowed, allowed, ruleset, sites, update_output},
    },
    kernel::netlink::{Guard, HostState, Ruleset},
    policy::selectors::Negotiated,
};

/// Desired contents of the table and of the sites' device group. Pure.
#[derive(Debug, Default)]
pub struct GuardPlan {
    desired: Arc<Ruleset>,
    /// What the hub itself may send, which is in `desired` by interface.
    allowed: Allowed,
    /// The last write of the table failed.
    failed: bool,
    /// Interfaces of removed connections that may still have routes.
    leaving: BTreeSet<String>,
    /// Indices of the sites' interfaces in the device group. The table matches the group, so that a renamed interface
    /// still matches.
    grouped: BTreeSet<u32>,
    /// Adding some of them to the group failed.
    group_failed: bool,
    /// The group may still contain interfaces that the last agent added and that no longer belong to a site.
    is_regrouped: bool,
}

impl GuardPlan {
    /// Plans the table for this state. `slots` are the connections' slots, where assigned.
    pub fn follow(
        &mut self,
        config: &Config,
        host: &HostState,
        negotiated: &Negotiated,
        slots: &IdAllocator<String>,
        effects: &mut Vec<Effect>,
    ) {
        self.allowed = all_allowed(config, host, negotiated);
        let mut desired = ruleset(config, &self.allowed, slots);
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

    /// Plans the table for changed selectors of these connections, or addresses of their interfaces.
    pub fn follow_some<'a>(
        &mut self,
        affected: impl Iterator<Item = &'a String>,
        config: &Config,
        host: &HostState,
        negotiated: &Negotiated,
        effects: &mut Vec<Effect>,
    ) {
        let mut interfaces = BTreeSet::new();
        for name in affected {
            let Some(connection) = config.connections.get(name) else { continue };
            let pairs = allowed(name, connection, host, negotiated);
            if self.allowed.get(name) != Some(&pairs) {
                self.allowed.insert(name.clone(), pairs);
                interfaces.insert(&*connection.interface);
            }
        }
        if !interfaces.is_empty() && update_output(&mut self.desired, &interfaces, config, &self.allowed) {
            self.repeat(effects);
        }
    }

    /// Rewrites the table after a possible change by another process.
    pub fn repeat(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Guard(Arc::clone(&self.desired)));
    }

    /// Notes that the table could not be written.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// Notes that adding interfaces to the group failed. The other interfaces stay in the group.
    pub fn group_failed(&mut self) {
        self.group_failed = true;
    }

    /// The routes of removed connections are gone: removes their interfaces.
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

/// For the boot, before any agent runs: blocks the sites' interfaces, even if they do not exist yet. An existing
/// table is left unchanged, because a datapath may depend on it. Returns whether the table was created.
///
/// # Errors
/// When the kernel has no nftables, or the process lacks the permission to change it.
pub async fn protect(config: &Config) -> Result<bool> {
    let mut guard = Guard::open().await?;
    if guard.is_there().await? {
        return Ok(false);
    }
    guard.apply(&closed(config)).await?;
    Ok(true)
}

/// The table while no program runs: it passes nothing from and to the sites.
pub fn closed(config: &Config) -> Ruleset {
    let slots = IdAllocator::new("connections", 0..0);
    ruleset(config, &all_allowed(config, &HostState::default(), &Negotiated::new()), &slots)
}

fn all_allowed(config: &Config, host: &HostState, negotiated: &Negotiated) -> Allowed {
    let of = |(name, connection): (&String, _)| (name.clone(), allowed(name, connection, host, negotiated));
    config.connections.iter().map(of).collect()
}

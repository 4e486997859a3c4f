//! Removes leftovers of agents from a host.

use std::{collections::BTreeSet, fmt};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::lock::{InstanceLock, SPREAD_MEMORY};
use crate::{
    datapath::{Instance, Removal},
    ipsec::xfrm::translated,
    kernel::{
        netlink::{Guard, Reconciler, remove_interfaces, take_out_of_group},
        spread::Spreader,
    },
};

/// The removed objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Names of xfrm interfaces.
    pub interfaces: Vec<String>,
    /// Number of routes, rules and neighbours.
    pub routes: usize,
    /// Number of the kernel's IPsec policies for translated addresses.
    pub policies: usize,
    /// Number of programs attached to interfaces.
    pub programs: usize,
    /// The nftables table.
    pub table: bool,
    /// Number of receive queues whose `rps_cpus` was put back.
    pub receive_queues: usize,
}

/// Removes all objects of this instance's agents from the network namespace of the calling thread. Routes first:
/// without a program the kernel must have no route to a site. Then the datapath is denied as a whole, before its programs
/// are detached one by one. A denied datapath passes everything to the kernel: another process may have emptied the
/// nftables table, so no route may be left by then. `progress` gets the number of programs that have been detached, and
/// of all.
///
/// # Errors
/// When an agent runs there, or the kernel rejects a change.
pub async fn remove(instance: &Instance, progress: impl FnMut(usize, usize)) -> Result<Removed> {
    let lock = InstanceLock::claim()?;
    let mut guard = Guard::open().await?;
    // Before anything is removed.
    guard.must_be_free().await?;
    let report = Reconciler::start()?.clear().await.context("cannot remove the routes of an agent from the kernel")?;
    if let Some(failure) = report.failures.first() {
        bail!("not removed: {failure}");
    }
    let policies = translated::remove_all().context("cannot remove the IPsec policies of an agent")?;
    let programs = Removal::begin(instance)?.map_or(Ok(0), |datapath| datapath.finish(progress))?;
    let table = guard.is_there().await?;
    guard.remove().await?;
    take_out_of_group(&BTreeSet::new()).await?;
    let interfaces = remove_interfaces().await.context("cannot remove the interfaces of an agent")?;
    let (memory, name) = lock.companion(SPREAD_MEMORY).context("cannot open the lock's directory again")?;
    let receive_queues = Spreader::start(memory, name).put_all_back()?;
    Ok(Removed { interfaces, routes: report.deleted, policies, programs, table, receive_queues })
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.interfaces.is_empty() {
            parts.push(format!("xfrm interfaces {}", self.interfaces.join(", ")));
        }
        if self.routes > 0 {
            parts.push(format!("{} routes, rules and neighbours", self.routes));
        }
        if self.policies > 0 {
            parts.push(format!("{} IPsec policies", self.policies));
        }
        if self.programs > 0 {
            parts.push(format!("{} programs on interfaces", self.programs));
        }
        if self.table {
            parts.push("the nftables table".to_owned());
        }
        if self.receive_queues > 0 {
            parts.push(format!("rps_cpus of {} receive queues", self.receive_queues));
        }
        match parts.is_empty() {
            true => f.write_str("nothing to remove"),
            false => write!(f, "removed: {}", parts.join("; ")),
        }
    }
}

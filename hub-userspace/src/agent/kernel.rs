//! The kernel's own routes and neighbours, which follow the RIB: what the program leaves to the kernel must take
//! the same way there.
//!
//! The agent plans, and the [`Reconciler`] writes, in the background: a failure with a hundred thousand routes behind it
//! takes the kernel a second to follow, and nobody may wait for that.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use anyhow::Result;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::{
    compile::Inputs,
    config::Config,
    netlink::{Failure, Family, Reconciler, Report, RouteAction},
    rib::{Members, Rib},
    slowpath,
};

/// Destinations planned in one go: some tenths of a millisecond.
const AT_ONCE: usize = 1024;

pub(super) struct Kernel {
    reconciler: Reconciler,
    /// What the routes of these members do now.
    actions: HashMap<(Arc<Members>, Family), Option<Arc<RouteAction>>>,
    /// Destinations to plan.
    todo: BTreeSet<IpNet>,
    /// The table that routes are published to, as last planned.
    publish_table: Option<u32>,
    /// All that they were ever published to.
    publish_tables: BTreeSet<u32>,
    /// Something was wanted since [`Self::settle`].
    unsettled: bool,
    /// Who waits for the kernel to have got everything.
    waiting: Vec<oneshot::Sender<Settled>>,
    reports: mpsc::UnboundedSender<Settled>,
}

/// What the kernel refuses, everything having been tried; or why it cannot be asked.
pub type Settled = Result<Vec<Failure>, String>;

impl Kernel {
    /// What comes of everything that is wanted goes to `reports`.
    pub fn start(reports: mpsc::UnboundedSender<Settled>) -> Result<Self> {
        Ok(Self {
            reconciler: Reconciler::start()?,
            actions: HashMap::new(),
            todo: BTreeSet::new(),
            publish_table: None,
            publish_tables: BTreeSet::new(),
            unsettled: false,
            waiting: Vec::new(),
            reports,
        })
    }

    /// Takes over which destinations changed, and what follows from states, links and neighbours.
    pub fn follow(&mut self, inputs: Inputs<'_>, rib: &Rib) {
        let mut actions = HashMap::new();
        for members in rib.groups() {
            for family in [Family::V4, Family::V6] {
                let key = (Arc::clone(members), family);
                let new = slowpath::action(inputs, members, family);
                let action = match self.actions.remove(&key) {
                    Some(old) if old.as_deref() == new.as_ref() => old,
                    _ => {
                        let of_family = |destination: &IpNet| slowpath::family(*destination) == family;
                        self.todo.append(&mut rib.destinations(members).filter(of_family).collect());
                        new.map(Arc::new)
                    }
                };
                actions.insert(key, action);
            }
        }
        self.actions = actions;
        self.todo.append(&mut rib.changed().collect());
        let publish_table = slowpath::publish_table(inputs.config);
        if self.publish_table.replace(publish_table) != Some(publish_table) {
            self.publish_tables.insert(publish_table);
            self.todo.append(&mut rib.iter().collect());
        }
        self.reconciler.neighbours(slowpath::neighbours(inputs, rib));
        self.unsettled = true;
    }

    /// There is something to plan, or somebody to tell that there is not.
    pub fn has_work(&self) -> bool {
        !self.todo.is_empty() || self.unsettled
    }

    /// Plans some of what is to be planned.
    pub fn work(&mut self, rib: &Rib, config: &Config) {
        self.plan_some(rib, config);
        if self.todo.is_empty() && self.unsettled {
            self.settle();
        }
    }

    /// Plans all, so that the reconciler can begin.
    pub fn plan(&mut self, rib: &Rib, config: &Config) {
        while !self.todo.is_empty() {
            self.plan_some(rib, config);
        }
    }

    fn plan_some(&mut self, rib: &Rib, config: &Config) {
        let mut entries = Vec::new();
        for destination in std::iter::from_fn(|| self.todo.pop_first()).take(AT_ONCE) {
            let family = slowpath::family(destination);
            let action = |members: &Arc<Members>| self.actions.get(&(Arc::clone(members), family)).cloned().flatten();
            for table in &self.publish_tables {
                entries.extend(slowpath::entries_of(destination, rib, config, *table, action));
            }
        }
        self.reconciler.routes(entries);
    }

    /// Ends when the kernel has all that is wanted now, or has refused it.
    pub fn settled(&mut self) -> oneshot::Receiver<Settled> {
        let (sender, settled) = oneshot::channel();
        self.waiting.push(sender);
        self.unsettled = true;
        settled
    }

    /// Everything is planned; the reconciler will tell when it is done.
    fn settle(&mut self) {
        self.unsettled = false;
        let settled = self.reconciler.settled();
        let (waiting, reports) = (std::mem::take(&mut self.waiting), self.reports.clone());
        tokio::spawn(async move {
            let settled = settled.await.map(|report| report.failures).map_err(|error| format!("{error:#}"));
            // Who waited may have gone, and so may the agent.
            for waiting in waiting {
                drop(waiting.send(settled.clone()));
            }
            drop(reports.send(settled));
        });
    }

    /// Has the kernel's routes and neighbours read again, and mended.
    pub fn audit(&mut self) {
        self.reconciler.audit();
        self.unsettled = true;
    }

    /// Has the kernel ask the link for a neighbour's address; the answer comes as a change of the host.
    pub fn probe(&self, ifindex: u32, address: IpAddr) {
        self.reconciler.probe(ifindex, address);
    }

    /// Removes all that the kernel holds of ours.
    pub async fn clear(self) -> Result<Report> {
        self.reconciler.clear().await
    }
}

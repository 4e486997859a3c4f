//! The production datapath, kernel and strongSwan.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{MembarrierCommand, membarrier};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::{JoinHandle, block_in_place},
};

use super::{
    edge::{Datapath, Ike, Kernel},
    effect::Settled,
};
use crate::{
    background::spawn_blocking,
    config::Config,
    connection::memory::ConnectionMemory,
    datapath::{Attached, Dataplane, ToAttach},
    fib::{slow_path::KernelRoute, tables::Write},
    health::{CheckTarget, Prober},
    ipsec::{
        vici::driver::Driver,
        xfrm::{
            self,
            translated::{TranslatedPolicies, TranslatedSources},
        },
    },
    kernel::{
        guard::GuardTable,
        netlink::{
            self, FollowedTable, Interfaces, KernelNeighbour, KernelRule, Reconciler, RouteFollower, Ruleset, XfrmLinks,
        },
        spread::{SpreadPlan, Spreader, Underlays},
        sysctl::{Settings, Sysctls},
    },
};

impl Datapath for Dataplane {
    fn write(&mut self, write: &Write) -> (usize, Result<()>) {
        let (count, result) = Dataplane::write(self, write);
        (count, result.map_err(Into::into))
    }

    fn attach(&mut self, interface: &ToAttach) -> Result<Attached> {
        Ok(Dataplane::attach(self, interface)?)
    }

    fn spread(&mut self, plan: &SpreadPlan) {
        Dataplane::spread(self, plan);
    }

    fn keep(&mut self, interfaces: &BTreeSet<u32>) -> Result<()> {
        Ok(Dataplane::keep(self, interfaces)?)
    }

    fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        Dataplane::forget(self, interfaces);
    }

    fn remember(&mut self, slot: u32, memory: &ConnectionMemory) -> Result<()> {
        Ok(Dataplane::remember(self, slot, memory)?)
    }

    fn begin_release(&mut self) -> bool {
        self.numbers().begin_release()
    }

    fn release(&mut self) {
        self.numbers().release();
    }
}

impl Ike for Driver {
    fn set(&mut self, config: &Config) {
        Driver::set(self, config);
    }
}

/// The kernel of this network namespace.
pub struct Host {
    /// Creates xfrm interfaces.
    pub interfaces: Interfaces,
    /// Follows externally managed SAs.
    pub policies: xfrm::follow::PolicyFollower,
    /// Follows the routes of a routing daemon.
    pub learned: RouteFollower,
    pub prober: Prober,
    /// Restricts the kernel to the program's decisions.
    pub guard: GuardTable,
    pub sysctls: Sysctls,
    pub translated: TranslatedPolicies,
    pub spreader: Spreader,
    pub reconciler: Reconciler,
    /// Requesters that wait until every requested kernel change has been tried.
    pub waiting: Vec<oneshot::Sender<Settled>>,
    /// Reports the same to the main loop.
    pub settled: mpsc::UnboundedSender<Settled>,
    /// Ends when all packets in flight at its start have left.
    pub grace: Option<JoinHandle<()>>,
}

impl Host {
    /// Completes when the kernel has the current desired state, or has rejected it.
    pub fn settlement(&mut self) -> oneshot::Receiver<Settled> {
        let (sender, settled) = oneshot::channel();
        self.waiting.push(sender);
        settled
    }
}

/// Waits for the end of a task; forever if there is none.
pub async fn finished(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

impl Kernel for Host {
    fn set_xfrm_links(&mut self, links: XfrmLinks) {
        self.interfaces.want(links);
    }

    fn follow_policies(&mut self, follow: bool) {
        self.policies.want(follow);
    }

    fn follow_table(&mut self, followed: Option<FollowedTable>) {
        self.learned.follow(followed);
    }

    fn reread_table(&mut self) {
        self.learned.reread();
    }

    fn set_checks(&mut self, checks: BTreeMap<String, CheckTarget>) {
        self.prober.set(checks);
    }

    fn join_group(&mut self, interfaces: &BTreeSet<u32>) -> Result<()> {
        block_in_place(|| Handle::current().block_on(netlink::put_into_group(interfaces)))
            .context("the sites' interfaces cannot be put into a device group")
    }

    fn leave_group(&mut self, others: &BTreeSet<u32>) -> Result<()> {
        block_in_place(|| Handle::current().block_on(netlink::take_out_of_group(others)))
    }

    fn guard(&mut self, ruleset: &Ruleset) -> Result<()> {
        self.guard.apply(ruleset)
    }

    fn set(&mut self, settings: &Settings, audit: bool) {
        self.sysctls.set(settings, audit);
    }

    fn accept_translated(&mut self, sources: &TranslatedSources) {
        self.translated.set(sources);
    }

    fn spread(&mut self, underlays: &Underlays) -> SpreadPlan {
        self.spreader.set(underlays)
    }

    fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        self.sysctls.forget(interfaces);
        self.spreader.forget(interfaces);
    }

    fn routes(&mut self, entries: Vec<KernelRoute>) {
        self.reconciler.routes(entries);
    }

    fn neighbours(&mut self, neighbours: BTreeSet<KernelNeighbour>) {
        self.reconciler.neighbours(neighbours);
    }

    fn rules(&mut self, rules: BTreeSet<KernelRule>) {
        self.reconciler.rules(rules);
    }

    fn audit(&mut self) {
        self.reconciler.audit();
    }

    fn settle(&mut self) {
        let settled = self.reconciler.settled();
        let (waiting, reports) = (mem::take(&mut self.waiting), self.settled.clone());
        tokio::spawn(async move {
            let settled = settled.await.map(|report| report.failures).map_err(|error| format!("{error:#}"));
            // The receivers may be gone, including the agent.
            for waiting in waiting {
                drop(waiting.send(settled.clone()));
            }
            drop(reports.send(settled));
        });
    }

    fn probe(&mut self, ifindex: u32, address: IpAddr) {
        self.reconciler.probe(ifindex, address);
    }

    fn await_grace(&mut self) {
        self.grace = Some(spawn_blocking(|| {
            // An RCU grace period. Kernels with nohz_full do not offer it: wait longer than any packet takes.
            if membarrier(MembarrierCommand::Global).is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
    }
}

//! Creates and deletes xfrm interfaces. It touches only interfaces with the agent's alias.
//!
//! They outlive the agent, so that a restart does not interrupt tunnels. The next agent recognizes them by the alias,
//! keeps those still desired unchanged, and deletes the rest.

mod plan;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};
use rustix::io::Errno;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

use self::plan::{FoundInterface, InterfaceStep, found, mtu_steps, stays, steps};
pub use self::plan::{XfrmLink, XfrmLinks};
use super::socket::{Refusal, Requests};

/// Interval of audits: another process may have deleted an interface.
const LOOK: Duration = Duration::from_secs(30);
/// The interval after a refusal.
const RETRY: Duration = Duration::from_secs(5);
/// Minimum time between changes of MTUs: the agent compiles its tables again after each. The first one is made at once;
/// while thousands of tunnels come up or go down, their changes are made together.
const MTU_INTERVAL: Duration = Duration::from_millis(250);

/// Why interfaces are missing or could not be deleted, by name.
pub type Problems = BTreeMap<String, String>;

/// The task that manages them; it ends when this is dropped.
pub struct Interfaces {
    desired: watch::Sender<XfrmLinks>,
    problems: watch::Receiver<Arc<Problems>>,
    task: JoinHandle<()>,
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Interfaces {
    /// Creates the interfaces desired initially, in the network namespace of the calling thread, and deletes other
    /// leftovers of earlier agents. A later dump of the host's interfaces then contains none that is about to be
    /// deleted.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub async fn start(desired: XfrmLinks) -> Result<Self> {
        let mut requests = Requests::open()?;
        let mut in_force = InForce::default();
        let problems = bring_about(&mut requests, &desired, &mut in_force, true).await;
        log(&problems);
        let (desired, wants) = watch::channel(desired);
        let (publisher, problems) = watch::channel(Arc::new(problems));
        Ok(Self { desired, problems, task: tokio::spawn(run(requests, in_force, wants, publisher)) })
    }

    /// Sets the complete desired state.
    pub fn want(&self, desired: XfrmLinks) {
        self.desired.send_replace(desired);
    }

    pub fn problems(&self) -> Arc<Problems> {
        Arc::clone(&self.problems.borrow())
    }

    /// Returns when the problems have changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.problems.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the task without deleting interfaces. It completes a started operation: nothing would ever delete an
    /// interface without the alias.
    pub async fn end(mut self) {
        // Closes the channel, which ends the task.
        self.desired = watch::Sender::default();
        drop((&mut self.task).await);
    }
}

/// Deletes all interfaces of agents in the network namespace of the calling thread; returns their names. No agent may
/// run there.
///
/// # Errors
/// When the kernel does not answer, or refuses.
pub async fn remove_interfaces() -> Result<Vec<String>> {
    let mut requests = Requests::open()?;
    let mut removed = Vec::new();
    for step in steps(&XfrmLinks::new(), &read(&mut requests).await?) {
        let name = step.name().to_owned();
        match requests.change("removing an interface", vec![step.message()]).await?.pop() {
            Some(Err(refusal)) => bail!("{}", problem(&name, &refusal)),
            _ => removed.push(name),
        }
    }
    Ok(removed)
}

/// As of the last complete reconciliation, and the changes of MTUs since.
#[derive(Default)]
struct InForce {
    /// `None` after a failure.
    links: Option<XfrmLinks>,
    /// Indices of our interfaces, by name.
    own: HashMap<String, u32>,
}

async fn run(
    mut requests: Requests,
    mut in_force: InForce,
    mut wants: watch::Receiver<XfrmLinks>,
    publisher: watch::Sender<Arc<Problems>>,
) {
    let (mut earliest, mut is_early) = (Instant::now(), false);
    loop {
        let again = if publisher.borrow().is_empty() { LOOK } else { RETRY };
        let until = if is_early { earliest } else { Instant::now() + again };
        let is_audit = match timeout_at(until, wants.changed()).await {
            Ok(Ok(())) => false,
            Ok(Err(_)) => return,
            Err(_) => !is_early,
        };
        let desired = wants.borrow_and_update().clone();
        let mtus = in_force.mtu_steps(&desired).filter(|_| !is_audit);
        is_early = mtus.is_some() && Instant::now() < earliest;
        if is_early {
            continue;
        }
        if let Some(steps) = mtus
            && set_mtus(&mut requests, &steps).await
        {
            in_force.links = Some(desired);
            earliest = Instant::now() + MTU_INTERVAL;
            continue;
        }
        let problems = bring_about(&mut requests, &desired, &mut in_force, false).await;
        publisher.send_if_modified(|published| {
            let differ = **published != problems;
            if differ {
                log(&problems);
                *published = Arc::new(problems);
            }
            differ
        });
    }
}

fn log(problems: &Problems) {
    for problem in problems.values() {
        warn!(name: "xfrm_interface_failed", "{problem}");
    }
}

impl InForce {
    /// The operations to a desired state that differs in MTUs only: with many interfaces, reading all of them for each
    /// tunnel that comes up would take long.
    fn mtu_steps(&self, desired: &XfrmLinks) -> Option<Vec<InterfaceStep>> {
        mtu_steps(self.links.as_ref()?, desired, &self.own)
    }
}

/// Returns whether all MTUs are set.
async fn set_mtus(requests: &mut Requests, steps: &[InterfaceStep]) -> bool {
    let messages = steps.iter().map(InterfaceStep::message).collect();
    let results = requests.change("setting the MTU of an interface", messages).await;
    let is_set = results.is_ok_and(|results| results.iter().all(Result::is_ok));
    if is_set {
        steps.iter().for_each(InterfaceStep::log);
    }
    is_set
}

/// Reconciles the interfaces with the desired state; returns the problems by name. `first`: existing ones are from
/// another agent.
async fn bring_about(requests: &mut Requests, desired: &XfrmLinks, in_force: &mut InForce, first: bool) -> Problems {
    *in_force = InForce::default();
    match try_to_bring_about(requests, desired, in_force, first).await {
        Ok(problems) => problems,
        Err(error) => {
            if let Ok(another) = Requests::open() {
                *requests = another;
            }
            let problem = |name: &String| (name.clone(), format!("interface {name} cannot be created: {error:#}"));
            desired.keys().map(problem).collect()
        }
    }
}

async fn read(requests: &mut Requests) -> Result<Vec<FoundInterface>> {
    let mut all = LinkMessage::default();
    all.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let shown = requests.list("reading the interfaces", RouteNetlinkMessage::GetLink(all)).await?;
    let found = shown.iter().filter_map(|object| match object {
        RouteNetlinkMessage::NewLink(link) => found(link),
        _ => None,
    });
    Ok(found.collect())
}

async fn try_to_bring_about(
    requests: &mut Requests,
    desired: &XfrmLinks,
    in_force: &mut InForce,
    first: bool,
) -> Result<Problems> {
    let found = read(requests).await?;
    for FoundInterface { name, .. } in found.iter().filter(|found| first && found.ours && stays(desired, found)) {
        info!(name: "xfrm_interface_adopted", "xfrm interface {name} taken over from the previous agent");
    }
    let mut problems = Problems::new();
    let steps = steps(desired, &found);
    // The index of a new interface is known after the next reading.
    let is_new = steps.iter().any(|step| matches!(step, InterfaceStep::Create { .. } | InterfaceStep::Delete { .. }));
    for step in steps {
        let name = step.name().to_owned();
        if problems.contains_key(&name) {
            continue;
        }
        let result = requests.change("creating an interface", vec![step.message()]).await?.pop();
        match result {
            Some(Err(refusal)) => _ = problems.insert(name.clone(), problem(&name, &refusal)),
            _ => step.log(),
        }
    }
    if problems.is_empty() {
        let found = if is_new { read(requests).await? } else { found };
        let own = found.into_iter().filter(|found| found.ours && stays(desired, found));
        *in_force = InForce { links: Some(desired.clone()), own: own.map(|own| (own.name, own.index)).collect() };
    }
    Ok(problems)
}

fn problem(name: &str, refusal: &Refusal) -> String {
    if refusal.is(Errno::OPNOTSUPP) {
        return format!(
            "interface {name} cannot be created: this kernel has no xfrm interfaces (CONFIG_XFRM_INTERFACE): load the \
             module xfrm_interface, or give the connection an existing interface"
        );
    }
    if refusal.is(Errno::EXIST) {
        return format!("interface {name} cannot be created: another interface has its if_id already");
    }
    format!("interface {name} cannot be created or removed: {refusal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_without_xfrm_interfaces_is_reported() {
        let refusal = Refusal { errno: Errno::OPNOTSUPP.raw_os_error(), detail: Some("Unknown device type".into()) };
        let problem = problem("xf7", &refusal);
        assert!(problem.contains("this kernel has no xfrm interfaces (CONFIG_XFRM_INTERFACE)"), "{problem}");
    }
}

//! A simulated datapath and kernel that store their state, and check at each step that no unfiltered path is open.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hub_common::maps::Route;
use ipnet::IpNet;
use tokio::sync::broadcast;

use super::evaluate::{Answer, Packet, evaluate};
use crate::{
    agent::{
        edge::{Datapath, Edge, Ike, Kernel, drive},
        event::Event,
        world::World,
    },
    config::Config,
    connection::memory::{Clock, ConnectionMemory},
    datapath::{AttachMode, Attached, Inherited, ToAttach},
    fib::{
        slow_path::KernelRoute,
        tables::{Tables, Write},
    },
    health::CheckTarget,
    ipsec::xfrm::translated::TranslatedSources,
    kernel::{
        netlink::{FollowedTable, HostState, KernelNeighbour, KernelRule, RouteAction, RouteKey, Ruleset, XfrmLinks},
        spread::{SpreadPlan, Underlays},
        sysctl::Settings,
    },
};

/// State of the simulated host.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent things that fail, or are waited for")]
pub struct State {
    /// The kernel's view.
    pub host: HostState,
    pub tables: Tables,
    pub routes: BTreeMap<IpNet, Route>,
    /// Names of the attached interfaces, by index, and whether the program at egress is attached, too.
    pub attached: BTreeMap<u32, (String, bool)>,
    pub group: BTreeSet<u32>,
    pub guard: Option<Ruleset>,
    pub underlays: Underlays,
    pub translated: TranslatedSources,
    pub links: XfrmLinks,
    pub kernel_routes: BTreeMap<RouteKey, Arc<RouteAction>>,
    pub rules: BTreeSet<KernelRule>,
    /// Performed operations, in order.
    pub log: Vec<String>,
    /// The write of the entry this many entries ahead fails.
    pub fails_in: Option<usize>,
    pub guard_fails: bool,
    pub group_fails: bool,
    pub attach_fails: bool,
    pub settles: bool,
    pub grace: bool,
    /// Packets evaluated after each write, and the results.
    pub packets: Vec<Packet>,
    pub answers: Vec<Vec<Answer>>,
}

impl State {
    /// Evaluates the packets now. Panics on a dangling reference.
    pub fn answers(&self) -> Vec<Answer> {
        self.packets.iter().map(|packet| evaluate(&self.tables, &self.routes, packet)).collect()
    }

    fn name_of(&self, ifindex: u32) -> Option<&str> {
        self.host.links.get(&ifindex).map(|link| link.name.as_str())
    }

    /// Asserts that no kernel route to a site bypasses the nftables table.
    fn must_be_closed(&self) {
        for (key, action) in &self.kernel_routes {
            let RouteAction::Unicast { next_hops, .. } = &**action else { continue };
            for name in next_hops.iter().filter_map(|hop| self.name_of(hop.ifindex)) {
                let closed = self.guard.as_ref().is_some_and(|guard| guard.sites.contains(name));
                assert!(closed, "{key:?} leads to {name}, which the nftables table does not know: {:?}", self.log);
            }
        }
    }
}

pub type Shared = Rc<RefCell<State>>;

pub struct Sim(Shared);

impl Datapath for Sim {
    fn write(&mut self, write: &Write) -> (usize, Result<()>) {
        let mut state = self.0.borrow_mut();
        let kind = format!("{write:?}");
        state.log.push(format!("write {}", kind.split('(').next().unwrap_or_default()));
        for (done, one) in singles(write).into_iter().enumerate() {
            if let Some(left) = state.fails_in {
                if left == 0 {
                    return (done, Err(anyhow::anyhow!("no memory")));
                }
                state.fails_in = Some(left - 1);
            }
            if let Write::Routes(changes) = &one {
                for (destination, route) in changes {
                    match route {
                        Some(route) => state.routes.insert(*destination, *route),
                        None => state.routes.remove(destination),
                    };
                }
            }
            // A deleted array element stays until its index is reused.
            let stays = matches!(&one, Write::Buckets(changes) | Write::Ports(changes) if changes[0].1.is_none())
                || matches!(&one, Write::NextHops(changes) if changes[0].1.is_none())
                || matches!(&one, Write::PortRules(changes) if changes[0].1.is_none());
            if !stays {
                state.tables.note(&one, 1);
            }
            let answers = state.answers();
            state.answers.push(answers);
        }
        (write.len(), Ok(()))
    }

    fn attach(&mut self, interface: &ToAttach) -> Result<Attached> {
        let &ToAttach { ref name, ifindex, mode, reason, translates } = interface;
        let mut state = self.0.borrow_mut();
        state.log.push(format!("attach {name}"));
        if state.name_of(ifindex) != Some(name.as_str()) {
            bail!("no such interface");
        }
        if state.attach_fails {
            bail!("no room");
        }
        let guard = state.guard.as_ref().expect("the nftables table is there before any program");
        if guard.sites.contains(name) {
            assert!(state.group.contains(&ifindex), "{name} is attached before it is in the group");
        } else {
            assert!(guard.vpc.contains(name), "{name} is attached before the nftables table knows it");
        }
        assert!(state.tables.policy.attachments.contains_key(&ifindex), "{name} is attached without tables");
        state.attached.insert(ifindex, (name.clone(), translates));
        // Some drivers of the simulation have no native XDP.
        let is_tc = mode == AttachMode::Tc || name.starts_with("nic");
        Ok(Attached { mode: if is_tc { "tc" } else { "xdp-native" }, reason: reason.map(str::to_owned) })
    }

    fn spread(&mut self, _plan: &SpreadPlan) {}

    fn keep(&mut self, interfaces: &BTreeSet<u32>) -> Result<()> {
        let mut state = self.0.borrow_mut();
        let gone: Vec<u32> = state.attached.keys().filter(|ifindex| !interfaces.contains(ifindex)).copied().collect();
        for ifindex in gone {
            let (name, _) = state.attached.remove(&ifindex).expect("it is there");
            state.log.push(format!("detach {name}"));
            if state.name_of(ifindex) == Some(&name) {
                state.must_be_closed();
            }
        }
        Ok(())
    }

    fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        self.0.borrow_mut().attached.retain(|ifindex, _| !interfaces.contains(ifindex));
    }

    fn remember(&mut self, _slot: u32, _memory: &ConnectionMemory) -> Result<()> {
        Ok(())
    }

    fn begin_release(&mut self) -> bool {
        false
    }

    fn release(&mut self) {}
}

impl Kernel for Sim {
    fn set_xfrm_links(&mut self, links: XfrmLinks) {
        let mut state = self.0.borrow_mut();
        if !links.is_empty() || !state.links.is_empty() {
            state.log.push("links".to_owned());
        }
        state.links = links;
    }

    fn follow_policies(&mut self, _follow: bool) {}

    fn follow_table(&mut self, _followed: Option<FollowedTable>) {}

    fn reread_table(&mut self) {}

    fn set_checks(&mut self, _checks: BTreeMap<String, CheckTarget>) {}

    fn join_group(&mut self, interfaces: &BTreeSet<u32>) -> Result<()> {
        let mut state = self.0.borrow_mut();
        if state.group_fails {
            bail!("no answer");
        }
        state.group.extend(interfaces);
        Ok(())
    }

    fn leave_group(&mut self, others: &BTreeSet<u32>) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.log.push("leave group".to_owned());
        state.group.retain(|ifindex| others.contains(ifindex));
        Ok(())
    }

    fn guard(&mut self, ruleset: &Ruleset) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.log.push("guard".to_owned());
        if state.guard_fails {
            bail!("no nf_tables");
        }
        state.guard = Some(ruleset.clone());
        state.must_be_closed();
        Ok(())
    }

    fn set(&mut self, _settings: &Settings, _audit: bool) {}

    fn accept_translated(&mut self, sources: &TranslatedSources) {
        self.0.borrow_mut().translated = sources.clone();
    }

    fn spread(&mut self, underlays: &Underlays) -> SpreadPlan {
        let mut state = self.0.borrow_mut();
        if !underlays.is_empty() || !state.underlays.is_empty() {
            state.log.push("spread".to_owned());
        }
        state.underlays = underlays.clone();
        SpreadPlan::default()
    }

    fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        self.0.borrow_mut().group.retain(|ifindex| !interfaces.contains(ifindex));
    }

    fn routes(&mut self, entries: Vec<KernelRoute>) {
        let mut state = self.0.borrow_mut();
        state.log.push("routes".to_owned());
        for (key, action) in entries {
            match action {
                Some(action) => state.kernel_routes.insert(key, action),
                None => state.kernel_routes.remove(&key),
            };
        }
        state.must_be_closed();
    }

    fn neighbours(&mut self, _neighbours: BTreeSet<KernelNeighbour>) {}

    fn rules(&mut self, rules: BTreeSet<KernelRule>) {
        self.0.borrow_mut().rules = rules;
    }

    fn audit(&mut self) {
        self.0.borrow_mut().log.push("audit".to_owned());
    }

    fn settle(&mut self) {
        self.0.borrow_mut().settles = true;
    }

    fn probe(&mut self, _ifindex: u32, _address: IpAddr) {}

    fn await_grace(&mut self) {
        self.0.borrow_mut().grace = true;
    }
}

impl Ike for Sim {
    fn set(&mut self, _config: &Config) {}
}

/// An agent on a simulated host.
pub struct Agent {
    pub world: World,
    pub edge: Edge<Sim, Sim, Sim>,
    pub state: Shared,
    pub now: Instant,
    pub mode: AttachMode,
    events: broadcast::Receiver<crate::api_types::event::ConnectionEvent>,
}

impl Agent {
    pub fn new(config: Config, host: &HostState, now: Instant) -> Self {
        Self::inheriting(config, host, Inherited::default(), AttachMode::Auto, Duration::from_secs(1000), now)
    }

    /// An agent that takes over from another one, `since_boot` after the boot.
    pub fn inheriting(
        config: Config,
        host: &HostState,
        inherited: Inherited,
        mode: AttachMode,
        since_boot: Duration,
        now: Instant,
    ) -> Self {
        let world = World::new(config, host.clone(), inherited, mode, Clock::at(now, since_boot), now);
        let state = Shared::default();
        state.borrow_mut().host = host.clone();
        let [datapath, kernel, ike] = [(); 3].map(|()| Sim(Rc::clone(&state)));
        let (listeners, events) = broadcast::channel(1024);
        Self { world, edge: Edge { datapath, kernel, ike, listeners }, state, now, mode, events }
    }

    pub fn start(&mut self) -> Result<()> {
        self.take(Event::Start)?;
        self.take(Event::Started)?;
        self.settle();
        Ok(())
    }

    pub fn take(&mut self, event: Event) -> Result<()> {
        let now = self.now;
        drive(&mut self.world, &mut self.edge, event, || now)
    }

    /// Handles everything that is due, and all deferrable work.
    pub fn settle(&mut self) {
        self.plan();
        while self.world.due() <= self.now {
            self.take(Event::Due).expect("it does not fail");
            self.plan();
        }
    }

    /// Handles all deferrable work.
    pub fn plan(&mut self) {
        loop {
            let settles = std::mem::take(&mut self.state.borrow_mut().settles);
            let event = match () {
                () if settles => Event::Settled(Ok(Vec::new())),
                () if self.world.has_work() => Event::Idle,
                () => return,
            };
            self.take(event).expect("it does not fail");
        }
    }

    /// Reports the host's new state to the agent.
    pub fn see(&mut self, host: HostState, changes: crate::kernel::netlink::Changes) -> Result<()> {
        self.state.borrow_mut().host = host.clone();
        self.take(Event::Host { host, changes })
    }

    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().log)
    }

    /// The next event that a listener receives.
    pub fn reported(&mut self) -> Option<crate::api_types::event::ConnectionEvent> {
        self.events.try_recv().ok()
    }
}

/// The same changes, one per write.
fn singles(write: &Write) -> Vec<Write> {
    macro_rules! split {
        ($($kind:ident),+) => {
            match write {
                $(Write::$kind(changes) => changes.iter().map(|change| Write::$kind(vec![change.clone()])).collect(),)+
            }
        };
    }
    split!(
        Connections,
        Ports,
        MssLimits,
        Translations,
        GroupMembers,
        NextHops,
        Groups,
        Buckets,
        Neighbours,
        Links,
        PortRules,
        LocalsV4,
        RemotesV4,
        LocalsV6,
        RemotesV6,
        Routes,
        PolicyPairs,
        PolicyPrefixesV4,
        PolicyPrefixesV6,
        Vlans,
        Attachments
    )
}

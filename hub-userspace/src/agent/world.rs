//! All that the agent knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{attachments::Attachments, effect::Effect, event::Transition, guard::GuardPlan, routes::RoutePlan};
use crate::{
    config::Config,
    connection::{
        liveness::Liveness,
        memory::{Clock, ConnectionMemory},
        state::{State, States},
    },
    datapath::{AttachMode, Inherited},
    fib::{
        self, Inputs,
        id_allocator::Full,
        id_maps::IdMaps,
        tables::{PolicyTables, Tables},
    },
    health::{CheckTarget, HealthReport},
    ipsec::{vici::tunnels::Tunnels, xfrm::follow::Policies},
    kernel::{
        netlink::{Changes, HostState, Problems, ReconcileFailure},
        sysctl::Settings,
    },
    policy::selectors::Negotiated,
    routing::rib::Rib,
};

/// What did not work is tried again after this long, if nothing happens before.
pub const RETRY: Duration = Duration::from_secs(5);
/// When all is well, the kernel's routes and rules are compared with what they should be after this long: other network
/// managers remove what they do not know.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The configuration in force, what is known of the host, of strongSwan and of the sites, and what follows from that.
///
/// [`step`](super::step::step) alone changes it.
pub struct World {
    pub(super) config: Arc<Config>,
    pub(super) host: HostState,
    /// What charon has.
    pub(super) tunnels: Arc<Tunnels>,
    /// What the kernel has of IPsec.
    pub(super) policies: Arc<Policies>,
    /// Health checks that run, by connection, and how they are doing.
    pub(super) checks: BTreeMap<String, CheckTarget>,
    pub(super) health: BTreeMap<String, HealthReport>,
    /// Why xfrm interfaces cannot be made.
    pub(super) problems: Arc<Problems>,

    pub(super) rib: Arc<Rib>,
    pub(super) ids: IdMaps,
    pub(super) liveness: Liveness,
    pub(super) states: Arc<States>,
    /// By which the next agent is told of times.
    pub(super) clock: Clock,
    /// What it was told, by slot.
    pub(super) remembered: BTreeMap<u32, ConnectionMemory>,
    /// When a connection that is held may be up.
    pub(super) hold_down_expires: Option<Instant>,
    /// What SAs admit.
    pub(super) negotiated: Negotiated,
    /// Connections for which that is otherwise than last published.
    pub(super) dirty_selectors: BTreeSet<String>,
    /// State of each connection and why it is so, as last published.
    pub(super) last_published: BTreeMap<String, (State, Option<String>)>,

    /// What the program's maps hold.
    pub(super) tables: Tables,
    /// As last compiled.
    pub(super) policy: PolicyTables,
    /// What is being written.
    pub(super) writing: Option<Writing>,
    /// A grace period runs.
    pub(super) is_releasing: bool,
    pub(super) attachments: Attachments,
    /// Indices of the interfaces that TC alone reaches.
    pub(super) tc_only: BTreeSet<u32>,
    pub(super) guard: GuardPlan,
    pub(super) settings: Settings,
    pub(super) routes: RoutePlan,
    /// What the kernel refused last time: it is logged once.
    pub(super) refused: Vec<ReconcileFailure>,

    /// What has changed and is not all in the tables and in the kernel yet.
    pub(super) pending: Pending,
    pub(super) is_starting: bool,
    /// When to look again at what did not work, and at what others may have removed.
    pub(super) next_look: Instant,
}

/// What has changed.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent parts, each changed or not")]
pub(super) struct Pending {
    pub host: Changes,
    /// Connections, the VPC or settings; routes are the RIB's business.
    pub config: bool,
    /// A connection may have another state.
    pub states: bool,
    /// One has.
    pub egress: bool,
    /// SAs admit something else.
    pub selectors: bool,
    /// The nftables table is not as it should be.
    pub guard: bool,
    /// The failure has been acted on, what else follows from it has not.
    pub rerouted: bool,
}

/// What a write is about.
pub(super) struct Writing {
    /// Destinations whose routes change.
    pub routes: BTreeSet<IpNet>,
    /// More than next hops and routes.
    pub policy: bool,
    /// All destinations have the groups that they should have; no other group is in use.
    pub all: bool,
}

impl World {
    /// What an agent knows before it has heard of anything but the host.
    pub fn new(
        config: Config,
        host: HostState,
        inherited: Inherited,
        mode: AttachMode,
        clock: Clock,
        now: Instant,
    ) -> Self {
        let Inherited { is_running: _, connections, groups, tc_only } = inherited;
        let (mut ids, mut liveness, mut tables) = (IdMaps::default(), Liveness::default(), Tables::default());
        ids.inherit(connections.iter().map(|(name, (slot, _))| (name.clone(), *slot)), groups);
        for (name, (slot, memory)) in connections {
            if let Some(memory) = memory {
                liveness.resume(name.clone(), &memory, &clock);
            }
            tables.policy.connections.insert(slot, name);
        }
        Self {
            rib: Arc::new(Rib::build(&config, &host)),
            config: Arc::new(config),
            host,
            tunnels: Arc::default(),
            policies: Arc::default(),
            checks: BTreeMap::new(),
            health: BTreeMap::new(),
            problems: Arc::default(),
            ids,
            liveness,
            states: Arc::default(),
            clock,
            remembered: BTreeMap::new(),
            hold_down_expires: None,
            negotiated: Negotiated::new(),
            dirty_selectors: BTreeSet::new(),
            last_published: BTreeMap::new(),
            tables,
            policy: PolicyTables::default(),
            writing: None,
            is_releasing: false,
            attachments: Attachments::new(mode, tc_only),
            tc_only: BTreeSet::new(),
            guard: GuardPlan::default(),
            settings: Settings::default(),
            routes: RoutePlan::default(),
            refused: Vec::new(),
            pending: Pending {
                host: Changes::everything(),
                config: true,
                states: true,
                egress: true,
                selectors: true,
                guard: true,
                rerouted: false,
            },
            is_starting: true,
            next_look: now + LOOK_AGAIN,
        }
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The first effects are not in force yet.
    pub fn is_starting(&self) -> bool {
        self.is_starting
    }

    /// When [`Event::Due`](super::event::Event::Due) is due.
    pub fn due(&self) -> Instant {
        self.hold_down_expires.map_or(self.next_look, |expires| expires.min(self.next_look))
    }

    /// [`Event::Idle`](super::event::Event::Idle) would do something.
    pub fn has_work(&self) -> bool {
        self.routes.has_work()
    }

    /// Looks again soon: something did not work.
    pub(super) fn retry(&mut self, now: Instant) {
        self.next_look = self.next_look.min(now + RETRY);
    }

    /// What the tables follow from, but for the RIB.
    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            host: &self.host,
            states: &self.states,
            negotiated: &self.negotiated,
            tc_only: &self.tc_only,
        }
    }

    /// Whether the tables have room for a change. Leaves everything as it was.
    ///
    /// # Errors
    /// When they have not.
    pub fn check_capacity(&mut self, transition: &Transition) -> Result<(), Full> {
        let (config, routes) = (transition.config.as_ref().unwrap_or(&self.config), &transition.difference.routes);
        let rib = Arc::make_mut(&mut self.rib);
        rib.change(routes);
        rib.follow(config.vpc.as_ref(), &self.host);
        let inputs = Inputs {
            config,
            host: &self.host,
            states: &self.states,
            negotiated: &self.negotiated,
            tc_only: &self.tc_only,
        };
        let ids = &mut self.ids.clone();
        let room = fib::policy_tables(inputs, ids).and_then(|_| fib::egress_tables(inputs, rib, ids));
        rib.follow(self.config.vpc.as_ref(), &self.host);
        rib.change(&routes.inverse());
        room.map(drop)
    }

    /// Names of all interfaces that are to be attached to.
    pub(super) fn interfaces(&self) -> BTreeSet<String> {
        let connections = self.config.connections.values().map(|connection| connection.interface.clone());
        connections.chain(self.config.vpc.iter().map(|vpc| vpc.interface.clone())).collect()
    }

    /// The nftables table is to be as it should be.
    pub(super) fn protect(&mut self, effects: &mut Vec<Effect>) {
        let Self { guard, config, host, negotiated, ids, .. } = self;
        guard.follow(config, host, negotiated, &ids.policy.connections, effects);
    }
}

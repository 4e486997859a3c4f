//! The agent's state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    attachments::{Attachments, Uses},
    effect::Effect,
    event::Transition,
    guard::GuardPlan,
    routes::RoutePlan,
};
use crate::{
    config::{Config, ipsec::StartAction, model::Spread, tunnels::connection_of},
    connection::{
        affected::Affected,
        liveness::Liveness,
        memory::{Clock, ConnectionMemory},
        state::{State, States},
    },
    datapath::{AttachMode, Inherited},
    fib::{
        self, Inputs,
        id_allocator::Full,
        id_maps::IdMaps,
        tables::{NeighbourTable, Tables},
    },
    health::{CheckTarget, HealthReport},
    ipsec::{
        links::LinkPlan,
        vici::tunnels::Tunnels,
        xfrm::{
            follow::Policies,
            translated::{self, TranslatedSources},
        },
    },
    kernel::{
        netlink::{Changes, HostState, Problems, ReconcileFailure},
        spread::Underlays,
        sysctl::Settings,
    },
    policy::selectors::Negotiated,
    routing::{groups::AffectedGroups, learned::LearnedRoutes, rib::Rib},
};

/// Delay before a failed operation is retried, unless an event triggers it earlier.
pub const RETRY: Duration = Duration::from_secs(5);
/// Interval of the audit of kernel routes and rules when nothing fails: other network managers remove entries that
/// they do not know.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The configuration in force, the state of the host, strongSwan and the sites, and everything derived from these.
///
/// Only [`step`](super::step::step) modifies it.
pub struct World {
    pub(super) config: Arc<Config>,
    pub(super) host: HostState,
    /// SAs as reported by charon.
    pub(super) tunnels: Arc<Tunnels>,
    /// The kernel's XFRM policies and SAs.
    pub(super) policies: Arc<Policies>,
    /// Running health checks, and their last reports, by connection.
    pub(super) checks: BTreeMap<String, CheckTarget>,
    pub(super) health: BTreeMap<String, HealthReport>,
    /// Why xfrm interfaces cannot be created, by name.
    pub(super) problems: Arc<Problems>,
    /// The xfrm interfaces to create.
    pub(super) links: LinkPlan,

    /// Routes of a routing daemon, and which of them are in the RIB.
    pub(super) learned: LearnedRoutes,
    pub(super) rib: Arc<Rib>,
    pub(super) ids: IdMaps,
    pub(super) liveness: Liveness,
    pub(super) states: Arc<States>,
    /// Reference for the times passed on to the next agent.
    pub(super) clock: Clock,
    /// State last passed on to the next agent, by slot.
    pub(super) remembered: BTreeMap<u32, ConnectionMemory>,
    /// Earliest time at which a connection in hold-down may come up.
    pub(super) hold_down_expires: Option<Instant>,
    /// Selectors negotiated by the SAs.
    pub(super) negotiated: Negotiated,
    /// Connections whose negotiated selectors have changed since they were last published.
    pub(super) dirty_selectors: BTreeSet<String>,
    /// State of each connection and the reason for it, as last published.
    pub(super) last_published: BTreeMap<String, (State, Option<String>)>,

    /// Contents of the program's maps.
    pub(super) tables: Tables,
    /// Slots of connections with more port rules than fit, by scope and remote prefix.
    pub(super) truncated: BTreeMap<(u32, IpNet), BTreeSet<u32>>,
    /// As last compiled.
    pub(super) neighbours: NeighbourTable,
    /// The map write in progress.
    pub(super) writing: Option<Writing>,
    /// A grace period is running.
    pub(super) is_releasing: bool,
    pub(super) attachments: Attachments,
    /// Indices of interfaces attached by TC only.
    pub(super) tc_only: BTreeSet<u32>,
    pub(super) guard: GuardPlan,
    pub(super) settings: Settings,
    /// `None`: not applied yet; an earlier agent's may still be in force.
    pub(super) translated: Option<TranslatedSources>,
    /// As last applied; `None` if it must be applied again.
    pub(super) underlays: Option<Underlays>,
    pub(super) routes: RoutePlan,
    /// Failures of the last reconciliation, so that each is logged only once.
    pub(super) refused: BTreeSet<ReconcileFailure>,

    /// Changes not yet applied to the tables and the kernel.
    pub(super) pending: Pending,
    pub(super) is_starting: bool,
    /// Time of the next retry or audit.
    pub(super) next_look: Instant,
}

/// Changes not yet applied.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent changes")]
pub(super) struct Pending {
    pub host: Changes,
    /// Connections, the VPC or settings. Changed routes are tracked by the RIB.
    pub config: bool,
    /// Connections whose state and selectors must be re-evaluated.
    pub affected: Affected,
    /// Connections whose next hop, or share of the traffic, may have changed.
    pub egress: Affected,
    /// Connections whose negotiated selectors have changed.
    pub selectors: Affected,
    /// Interfaces whose addresses have changed.
    pub addressed: BTreeSet<u32>,
    /// The nftables table must be rewritten.
    pub guard: bool,
    /// An interface could not be attached to: try again.
    pub attach: bool,
    /// The links that outer packets leave by, or their addresses, have changed.
    pub underlay: bool,
    /// Next hops have been rerouted around a failure. The rest of the reconciliation is outstanding.
    pub rerouted: bool,
    /// No sender has the old numbers of its segment any more, and next hops may still admit them: compile again.
    pub retired: bool,
}

/// Tables that a map write compiles and compares, in addition to changed routes.
#[derive(Debug, Clone, Default)]
pub(super) struct Recompiled {
    /// Selectors of these connections; all of the policy if links or the configuration have changed.
    pub policy: Affected,
    /// Prefixes on the links of these interfaces.
    pub addressed: BTreeSet<u32>,
    pub neighbours: bool,
    /// Next hops and groups of these connections.
    pub egress: Affected,
    /// Attachments follow: links or the configuration have changed, or an attempt has failed.
    pub attach: bool,
}

/// Scope of a map write.
pub(super) struct Writing {
    /// Destinations whose routes change.
    pub routes: BTreeSet<IpNet>,
    pub recompiled: Recompiled,
    /// The write is complete: every destination uses its current group, and no other group is in use.
    pub all: bool,
}

impl World {
    /// Initial state: only the host and the inherited datapath are known.
    pub fn new(
        config: Config,
        host: HostState,
        inherited: Inherited,
        mode: AttachMode,
        clock: Clock,
        now: Instant,
    ) -> Self {
        let Inherited { is_running: _, connections, groups, tc_only, xdp } = inherited;
        let (mut ids, mut liveness, mut tables) = (IdMaps::default(), Liveness::default(), Tables::default());
        ids.inherit(connections.iter().map(|(name, (slot, _))| (name.clone(), *slot)), groups);
        for (name, (slot, memory)) in connections {
            if let Some(memory) = memory {
                liveness.resume(name.clone(), &memory, &clock);
            }
            tables.policy.connections.insert(slot, name);
        }
        Self {
            learned: LearnedRoutes::default(),
            rib: Arc::new(Rib::build(&config, &host)),
            config: Arc::new(config),
            host,
            tunnels: Arc::default(),
            policies: Arc::default(),
            checks: BTreeMap::new(),
            health: BTreeMap::new(),
            problems: Arc::default(),
            links: LinkPlan::default(),
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
            truncated: BTreeMap::new(),
            neighbours: NeighbourTable::new(),
            writing: None,
            is_releasing: false,
            attachments: Attachments::new(mode, tc_only, xdp),
            tc_only: BTreeSet::new(),
            guard: GuardPlan::default(),
            settings: Settings::default(),
            translated: None,
            underlays: None,
            routes: RoutePlan::default(),
            refused: BTreeSet::new(),
            pending: Pending {
                host: Changes::everything(),
                config: true,
                affected: Affected::All,
                egress: Affected::All,
                selectors: Affected::All,
                addressed: BTreeSet::new(),
                guard: true,
                attach: false,
                underlay: true,
                rerouted: false,
                retired: false,
            },
            is_starting: true,
            next_look: now + LOOK_AGAIN,
        }
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether all tunnels that the hub initiates are up, without those that are administratively down.
    pub fn has_all_tunnels(&self) -> bool {
        let started = self.config.tunnels().filter(|tunnel| tunnel.ipsec.start == StartAction::Start);
        started
            .filter(|tunnel| self.config.connections[tunnel.name].enabled)
            .all(|tunnel| self.tunnels.is_up(tunnel.name, tunnel.ipsec.start) == Some(true))
    }

    /// The effects of the start are not in force yet.
    pub fn is_starting(&self) -> bool {
        self.is_starting
    }

    /// When [`Event::Due`](super::event::Event::Due) is due.
    pub fn due(&self) -> Instant {
        self.hold_down_expires.map_or(self.next_look, |expires| expires.min(self.next_look))
    }

    /// [`Event::Idle`](super::event::Event::Idle) would do something.
    pub fn has_work(&self) -> bool {
        self.attachments.has_work() || self.routes.has_work()
    }

    /// Schedules a retry after a failure.
    pub(super) fn retry(&mut self, now: Instant) {
        self.next_look = self.next_look.min(now + RETRY);
    }

    /// Inputs of the tables other than the RIB.
    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            host: &self.host,
            states: &self.states,
            negotiated: &self.negotiated,
            tc_only: &self.tc_only,
        }
    }

    /// Checks whether the tables have room for a change. Leaves the state unmodified.
    ///
    /// # Errors
    /// When a table would be full.
    pub fn check_capacity(&mut self, transition: &Transition) -> Result<(), Full> {
        let (config, routes) = (transition.config.as_ref().unwrap_or(&self.config), &transition.difference.routes);
        let rib = Arc::make_mut(&mut self.rib);
        let removed = transition.difference.connections.removed.iter().map(|name| connection_of(name).to_owned());
        let removed = removed.filter(|name| config.any_member(name).is_none()).collect();
        let learned = rib.take_out_of_learned(&removed);
        rib.change(routes);
        rib.follow(config, &self.host);
        let inputs = Inputs {
            config,
            host: &self.host,
            states: &self.states,
            negotiated: &self.negotiated,
            tc_only: &self.tc_only,
        };
        let ids = &mut self.ids.clone();
        let is_compiled = !self.pending.selectors.is_all() && !self.pending.egress.is_all();
        let room = if is_compiled && transition.config.is_none() && !transition.difference.is_beyond_routes() {
            let affected = rib.affected_groups(&Affected::default(), true);
            fib::egress_tables(inputs, rib, ids, &affected).map(drop)
        } else {
            fib::policy_tables(inputs, ids, &Affected::All, &BTreeSet::new(), &self.tables.policy)
                .and_then(|_| fib::egress_tables(inputs, rib, ids, &AffectedGroups::All))
                .and_then(|_| fib::policy_route_tables(rib, ids, 0).map(drop))
        };
        rib.follow(&self.config, &self.host);
        rib.change(&routes.inverse());
        for (destination, members) in learned {
            rib.set_learned(destination, members);
        }
        room
    }

    /// Names of all interfaces to attach to, and how many of the connections and the VPC use each.
    pub(super) fn interfaces(&self) -> Uses {
        let mut interfaces = Uses::new();
        for connection in self.config.connections.values() {
            let used = interfaces.entry(connection.interface.clone()).or_default();
            used.users += 1;
            used.translates |= !connection.translate.is_empty();
        }
        if let Some(vpc) = &self.config.vpc {
            interfaces.entry(vpc.interface.clone()).or_default().users += 1;
        }
        for (name, underlay) in &self.config.underlays {
            if let Some(used) = interfaces.get_mut(name) {
                used.spreads = underlay.spread == Spread::Xdp;
            }
        }
        interfaces
    }

    /// Updates the nftables table.
    pub(super) fn protect(&mut self, effects: &mut Vec<Effect>) {
        let Self { guard, config, host, negotiated, ids, .. } = self;
        guard.follow(config, host, negotiated, &ids.policy.connections, effects);
    }

    /// Has the kernel accept the translated sources that it passes on or gets itself.
    pub(super) fn accept_translated(&mut self, effects: &mut Vec<Effect>) {
        let translated = translated::sources(&self.config, &self.host);
        if self.translated.as_ref() != Some(&translated) {
            effects.push(Effect::AcceptTranslated(translated.clone()));
            self.translated = Some(translated);
        }
    }

    /// Updates the nftables table after changes of the selectors of these connections, and of the addresses of these
    /// interfaces, only.
    pub(super) fn protect_selectors(
        &mut self,
        affected: &Affected,
        addressed: &BTreeSet<u32>,
        effects: &mut Vec<Effect>,
    ) {
        if affected.is_all() {
            return self.protect(effects);
        }
        let Self { guard, config, host, negotiated, .. } = self;
        let interfaces = addressed.iter().filter_map(|index| Some(host.links.get(index)?.name.as_str()));
        let interfaces: BTreeSet<&str> = interfaces.collect();
        let on_them = config.connections.iter().filter(|(_, found)| interfaces.contains(&*found.interface));
        guard.follow_some(
            affected.names(config).chain(on_them.map(|(name, _)| name)),
            config,
            host,
            negotiated,
            effects,
        );
    }
}

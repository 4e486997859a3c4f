//! The agent's state at one moment, taken in the agent's loop and converted to a [`Status`] outside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Result;
use hub_common::maps::{UNATTRIBUTED, VPC};
use ipnet::IpNet;
use tracing::debug;

use super::{
    edge::Edge,
    host::Host,
    underlays::{self, Receivers},
    warnings::Warnings,
    world::World,
};
use crate::{
    api_types::status::{self, Status},
    config::{Config, Origin, model, tunnels::connection_of},
    connection::state::States,
    datapath::{Counters, CpuPackets, Dataplane},
    ipsec::vici::driver::Driver,
    kernel::{netlink::ReconcileFailure, network_namespace, spread::Softnet},
    routing::rib::{self, Rib},
};

/// The data of a status.
pub struct Snapshot {
    config: Arc<Config>,
    rib: Arc<Rib>,
    states: Arc<States>,
    vpc: Option<status::VpcStatus>,
    underlays: Vec<status::UnderlayStatus>,
    receivers: Receivers,
    cpus: CpuPackets,
    pub connections: Vec<status::ConnectionStatus>,
    total: Counters,
    kernel: status::KernelDrops,
    refused: BTreeSet<ReconcileFailure>,
    unknown_gateways: Vec<String>,
}

/// Puts tunnels below their connections.
fn with_tunnels(world: &World, members: Vec<status::ConnectionStatus>) -> Vec<status::ConnectionStatus> {
    let mut connections: Vec<status::ConnectionStatus> = Vec::new();
    let mut members = members.into_iter().peekable();
    while let Some(first) = members.next() {
        if first.tunnel_weight.is_none() {
            connections.push(first);
            continue;
        }
        let name = connection_of(&first.name).to_owned();
        let mut tunnels = vec![first];
        while let Some(next) = members.next_if(|next| connection_of(&next.name) == name) {
            tunnels.push(next);
        }
        let learned = world.learned_status(&name);
        let all = status::ConnectionStatus::of_tunnels(&name, tunnels);
        connections.extend(all.map(|all| status::ConnectionStatus { learned, ..all }));
    }
    connections
}

impl Snapshot {
    /// Takes the current state.
    pub(super) fn take(world: &World, edge: &mut Edge<Dataplane, Host, Driver>) -> Result<Self> {
        // The rest of the status does not depend on these counters.
        let kernel = edge.kernel.guard.counters().map_or_else(
            |error| {
                debug!("{error:#}");
                status::KernelDrops::default()
            },
            Into::into,
        );
        let mut cpus = CpuPackets::default();
        let mut total = edge.datapath.counters_by_cpu(UNATTRIBUTED, &mut cpus)?;
        let mut counters = |slot: Option<u32>| -> Result<(Counters, Vec<status::PacketsOfCpu>)> {
            let mut own = CpuPackets::default();
            let counters =
                slot.map_or(Ok(Counters::default()), |slot| edge.datapath.counters_by_cpu(slot, &mut own))?;
            total = total + counters;
            cpus.merge(&own);
            Ok((counters, status::PacketsOfCpu::busiest(&own)))
        };
        let warnings = Warnings::of(world);
        let mut members = Vec::new();
        for (name, connection) in &world.config.connections {
            let state = world.states[name];
            let (warning_codes, warnings) =
                warnings.of_connection(name).into_iter().map(|(code, text)| (code.to_owned(), text)).unzip();
            let entry = world.liveness.get(name);
            let (traffic, cpu_packets) = counters(world.ids.policy.connections.get(name))?;
            members.push(status::ConnectionStatus {
                name: name.clone(),
                origin: world.config.provenance.connection(name),
                segment: connection.segment.clone(),
                interface: connection.interface.clone(),
                state,
                state_reason: world.state_reason(name, state).map(|reason| match world.stranger_hint(name) {
                    Some(hint) => format!("{reason}; {hint}"),
                    None => reason,
                }),
                state_seconds: entry.map_or(0.0, |entry| entry.since.elapsed().as_secs_f64()),
                warnings,
                warning_codes,
                state_changes: entry.map_or(0, |entry| entry.changes),
                health: edge.kernel.prober.report(name).as_ref().map(Into::into),
                ipsec: world
                    .tunnels
                    .tunnels
                    .get(name)
                    .map(|tunnel| (&**tunnel).into())
                    .or_else(|| world.kernel_sas(name))
                    .map(|ipsec| {
                        let (selectors, problems) = (world.selectors_of(name), world.selector_problems(name));
                        let missing = world.missing_selectors(name);
                        status::IpsecStatus { selectors, problems, missing, ..ipsec }
                    }),
                learned: world.learned_status(name).filter(|_| connection.tunnel_weight.is_none()),
                attachment: world.attachments.status(&world.host, &connection.interface),
                traffic: (&traffic).into(),
                cpu_packets,
                tunnels: Vec::new(),
                tunnel_weight: connection.tunnel_weight,
            });
        }
        let connections = with_tunnels(world, members);
        let (vpc_traffic, cpu_packets) = counters(Some(VPC))?;
        let vpc = world.config.vpc.as_ref().map(|vpc| status::VpcStatus {
            interface: vpc.interface.clone(),
            warnings: world.host.link(&vpc.interface).and_then(|link| warnings.offload(link)).into_iter().collect(),
            attachment: world.attachments.status(&world.host, &vpc.interface),
            traffic: (&vpc_traffic).into(),
            cpu_packets,
        });
        let underlays = underlays::status(world, edge);
        let receivers = Receivers::of(world, &edge.kernel.spreader);
        let (config, rib, states) = (Arc::clone(&world.config), Arc::clone(&world.rib), Arc::clone(&world.states));
        let refused = world.refused.clone();
        let unknown_gateways = world.unknown_gateways();
        Ok(Self {
            config,
            rib,
            states,
            vpc,
            underlays,
            receivers,
            cpus,
            connections,
            total,
            kernel,
            refused,
            unknown_gateways,
        })
    }

    /// Reads some files for each underlay.
    pub fn status(self) -> Status {
        let (routes, policy_routes) = (self.routes(), self.policy_routes());
        let underlay = |underlay: status::UnderlayStatus| {
            let receive = self.receivers.read(&underlay.interface).map(Into::into);
            status::UnderlayStatus { receive, ..underlay }
        };
        let underlays = self.underlays.into_iter().map(underlay).collect();
        let (cpus, cpus_omitted) = status::CpuStatus::all(&self.cpus, &Softnet::by_cpu());
        let others = self.refused.iter().filter(|failure| failure.destination.is_none());
        let problems = others.map(ToString::to_string).chain(self.unknown_gateways.clone()).collect();
        Status {
            gateway: status::GatewayStatus {
                name: self.config.gateway.name.clone(),
                network_namespace: network_namespace().ok(),
                role: self.config.role,
            },
            vpc: self.vpc,
            underlays,
            cpus,
            cpus_omitted,
            connections: self.connections,
            routes,
            policy_routes,
            set_aside: self.config.provenance.set_aside.clone(),
            confirmation: self.config.provenance.confirmation,
            problems,
            drops: status::reasons(&self.total, true),
            passes: status::reasons(&self.total, false),
            kernel_drops: self.kernel.drops,
            strangers: self.kernel.strangers,
        }
    }

    /// All routes with their shares and origins: the configured ones in their order, then the learned ones.
    pub fn routes(&self) -> Vec<status::RouteStatus> {
        let failed = |failure: &'_ ReconcileFailure| Some((failure.destination?, failure.reason.clone()));
        let failed: BTreeMap<IpNet, String> = self.refused.iter().filter_map(failed).collect();
        let routes = self.config.routes.iter().enumerate().map(|(index, route)| status::RouteStatus {
            problem: failed.get(&route.destination).cloned(),
            origin: self.config.provenance.route(index),
            destination: route.destination,
            next_hop: route.next_hop.clone(),
            weight: route.weight,
            publish: route.publish,
            share: self.share(route),
        });
        let learned = self.rib.learned().into_iter().flat_map(|(destination, members)| {
            members.iter().map(move |(next_hop, weight)| (destination, next_hop, *weight))
        });
        let learned = learned.map(|(destination, next_hop, weight)| status::RouteStatus {
            problem: failed.get(&destination).cloned(),
            origin: Origin::Learned,
            destination,
            next_hop: next_hop.clone(),
            weight,
            publish: false,
            share: rib::share(&self.rib, destination, next_hop, &self.states),
        });
        routes.chain(learned).collect()
    }

    /// The policy routes with their shares and origins.
    pub fn policy_routes(&self) -> Vec<status::PolicyRouteStatus> {
        let routes = self.config.policy_routes.iter().enumerate();
        routes
            .map(|(index, route)| status::PolicyRouteStatus {
                origin: self.config.provenance.policy_route(index),
                source: route.source,
                destination: route.destination,
                next_hop: route.next_hop.clone(),
                priority: route.priority,
                weight: route.weight,
                publish: route.publish,
                share: self
                    .rib
                    .policies()
                    .members(&route.key())
                    .map_or(0.0, |members| rib::share_of(members, &route.next_hop, &self.states)),
            })
            .collect()
    }

    /// The routes through this connection, or this one of its tunnels, that carry traffic now.
    pub fn carrying(&self, name: &str) -> impl Iterator<Item = &model::Route> {
        let routes = self.config.routes.iter().filter(move |route| route.next_hop == connection_of(name));
        routes.filter(move |route| rib::share(&self.rib, route.destination, name, &self.states) > 0.0)
    }

    fn share(&self, route: &model::Route) -> f64 {
        rib::share(&self.rib, route.destination, &route.next_hop, &self.states)
    }
}

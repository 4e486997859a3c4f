//! A configuration as far as it could be read: every value has its position, invalid values are absent.

use std::{
    collections::HashMap,
    mem,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hub_common::mark::Mark;
use ipnet::IpNet;

use super::{
    address::SiteAddress,
    diagnostic::{DiagnosticReport, Located, join},
    health_check::HealthCheckDraft,
    ipsec::{IpsecDraft, StartAction},
    learn::RouteProtocol,
    model::{
        Config, Connection, CustomerGateway, DataplaneSettings, Gateway, Learn, LookupKind, Metrics, MssClamp, OnStop,
        ReversePath, Route, SelectorSource, Service, Spread, Underlay, Vpc,
    },
    policy_routes::PolicyRouteDraft,
    provenance::{FileLine, Places, Provenance},
    role::Role,
    section::List,
    segments::Segment,
    translate::TranslateDraft,
    tunnels::{OfTunnel, TunnelsDraft},
};

/// Contents of a file; lists are in the file's order.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    /// Patterns of the files to include.
    pub include: Vec<Located<String>>,
    pub gateway: Option<GatewayDraft>,
    pub dataplane: Option<DataplaneDraft>,
    pub metrics: Option<MetricsDraft>,
    pub learn: Option<LearnDraft>,
    pub vpc: Option<VpcDraft>,
    pub underlays: Vec<UnderlayDraft>,
    pub segments: Vec<SegmentDraft>,
    pub customer_gateways: Vec<CustomerGatewayDraft>,
    pub connections: Vec<ConnectionDraft>,
    pub routes: Vec<RouteDraft>,
    pub policy_routes: Vec<PolicyRouteDraft>,
}

#[derive(Debug, Clone)]
pub(super) struct GatewayDraft {
    pub name: Option<Located<String>>,
    pub max_connections: Option<Located<u32>>,
    pub max_policy_routes: Option<Located<u32>>,
    pub spoke_to_spoke: Option<Located<bool>>,
    pub allow_default_route: Option<Located<bool>>,
    pub address: Option<Located<IpAddr>>,
    /// The file has an address, or may have one in an unreadable part.
    pub may_have_address: bool,
    pub vici_socket: Option<Located<PathBuf>>,
    pub services: List<Service>,
    pub role_at_boot: Option<Located<Role>>,
}

#[derive(Debug, Clone)]
pub(super) struct DataplaneDraft {
    pub lookup: Option<Located<LookupKind>>,
    pub lookup_memory: Option<Located<u32>>,
    pub on_stop: Option<Located<OnStop>>,
    pub mark: Option<Located<Mark>>,
}

#[derive(Debug, Clone)]
pub(super) struct MetricsDraft {
    pub listen: Option<Located<SocketAddr>>,
}

#[derive(Debug, Clone)]
pub(super) struct LearnDraft {
    pub table: Option<Located<u32>>,
    pub protocols: List<RouteProtocol>,
    pub max_per_connection: Option<Located<u32>>,
}

#[derive(Debug, Clone)]
pub(super) struct VpcDraft {
    /// Offset of the header.
    pub at: usize,
    pub interface: Option<Located<String>>,
    pub cidrs: List<IpNet>,
    pub publish_table: Option<Located<u32>>,
}

#[derive(Debug, Clone)]
pub(super) struct UnderlayDraft {
    /// The interface.
    pub name: Located<String>,
    pub spread: Option<Located<Spread>>,
}

#[derive(Debug, Clone)]
pub(super) struct SegmentDraft {
    pub name: Located<String>,
    pub reaches: List<String>,
}

#[derive(Debug, Clone)]
pub(super) struct CustomerGatewayDraft {
    pub name: Located<String>,
    pub address: Option<Located<SiteAddress>>,
}

#[derive(Debug, Clone)]
pub(super) struct ConnectionDraft {
    pub name: Located<String>,
    pub customer_gateway: Option<Located<String>>,
    pub segment: Option<Located<String>>,
    pub enabled: Option<Located<bool>>,
    pub interface: Option<Located<String>>,
    pub peer: Option<Located<IpAddr>>,
    pub local_cidrs: List<IpNet>,
    pub remote_cidrs: List<IpNet>,
    pub translate: TranslateDraft,
    pub health_check: Option<HealthCheckDraft>,
    pub up_delay: Option<Located<Duration>>,
    pub ipsec: Option<IpsecDraft>,
    pub selectors: Option<Located<SelectorSource>>,
    pub reverse_path: Option<Located<ReversePath>>,
    pub mss_clamp: Option<Located<MssClamp>>,
    pub tunnels: TunnelsDraft,
    /// `None` if it is a connection as configured.
    pub of_tunnel: Option<OfTunnel>,
}

#[derive(Debug, Clone)]
pub(super) struct RouteDraft {
    /// Its number among the routes, counted from 1.
    pub number: usize,
    pub at: usize,
    pub destination: Option<Located<IpNet>>,
    pub next_hop: Option<Located<String>>,
    pub weight: Option<Located<u8>>,
    pub publish: Option<Located<bool>>,
}

impl Draft {
    /// The configuration; `None` if a required value is absent. Valid only if no error was reported: an invalid
    /// optional value is absent, too.
    pub fn into_config(mut self, mut provenance: Provenance) -> Option<Config> {
        provenance.connections = self.connections.iter().map(|found| found.name.value.clone()).collect();
        if !self.connections.iter().all(|connection| connection.tunnels.sound) {
            return None;
        }
        let connections = mem::take(&mut self.connections).into_iter().flat_map(ConnectionDraft::into_members);
        let connections: Vec<ConnectionDraft> = connections.collect();
        let sites = self.sites();
        let default_start = |connection: &ConnectionDraft| {
            let gateway = connection.customer_gateway.as_ref().and_then(|name| sites.get(name.value.as_str()));
            // The hub cannot begin without an address.
            if gateway.is_some_and(|address| address.value.is_any()) { StartAction::None } else { StartAction::Start }
        };
        let starts: Vec<StartAction> = connections.iter().map(default_start).collect();
        Some(Config {
            role: Role::default(),
            provenance: Arc::new(provenance),
            gateway: self.gateway?.finish()?,
            dataplane: match self.dataplane {
                Some(dataplane) => dataplane.finish()?,
                None => DataplaneSettings::default(),
            },
            metrics: match self.metrics {
                Some(metrics) => Some(metrics.finish()?),
                None => None,
            },
            learn: match self.learn {
                Some(learn) => Some(learn.finish()?),
                None => None,
            },
            vpc: match self.vpc {
                Some(vpc) => Some(vpc.finish()?),
                None => None,
            },
            underlays: self.underlays.into_iter().map(UnderlayDraft::finish).collect::<Option<_>>()?,
            segments: self.segments.into_iter().map(SegmentDraft::finish).collect::<Option<_>>()?,
            customer_gateways: self
                .customer_gateways
                .into_iter()
                .map(CustomerGatewayDraft::finish)
                .collect::<Option<_>>()?,
            connections: connections
                .into_iter()
                .zip(starts)
                .map(|(connection, start)| connection.finish(start))
                .collect::<Option<_>>()?,
            routes: self.routes.into_iter().map(RouteDraft::finish).collect::<Option<_>>()?,
            policy_routes: self.policy_routes.into_iter().map(PolicyRouteDraft::finish).collect::<Option<_>>()?,
        })
    }

    /// The addresses of customer gateways, by name.
    pub fn sites(&self) -> HashMap<&str, &Located<SiteAddress>> {
        let gateways = self.customer_gateways.iter();
        gateways.filter_map(|gateway| Some((gateway.name.value.as_str(), gateway.address.as_ref()?))).collect()
    }

    /// Positions of the objects.
    pub fn places(&self, report: &DiagnosticReport<'_>) -> Places {
        let line_of = |at| -> FileLine {
            let (file, line) = report.origin(at).unwrap_or_default();
            (u32::try_from(file).unwrap_or_default(), u32::try_from(line).unwrap_or_default())
        };
        let segments = self.segments.iter().map(|found| (found.name.value.clone(), line_of(found.name.at)));
        let gateways = self.customer_gateways.iter().map(|found| (found.name.value.clone(), line_of(found.name.at)));
        let connections = self.connections.iter().map(|found| (found.name.value.clone(), line_of(found.name.at)));
        Places {
            segments: segments.collect(),
            customer_gateways: gateways.collect(),
            connections: connections.collect(),
            routes: self.routes.iter().map(|route| line_of(route.at)).collect(),
            policy_routes: self.policy_routes.iter().map(|route| line_of(route.at)).collect(),
        }
    }
}

impl GatewayDraft {
    fn finish(self) -> Option<Gateway> {
        Some(Gateway {
            name: self.name?.value,
            max_connections: usize::try_from(self.max_connections?.value).ok()?,
            max_policy_routes: usize::try_from(self.max_policy_routes?.value).ok()?,
            spoke_to_spoke: self.spoke_to_spoke?.value,
            allow_default_route: self.allow_default_route?.value,
            address: self.address.map(|address| address.value),
            vici_socket: self.vici_socket?.value,
            services: self.services.finish()?.into_iter().collect(),
            role_at_boot: self.role_at_boot?.value,
        })
    }
}

impl DataplaneDraft {
    fn finish(self) -> Option<DataplaneSettings> {
        Some(DataplaneSettings {
            lookup: self.lookup?.value,
            lookup_memory: self.lookup_memory?.value,
            on_stop: self.on_stop?.value,
            mark: self.mark?.value,
        })
    }
}

impl MetricsDraft {
    fn finish(self) -> Option<Metrics> {
        Some(Metrics { listen: self.listen?.value })
    }
}

impl LearnDraft {
    fn finish(self) -> Option<Learn> {
        Some(Learn {
            table: self.table?.value,
            protocols: self.protocols.finish()?,
            max_per_connection: usize::try_from(self.max_per_connection?.value).ok()?,
        })
    }
}

impl VpcDraft {
    fn finish(self) -> Option<Vpc> {
        Some(Vpc {
            interface: self.interface?.value,
            cidrs: self.cidrs.finish()?,
            publish_table: self.publish_table?.value,
        })
    }
}

impl UnderlayDraft {
    /// The path in messages.
    pub fn path(&self) -> String {
        join("underlay", &self.name.value)
    }

    fn finish(self) -> Option<(String, Underlay)> {
        Some((self.name.value, Underlay { spread: self.spread?.value }))
    }
}

impl SegmentDraft {
    /// The path in messages.
    pub fn path(&self) -> String {
        join("segment", &self.name.value)
    }

    fn finish(self) -> Option<(String, Segment)> {
        Some((self.name.value, Segment { reaches: self.reaches.finish()? }))
    }
}

impl CustomerGatewayDraft {
    fn finish(self) -> Option<(String, CustomerGateway)> {
        let address = self.address?.value;
        Some((self.name.value, CustomerGateway { address }))
    }
}

impl ConnectionDraft {
    /// The path in messages.
    pub fn path(&self) -> String {
        match &self.of_tunnel {
            Some(tunnel) => tunnel.path.clone(),
            None => join("connection", &self.name.value),
        }
    }

    /// `start` is the default of its IPsec.
    fn finish(self, start: StartAction) -> Option<(String, Connection)> {
        let connection = Connection {
            customer_gateway: self.customer_gateway?.value,
            segment: self.segment?.value,
            enabled: self.enabled?.value,
            interface: self.interface?.value,
            peer: self.peer.map(|peer| peer.value),
            local_cidrs: self.local_cidrs.finish()?,
            remote_cidrs: self.remote_cidrs.finish()?,
            translate: self.translate.finish()?,
            health_check: match self.health_check {
                Some(check) => Some(check.finish()?),
                None => None,
            },
            up_delay: self.up_delay?.value,
            selectors: match (self.selectors, &self.ipsec) {
                (Some(source), _) => source.value,
                (None, Some(_)) => SelectorSource::Ike,
                (None, None) => SelectorSource::File,
            },
            ipsec: match self.ipsec {
                Some(ipsec) => Some(ipsec.finish(start)?),
                None => None,
            },
            reverse_path: self.reverse_path?.value,
            mss_clamp: self.mss_clamp?.value,
            tunnel_weight: match self.of_tunnel {
                Some(tunnel) => Some(tunnel.weight?),
                None => None,
            },
        };
        Some((self.name.value, connection))
    }
}

impl RouteDraft {
    /// The path in diagnostics.
    pub fn path(&self) -> String {
        format!("route[{}]", self.number)
    }

    pub fn finish(self) -> Option<Route> {
        Some(Route {
            destination: self.destination?.value,
            next_hop: self.next_hop?.value,
            weight: self.weight?.value,
            publish: self.publish?.value,
        })
    }
}

impl<T> List<T> {
    pub fn finish(self) -> Option<Vec<T>> {
        self.sound.then(|| self.items.into_iter().map(|item| item.value).collect())
    }
}

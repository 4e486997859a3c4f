//! Which learned routes are refused, and why. Pure.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    config::{self, Config, model::Connection, translate::Translations, tunnels::connection_of},
    kernel::netlink::{HostState, KernelHop},
    routing::rib::Rib,
};

/// A rule that a learned route breaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A default route, without `allow_default_route`.
    Default,
    /// A range such as multicast.
    NeverForwarded(&'static str),
    /// It overlaps an address of the hub or of a customer gateway, one of the hub's links, or the VPC.
    Hub(IpNet),
    /// It equals or lies in a configured prefix of another site.
    OtherSite(IpNet, String),
    /// The site's own prefix, which the hub knows by another one.
    Translated(IpNet),
    /// The connection has as many routes as it may have.
    Quota(usize),
}

/// A short name of the kind, for counters.
impl Refusal {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default_route",
            Self::NeverForwarded(_) => "never_forwarded",
            Self::Hub(_) => "hub_prefix",
            Self::OtherSite(..) => "other_site",
            Self::Translated(_) => "translated",
            Self::Quota(_) => "quota",
        }
    }
}

/// The reason and what to do, without the prefix.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str(
                "a default route, and gateway.allow_default_route is false: set it, or filter the route in the routing \
                 daemon",
            ),
            Self::NeverForwarded(kind) => {
                write!(f, "{kind}, which is never forwarded: filter it in the routing daemon")
            }
            Self::Hub(own) => {
                write!(
                    f,
                    "overlaps {own} of the hub, its links, the VPC or a customer gateway: filter it in the routing daemon"
                )
            }
            Self::OtherSite(prefix, name) => write!(
                f,
                "lies in {prefix}, which is configured for connection {name} of another site: filter it in the routing \
                 daemon"
            ),
            Self::Translated(hub) => {
                write!(f, "the site's own prefix, which is translated: let the site announce {hub} instead")
            }
            Self::Quota(most) => {
                write!(
                    f,
                    "more than learn.max_per_connection = {most} routes: raise it, or let the site aggregate them"
                )
            }
        }
    }
}

/// What the rules need to know about a connection, or one of its tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The connection's, whichever tunnel the route leads to.
    pub name: Arc<str>,
    peer: Option<IpAddr>,
    customer_gateway: String,
    translations: Translations,
}

impl Candidate {
    fn of(name: &str, connection: &Connection) -> Self {
        Self {
            name: connection_of(name).into(),
            peer: connection.peer,
            customer_gateway: connection.customer_gateway.clone(),
            translations: connection.translate.clone(),
        }
    }
}

/// The connections on an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnInterface {
    pub name: String,
    ethernet: bool,
    connections: Vec<Candidate>,
}

/// The connections by interface index.
pub type ByInterface = BTreeMap<u32, OnInterface>;

pub fn by_interface(config: &Config, host: &HostState) -> ByInterface {
    let mut found = ByInterface::new();
    for (name, connection) in &config.connections {
        let Some(link) = host.link(&connection.interface) else { continue };
        let of_link = found.entry(link.index).or_insert_with(|| OnInterface {
            name: link.name.clone(),
            ethernet: link.ethernet,
            connections: Vec::new(),
        });
        of_link.connections.push(Candidate::of(name, connection));
    }
    found
}

impl OnInterface {
    /// The connection that a next hop on this interface leads to; `None` if that is not certain.
    ///
    /// On a link with neighbours or with several connections it is the one with the gateway as its `peer`. A gateway of
    /// the other IP version says nothing about the peer, nor does the absence of one.
    pub fn connection(&self, hop: &KernelHop) -> Option<&Candidate> {
        let mut with_peer = self.connections.iter().filter(|found| found.peer.is_some() && found.peer == hop.via);
        match (with_peer.next(), with_peer.next(), self.connections.as_slice()) {
            (Some(only), None, _) => Some(only),
            (None, _, [only]) => match (hop.via, only.peer) {
                _ if !self.ethernet => Some(only),
                (None, _) => Some(only),
                (Some(via), Some(peer)) => (via.is_ipv4() != peer.is_ipv4()).then_some(only),
                (Some(_), None) => None,
            },
            _ => None,
        }
    }
}

/// The prefixes that no site may take over: of the hub's links, of the VPC, and the addresses that the tunnels run
/// between.
pub fn protected(config: &Config, host: &HostState) -> impl Iterator<Item = IpNet> {
    let links = host.addresses.values().flatten();
    let links = links.flat_map(|address| [address.trunc(), IpNet::from(address.addr())]);
    let vpc = config.vpc.iter().flat_map(|vpc| vpc.cidrs.iter().copied());
    let gateways = config.customer_gateways.values().filter_map(|gateway| gateway.address.ip());
    links.chain(vpc).chain(gateways.chain(config.gateway.address).map(IpNet::from))
}

/// The first rule but the quota that a route of this connection breaks. `protected` contains a prefix that overlaps it.
pub fn broken(
    prefix: IpNet,
    candidate: &Candidate,
    (config, rib): (&Config, &Rib),
    protected: impl FnOnce() -> Option<IpNet>,
) -> Option<Refusal> {
    let is_default = prefix.prefix_len() == 0;
    if is_default {
        return (!config.gateway.allow_default_route).then_some(Refusal::Default);
    }
    if let Some(kind) = config::never_forwarded_as(prefix) {
        return Some(Refusal::NeverForwarded(kind));
    }
    if let Some(own) = protected() {
        return Some(Refusal::Hub(own));
    }
    let overlaps = |site: IpNet| site.contains(&prefix) || prefix.contains(&site);
    if let Some(translation) = candidate.translations.iter().find(|translation| overlaps(translation.site)) {
        return Some(Refusal::Translated(translation.hub));
    }
    // A default prefix contains everything and conflicts with nothing, as in the configuration.
    let (around, members) = rib.configured_around(prefix).filter(|(around, _)| around.prefix_len() != 0)?;
    let gateway = |name: &String| config.connections.get(name).map(|found| &found.customer_gateway);
    let is_own =
        |name: &String| connection_of(name) == &*candidate.name || gateway(name) == Some(&candidate.customer_gateway);
    let other = members.keys().next()?;
    (!members.keys().any(is_own)).then(|| Refusal::OtherSite(around, connection_of(other).to_owned()))
}

//! Answers the rules' questions about a route, so that one added or removed route is validated incrementally.
//!
//! The index describes the valid configuration in force. Its answers are conservative: if a change may affect another
//! object, the answer is "cannot tell", and [`super::unite()`] validates everything together.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::{
    super::{
        diagnostic::Problem, model::Config, provenance::Origin, routes::Coverage, rules::unrouted, sites::Sites,
        tunnels::tunnel_of,
    },
    policy_routes::PolicyIndex,
};
use crate::store::{RouteId, RouteKeys};

/// Routes by destination and connection, and the data of connections and VPC that validation needs.
#[derive(Debug, Default)]
pub(super) struct Index {
    allow_default_route: bool,
    /// Connections may have learned routes.
    learns: bool,
    vpc: Vec<IpNet>,
    /// By name.
    connections: Vec<IndexedConnection>,
    by_name: HashMap<String, ConnectionId>,
    /// Containers come before what they contain.
    routes: BTreeMap<ConfigRouteKey, IndexedRoute>,
    /// How many destinations have both connections among their next hops, with the first one being the lowest-numbered
    /// of all. These links join connections to several customer gateways into one site.
    links: HashMap<(ConnectionId, ConnectionId), usize>,
    pub policies: PolicyIndex,
}

/// Index into the connections.
type ConnectionId = u32;
type ConfigRouteKey = (IpNet, ConnectionId);

#[derive(Debug)]
struct IndexedConnection {
    name: String,
    /// Of its tunnels, if it has some.
    customer_gateways: Vec<String>,
    /// Equal for all connections of a site.
    site: usize,
    /// As the hub sees it.
    first_remote: Option<IpNet>,
    coverage: Coverage,
    /// The names of its tunnels.
    tunnels: Vec<String>,
    /// Policy routes, too.
    routes: usize,
}

/// A route in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexedRoute {
    pub keys: RouteKeys,
    /// Index among the files' routes; `None` for a route of the store.
    pub of_file: Option<usize>,
}

impl Index {
    pub fn of(config: &Config) -> Self {
        let sites = Sites::of(
            config.configured().map(|(name, members)| {
                (name, members.into_iter().map(|(_, connection)| connection.customer_gateway.as_str()))
            }),
            config.routes.iter().map(|route| (route.destination, route.next_hop.as_str())),
        );
        // What is read of the first member is equal in all.
        let connections = config.configured().filter_map(|(name, members)| {
            let (_, connection) = members.first()?;
            Some((name, *connection, members))
        });
        let connections = connections.enumerate().map(|(index, (name, connection, members))| IndexedConnection {
            name: name.to_owned(),
            customer_gateways: members.iter().map(|(_, member)| member.customer_gateway.clone()).collect(),
            tunnels: members.iter().filter_map(|(member, _)| tunnel_of(member)).map(str::to_owned).collect(),
            site: sites.site(index),
            first_remote: {
                let translated = connection.translate.iter().next().map(|translation| translation.hub);
                translated.or_else(|| connection.remote_cidrs.first().copied())
            },
            coverage: Coverage::of(connection.remote_cidrs.iter().copied(), connection.translate.clone()),
            routes: 0,
        });
        let mut index = Self {
            allow_default_route: config.gateway.allow_default_route,
            learns: config.learn.is_some(),
            vpc: config.vpc.iter().flat_map(|vpc| vpc.cidrs.iter().copied()).collect(),
            connections: connections.collect(),
            by_name: config.configured().map(|(name, _)| name.to_owned()).zip(0..).collect(),
            routes: BTreeMap::new(),
            links: HashMap::new(),
            policies: PolicyIndex::of(config),
        };
        let routes = config.routes.iter().enumerate().filter_map(|(number, route)| {
            let connection = *index.by_name.get(&route.next_hop)?;
            let of_file = (config.provenance.route(number) != Origin::Store).then_some(number);
            let keys = RouteKeys { weight: route.weight, publish: route.publish };
            Some(((route.destination, connection), IndexedRoute { keys, of_file }))
        });
        index.routes = routes.collect();
        for policy in &config.policy_routes {
            if let Some(&connection) = index.by_name.get(&policy.next_hop) {
                index.connections[connection as usize].routes += 1;
            }
        }
        let keys: Vec<ConfigRouteKey> = index.routes.keys().copied().collect();
        for same in keys.chunk_by(|a, b| a.0 == b.0) {
            let hops: Vec<ConnectionId> = same.iter().map(|&(_, connection)| connection).collect();
            for &hop in &hops {
                index.connections[hop as usize].routes += 1;
            }
            links(same[0].0, &hops).for_each(|link| *index.links.entry(link).or_default() += 1);
        }
        index
    }

    /// The names of a connection's tunnels; empty if it has none. `None` if no connection of that name is in force.
    pub fn tunnels(&self, name: &str) -> Option<&[String]> {
        self.by_name.get(name).map(|&id| self.connections[id as usize].tunnels.as_slice())
    }

    pub fn connections(&self) -> impl Iterator<Item = &str> {
        self.connections.iter().map(|connection| connection.name.as_str())
    }

    /// The next hops of a destination.
    pub fn next_hops(&self, destination: IpNet) -> impl Iterator<Item = &str> {
        self.to(destination).map(|(connection, _)| self.connections[connection as usize].name.as_str())
    }

    pub fn route(&self, (destination, next_hop): &RouteId) -> Option<IndexedRoute> {
        self.routes.get(&(*destination, *self.by_name.get(next_hop)?)).copied()
    }

    /// Warnings about a new route that breaks no rule and affects no other object; `None`: cannot tell.
    pub fn add(&self, (destination, next_hop): &RouteId) -> Option<Vec<String>> {
        let destination = *destination;
        let id = *self.by_name.get(next_hop)?;
        let is_new = !self.routes.contains_key(&(destination, id));
        let may_be = destination.prefix_len() != 0 || self.allow_default_route && !self.learns;
        if !is_new || !may_be || self.meets_others(destination, id) {
            return None;
        }
        let connection = &self.connections[id as usize];
        let warning = connection.coverage.check(&destination, &connection.name);
        Some(warning.iter().map(Problem::sentence).collect())
    }

    /// As [`Self::add`], for the removal of a route.
    pub fn delete(&self, (destination, next_hop): &RouteId) -> Option<Vec<String>> {
        let id = *self.by_name.get(next_hop)?;
        if self.splits_a_site(*destination, id) {
            return None;
        }
        let connection = &self.connections[id as usize];
        let warning =
            (connection.routes == 1 && !self.learns).then(|| unrouted(&connection.name, connection.first_remote));
        Some(warning.iter().map(Problem::sentence).collect())
    }

    /// Records that the route is in force with these keys, or no longer in force.
    pub fn put(&mut self, (destination, next_hop): &RouteId, keys: Option<RouteKeys>) {
        let Some(&id) = self.by_name.get(next_hop) else { return };
        let key = (*destination, id);
        let was = self.routes.contains_key(&key);
        if was && let Some(keys) = keys {
            self.routes.insert(key, IndexedRoute { keys, of_file: None });
            return;
        }
        self.relink(*destination, |index| match keys {
            Some(keys) => drop(index.routes.insert(key, IndexedRoute { keys, of_file: None })),
            None => drop(index.routes.remove(&key)),
        });
        let routes = &mut self.connections[id as usize].routes;
        match keys {
            Some(_) => *routes += 1,
            None if was => *routes -= 1,
            None => {}
        }
    }

    fn to(&self, destination: IpNet) -> impl Iterator<Item = (ConnectionId, IndexedRoute)> {
        let routes = self.routes.range((destination, 0)..=(destination, ConnectionId::MAX));
        routes.map(|(&(_, connection), &entry)| (connection, entry))
    }

    fn hops(&self, destination: IpNet) -> Vec<ConnectionId> {
        self.to(destination).map(|(connection, _)| connection).collect()
    }

    /// Whether a route of another site, or a prefix of the VPC, is equal to the destination, contains it or lies within
    /// it. A default prefix conflicts with nothing.
    fn meets_others(&self, destination: IpNet, id: ConnectionId) -> bool {
        if destination.prefix_len() == 0 {
            return false;
        }
        let site = self.connections[id as usize].site;
        let is_other = |connection: ConnectionId| self.connections[connection as usize].site != site;
        let meets = |prefix: &IpNet| prefix.contains(&destination) || destination.contains(prefix);
        let around = (1..=destination.prefix_len()).filter_map(|length| IpNet::new(destination.addr(), length).ok());
        let mut within =
            self.routes.range((destination, 0)..).take_while(|((prefix, _), _)| destination.contains(prefix));
        self.vpc.iter().filter(|prefix| prefix.prefix_len() != 0).any(meets)
            || around.into_iter().any(|prefix| self.to(prefix.trunc()).any(|(connection, _)| is_other(connection)))
            || within.any(|(&(_, connection), _)| is_other(connection))
    }

    /// Whether a site may split in two without this route.
    fn splits_a_site(&self, destination: IpNet, id: ConnectionId) -> bool {
        let hops = self.hops(destination);
        let left: Vec<ConnectionId> = hops.iter().copied().filter(|&hop| hop != id).collect();
        let gateways = |hop: ConnectionId| &self.connections[hop as usize].customer_gateways;
        links(destination, &hops).any(|(one, other)| {
            !gateways(one).iter().any(|gateway| gateways(other).contains(gateway))
                && self.links.get(&(one, other)).is_none_or(|&count| count <= 1)
                && !links(destination, &left).any(|link| link == (one, other))
        })
    }

    /// Changes the routes to a destination and recounts its links.
    fn relink(&mut self, destination: IpNet, change: impl FnOnce(&mut Self)) {
        for link in links(destination, &self.hops(destination)) {
            if let Some(count) = self.links.get_mut(&link) {
                *count -= 1;
                if *count == 0 {
                    self.links.remove(&link);
                }
            }
        }
        change(self);
        for link in links(destination, &self.hops(destination)) {
            *self.links.entry(link).or_default() += 1;
        }
    }
}

/// Pairs the first of a destination's next hops with each of the others. A default route does not define a site.
fn links(destination: IpNet, hops: &[ConnectionId]) -> impl Iterator<Item = (ConnectionId, ConnectionId)> {
    let hops = if destination.prefix_len() == 0 { &[] } else { hops };
    hops.iter().skip(1).map(|&other| (hops[0], other))
}

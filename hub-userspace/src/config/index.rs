//! What the rules ask about a route: kept beside the text, so that one more or one less is judged by itself.
//!
//! The answers are for a file that breaks no rule, and careful: where another part of the file could get another
//! judgement by the change, they are "cannot tell", and the whole file is judged by [`super::rules`].

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::{
    Judged,
    diagnostic::Problem,
    document::{BlockId, Document},
    edit::AddRoute,
    prefix::{self, Purpose},
    routes::Coverage,
    rules::unrouted,
    sites::Sites,
};

#[derive(Debug)]
pub(super) struct Index {
    allow_default_route: bool,
    vpc: Vec<IpNet>,
    /// By name.
    connections: Vec<Connection>,
    by_name: HashMap<String, ConnectionId>,
    /// Containers come before what they contain.
    routes: BTreeMap<RouteKey, BlockId>,
    /// How many destinations have these two among their next hops, one of them the first of all by number: that is what
    /// makes one site of connections to several customer gateways.
    links: HashMap<(ConnectionId, ConnectionId), usize>,
}

/// Index into the connections.
type ConnectionId = u32;
type RouteKey = (IpNet, ConnectionId);

#[derive(Debug)]
struct Connection {
    name: String,
    customer_gateway: String,
    /// The same for all of a site.
    site: usize,
    first_remote: Option<IpNet>,
    coverage: Coverage,
    /// Where its keys are, but for those that are tables.
    block: BlockId,
    routes: usize,
}

/// A route that comes or goes, without breaking a rule.
#[derive(Debug)]
pub(super) struct Step {
    key: RouteKey,
    /// What may not be meant so.
    pub warning: Option<Problem>,
}

impl Index {
    /// Of what was judged, with the blocks that [`Document::of`] makes of its text.
    pub fn of(judged: &Judged) -> Self {
        let config = &judged.config;
        let sites = Sites::of(
            config
                .connections
                .iter()
                .map(|(name, connection)| (name.as_str(), Some(connection.customer_gateway.as_str()))),
            config.routes.iter().map(|route| (route.destination, route.next_hop.as_str())),
        );
        let offsets: HashMap<&str, usize> = judged.connections.iter().map(|(at, name)| (name.as_str(), *at)).collect();
        let connections = config.connections.iter().enumerate().map(|(index, (name, connection))| Connection {
            name: name.clone(),
            customer_gateway: connection.customer_gateway.clone(),
            site: sites.site(index),
            first_remote: connection.remote_cidrs.first().copied(),
            coverage: Coverage::of(connection.remote_cidrs.iter().copied()),
            block: Document::block_at(judged, offsets.get(name.as_str()).copied().unwrap_or_default()),
            routes: 0,
        });
        let mut index = Self {
            allow_default_route: config.gateway.allow_default_route,
            vpc: config.vpc.iter().flat_map(|vpc| vpc.cidrs.iter().copied()).collect(),
            connections: connections.collect(),
            by_name: config.connections.keys().cloned().zip(0..).collect(),
            routes: BTreeMap::new(),
            links: HashMap::new(),
        };
        let routes = config.routes.iter().zip(&judged.routes);
        let routes = routes.filter_map(|(route, &(at, _))| {
            let connection = *index.by_name.get(&route.next_hop)?;
            Some(((route.destination, connection), Document::block_at(judged, at)))
        });
        index.routes = routes.collect();
        let keys: Vec<RouteKey> = index.routes.keys().copied().collect();
        for same in keys.chunk_by(|a, b| a.0 == b.0) {
            let hops: Vec<ConnectionId> = same.iter().map(|&(_, connection)| connection).collect();
            for &hop in &hops {
                index.connections[hop as usize].routes += 1;
            }
            links(same[0].0, &hops).for_each(|link| *index.links.entry(link).or_default() += 1);
        }
        index
    }

    /// The block with the connection's keys.
    pub fn connection(&self, name: &str) -> Option<BlockId> {
        self.by_name.get(name).map(|&id| self.connections[id as usize].block)
    }

    /// The blocks of the routes to a destination.
    pub fn routes(&self, destination: IpNet) -> Vec<BlockId> {
        self.to(destination).map(|(_, block)| block).collect()
    }

    /// The block of the one route that is meant, if it is clear which.
    pub fn route(&self, destination: IpNet, next_hop: Option<&str>) -> Option<BlockId> {
        let Some(name) = next_hop else {
            let mut found = self.to(destination);
            return found.next().filter(|_| found.next().is_none()).map(|(_, block)| block);
        };
        self.routes.get(&(destination, *self.by_name.get(name)?)).copied()
    }

    /// `None`: cannot tell.
    pub fn add(&self, add: &AddRoute) -> Option<Step> {
        let destination = add.destination;
        let id = *self.by_name.get(&add.next_hop)?;
        // What comes from a command has been read by the same rules; it may come from elsewhere.
        let is_one = prefix::of_text(&destination.to_string(), Purpose::Forwarding) == Ok(destination);
        let is_new = !self.routes.contains_key(&(destination, id));
        let may_be = destination.prefix_len() != 0 || self.allow_default_route;
        if !is_one
            || !is_new
            || !may_be
            || add.weight.is_some_and(|weight| weight > 100)
            || self.meets_others(destination, id)
        {
            return None;
        }
        let connection = &self.connections[id as usize];
        Some(Step { key: (destination, id), warning: connection.coverage.check(&destination, &connection.name) })
    }

    /// `None`: cannot tell.
    pub fn delete(&self, destination: IpNet, next_hop: &str) -> Option<Step> {
        let id = *self.by_name.get(next_hop)?;
        // What another owner's prefix lay in, or had in it, may have been the reason for a warning; there may be a
        // second reason, which has not been said so far.
        if self.meets_others(destination, id) || self.splits_a_site(destination, id) {
            return None;
        }
        let connection = &self.connections[id as usize];
        let warning = (connection.routes == 1).then(|| unrouted(&connection.name, connection.first_remote));
        Some(Step { key: (destination, id), warning })
    }

    pub fn added(&mut self, step: &Step, block: BlockId) {
        let (destination, id) = step.key;
        self.relink(destination, |index| {
            index.routes.insert(step.key, block);
        });
        self.connections[id as usize].routes += 1;
    }

    pub fn deleted(&mut self, step: &Step) {
        let (destination, id) = step.key;
        self.relink(destination, |index| {
            index.routes.remove(&step.key);
        });
        self.connections[id as usize].routes -= 1;
    }

    fn to(&self, destination: IpNet) -> impl Iterator<Item = (ConnectionId, BlockId)> {
        let routes = self.routes.range((destination, 0)..=(destination, ConnectionId::MAX));
        routes.map(|(&(_, connection), &block)| (connection, block))
    }

    fn hops(&self, destination: IpNet) -> Vec<ConnectionId> {
        self.to(destination).map(|(connection, _)| connection).collect()
    }

    /// Whether another site's route, or a prefix of the VPC, is equal to the destination, around it or within it. A
    /// default prefix conflicts with nothing.
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

    /// Whether a site may fall into two without this route.
    fn splits_a_site(&self, destination: IpNet, id: ConnectionId) -> bool {
        let hops = self.hops(destination);
        let left: Vec<ConnectionId> = hops.iter().copied().filter(|&hop| hop != id).collect();
        let gateway = |hop: ConnectionId| &self.connections[hop as usize].customer_gateway;
        links(destination, &hops).any(|(one, other)| {
            gateway(one) != gateway(other)
                && self.links.get(&(one, other)).is_none_or(|&count| count <= 1)
                && !links(destination, &left).any(|link| link == (one, other))
        })
    }

    /// Does something about the routes to a destination, and counts the links anew.
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

/// The first of a destination's next hops with each of the others. A default route says nothing about a site.
fn links(destination: IpNet, hops: &[ConnectionId]) -> impl Iterator<Item = (ConnectionId, ConnectionId)> {
    let hops = if destination.prefix_len() == 0 { &[] } else { hops };
    hops.iter().skip(1).map(|&other| (hops[0], other))
}

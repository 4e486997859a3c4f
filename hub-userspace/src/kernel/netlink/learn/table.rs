//! The routes of the followed table, by prefix, with their next hops resolved. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::wire::{KernelTableRoute, RouteEventKind, TableEvent};

/// Next hops that a group may have, members of members included: a limit for groups that refer to each other.
const MOST_DEPTH: usize = 2;

/// A next hop of a kernel route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KernelHop {
    pub ifindex: u32,
    /// The gateway; `None`: each destination is a neighbour on the link.
    pub via: Option<IpAddr>,
    /// Its part of the traffic, relative to the others; at least 1.
    pub weight: u16,
}

/// The usable next hops of a prefix. Routes share them.
pub type KernelHops = Arc<[KernelHop]>;

/// Changed prefixes, and the next hops that they have now; `None`: no usable one.
pub type TableChanges = Vec<(IpNet, Option<KernelHops>)>;

/// Routes with the same next hops that are stored beyond the quota: most of them have no effect. More than that, and
/// that many are ignored, because a routing daemon can have any number of routes of a site that sends too many.
pub const MOST_OVER_QUOTA: usize = 10_000;

/// How a route names its next hops.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteVia {
    /// Itself; empty for an unreachable or blackhole route.
    Hops(KernelHops),
    /// By the number of a next hop object. The kernel repeats the object's next hops in the route, but says nothing when
    /// they change.
    Object(u32),
}

/// A next hop object (`ip nexthop`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextHopObject {
    /// `None`: a blackhole, or a dead one.
    Single(Option<KernelHop>),
    /// Numbers of single ones, with their weights.
    Group(Vec<(u32, u16)>),
}

/// Routes in one table.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    protocols: BTreeSet<u8>,
    /// By metric.
    routes: BTreeMap<IpNet, BTreeMap<u32, StoredRoute>>,
    objects: BTreeMap<u32, NextHopObject>,
    /// Prefixes with routes by an object.
    users: BTreeMap<u32, BTreeSet<IpNet>>,
    changed: BTreeSet<IpNet>,
    /// Maximum number of stored routes with the same next hops.
    most: usize,
    /// The number of stored routes by next hops; `None`: of other protocols. And of those ignored since the last dump.
    stored: HashMap<Option<RouteVia>, Stored>,
    /// The last hops seen: most routes have the same ones as their neighbours.
    last: Option<KernelHops>,
    /// The table may differ from the kernel's: it must be read again.
    uncertain: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    count: usize,
    ignored: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredRoute {
    /// `None`: a route of another protocol.
    via: Option<RouteVia>,
    /// The kernel has more of the same prefix and metric. Which one an event is about is not certain then.
    has_more: bool,
}

impl RouteTable {
    /// `most`: maximum number of stored routes with the same next hops.
    pub fn new(protocols: impl IntoIterator<Item = u8>, most: usize) -> Self {
        Self { protocols: protocols.into_iter().collect(), most, ..Self::default() }
    }

    /// The number of routes of followed protocols that are ignored, because there are too many with their next hops.
    pub fn ignored(&self) -> usize {
        self.stored.iter().filter(|(via, _)| via.is_some()).map(|(_, stored)| stored.ignored).sum()
    }

    /// Applies an event.
    pub fn apply(&mut self, event: TableEvent) {
        match event {
            TableEvent::Route { route, change } => self.apply_route(route, change),
            TableEvent::Object(id, object) => self.set_object(id, object),
        }
    }

    /// Adds an object of a dump. Of several routes with one prefix and metric, the kernel lists the one in force first.
    pub fn add_dumped(&mut self, event: TableEvent) {
        match event {
            TableEvent::Route { route, change: _ } => {
                let of_prefix = self.routes.get_mut(&route.prefix);
                match of_prefix.and_then(|metrics| metrics.get_mut(&route.metric)) {
                    Some(first) => first.has_more = true,
                    None => self.insert(route),
                }
            }
            TableEvent::Object(id, object) => self.set_object(id, object),
        }
    }

    /// Whether the table must be read again; clears it.
    pub fn take_uncertain(&mut self) -> bool {
        std::mem::take(&mut self.uncertain)
    }

    /// Whether [`Self::take_changed`] returns anything.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The next changed prefixes in their order, `most` at most.
    pub fn take_changed(&mut self, most: usize) -> TableChanges {
        let changed: Vec<IpNet> = std::iter::from_fn(|| self.changed.pop_first()).take(most).collect();
        changed.into_iter().map(|prefix| (prefix, self.hops(prefix))).collect()
    }

    /// Takes over a table that has been read. What differs has changed.
    pub fn replace(&mut self, mut fresh: Self) {
        let mut changed = std::mem::take(&mut self.changed);
        fresh.changed.clear();
        let differs = |prefix: &&IpNet| self.hops(**prefix) != fresh.hops(**prefix);
        changed.extend(self.routes.keys().chain(fresh.routes.keys()).filter(differs));
        fresh.changed = changed;
        *self = fresh;
    }

    /// The usable next hops of a prefix: those of its followed route with the lowest metric.
    fn hops(&self, prefix: IpNet) -> Option<KernelHops> {
        let hops = match self.routes.get(&prefix)?.values().find_map(|route| route.via.as_ref())? {
            RouteVia::Hops(hops) => Arc::clone(hops),
            RouteVia::Object(id) => {
                let mut found = Vec::new();
                self.resolve(*id, 1, MOST_DEPTH, &mut found);
                found.into()
            }
        };
        Some(hops).filter(|hops| !hops.is_empty())
    }

    fn resolve(&self, id: u32, weight: u16, depth: usize, found: &mut Vec<KernelHop>) {
        match self.objects.get(&id) {
            Some(NextHopObject::Single(Some(hop))) => found.push(KernelHop { weight, ..hop.clone() }),
            Some(NextHopObject::Group(members)) if depth > 1 => {
                for (id, weight) in members {
                    self.resolve(*id, *weight, depth - 1, found);
                }
            }
            _ => {}
        }
    }

    fn apply_route(&mut self, route: KernelTableRoute, change: RouteEventKind) {
        let via = self.protocols.contains(&route.protocol).then_some(&route.via);
        let known = self.routes.get(&route.prefix).and_then(|metrics| metrics.get(&route.metric));
        match (change, known) {
            (RouteEventKind::Deleted, None) => {}
            (RouteEventKind::Replaced, Some(StoredRoute { has_more: false, .. })) | (_, None) => self.insert(route),
            // An event from before the dump.
            (RouteEventKind::Added | RouteEventKind::Appended, Some(known))
                if known.via.as_ref() == via && !known.has_more => {}
            (RouteEventKind::Deleted, Some(known)) if known.via.as_ref() == via && !known.has_more => {
                self.remove(route.prefix, route.metric);
            }
            // A second IPv4 route is not in force, a second IPv6 one is one more next hop. A deleted one may be one of
            // several next hops of an IPv6 route.
            (_, Some(_)) => self.uncertain = true,
        }
    }

    fn insert(&mut self, route: KernelTableRoute) {
        let KernelTableRoute { prefix, metric, protocol, via } = route;
        self.remove(prefix, metric);
        let via = match via {
            _ if !self.protocols.contains(&protocol) => None,
            RouteVia::Hops(hops) => Some(RouteVia::Hops(self.shared(hops))),
            object @ RouteVia::Object(_) => Some(object),
        };
        let stored = self.stored.entry(via.clone()).or_default();
        if stored.count >= self.most {
            stored.ignored += 1;
            return;
        }
        stored.count += 1;
        if let Some(RouteVia::Object(id)) = via {
            self.users.entry(id).or_default().insert(prefix);
            self.uncertain |= !self.objects.contains_key(&id);
        }
        if via.is_some() {
            self.changed.insert(prefix);
        }
        self.routes.entry(prefix).or_default().insert(metric, StoredRoute { via, has_more: false });
    }

    fn shared(&mut self, hops: KernelHops) -> KernelHops {
        match &self.last {
            Some(last) if *last == hops => Arc::clone(last),
            _ => Arc::clone(self.last.insert(hops)),
        }
    }

    fn remove(&mut self, prefix: IpNet, metric: u32) {
        let Some(metrics) = self.routes.get_mut(&prefix) else { return };
        let Some(StoredRoute { via, .. }) = metrics.remove(&metric) else { return };
        if let Some(stored) = self.stored.get_mut(&via) {
            stored.count -= 1;
            // Those that are ignored may have room now. Not at once: a flapping route would cause many dumps.
            self.uncertain |= stored.ignored > 0 && stored.count == self.most.saturating_sub(MOST_OVER_QUOTA);
            if stored.count == 0 && stored.ignored == 0 {
                self.stored.remove(&via);
            }
        }
        if let Some(RouteVia::Object(id)) = via
            && !metrics.values().any(|other| other.via == via)
            && let Some(users) = self.users.get_mut(&id)
        {
            users.remove(&prefix);
            if users.is_empty() {
                self.users.remove(&id);
            }
        }
        if metrics.is_empty() {
            self.routes.remove(&prefix);
        }
        if via.is_some() {
            self.changed.insert(prefix);
        }
    }

    fn set_object(&mut self, id: u32, object: Option<NextHopObject>) {
        let is_member = |object: &NextHopObject| match object {
            NextHopObject::Group(members) => members.iter().any(|(member, _)| *member == id),
            NextHopObject::Single(_) => false,
        };
        let groups: Vec<u32> =
            self.objects.iter().filter(|(_, object)| is_member(object)).map(|(group, _)| *group).collect();
        if let Some(object) = object {
            self.objects.insert(id, object);
        } else {
            self.objects.remove(&id);
            // The kernel deletes its IPv4 routes without an event, and takes it out of groups.
            self.uncertain = true;
        }
        for id in groups.iter().chain([&id]) {
            self.changed.extend(self.users.get(id).into_iter().flatten());
        }
    }
}

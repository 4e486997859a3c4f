//! Objects of the store: their identity and their keys.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Role;

/// The keys of a named object, as in its table of the configuration file.
pub type Keys = Map<String, Value>;

/// Destination and next hop.
pub type RouteId = (IpNet, String);

/// Prefixes and next hop of a policy route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRouteId {
    pub source: IpNet,
    pub destination: IpNet,
    pub next_hop: String,
}

/// Kind and identity of an object. Displays in the words of a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    Segment(String),
    CustomerGateway(String),
    Connection(String),
    Route(RouteId),
    PolicyRoute(PolicyRouteId),
}

const SEGMENT: &str = "segment";
const CUSTOMER_GATEWAY: &str = "customer_gateway";
const CONNECTION: &str = "connection";
const ROUTE: &str = "route";
const POLICY_ROUTE: &str = "policy_route";

impl ObjectId {
    /// The name of the section in the configuration file.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Segment(_) => SEGMENT,
            Self::CustomerGateway(_) => CUSTOMER_GATEWAY,
            Self::Connection(_) => CONNECTION,
            Self::Route(_) => ROUTE,
            Self::PolicyRoute(_) => POLICY_ROUTE,
        }
    }

    /// Unique within the kind. A route's name is its destination, a space and its next hop; neither contains a space. That
    /// of a policy route begins with its source.
    pub fn name(&self) -> String {
        match self {
            Self::Segment(name) | Self::CustomerGateway(name) | Self::Connection(name) => name.clone(),
            Self::Route((destination, next_hop)) => format!("{destination} {next_hop}"),
            Self::PolicyRoute(PolicyRouteId { source, destination, next_hop }) => {
                format!("{source} {destination} {next_hop}")
            }
        }
    }

    /// The inverse of [`Self::kind`] and [`Self::name`].
    pub fn of(kind: &str, name: &str) -> Option<Self> {
        match kind {
            SEGMENT => Some(Self::Segment(name.to_owned())),
            CUSTOMER_GATEWAY => Some(Self::CustomerGateway(name.to_owned())),
            CONNECTION => Some(Self::Connection(name.to_owned())),
            ROUTE => {
                let (destination, next_hop) = name.split_once(' ')?;
                Some(Self::Route((destination.parse().ok()?, next_hop.to_owned())))
            }
            POLICY_ROUTE => {
                let mut words = name.splitn(3, ' ');
                let mut prefix = || words.next()?.parse().ok();
                let (source, destination) = (prefix()?, prefix()?);
                Some(Self::PolicyRoute(PolicyRouteId { source, destination, next_hop: words.next()?.to_owned() }))
            }
            _ => None,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "segment {name}"),
            Self::CustomerGateway(name) => write!(f, "customer gateway {name}"),
            Self::Connection(name) => write!(f, "connection {name}"),
            Self::Route((destination, next_hop)) => write!(f, "route to {destination} via {next_hop}"),
            Self::PolicyRoute(PolicyRouteId { source, destination, next_hop }) => {
                write!(f, "policy route from {source} to {destination} via {next_hop}")
            }
        }
    }
}

/// The keys of a destination route, without those that identify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteKeys {
    /// 0..=100.
    #[schemars(range(max = 100))]
    pub weight: u8,
    pub publish: bool,
}

/// The same of a policy route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRouteKeys {
    /// 1..=100.
    #[schemars(range(min = 1, max = 100))]
    pub priority: u8,
    /// 0..=100.
    #[schemars(range(max = 100))]
    pub weight: u8,
    pub publish: bool,
}

/// The keys of an object. Their names tell the variants apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    PolicyRoute(PolicyRouteKeys),
    Route(RouteKeys),
    Table(Keys),
}

/// An object with its age. Of two objects in conflict, the one with the larger number is set aside. A change preserves
/// the number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    pub number: u64,
    pub value: T,
}

/// The hub's role as last set by command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRole {
    pub role: Role,
    /// The boot of the host in which it was set; `None` if unknown.
    pub boot: Option<String>,
}

/// All objects of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// By name.
    pub segments: BTreeMap<String, Stored<Keys>>,
    /// By name.
    pub customer_gateways: BTreeMap<String, Stored<Keys>>,
    /// By name.
    pub connections: BTreeMap<String, Stored<Keys>>,
    pub routes: BTreeMap<RouteId, Stored<RouteKeys>>,
    pub policy_routes: BTreeMap<PolicyRouteId, Stored<PolicyRouteKeys>>,
    /// Administrative states by connection, including connections of the files: `true` is up.
    pub admin: BTreeMap<String, bool>,
    /// `None`: none was ever set.
    pub role: Option<StoredRole>,
    /// The next object's number.
    pub next_number: u64,
}

/// One write to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put(ObjectId, Stored<Body>),
    Delete(ObjectId),
    /// `None` removes the administrative state.
    Admin(String, Option<bool>),
    Role(StoredRole),
}

impl Objects {
    pub fn is_empty(&self) -> bool {
        let Self { segments, customer_gateways, connections, routes, policy_routes, admin, role, next_number: _ } =
            self;
        let has_named = [segments, customer_gateways, connections].into_iter().any(|named| !named.is_empty());
        !has_named && routes.is_empty() && policy_routes.is_empty() && admin.is_empty() && role.is_none()
    }

    /// The number of the next object after these writes.
    pub fn next_number_after(&self, ops: &[Op]) -> u64 {
        let used = ops.iter().filter_map(|op| match op {
            Op::Put(_, stored) => Some(stored.number + 1),
            _ => None,
        });
        used.chain([self.next_number]).max().unwrap_or_default()
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Put(id, Stored { number, value }) => {
                self.next_number = self.next_number.max(number + 1);
                let number = *number;
                match (id, value) {
                    (ObjectId::Segment(name), Body::Table(keys)) => {
                        self.segments.insert(name.clone(), Stored { number, value: keys.clone() });
                    }
                    (ObjectId::CustomerGateway(name), Body::Table(keys)) => {
                        self.customer_gateways.insert(name.clone(), Stored { number, value: keys.clone() });
                    }
                    (ObjectId::Connection(name), Body::Table(keys)) => {
                        self.connections.insert(name.clone(), Stored { number, value: keys.clone() });
                    }
                    (ObjectId::Route(id), Body::Route(keys)) => {
                        self.routes.insert(id.clone(), Stored { number, value: *keys });
                    }
                    (ObjectId::PolicyRoute(id), Body::PolicyRoute(keys)) => {
                        self.policy_routes.insert(id.clone(), Stored { number, value: *keys });
                    }
                    _ => debug_assert!(false, "{id} has another kind of body"),
                }
            }
            Op::Delete(ObjectId::Segment(name)) => drop(self.segments.remove(name)),
            Op::Delete(ObjectId::CustomerGateway(name)) => drop(self.customer_gateways.remove(name)),
            Op::Delete(ObjectId::Connection(name)) => drop(self.connections.remove(name)),
            Op::Delete(ObjectId::Route(id)) => drop(self.routes.remove(id)),
            Op::Delete(ObjectId::PolicyRoute(id)) => drop(self.policy_routes.remove(id)),
            Op::Admin(name, Some(up)) => drop(self.admin.insert(name.clone(), *up)),
            Op::Admin(name, None) => drop(self.admin.remove(name)),
            Op::Role(role) => self.role = Some(role.clone()),
        }
    }

    /// The object, if it exists.
    pub fn get(&self, id: &ObjectId) -> Option<Stored<Body>> {
        let table = |found: &Stored<Keys>| Stored { number: found.number, value: Body::Table(found.value.clone()) };
        match id {
            ObjectId::Segment(name) => self.segments.get(name).map(table),
            ObjectId::CustomerGateway(name) => self.customer_gateways.get(name).map(table),
            ObjectId::Connection(name) => self.connections.get(name).map(table),
            ObjectId::Route(id) => {
                self.routes.get(id).map(|found| Stored { number: found.number, value: Body::Route(found.value) })
            }
            ObjectId::PolicyRoute(id) => {
                let found = self.policy_routes.get(id);
                found.map(|found| Stored { number: found.number, value: Body::PolicyRoute(found.value) })
            }
        }
    }
}

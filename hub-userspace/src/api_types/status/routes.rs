//! Routes in a status.

use std::{borrow::Cow, collections::BTreeMap};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::Origin;

/// A connection's learned routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LearnedStatus {
    /// Number of its routes that are not refused. Those in a configured prefix carry nothing.
    pub routes: usize,
    /// The quota.
    pub limit: usize,
    /// Number of refused routes, by reason: `default_route`, `hub_prefix`, `never_forwarded`, `other_site`, `quota` or
    /// `translated`. Only reasons with routes.
    pub refused: BTreeMap<Cow<'static, str>, usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RouteStatus {
    #[schemars(with = "String")]
    pub destination: IpNet,
    pub next_hop: String,
    /// 0..=100.
    pub weight: u8,
    pub publish: bool,
    /// Current share of the destination's flows on this route, 0..=1.
    pub share: f64,
    /// Why the kernel does not have the routes of this destination, such as a route of another process in their place.
    #[serde(default)]
    pub problem: Option<String>,
    /// `"origin"`: `"file"`, with `"file"` and `"line"`, `"store"` or `"learned"`.
    #[serde(flatten)]
    pub origin: Origin,
}

/// A policy route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PolicyRouteStatus {
    #[schemars(with = "String")]
    pub source: IpNet,
    #[schemars(with = "String")]
    pub destination: IpNet,
    pub next_hop: String,
    /// 1..=100; the smallest comes first.
    pub priority: u8,
    /// 0..=100.
    pub weight: u8,
    pub publish: bool,
    /// Current share of the flows that match on this policy route, 0..=1.
    pub share: f64,
    /// As that of a route.
    #[serde(flatten)]
    pub origin: Origin,
}

//! What the agent wants the kernel to hold, and how that differs from what it holds. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use rtnetlink::packet_route::rule::RuleMessage;

use super::{BACKSTOP_METRIC, METRIC, RULE_PREFERENCE, TABLE};

/// What the kernel tells routes apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Table number; 254 is `main`.
    pub table: u32,
    /// Destination, without host bits.
    pub destination: IpNet,
    /// The smaller one counts.
    pub metric: u32,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    /// Sends flows to one of the next hops, in proportion to their weights.
    Unicast {
        /// At least one. Order does not matter; equal ones count with the sum of their weights.
        next_hops: Vec<KernelNextHop>,
    },
    /// Leaves the table: the next rule decides (`RTN_THROW`).
    Throw,
    /// Answers with ICMP host unreachable (`RTN_UNREACHABLE`), when the destination has no other route in the table: it
    /// may stand beside one, and counts from the very moment at which the kernel drops that with its interface.
    Unreachable,
}

/// Where a unicast route sends packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelNextHop {
    /// Interface.
    pub ifindex: u32,
    /// The neighbour there; none where the link needs none. An IPv6 one may serve an IPv4
    /// destination (`RTA_VIA`).
    pub via: Option<IpAddr>,
    /// Takes `via` to be a neighbour even if no address of the interface says so.
    pub onlink: bool,
    /// Share of the flows, 1..=100; without meaning for a single next hop.
    pub weight: u8,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

/// A rule at [`RULE_PREFERENCE`] that looks up [`TABLE`], or one before it that discards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRule {
    /// Rules of the two families are apart.
    pub family: Family,
    /// Which packets it is for.
    pub what: RuleMatch,
}

/// The packets that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleMatch {
    /// Came in on the interface of this name, which need not exist yet.
    Interface(String),
    /// ICMP, of either version, that the host itself sends ("iif lo"): its errors to the sites take the same
    /// way as the packets they are about.
    LocalIcmp,
    /// Came in on the interface of this name and is link-local by its source: Linux forwards 169.254.0.0/16, which no
    /// router must (RFC 3927 section 7). Discarded. IPv4 only: for IPv6 the kernel sees to it.
    LinkLocalSource(String),
    /// As above, by its destination; the hub's own addresses are looked up before.
    LinkLocalDestination(String),
}

/// An entry of the neighbour cache, on an interface with link addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelNeighbour {
    /// The kernel resolves it by itself and keeps it fresh without any traffic
    /// (`NTF_EXT_MANAGED`, `neigh_managed_work` in `net/core/neighbour.c`, Linux 5.16).
    Managed {
        /// Interface.
        ifindex: u32,
        /// Its address there.
        address: IpAddr,
    },
    /// A fixed link address.
    Permanent {
        /// Interface.
        ifindex: u32,
        /// Its address there.
        address: IpAddr,
        /// Its link address.
        mac: [u8; 6],
    },
}

impl KernelNeighbour {
    /// What the kernel tells entries apart by.
    pub(super) fn key(&self) -> (u32, IpAddr) {
        match *self {
            Self::Managed { ifindex, address } | Self::Permanent { ifindex, address, .. } => (ifindex, address),
        }
    }

    /// Whether an entry of this fixed link address does the same.
    fn is_met_by(&self, fixed: Option<[u8; 6]>) -> bool {
        match self {
            Self::Managed { .. } => true,
            Self::Permanent { mac, .. } => fixed == Some(*mac),
        }
    }
}

impl RouteAction {
    /// The metric of routes that do this.
    pub fn metric(&self) -> u32 {
        match self {
            Self::Unicast { .. } | Self::Throw => METRIC,
            Self::Unreachable => BACKSTOP_METRIC,
        }
    }

    /// Whether [`Self::normalised`] would change nothing.
    pub fn is_normalised(&self) -> bool {
        let Self::Unicast { next_hops } = self else { return true };
        let key = |hop: &KernelNextHop| (hop.ifindex, hop.via, hop.onlink);
        let sorted = next_hops.is_sorted_by(|a, b| key(a) < key(b));
        let plain = |hop: &KernelNextHop| hop.weight > 0 && (hop.via.is_some() || !hop.onlink);
        sorted && next_hops.iter().all(plain) && (next_hops.len() != 1 || next_hops[0].weight == 1)
    }

    /// The same action in the one form that the kernel shows it in: next hops sorted, equal ones
    /// added up, no weight for a single one.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let Self::Unicast { next_hops } = self else {
            return self.clone();
        };
        let mut weights = BTreeMap::new();
        for hop in next_hops {
            let weight: &mut u8 = weights.entry((hop.ifindex, hop.via, hop.onlink)).or_default();
            *weight = weight.saturating_add(hop.weight.max(1));
        }
        let alone = weights.len() == 1;
        let next_hops = weights
            .into_iter()
            .map(|((ifindex, via, onlink), weight)| KernelNextHop {
                ifindex,
                via,
                // Only a gateway can be declared to be on the link; the kernel refuses the rest.
                onlink: onlink && via.is_some(),
                weight: if alone { 1 } else { weight },
            })
            .collect();
        Self::Unicast { next_hops }
    }
}

/// What of ours the kernel holds, but for routes.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// Rules of our protocol.
    pub rules: Vec<ExistingRule>,
    /// Neighbours of our protocol; nothing for one that is neither managed nor permanent any more.
    pub neighbours: BTreeMap<(u32, IpAddr), Option<KernelNeighbour>>,
    /// Permanent neighbours that others set.
    pub foreign: BTreeMap<(u32, IpAddr), Option<[u8; 6]>>,
}

/// A rule of our protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExistingRule {
    /// Nothing if no plan could have asked for it: another version of the agent did.
    pub rule: Option<KernelRule>,
    /// As the kernel shows it.
    pub message: RuleMessage,
}

/// What must be done so that the kernel holds the rules that are desired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RuleDifference {
    pub to_add: Vec<KernelRule>,
    pub to_delete: Vec<RuleMessage>,
}

/// The same for neighbours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NeighbourDifference {
    pub to_set: Vec<KernelNeighbour>,
    pub to_delete: Vec<(u32, IpAddr)>,
    /// Somebody else fixed another link address for these.
    pub taken: Vec<KernelNeighbour>,
}

impl Existing {
    /// How to get to these rules.
    pub fn rules_to(&self, desired: &BTreeSet<KernelRule>) -> RuleDifference {
        let there: BTreeSet<&KernelRule> = self.rules.iter().filter_map(|rule| rule.rule.as_ref()).collect();
        let wanted = |rule: &ExistingRule| rule.rule.as_ref().is_some_and(|rule| desired.contains(rule));
        RuleDifference {
            to_add: desired.iter().filter(|rule| !there.contains(rule)).cloned().collect(),
            to_delete: self.rules.iter().filter(|rule| !wanted(rule)).map(|rule| rule.message.clone()).collect(),
        }
    }

    /// How to get to these neighbours.
    pub fn neighbours_to(&self, desired: &BTreeSet<KernelNeighbour>) -> NeighbourDifference {
        let wanted: BTreeMap<_, _> = desired.iter().map(|neighbour| (neighbour.key(), *neighbour)).collect();
        let obsolete = self.neighbours.keys().filter(|key| !wanted.contains_key(key));
        let mut difference = NeighbourDifference { to_delete: obsolete.copied().collect(), ..Default::default() };
        for (key, neighbour) in wanted {
            match (self.foreign.get(&key), self.neighbours.get(&key)) {
                (Some(fixed), _) if neighbour.is_met_by(*fixed) => {}
                (Some(_), _) => difference.taken.push(neighbour),
                (None, Some(Some(there))) if *there == neighbour => {}
                (None, _) => difference.to_set.push(neighbour),
            }
        }
        difference
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} in table {}", self.destination, self.table)
    }
}

impl fmt::Display for KernelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        match &self.what {
            RuleMatch::Interface(name) => write!(f, "{family} rule for packets from {name}")?,
            RuleMatch::LocalIcmp => write!(f, "{family} rule for the host's own ICMP")?,
            RuleMatch::LinkLocalSource(name) | RuleMatch::LinkLocalDestination(name) => {
                return write!(f, "{family} rule against link-local packets from {name}");
            }
        }
        write!(f, " to table {TABLE}, preference {RULE_PREFERENCE}")
    }
}

impl fmt::Display for KernelNeighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ifindex, address) = self.key();
        write!(f, "neighbour {address} on interface {ifindex}")
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

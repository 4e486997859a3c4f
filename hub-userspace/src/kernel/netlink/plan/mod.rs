//! The desired kernel objects, and their difference from the existing ones. Pure.

mod rule;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use rtnetlink::packet_route::rule::RuleMessage;

pub use self::rule::{KernelRule, RuleKind};

/// The kernel's key of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Table number; 254 is `main`.
    pub table: u32,
    /// Destination, without host bits.
    pub destination: IpNet,
    /// The lowest one wins.
    pub metric: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    /// Distributes flows among the next hops, in proportion to their weights.
    Unicast {
        /// At least one, in any order. The weights of equal ones add up.
        next_hops: Vec<KernelNextHop>,
        /// Source address of the hub's own packets (`RTA_PREFSRC`); `None`: the kernel chooses.
        source: Option<IpAddr>,
    },
    /// Answers with ICMP host unreachable (`RTN_UNREACHABLE`) when the destination has no other route in the table. It
    /// may exist in addition to one, and takes effect as soon as the kernel drops that one with its interface.
    Unreachable,
}

/// A next hop of a unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelNextHop {
    /// Interface.
    pub ifindex: u32,
    /// The gateway; `None` if the link needs none. An IPv6 gateway may serve an IPv4 destination (`RTA_VIA`).
    pub via: Option<IpAddr>,
    /// Treats `via` as on-link even without a matching address of the interface.
    pub onlink: bool,
    /// Share of the flows, 1..=100; ignored for a single next hop.
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

/// An entry of the neighbour cache, on an interface with link addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelNeighbour {
    /// The kernel resolves it and keeps it reachable even without traffic (`NTF_EXT_MANAGED`, `neigh_managed_work` in
    /// `net/core/neighbour.c`, Linux 5.16).
    Managed {
        /// Interface.
        ifindex: u32,
        /// IP address.
        address: IpAddr,
    },
    /// A fixed link address.
    Permanent {
        /// Interface.
        ifindex: u32,
        /// IP address.
        address: IpAddr,
        /// Link address.
        mac: [u8; 6],
    },
}

impl KernelNeighbour {
    /// The kernel's key of an entry.
    pub(super) fn key(&self) -> (u32, IpAddr) {
        match *self {
            Self::Managed { ifindex, address } | Self::Permanent { ifindex, address, .. } => (ifindex, address),
        }
    }

    /// Whether an entry with this fixed link address satisfies it.
    fn is_met_by(&self, fixed: Option<[u8; 6]>) -> bool {
        match self {
            Self::Managed { .. } => true,
            Self::Permanent { mac, .. } => fixed == Some(*mac),
        }
    }
}

impl RouteAction {
    /// Whether [`Self::normalised`] would change nothing.
    pub fn is_normalised(&self) -> bool {
        let Self::Unicast { next_hops, .. } = self else { return true };
        let key = |hop: &KernelNextHop| (hop.ifindex, hop.via, hop.onlink);
        let sorted = next_hops.is_sorted_by(|a, b| key(a) < key(b));
        let plain = |hop: &KernelNextHop| hop.weight > 0 && (hop.via.is_some() || !hop.onlink);
        sorted && next_hops.iter().all(plain) && (next_hops.len() != 1 || next_hops[0].weight == 1)
    }

    /// The same action in the kernel's canonical form: next hops sorted, weights of equal ones added up, no weight for
    /// a single one.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let Self::Unicast { next_hops, source } = self else {
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
                // The kernel accepts the flag only with a gateway.
                onlink: onlink && via.is_some(),
                weight: if alone { 1 } else { weight },
            })
            .collect();
        Self::Unicast { next_hops, source: *source }
    }
}

/// Our existing objects in the kernel, except routes.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// Rules with our protocol, as dumped.
    pub rules: Vec<RuleMessage>,
    /// Neighbours with our protocol; `None` for one that is no longer managed or permanent.
    pub neighbours: BTreeMap<(u32, IpAddr), Option<KernelNeighbour>>,
    /// Permanent neighbours of others.
    pub foreign: BTreeMap<(u32, IpAddr), Option<[u8; 6]>>,
}

/// The changes from the existing to the desired neighbours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NeighbourDifference {
    pub to_set: Vec<KernelNeighbour>,
    pub to_delete: Vec<(u32, IpAddr)>,
    /// Others have set a different link address for these.
    pub taken: Vec<KernelNeighbour>,
}

impl Existing {
    pub fn neighbours_to(&self, desired: &BTreeSet<KernelNeighbour>) -> NeighbourDifference {
        let by_key: BTreeMap<_, _> = desired.iter().map(|neighbour| (neighbour.key(), *neighbour)).collect();
        let obsolete = self.neighbours.keys().filter(|key| !by_key.contains_key(key));
        let mut difference = NeighbourDifference { to_delete: obsolete.copied().collect(), ..Default::default() };
        for (key, neighbour) in by_key {
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

impl fmt::Display for KernelNeighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ifindex, address) = self.key();
        write!(f, "neighbour {address} on interface {ifindex}")
    }
}

#[cfg(test)]
mod tests;

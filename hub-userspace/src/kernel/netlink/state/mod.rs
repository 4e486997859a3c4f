//! The state of the host, and its update by netlink events. Pure.

mod link;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::LinkMessage,
        neighbour::{NeighbourMessage, NeighbourState},
        route::RouteMessage,
    },
};
use serde::{Deserialize, Serialize};

pub use self::link::{Link, Links};
pub(super) use self::read::link as read_link;
use self::read::{address, foreign_route, has_failed, is_tentative, link, neighbour_key, usable_mac};
use super::wire;

/// The host's links, addresses, neighbours and gateways, as last reported by the kernel. Copies share their data, so
/// that a copy is cheap on a host of any size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    pub links: Links,
    /// By interface index: each address with its prefix length, as assigned, including host bits. The broadcast address
    /// follows from it. The local address of a point-to-point pair has its full length.
    pub addresses: OrdMap<u32, BTreeSet<IpNet>>,
    /// Unicast neighbours that frames can be sent to now: state `REACHABLE`, `STALE`, `DELAY`, `PROBE`, `PERMANENT` or
    /// `NOARP`, with a link address of 6 bytes.
    pub neighbours: OrdMap<(u32, IpAddr), [u8; 6]>,
    /// Addresses of `addresses` that cannot be used yet, because duplicate address detection is pending or has failed.
    pub tentative: OrdMap<(u32, IpNet), ()>,
    /// Neighbours that the kernel resolves for us and that have not answered.
    pub failed: OrdMap<(u32, IpAddr), ()>,
    /// Gateways of others' unicast routes in the main table that have exactly one, by interface and destination. The
    /// lowest metric wins.
    pub gateways: OrdMap<(u32, IpNet), IpAddr>,
    /// The source of `gateways`, by destination and interface: the gateways of all metrics, since the best route may be
    /// removed.
    metrics: OrdMap<(IpNet, u32), BTreeMap<u32, IpAddr>>,
}

/// Which parts of a [`HostState`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent parts, each changed or not")]
pub struct Changes {
    /// [`HostState::links`], more than [`Self::carrier`].
    pub links: bool,
    /// Links that went up or down, and nothing else about them. Separate because it changes no policy.
    #[serde(default)]
    pub carrier: bool,
    /// [`HostState::addresses`].
    pub addresses: bool,
    /// [`HostState::neighbours`].
    pub neighbours: bool,
    /// [`HostState::gateways`].
    pub gateways: bool,
    /// [`HostState::failed`].
    #[serde(default)]
    pub failed: bool,
    /// Neighbours that became stale: still usable, but unconfirmed. The kernel confirms those that its own traffic
    /// uses. For the fast path, see [`Reconciler::probe`].
    ///
    /// [`Reconciler::probe`]: super::Reconciler::probe
    pub stale: BTreeSet<(u32, IpAddr)>,
    /// Removed interfaces. An index may be in use again.
    pub gone: BTreeSet<u32>,
    /// The kernel may have removed more than it announced. It silently drops IPv4 routes of an interface that went down
    /// or of a removed address (`fib_flush` in `net/ipv4/fib_frontend.c`).
    pub(super) unannounced: bool,
}

/// Indices of interfaces that differ between two states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedInterfaces {
    /// In their link or addresses.
    pub themselves: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
    pub addresses: BTreeSet<u32>,
    pub neighbours: BTreeSet<u32>,
}

impl Changes {
    /// All parts marked as changed.
    pub fn everything() -> Self {
        Self { links: true, addresses: true, neighbours: true, gateways: true, failed: true, ..Self::default() }
    }

    /// Whether there is nothing to act on.
    pub fn is_empty(&self) -> bool {
        let parts = [self.links, self.carrier, self.addresses, self.neighbours, self.gateways, self.failed];
        !parts.contains(&true) && self.stale.is_empty()
    }

    /// Merges `other`, which is later.
    pub fn add(&mut self, other: Self) {
        self.links |= other.links;
        self.carrier |= other.carrier;
        self.addresses |= other.addresses;
        self.neighbours |= other.neighbours;
        self.gateways |= other.gateways;
        self.failed |= other.failed;
        self.stale.extend(other.stale);
        self.gone.extend(other.gone);
        self.unannounced |= other.unannounced;
    }

    /// Adds the differences between `old` and `new`.
    pub(super) fn compare(&mut self, old: &HostState, new: &HostState) {
        self.gone.extend(old.links.keys().filter(|index| !new.links.contains_key(index)).copied());
        for difference in old.links.diff(&new.links) {
            match difference {
                DiffItem::Update { old: (_, old), new: (_, new) } => self.note_link(Some(old), new),
                DiffItem::Add(..) | DiffItem::Remove(..) => self.links = true,
            }
        }
        self.addresses |= old.addresses != new.addresses || old.tentative != new.tentative;
        self.neighbours |= old.neighbours != new.neighbours;
        self.gateways |= old.gateways != new.gateways;
        self.failed |= old.failed != new.failed;
    }

    fn note_link(&mut self, old: Option<&Link>, new: &Link) {
        match old {
            Some(old) if old == new => {}
            Some(old) if old.is_alike(new) => self.carrier = true,
            _ => self.links = true,
        }
    }
}

impl HostState {
    /// Runs in time proportional to the differences if one state was made from the other.
    pub fn changed_interfaces(&self, old: &Self) -> ChangedInterfaces {
        let links: BTreeSet<u32> = old.links.diff(&self.links).map(|item| *changed_key(&item)).collect();
        let addresses: BTreeSet<u32> = old.addresses.diff(&self.addresses).map(|item| *changed_key(&item)).collect();
        let tentative = old.tentative.diff(&self.tentative).map(|item| changed_key(&item).0);
        let neighbours = old.neighbours.diff(&self.neighbours).map(|item| changed_key(&item).0);
        let failed = old.failed.diff(&self.failed).map(|item| changed_key(&item).0);
        ChangedInterfaces {
            themselves: links.iter().chain(&addresses).copied().chain(tentative).collect(),
            links,
            addresses,
            neighbours: neighbours.chain(failed).collect(),
        }
    }

    /// Applies one event, or one object of a dump, and records its effect in `changes`. Messages without new or
    /// relevant content change nothing.
    pub fn apply(&mut self, event: &NetlinkMessage<RouteNetlinkMessage>, changes: &mut Changes) {
        let NetlinkPayload::InnerMessage(message) = &event.payload else {
            return;
        };
        let replaces = event.header.flags & NLM_F_REPLACE != 0;
        self.apply_object(message, replaces, changes);
    }

    /// As [`Self::apply`], for a message without header. `replaces` is the header's `NLM_F_REPLACE`, used only for
    /// routes.
    pub(super) fn apply_object(&mut self, message: &RouteNetlinkMessage, replaces: bool, changes: &mut Changes) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link, changes),
            RouteNetlinkMessage::DelLink(link) => self.del_link(link, changes),
            RouteNetlinkMessage::NewAddress(address) => self.new_address(address, changes),
            RouteNetlinkMessage::DelAddress(address) => self.del_address(address, changes),
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.new_neighbour(neighbour, changes),
            RouteNetlinkMessage::DelNeighbour(neighbour) => self.del_neighbour(neighbour, changes),
            RouteNetlinkMessage::NewRoute(route) => self.new_route(route, replaces, changes),
            RouteNetlinkMessage::DelRoute(route) => self.del_route(route, changes),
            _ => {}
        }
    }

    fn new_link(&mut self, message: &LinkMessage, changes: &mut Changes) {
        let Some(link) = link(message) else { return };
        let index = link.index;
        let went_down = !link.admin_up && self.links.get(&index).is_some_and(|old| old.admin_up);
        changes.note_link(self.links.get(&index), &link);
        self.links.insert(link);
        if went_down {
            self.forget_gateways(index, changes);
            changes.unannounced = true;
        }
    }

    fn del_link(&mut self, message: &LinkMessage, changes: &mut Changes) {
        // A bridge announces a port that leaves it as "deleted"; the link itself stays.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let index = message.header.index;
        if self.links.remove(&index).is_some() {
            changes.links = true;
            changes.gone.insert(index);
        }
        changes.addresses |= self.addresses.remove(&index).is_some();
        remove_of(&mut self.tentative, index, IpNet::default());
        changes.neighbours |= !remove_of(&mut self.neighbours, index, IpAddr::V4(Ipv4Addr::UNSPECIFIED)).is_empty();
        changes.failed |= !remove_of(&mut self.failed, index, IpAddr::V4(Ipv4Addr::UNSPECIFIED)).is_empty();
        let least = (index, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stale: Vec<_> =
            changes.stale.range(least..).take_while(|(ifindex, _)| *ifindex == index).copied().collect();
        for key in &stale {
            changes.stale.remove(key);
        }
        self.forget_gateways(index, changes);
        changes.unannounced = true;
    }

    fn new_address(&mut self, message: &AddressMessage, changes: &mut Changes) {
        let Some(address) = address(message) else {
            return;
        };
        let index = message.header.index;
        changes.addresses |= self.addresses.entry(index).or_default().insert(address);
        changes.addresses |= match is_tentative(message) {
            true => self.tentative.insert((index, address), ()).is_none(),
            false => self.tentative.remove(&(index, address)).is_some(),
        };
    }

    fn del_address(&mut self, message: &AddressMessage, changes: &mut Changes) {
        let Some(address) = address(message) else {
            return;
        };
        self.tentative.remove(&(message.header.index, address));
        if let Some(addresses) = self.addresses.get_mut(&message.header.index) {
            changes.addresses |= addresses.remove(&address);
            if addresses.is_empty() {
                self.addresses.remove(&message.header.index);
            }
        }
        changes.unannounced = true;
    }

    fn new_neighbour(&mut self, message: &NeighbourMessage, changes: &mut Changes) {
        let Some(key) = neighbour_key(message) else {
            return;
        };
        changes.stale.remove(&key);
        match usable_mac(message) {
            Some(mac) => {
                changes.neighbours |= self.neighbours.insert(key, mac) != Some(mac);
                if message.header.state == NeighbourState::Stale {
                    changes.stale.insert(key);
                }
            }
            None => changes.neighbours |= self.neighbours.remove(&key).is_some(),
        }
        // While the kernel resolves it again, its state is unknown.
        if has_failed(message) {
            changes.failed |= self.failed.insert(key, ()).is_none();
        } else if message.header.state != NeighbourState::Incomplete {
            changes.failed |= self.failed.remove(&key).is_some();
        }
    }

    fn del_neighbour(&mut self, message: &NeighbourMessage, changes: &mut Changes) {
        let Some(key) = neighbour_key(message) else {
            return;
        };
        changes.stale.remove(&key);
        changes.neighbours |= self.neighbours.remove(&key).is_some();
        changes.failed |= self.failed.remove(&key).is_some();
    }

    fn new_route(&mut self, message: &RouteMessage, replaces: bool, changes: &mut Changes) {
        let Some((destination, metric)) = foreign_route(message) else {
            return;
        };
        let hop = wire::single_gateway(message);
        // A replacing route may have replaced one on another interface, or one with several gateways. The kernel
        // announces only the new route, not the old one.
        if replaces || hop.is_none() {
            let interfaces = self.metrics.range((destination, 0)..).map(|((of, ifindex), _)| (*of, *ifindex));
            let interfaces: Vec<(IpNet, u32)> = interfaces.take_while(|(of, _)| *of == destination).collect();
            for (_, ifindex) in interfaces {
                self.set_gateway((ifindex, destination), metric, None, changes);
            }
        }
        if let Some((ifindex, gateway)) = hop {
            self.set_gateway((ifindex, destination), metric, Some(gateway), changes);
        }
    }

    fn del_route(&mut self, message: &RouteMessage, changes: &mut Changes) {
        let Some((destination, metric)) = foreign_route(message) else {
            return;
        };
        if let Some((ifindex, gateway)) = wire::single_gateway(message)
            && self.metrics.get(&(destination, ifindex)).and_then(|of| of.get(&metric)) == Some(&gateway)
        {
            self.set_gateway((ifindex, destination), metric, None, changes);
        }
    }

    /// Sets or removes the gateway of one metric, and updates the best one in `gateways`.
    fn set_gateway(&mut self, key: (u32, IpNet), metric: u32, gateway: Option<IpAddr>, changes: &mut Changes) {
        let of = (key.1, key.0);
        match gateway {
            Some(gateway) => {
                self.metrics.entry(of).or_default().insert(metric, gateway);
            }
            None => {
                if let Some(metrics) = self.metrics.get_mut(&of) {
                    metrics.remove(&metric);
                }
            }
        }
        let best = self.metrics.get(&of).and_then(|metrics| metrics.values().next()).copied();
        if let Some(best) = best {
            changes.gateways |= self.gateways.insert(key, best) != Some(best);
        } else {
            self.metrics.remove(&of);
            changes.gateways |= self.gateways.remove(&key).is_some();
        }
    }

    fn forget_gateways(&mut self, ifindex: u32, changes: &mut Changes) {
        let gone = remove_of(&mut self.gateways, ifindex, IpNet::default());
        for (_, destination) in &gone {
            self.metrics.remove(&(*destination, ifindex));
        }
        changes.gateways |= !gone.is_empty();
    }

    /// Removes gateways on interfaces that are down or gone: a dump right after the announcement can still contain
    /// them, since the kernel announces first and flushes afterwards.
    pub(super) fn forget_dead_gateways(&mut self) {
        let interfaces: BTreeSet<u32> = self.gateways.keys().map(|(ifindex, _)| *ifindex).collect();
        for ifindex in interfaces {
            if self.links.get(&ifindex).is_none_or(|link| !link.admin_up) {
                self.forget_gateways(ifindex, &mut Changes::default());
            }
        }
    }
}

fn changed_key<'a, K, V>(item: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { old: (key, _), .. } => key,
    }
}

/// Removes all entries of an interface; returns their keys. `least` is the lowest possible key.
fn remove_of<K: Ord + Copy, V: Clone>(map: &mut OrdMap<(u32, K), V>, ifindex: u32, least: K) -> Vec<(u32, K)> {
    let of = map.range((ifindex, least)..).map(|(key, _)| *key).take_while(|(index, _)| *index == ifindex);
    let of: Vec<(u32, K)> = of.collect();
    for key in &of {
        map.remove(key);
    }
    of
}

#[cfg(test)]
mod tests;

//! What the host looks like, and what one netlink event does to that picture. No input or output.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use imbl::OrdMap;
use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{
            InfoData, InfoKind, InfoVlan, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
            State, VlanProtocol,
        },
        neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState},
        route::RouteMessage,
    },
};
use serde::{Deserialize, Serialize};

use super::{MAIN_TABLE, is_ours, wire};

/// The host's links, addresses, neighbours and gateways, as the kernel last told. A copy shares what it has in common with
/// the original, so that it costs nothing whatever the size of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// By interface index.
    pub links: OrdMap<u32, Link>,
    /// By interface index: each address with its prefix length, as assigned, host bits kept; the
    /// broadcast address follows from it. The near end of a point-to-point pair has its full
    /// length.
    pub addresses: OrdMap<u32, BTreeSet<IpNet>>,
    /// Unicast neighbours that frames can be sent to now: state `REACHABLE`, `STALE`, `DELAY`,
    /// `PROBE`, `PERMANENT` or `NOARP`, with a link address of 6 bytes.
    pub neighbours: OrdMap<(u32, IpAddr), [u8; 6]>,
    /// Gateways of the main table's unicast routes that have a single one, by its interface and the
    /// destination; not our own. Of several metrics, the lowest counts.
    pub gateways: OrdMap<(u32, IpNet), IpAddr>,
    /// What `gateways` is drawn from: every metric's gateway, since the best may go.
    metrics: OrdMap<(u32, IpNet), BTreeMap<u32, IpAddr>>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`: "veth", "xfrm", ...; nothing for hardware.
    pub kind: Option<String>,
    /// Whether frames have an Ethernet header (`ARPHRD_ETHER`); else packets start at the IP header.
    pub ethernet: bool,
    /// Link address, when it has 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// Bytes, link header not counted.
    pub mtu: u32,
    /// `IFF_UP`: the administrator wants it up.
    pub admin_up: bool,
    /// It carries packets: `IFF_LOWER_UP`, and its operational state is up or unknown (tunnels do
    /// not report one).
    pub running: bool,
    /// For an 802.1Q interface: the index of the interface below it, in this namespace, and the
    /// VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// For an xfrm interface: the number that its policies and SAs have (`IFLA_XFRM_IF_ID`).
    pub if_id: Option<u32>,
}

/// Which parts of a [`HostState`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent parts, each changed or not")]
pub struct Changes {
    /// [`HostState::links`].
    pub links: bool,
    /// [`HostState::addresses`].
    pub addresses: bool,
    /// [`HostState::neighbours`].
    pub neighbours: bool,
    /// [`HostState::gateways`].
    pub gateways: bool,
    /// Neighbours that went stale: still usable, but unconfirmed. The kernel confirms those that
    /// its own traffic uses; for the fast path's, see [`Reconciler::probe`].
    ///
    /// [`Reconciler::probe`]: super::Reconciler::probe
    pub stale: Vec<(u32, IpAddr)>,
    /// Interfaces that went; one of the same index may be there again.
    pub gone: BTreeSet<u32>,
    /// The kernel may have removed more than it announced: IPv4 routes of an interface that went
    /// down or of an address that went are dropped without a word (`fib_flush` in
    /// `net/ipv4/fib_frontend.c`).
    pub(super) unannounced: bool,
}

impl Changes {
    /// As if all had just been learnt.
    pub fn everything() -> Self {
        Self { links: true, addresses: true, neighbours: true, gateways: true, ..Self::default() }
    }

    /// Nothing to act on.
    pub fn is_empty(&self) -> bool {
        !(self.links || self.addresses || self.neighbours || self.gateways) && self.stale.is_empty()
    }

    /// Both, `other` being the later.
    pub fn add(&mut self, other: Self) {
        self.links |= other.links;
        self.addresses |= other.addresses;
        self.neighbours |= other.neighbours;
        self.gateways |= other.gateways;
        self.stale.extend(other.stale);
        self.gone.extend(other.gone);
        self.unannounced |= other.unannounced;
    }

    /// Notes how `new` differs from `old`.
    pub(super) fn compare(&mut self, old: &HostState, new: &HostState) {
        self.gone.extend(old.links.keys().filter(|index| !new.links.contains_key(*index)).copied());
        self.links |= old.links != new.links;
        self.addresses |= old.addresses != new.addresses;
        self.neighbours |= old.neighbours != new.neighbours;
        self.gateways |= old.gateways != new.gateways;
    }
}

impl HostState {
    /// Applies one event, or one object of a dump, and notes in `changes` what it changed.
    /// Messages that say nothing new, or nothing of interest, change nothing.
    pub fn apply(&mut self, event: &NetlinkMessage<RouteNetlinkMessage>, changes: &mut Changes) {
        let NetlinkPayload::InnerMessage(message) = &event.payload else {
            return;
        };
        let replaces = event.header.flags & NLM_F_REPLACE != 0;
        self.apply_object(message, replaces, changes);
    }

    /// As [`Self::apply`], for a message without its header; `replaces` is the header's
    /// `NLM_F_REPLACE`, only looked at for routes.
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
        if self.links.get(&index) != Some(&link) {
            self.links.insert(index, link);
            changes.links = true;
        }
        if went_down {
            self.forget_gateways(index, changes);
            changes.unannounced = true;
        }
    }

    fn del_link(&mut self, message: &LinkMessage, changes: &mut Changes) {
        // A bridge says "deleted" of a port that leaves it; the link itself stays.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let index = message.header.index;
        if self.links.remove(&index).is_some() {
            changes.links = true;
            changes.gone.insert(index);
        }
        changes.addresses |= self.addresses.remove(&index).is_some();
        changes.neighbours |= remove_of(&mut self.neighbours, index, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        changes.stale.retain(|&(ifindex, _)| ifindex != index);
        self.forget_gateways(index, changes);
        changes.unannounced = true;
    }

    fn new_address(&mut self, message: &AddressMessage, changes: &mut Changes) {
        let Some(address) = address(message) else {
            return;
        };
        changes.addresses |= self.addresses.entry(message.header.index).or_default().insert(address);
    }

    fn del_address(&mut self, message: &AddressMessage, changes: &mut Changes) {
        let Some(address) = address(message) else {
            return;
        };
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
        changes.stale.retain(|stale| *stale != key);
        match usable_mac(message) {
            Some(mac) => {
                changes.neighbours |= self.neighbours.insert(key, mac) != Some(mac);
                if message.header.state == NeighbourState::Stale {
                    changes.stale.push(key);
                }
            }
            None => changes.neighbours |= self.neighbours.remove(&key).is_some(),
        }
    }

    fn del_neighbour(&mut self, message: &NeighbourMessage, changes: &mut Changes) {
        let Some(key) = neighbour_key(message) else {
            return;
        };
        changes.stale.retain(|stale| *stale != key);
        changes.neighbours |= self.neighbours.remove(&key).is_some();
    }

    fn new_route(&mut self, message: &RouteMessage, replaces: bool, changes: &mut Changes) {
        let Some((destination, metric)) = foreign_route(message) else {
            return;
        };
        let hop = wire::single_gateway(message);
        // A route that takes another's place may have had another interface, or no single gateway
        // any more; the kernel announces only what came, not what went.
        if replaces || hop.is_none() {
            let interfaces: Vec<u32> = self.links.keys().copied().collect();
            for ifindex in interfaces {
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
        if let Some((ifindex, gateway)) = wire::single_gateway(message) {
            let key = (ifindex, destination);
            if self.metrics.get(&key).and_then(|of| of.get(&metric)) == Some(&gateway) {
                self.set_gateway(key, metric, None, changes);
            }
        }
    }

    /// Sets or removes the gateway of one metric, and keeps `gateways` the best of them.
    fn set_gateway(&mut self, key: (u32, IpNet), metric: u32, gateway: Option<IpAddr>, changes: &mut Changes) {
        match gateway {
            Some(gateway) => {
                self.metrics.entry(key).or_default().insert(metric, gateway);
            }
            None => {
                if let Some(metrics) = self.metrics.get_mut(&key) {
                    metrics.remove(&metric);
                }
            }
        }
        let best = self.metrics.get(&key).and_then(|metrics| metrics.values().next()).copied();
        if let Some(best) = best {
            changes.gateways |= self.gateways.insert(key, best) != Some(best);
        } else {
            self.metrics.remove(&key);
            changes.gateways |= self.gateways.remove(&key).is_some();
        }
    }

    fn forget_gateways(&mut self, ifindex: u32, changes: &mut Changes) {
        remove_of(&mut self.metrics, ifindex, IpNet::default());
        changes.gateways |= remove_of(&mut self.gateways, ifindex, IpNet::default());
    }

    /// Forgets the gateways on interfaces that are down or gone: a dump that is read right after
    /// the announcement can still show them, since the kernel announces first and flushes then.
    pub(super) fn forget_dead_gateways(&mut self) {
        let interfaces: BTreeSet<u32> = self.metrics.keys().map(|(ifindex, _)| *ifindex).collect();
        for ifindex in interfaces {
            if self.links.get(&ifindex).is_none_or(|link| !link.admin_up) {
                self.forget_gateways(ifindex, &mut Changes::default());
            }
        }
    }
}

/// Removes all of an interface; whether there was any. `least` is the least of all keys.
fn remove_of<K: Ord + Copy, V: Clone>(map: &mut OrdMap<(u32, K), V>, ifindex: u32, least: K) -> bool {
    let of = map.range((ifindex, least)..).map(|(key, _)| *key).take_while(|(index, _)| *index == ifindex);
    let of: Vec<(u32, K)> = of.collect();
    for key in &of {
        map.remove(key);
    }
    !of.is_empty()
}

/// The link that a message describes; nothing for a message about one aspect of it (a bridge port,
/// a wireless event), which leaves out the rest.
fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mtu, mut mac, mut parent) = (None, None, None, None);
    let (mut kind, mut vid, mut if_id) = (None, None, None);
    let mut state = State::Unknown;
    let mut parent_is_here = true;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Mtu(value) => mtu = Some(*value),
            LinkAttribute::Address(value) => mac = value.as_slice().try_into().ok(),
            LinkAttribute::OperState(value) => state = *value,
            LinkAttribute::Link(value) => parent = Some(*value),
            LinkAttribute::LinkNetNsId(_) => parent_is_here = false,
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(link_kind);
                vid = infos.iter().find_map(vlan_id);
                if_id = infos.iter().find_map(xfrm_if_id);
            }
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(Link {
        index: message.header.index,
        name: name?,
        kind: kind.map(ToString::to_string),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        mac,
        mtu: mtu?,
        admin_up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp) && matches!(state, State::Up | State::Unknown),
        vlan: parent.filter(|_| parent_is_here).zip(vid),
        if_id,
    })
}

fn link_kind(info: &LinkInfo) -> Option<&InfoKind> {
    match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    }
}

fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(infos)) = info else {
        return None;
    };
    let foreign =
        |info: &InfoVlan| matches!(info, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q);
    if infos.iter().any(foreign) {
        return None;
    }
    infos.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn xfrm_if_id(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Xfrm(infos)) = info else { return None };
    infos.iter().find_map(|info| match info {
        InfoXfrm::IfId(id) => Some(*id),
        _ => None,
    })
}

/// The assigned address. `IFA_LOCAL` is ours and `IFA_ADDRESS` the far end's where they differ
/// (`include/uapi/linux/if_addr.h`); the prefix length then belongs to the far end.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(value) => local = Some(*value),
            AddressAttribute::Address(value) => address = Some(*value),
            _ => {}
        }
    }
    match (local, address) {
        (Some(local), Some(far)) if local != far => Some(IpNet::from(local)),
        (local, address) => IpNet::new(local.or(address)?, message.header.prefix_len).ok(),
    }
}

/// Interface and address of an entry of the ARP or ND cache; nothing for proxies, bridge
/// forwarding entries and multicast (which maps to a link address by itself).
fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let (ifindex, address) = wire::read_neighbour_key(message)?;
    let proxy = message.header.flags.contains(NeighbourFlags::Proxy);
    (!proxy && !address.is_multicast()).then_some((ifindex, address))
}

fn usable_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
        .then(|| wire::neighbour_mac(message))?
}

/// Destination and metric of a route of the main table that is not ours.
fn foreign_route(message: &RouteMessage) -> Option<(IpNet, u32)> {
    if u32::from(message.header.table) != MAIN_TABLE || is_ours(message.header.protocol.into()) {
        return None;
    }
    Some((wire::destination(message)?, wire::metric(message)))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

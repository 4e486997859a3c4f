//! Parses netlink messages about links, addresses, neighbours and routes.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, State,
        VlanProtocol,
    },
    neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteMessage,
};

use super::{
    super::{MAIN_TABLE, is_ours, wire},
    Link,
};

/// The link in a message; `None` for a message about one aspect of it (a bridge port, a wireless event), which lacks
/// the rest.
pub fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mtu, mut mac, mut parent) = (None, None, None, None);
    let (mut kind, mut vid, mut if_id, mut port_kind) = (None, None, None, None);
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
                port_kind = infos.iter().find_map(self::port_kind);
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
        port_kind,
    })
}

fn link_kind(info: &LinkInfo) -> Option<&InfoKind> {
    match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    }
}

fn port_kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::PortKind(kind) => Some(kind.to_string()),
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

/// The assigned address. Where they differ, `IFA_LOCAL` is ours and `IFA_ADDRESS` the far end's
/// (`include/uapi/linux/if_addr.h`); the prefix length then belongs to the far end.
pub fn address(message: &AddressMessage) -> Option<IpNet> {
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

/// Whether duplicate address detection for an address is pending or has failed: the kernel refuses it as the source of a
/// route.
pub fn is_tentative(message: &AddressMessage) -> bool {
    let is_flag = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Tentative));
    message.attributes.iter().any(is_flag)
}

/// Interface and address of an ARP or ND cache entry; `None` for proxies, bridge forwarding entries and multicast
/// (which needs no resolution).
pub fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let (ifindex, address) = wire::read_neighbour_key(message)?;
    let proxy = message.header.flags.contains(NeighbourFlags::Proxy);
    (!proxy && !address.is_multicast()).then_some((ifindex, address))
}

/// Whether the kernel has got no answer from a neighbour that it resolves for us.
pub fn has_failed(message: &NeighbourMessage) -> bool {
    message.header.state == NeighbourState::Failed && wire::is_managed(message)
}

pub fn usable_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
        .then(|| wire::neighbour_mac(message))?
}

/// Destination and metric of a route in the main table that is not ours.
pub fn foreign_route(message: &RouteMessage) -> Option<(IpNet, u32)> {
    if u32::from(message.header.table) != MAIN_TABLE || is_ours(message.header.protocol.into()) {
        return None;
    }
    Some((wire::destination(message)?, wire::metric(message)))
}

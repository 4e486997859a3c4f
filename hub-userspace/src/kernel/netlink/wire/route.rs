//! Routes: `net/ipv4/fib_frontend.c` and `fib_semantics.c`, `net/ipv6/route.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteScope, RouteType,
        RouteVia,
    },
};

use super::family_of;
use crate::kernel::netlink::{
    INTERNAL_PROTOCOL, METRIC, PROTOCOL,
    plan::{KernelNextHop, RouteAction, RouteKey},
};

/// A placeholder gateway among several IPv6 next hops, where the kernel requires one ("Device only routes can not be
/// added for IPv6 using the multipath API"). Links that need no gateway do not resolve it.
const NO_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1180);

/// The message that adds or replaces a route whose action is [normalised](RouteAction::normalised).
pub fn route(key: &RouteKey, action: &RouteAction) -> RouteMessage {
    let mut message = bare_route(key);
    message.header.protocol = protocol(key).into();
    message.header.kind = match action {
        RouteAction::Unicast { .. } => RouteType::Unicast,
        RouteAction::Unreachable => RouteType::Unreachable,
    };
    match action {
        RouteAction::Unicast { next_hops, source } => {
            message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
            match next_hops.as_slice() {
                [hop] => put_single_hop(&mut message, hop),
                hops => message
                    .attributes
                    .push(RouteAttribute::MultiPath(hops.iter().map(|hop| next_hop(hop, key.destination)).collect())),
            }
        }
        RouteAction::Unreachable => {}
    }
    message
}

/// The message that deletes a route of ours, regardless of its action. `is_odd`: its protocol is not the one that we
/// would set; an earlier version or another process created it.
pub fn route_deletion(key: &RouteKey, is_odd: bool) -> RouteMessage {
    let mut message = bare_route(key);
    let other = PROTOCOL + INTERNAL_PROTOCOL - protocol(key);
    message.header.protocol = if is_odd { other } else { protocol(key) }.into();
    // Matches any scope (`fib_table_delete`).
    message.header.scope = RouteScope::NoWhere;
    message
}

/// The routing protocol number of our routes with this key.
fn protocol(key: &RouteKey) -> u8 {
    if key.metric == METRIC { PROTOCOL } else { INTERNAL_PROTOCOL }
}

fn bare_route(key: &RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(key.destination.addr());
    message.header.destination_prefix_length = key.destination.prefix_len();
    message.attributes = vec![
        RouteAttribute::Table(key.table),
        RouteAttribute::Destination(key.destination.network().into()),
        RouteAttribute::Priority(key.metric),
    ];
    message
}

fn put_single_hop(message: &mut RouteMessage, hop: &KernelNextHop) {
    message.attributes.push(RouteAttribute::Oif(hop.ifindex));
    if hop.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    match hop.via {
        Some(via) => message.attributes.push(gateway(via, message.header.address_family)),
        // Like iproute2: the destination is on-link, so others' gateways may lie in it.
        None => message.header.scope = RouteScope::Link,
    }
}

fn next_hop(hop: &KernelNextHop, destination: IpNet) -> RouteNextHop {
    let family = family_of(destination.addr());
    let via = match (hop.via, family) {
        (None, AddressFamily::Inet6) => Some(NO_GATEWAY.into()),
        (via, _) => via,
    };
    let mut message = RouteNextHop::default();
    message.interface_index = hop.ifindex;
    message.hops = hop.weight.saturating_sub(1);
    message.attributes = via.map(|via| gateway(via, family)).into_iter().collect();
    if hop.onlink {
        message.flags |= RouteNextHopFlags::Onlink;
    }
    message
}

fn gateway(via: IpAddr, family: AddressFamily) -> RouteAttribute {
    if family_of(via) == family { RouteAttribute::Gateway(via.into()) } else { RouteAttribute::Via(via.into()) }
}

/// Destination of a route; the message of a default route has none.
pub fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(address.unwrap_or(unspecified), message.header.destination_prefix_length).ok()
}

/// Metric of a route; 0 if absent.
pub fn metric(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
        .unwrap_or_default()
}

/// Interface and gateway of a unicast route with exactly one gateway.
pub fn single_gateway(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    match action(message)? {
        RouteAction::Unicast { next_hops, .. } => match next_hops.as_slice() {
            [hop] => Some((hop.ifindex, hop.via?)),
            _ => None,
        },
        RouteAction::Unreachable => None,
    }
}

pub fn action(message: &RouteMessage) -> Option<RouteAction> {
    match message.header.kind {
        RouteType::Unreachable => Some(RouteAction::Unreachable),
        RouteType::Unicast => {
            Some(RouteAction::Unicast { next_hops: next_hops(message)?, source: source(message) }.normalised())
        }
        _ => None,
    }
}

fn source(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => ip(address),
        _ => None,
    })
}

fn next_hops(message: &RouteMessage) -> Option<Vec<KernelNextHop>> {
    let many = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    if let Some(hops) = many {
        return Some(hops.iter().map(read_next_hop).collect());
    }
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    })?;
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    Some(vec![KernelNextHop { ifindex, via: via(&message.attributes), onlink, weight: 1 }])
}

fn read_next_hop(hop: &RouteNextHop) -> KernelNextHop {
    KernelNextHop {
        ifindex: hop.interface_index,
        via: via(&hop.attributes).filter(|via| *via != IpAddr::from(NO_GATEWAY)),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        weight: hop.hops.saturating_add(1),
    }
}

pub fn via(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

pub fn table(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(message.header.table.into())
}

//! Plan to netlink messages, and messages to plan. Pure.
//!
//! Kernel sources: `net/ipv4/fib_frontend.c` and `fib_semantics.c`, `net/ipv6/route.c`,
//! `net/core/fib_rules.c`, `net/core/neighbour.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, IpProtocol,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{
    PROTOCOL, RULE_PREFERENCE, TABLE,
    plan::{
        Existing, ExistingRule, Family, KernelNeighbour, KernelNextHop, KernelRoute, KernelRule,
        RouteAction, RouteKey, RuleMatch,
    },
};

/// Stands for "no gateway" among several IPv6 next hops, where the kernel insists on one ("Device
/// only routes can not be added for IPv6 using the multipath API"). Links that need no gateway do
/// not resolve it either.
const NO_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1180);

const LOOPBACK: &str = "lo";

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// Selects all routes, rules or neighbours in a strict dump.
pub(super) mod all {
    use super::{AddressFamily, NeighbourMessage, PROTOCOL, RouteMessage, RuleMessage};

    /// Routes of our protocol, in any table.
    pub fn our_routes(family: AddressFamily) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = PROTOCOL.into();
        message
    }

    /// Rules; the kernel does not select by protocol.
    pub fn rules(family: AddressFamily) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family;
        message
    }

    /// Neighbours of both families; the kernel does not select by protocol.
    pub fn neighbours() -> NeighbourMessage {
        NeighbourMessage::default()
    }
}

// ---- routes -------------------------------------------------------------------------------------

/// The message that adds or replaces a route whose action is [normalised](RouteAction::normalised).
pub(super) fn route(route: &KernelRoute) -> RouteMessage {
    let mut message = bare_route(&RouteKey::from(route));
    message.header.protocol = PROTOCOL.into();
    message.header.kind = match &route.action {
        RouteAction::Unicast { .. } => RouteType::Unicast,
        RouteAction::Throw => RouteType::Throw,
        RouteAction::Unreachable => RouteType::Unreachable,
    };
    match &route.action {
        RouteAction::Unicast { next_hops } => match next_hops.as_slice() {
            [hop] => put_single_hop(&mut message, hop),
            hops => message.attributes.push(RouteAttribute::MultiPath(
                hops.iter()
                    .map(|hop| next_hop(hop, route.destination))
                    .collect(),
            )),
        },
        RouteAction::Throw | RouteAction::Unreachable => {}
    }
    message
}

/// The message that deletes a route, whatever it does.
pub(super) fn route_deletion(key: &RouteKey) -> RouteMessage {
    let mut message = bare_route(key);
    message.header.protocol = PROTOCOL.into();
    // Of any scope (`fib_table_delete`).
    message.header.scope = RouteScope::NoWhere;
    message
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
        Some(via) => message
            .attributes
            .push(gateway(via, message.header.address_family)),
        // As iproute2 does: the destination is on the link, so others' gateways may lie in it.
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
    if family_of(via) == family {
        RouteAttribute::Gateway(via.into())
    } else {
        RouteAttribute::Via(via.into())
    }
}

/// Destination of a route; a default route says none.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => ip(address),
            _ => None,
        });
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(
        address.unwrap_or(unspecified),
        message.header.destination_prefix_length,
    )
    .ok()
}

/// Metric of a route, 0 when it says none.
pub(super) fn metric(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
        .unwrap_or_default()
}

/// Interface and gateway of a unicast route that has a single one.
pub(super) fn single_gateway(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    match action(message)? {
        RouteAction::Unicast { next_hops } => match next_hops.as_slice() {
            [hop] => Some((hop.ifindex, hop.via?)),
            _ => None,
        },
        _ => None,
    }
}

fn action(message: &RouteMessage) -> Option<RouteAction> {
    match message.header.kind {
        RouteType::Throw => Some(RouteAction::Throw),
        RouteType::Unreachable => Some(RouteAction::Unreachable),
        RouteType::Unicast => Some(
            RouteAction::Unicast {
                next_hops: next_hops(message)?,
            }
            .normalised(),
        ),
        _ => None,
    }
}

fn next_hops(message: &RouteMessage) -> Option<Vec<KernelNextHop>> {
    let many = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
    if let Some(hops) = many {
        return Some(hops.iter().map(read_next_hop).collect());
    }
    let ifindex = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            _ => None,
        })?;
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    Some(vec![KernelNextHop {
        ifindex,
        via: via(&message.attributes),
        onlink,
        weight: 1,
    }])
}

fn read_next_hop(hop: &RouteNextHop) -> KernelNextHop {
    KernelNextHop {
        ifindex: hop.interface_index,
        via: via(&hop.attributes).filter(|via| *via != IpAddr::from(NO_GATEWAY)),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        weight: hop.hops.saturating_add(1),
    }
}

fn via(attributes: &[RouteAttribute]) -> Option<IpAddr> {
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

fn table(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(message.header.table.into())
}

// ---- rules --------------------------------------------------------------------------------------

/// The message that adds a rule.
pub(super) fn rule(rule: &KernelRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = rule.family.into();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(TABLE),
        RuleAttribute::Priority(RULE_PREFERENCE),
        RuleAttribute::Protocol(PROTOCOL.into()),
    ];
    match &rule.what {
        RuleMatch::Interface(name) => message
            .attributes
            .push(RuleAttribute::Iifname(name.clone())),
        RuleMatch::LocalIcmp => message.attributes.extend([
            RuleAttribute::Iifname(LOOPBACK.to_owned()),
            RuleAttribute::IpProtocol(icmp(rule.family)),
        ]),
    }
    message
}

/// The message that deletes a rule which the kernel shows like this.
pub(super) fn rule_deletion(shown: &RuleMessage) -> RuleMessage {
    let mut message = shown.clone();
    // Says whether the interface exists; not part of the rule.
    message.header.flags &= RuleFlags::Invert;
    message.attributes.retain(|attribute| !is_unset(attribute));
    message
}

/// `FRA_SUPPRESS_PREFIXLEN` is always shown; -1 is none.
fn is_unset(attribute: &RuleAttribute) -> bool {
    matches!(attribute, RuleAttribute::SuppressPrefixLen(u32::MAX))
}

/// The protocol that IPv4 or IPv6 errors travel in: 1 and 58 (RFC 4443).
fn icmp(family: Family) -> IpProtocol {
    match family {
        Family::V4 => IpProtocol::Icmp,
        Family::V6 => IpProtocol::Other(58),
    }
}

/// A rule of ours, if a plan could have asked for it.
fn read_rule(message: &RuleMessage) -> Option<KernelRule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let (mut interface, mut protocol) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            RuleAttribute::IpProtocol(number) => protocol = Some(*number),
            _ => {}
        }
    }
    let what = match protocol {
        None => RuleMatch::Interface(interface?),
        Some(_) => RuleMatch::LocalIcmp,
    };
    let candidate = KernelRule { family, what };
    // Whatever we did not look at must be as we would have made it.
    let mut shown = rule_deletion(message);
    let mut made = rule(&candidate);
    for message in [&mut shown, &mut made] {
        message.header.table = 0;
        message
            .attributes
            .sort_by_key(|attribute| format!("{attribute:?}"));
    }
    (shown == made).then_some(candidate)
}

// ---- neighbours ---------------------------------------------------------------------------------

/// The message that makes or replaces a neighbour.
pub(super) fn neighbour(neighbour: &KernelNeighbour) -> NeighbourMessage {
    let mut message = bare_neighbour(neighbour.key());
    message
        .attributes
        .push(NeighbourAttribute::Protocol(PROTOCOL.into()));
    match neighbour {
        KernelNeighbour::Managed { .. } => {
            message
                .attributes
                .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        }
        KernelNeighbour::Permanent { mac, .. } => {
            message.header.state = NeighbourState::Permanent;
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        }
    }
    message
}

/// The message that asks for one neighbour, or deletes it.
pub(super) fn bare_neighbour((ifindex, address): (u32, IpAddr)) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// The message that makes the kernel use, and so probe, the neighbour that it shows like this;
/// nothing unless it is stale.
pub(super) fn neighbour_use(shown: &NeighbourMessage) -> Option<NeighbourMessage> {
    if shown.header.state != NeighbourState::Stale {
        return None;
    }
    let mut message = bare_neighbour(read_neighbour_key(shown)?);
    message.header.state = NeighbourState::Stale;
    // The kernel clears the flags that are not repeated (`neigh_update_flags`).
    message.header.flags = NeighbourFlags::Use | (shown.header.flags & NeighbourFlags::ExtLearned);
    let managed = ext_flags(shown) & NeighbourExtFlags::Managed;
    message
        .attributes
        .push(NeighbourAttribute::ExtFlags(managed));
    Some(message)
}

fn read_neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
            _ => None,
        })?;
    Some((message.header.ifindex, address))
}

fn ext_flags(message: &NeighbourMessage) -> NeighbourExtFlags {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::ExtFlags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or_default()
}

/// The link address, when it has 6 bytes.
pub(super) fn neighbour_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        })
}

fn read_neighbour(message: &NeighbourMessage) -> Option<KernelNeighbour> {
    let (ifindex, address) = read_neighbour_key(message)?;
    if ext_flags(message).contains(NeighbourExtFlags::Managed) {
        return Some(KernelNeighbour::Managed { ifindex, address });
    }
    let mac = neighbour_mac(message)?;
    (message.header.state == NeighbourState::Permanent).then_some(KernelNeighbour::Permanent {
        ifindex,
        address,
        mac,
    })
}

// ---- what is there ------------------------------------------------------------------------------

impl Existing {
    /// Takes note of a route that the kernel shows, if it is ours.
    pub(super) fn note_route(&mut self, message: &RouteMessage) {
        if u8::from(message.header.protocol) != PROTOCOL {
            return;
        }
        let Some(destination) = destination(message) else {
            return;
        };
        let key = RouteKey {
            table: table(message),
            destination,
            metric: metric(message),
        };
        // Two of one key (appended by hand): replaced by one.
        let twice = self.routes.contains_key(&key);
        self.routes
            .insert(key, if twice { None } else { action(message) });
    }

    /// Takes note of a rule that the kernel shows, if it is ours.
    pub(super) fn note_rule(&mut self, message: &RuleMessage) {
        let ours = RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL));
        if message.attributes.contains(&ours) {
            self.rules.push(ExistingRule {
                rule: read_rule(message),
                message: message.clone(),
            });
        }
    }

    /// Takes note of a neighbour that the kernel shows, if it is ours or in our way.
    pub(super) fn note_neighbour(&mut self, message: &NeighbourMessage) {
        let Some(key) = read_neighbour_key(message) else {
            return;
        };
        let ours = NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL));
        if message.attributes.contains(&ours) {
            self.neighbours.insert(key, read_neighbour(message));
        } else if message.header.state == NeighbourState::Permanent {
            self.foreign.insert(key, neighbour_mac(message));
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;

use rtnetlink::{
    packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourExtFlags, NeighbourFlags},
        route::{RouteAttribute, RouteType},
        rule::RuleFlags,
    },
};

use super::{neighbour::ext_flags, route::via, *};
use crate::kernel::netlink::{
    BACKSTOP_METRIC, INTERNAL_METRIC, METRIC,
    plan::{KernelNeighbour, KernelNextHop, RouteAction},
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(ifindex: u32, via: Option<&str>, weight: u8) -> KernelNextHop {
    KernelNextHop { ifindex, via: via.map(address), onlink: false, weight }
}

fn planned(destination: &str, action: &RouteAction) -> (RouteKey, RouteAction) {
    let metric = if *action == RouteAction::Unreachable { BACKSTOP_METRIC } else { METRIC };
    let key = RouteKey { table: 254, destination: destination.parse().unwrap(), metric };
    (key, action.normalised())
}

fn message_of((key, action): &(RouteKey, RouteAction)) -> RouteMessage {
    route(key, action)
}

/// Encodes and decodes the message, as the kernel would read and dump it.
fn over_the_wire(message: RouteNetlinkMessage) -> RouteNetlinkMessage {
    let mut message = NetlinkMessage::from(message);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    assert_eq!(NetlinkBuffer::new(&bytes).length() as usize, bytes.len());
    match NetlinkMessage::deserialize(&bytes).unwrap().payload {
        NetlinkPayload::InnerMessage(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn routes_round_trip_over_netlink() {
    let single = |hop| RouteAction::Unicast { next_hops: vec![hop], source: None };
    let onlink = |via| KernelNextHop { onlink: true, ..hop(3, Some(via), 1) };
    let cases = [
        planned("10.0.0.0/8", &single(hop(3, None, 1))),
        planned("10.0.0.0/8", &single(hop(3, Some("10.9.0.1"), 1))),
        planned("10.0.0.0/8", &single(onlink("10.9.0.1"))),
        planned("10.0.0.0/8", &single(hop(3, Some("fe80::1"), 1))),
        planned("0.0.0.0/0", &RouteAction::Unreachable),
        planned("::/0", &RouteAction::Unreachable),
        planned("2001:db8::/32", &single(hop(3, None, 1))),
        planned("2001:db8::/32", &single(onlink("2001:db8:9::1"))),
        planned(
            "10.0.0.0/8",
            &RouteAction::Unicast {
                next_hops: vec![hop(3, None, 100), onlink("10.9.0.1"), hop(4, Some("fe80::1"), 7)],
                source: Some("192.168.0.1".parse().unwrap()),
            },
        ),
        planned(
            "2001:db8::/32",
            &RouteAction::Unicast {
                next_hops: vec![hop(3, None, 100), hop(4, None, 1), hop(5, Some("fe80::1"), 7)],
                source: None,
            },
        ),
    ];
    for case in cases {
        let shown = match over_the_wire(RouteNetlinkMessage::NewRoute(message_of(&case))) {
            RouteNetlinkMessage::NewRoute(shown) => shown,
            other => panic!("{other:?}"),
        };
        assert_eq!(our_route(&shown), Some((case.0, Some(case.1))));
    }
}

#[test]
fn route_of_other_protocol_is_foreign() {
    let mut message = message_of(&planned("10.0.0.0/8", &RouteAction::Unreachable));
    message.header.protocol = RouteProtocol::Bird;
    assert_eq!(our_route(&message), None);
}

#[test]
fn blackhole_route_has_no_action() {
    let mut message = message_of(&planned("10.0.0.0/8", &RouteAction::Unreachable));
    message.header.kind = RouteType::BlackHole;
    assert_eq!(our_route(&message).map(|(_, action)| action), Some(None));
}

#[test]
fn ipv6_multipath_without_gateway_gets_stand_in_gateway() {
    let gateways = |message: &RouteMessage| -> Vec<Option<IpAddr>> {
        let hops = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        hops.unwrap().iter().map(|hop| via(&hop.attributes)).collect()
    };
    let next_hops = vec![hop(1, None, 1), hop(2, None, 1)];
    let v6 = planned("2001:db8::/32", &RouteAction::Unicast { next_hops: next_hops.clone(), source: None });
    assert_eq!(gateways(&message_of(&v6)), [Some(address("fe80::1180")); 2]);
    let v4 = planned("10.0.0.0/8", &RouteAction::Unicast { next_hops, source: None });
    assert_eq!(gateways(&message_of(&v4)), [None; 2]);
}

#[test]
fn published_routes_have_their_own_protocol() {
    let through = RouteAction::Unicast { next_hops: vec![hop(1, None, 1)], source: None };
    let protocol = |metric, action: &RouteAction| {
        let key = RouteKey { table: 254, destination: "10.0.0.0/8".parse().unwrap(), metric };
        (u8::from(route(&key, action).header.protocol), u8::from(route_deletion(&key, false).header.protocol))
    };
    assert_eq!(protocol(METRIC, &through), (118, 118));
    assert_eq!(protocol(INTERNAL_METRIC, &through), (119, 119));
    assert_eq!(protocol(BACKSTOP_METRIC, &RouteAction::Unreachable), (119, 119));
}

#[test]
fn own_rules_are_deleted_in_kernel_form() {
    let mut message = RuleMessage::default();
    message.header.flags = RuleFlags::IifDetached;
    message.attributes = vec![
        RuleAttribute::Iifname("tun-sh".to_owned()),
        RuleAttribute::SuppressPrefixLen(u32::MAX),
        RuleAttribute::Protocol(RouteProtocol::from(118)),
    ];
    let mut existing = Existing::default();
    existing.note_rule(&message);
    assert_eq!(existing.rules, [message.clone()]);
    let deletion = rule_deletion(&message);
    assert_eq!(deletion.header.flags, RuleFlags::empty());
    assert_eq!(deletion.attributes.len(), 2, "-1 is no prefix length");
    message.attributes[2] = RuleAttribute::Protocol(RouteProtocol::Static);
    let mut existing = Existing::default();
    existing.note_rule(&message);
    assert_eq!(existing.rules, []);
}

#[test]
fn neighbours_round_trip_over_netlink() {
    for planned in [
        KernelNeighbour::Managed { ifindex: 3, address: address("10.0.0.1") },
        KernelNeighbour::Managed { ifindex: 3, address: address("fe80::1") },
        KernelNeighbour::Permanent { ifindex: 3, address: address("fe80::1"), mac: [2; 6] },
    ] {
        let shown = match over_the_wire(RouteNetlinkMessage::NewNeighbour(neighbour(&planned))) {
            RouteNetlinkMessage::NewNeighbour(shown) => shown,
            other => panic!("{other:?}"),
        };
        let mut existing = Existing::default();
        existing.note_neighbour(&shown);
        assert_eq!(existing.neighbours, [(planned.key(), Some(planned))].into());
        assert!(existing.foreign.is_empty());
    }
}

#[test]
fn foreign_permanent_neighbour_is_noted_and_dynamic_is_not() {
    let planned = KernelNeighbour::Permanent { ifindex: 3, address: address("10.0.0.1"), mac: [2; 6] };
    let mut message = neighbour(&planned);
    message.attributes.retain(|of| !matches!(of, NeighbourAttribute::Protocol(_)));
    let mut existing = Existing::default();
    existing.note_neighbour(&message);
    assert_eq!(existing.foreign, [(planned.key(), Some([2; 6]))].into());
    message.header.state = NeighbourState::Reachable;
    let mut existing = Existing::default();
    existing.note_neighbour(&message);
    assert!(existing.foreign.is_empty() && existing.neighbours.is_empty());
}

#[test]
fn neighbour_use_keeps_managed_flag() {
    let planned = KernelNeighbour::Managed { ifindex: 3, address: address("10.0.0.1") };
    let mut shown = neighbour(&planned);
    shown.header.state = NeighbourState::Reachable;
    assert_eq!(neighbour_use(&shown), None);
    shown.header.state = NeighbourState::Stale;
    let message = neighbour_use(&shown).unwrap();
    assert!(message.header.flags.contains(NeighbourFlags::Use));
    assert_eq!(ext_flags(&message), NeighbourExtFlags::Managed);
    shown.attributes.retain(|of| !matches!(of, NeighbourAttribute::ExtFlags(_)));
    assert_eq!(ext_flags(&neighbour_use(&shown).unwrap()), NeighbourExtFlags::empty());
}

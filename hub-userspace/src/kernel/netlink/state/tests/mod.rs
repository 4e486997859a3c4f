mod gateways;
mod pending;

use std::net::Ipv4Addr;

use rtnetlink::packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, State, VlanProtocol},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourState},
    route::{RouteAttribute, RouteNextHop, RouteProtocol, RouteType},
};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn link_message(index: u32, name: &str, up: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    if up {
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    }
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(1400),
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::OperState(if up { State::Up } else { State::Down }),
    ];
    message
}

fn new_link(index: u32, name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(link_message(index, name, true))
}

fn del_link(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link_message(index, "any", false))
}

fn address_message(index: u32, net: &str) -> AddressMessage {
    let net: IpNet = net.parse().unwrap();
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.attributes = vec![AddressAttribute::Address(net.addr())];
    if net.addr().is_ipv4() {
        message.attributes.push(AddressAttribute::Local(net.addr()));
    }
    message
}

fn new_address(index: u32, net: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewAddress(address_message(index, net))
}

fn neighbour_message(ifindex: u32, ip: &str, state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(ip.parse::<IpAddr>().unwrap().into()),
        NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
    ];
    message
}

fn new_neighbour(ifindex: u32, ip: &str, state: NeighbourState) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewNeighbour(neighbour_message(ifindex, ip, state))
}

fn route_message(net: &str, ifindex: u32, gateway: &str, metric: u32) -> RouteMessage {
    let net: IpNet = net.parse().unwrap();
    let gateway: IpAddr = gateway.parse().unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = net.prefix_len();
    message.header.table = 254;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(net.addr().into()),
        RouteAttribute::Oif(ifindex),
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Priority(metric),
    ];
    message
}

fn new_route(net: &str, ifindex: u32, gateway: &str, metric: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewRoute(route_message(net, ifindex, gateway, metric))
}

fn del_route(net: &str, ifindex: u32, gateway: &str, metric: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelRoute(route_message(net, ifindex, gateway, metric))
}

fn state_after(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> HostState {
    let mut state = HostState::default();
    for message in messages {
        state.apply(&NetlinkMessage::from(message), &mut Changes::default());
    }
    state
}

fn apply(state: &mut HostState, message: RouteNetlinkMessage) -> Changes {
    let mut changes = Changes::default();
    state.apply(&NetlinkMessage::from(message), &mut changes);
    changes
}

fn replace(state: &mut HostState, message: RouteNetlinkMessage) -> Changes {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REPLACE;
    let mut changes = Changes::default();
    state.apply(&message, &mut changes);
    changes
}

/// Interface 5 with objects of every type, and an unrelated interface 6.
fn busy_host() -> HostState {
    state_after([
        new_link(5, "tun-sh"),
        new_link(6, "vpc0"),
        new_address(5, "10.5.0.1/24"),
        new_address(6, "10.6.0.1/24"),
        new_neighbour(5, "10.5.0.2", NeighbourState::Reachable),
        new_neighbour(6, "10.6.0.2", NeighbourState::Reachable),
        new_route("10.50.0.0/16", 5, "10.5.0.2", 0),
        new_route("10.60.0.0/16", 6, "10.6.0.2", 0),
    ])
}

#[test]
fn link_message_is_parsed_in_full() {
    let mut message = link_message(9, "eth0.7", true);
    message.attributes.extend([
        LinkAttribute::Link(2),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7), InfoVlan::Protocol(VlanProtocol::Ieee8021Q)])),
        ]),
    ]);
    let expected = Link {
        index: 9,
        name: "eth0.7".to_owned(),
        kind: Some("vlan".to_owned()),
        ethernet: true,
        mac: Some(MAC),
        mtu: 1400,
        admin_up: true,
        running: true,
        vlan: Some((2, 7)),
        if_id: None,
        port_kind: None,
    };
    assert_eq!(link(&message), Some(expected.clone()));
    message.attributes.push(LinkAttribute::LinkNetNsId(0));
    assert_eq!(link(&message), Some(Link { vlan: None, ..expected }), "the parent is elsewhere");
}

#[test]
fn link_runs_with_lower_up_and_state_up_or_unknown() {
    let cases = [
        (true, State::Up, true),
        (true, State::Unknown, true),
        (true, State::Dormant, false),
        (true, State::LowerLayerDown, false),
        (false, State::Up, false),
        (false, State::Unknown, false),
    ];
    for (lower_up, oper_state, runs) in cases {
        let mut message = link_message(1, "a", true);
        message.header.flags.set(LinkFlags::LowerUp, lower_up);
        message.attributes[3] = LinkAttribute::OperState(oper_state);
        assert_eq!(link(&message).unwrap().running, runs, "{lower_up} {oper_state}");
    }
}

#[test]
fn raw_ip_link_has_no_ethernet_header_and_no_mac() {
    let mut message = link_message(1, "ipsec0", true);
    message.header.link_layer_type = LinkLayerType::None;
    message.attributes[2] = LinkAttribute::Address(vec![10, 0, 0, 1]);
    let link = link(&message).unwrap();
    assert!(!link.ethernet);
    assert_eq!(link.mac, None);
}

#[test]
fn duplicate_event_changes_nothing() {
    let mut state = busy_host();
    for message in [
        new_link(5, "tun-sh"),
        new_address(5, "10.5.0.1/24"),
        new_neighbour(5, "10.5.0.2", NeighbourState::Reachable),
        new_neighbour(5, "10.5.0.2", NeighbourState::Delay),
        new_route("10.50.0.0/16", 5, "10.5.0.2", 0),
    ] {
        let before = state.clone();
        assert_eq!(apply(&mut state, message.clone()), Changes::default(), "{message:?}");
        assert_eq!(state, before);
    }
}

#[test]
fn link_rename_changes_link_only() {
    let mut state = busy_host();
    let before = state.clone();
    let changes = apply(&mut state, new_link(5, "renamed"));
    assert_eq!(changes, Changes { links: true, ..Changes::default() });
    assert_eq!(state.links[&5].name, "renamed");
    assert_eq!(state.addresses, before.addresses);
    assert_eq!(state.neighbours, before.neighbours);
    assert_eq!(state.gateways, before.gateways);
}

#[test]
fn links_that_swap_names_are_found_by_new_names() {
    let mut state = state_after([new_link(5, "tun0"), new_link(6, "tun1")]);
    let index = |state: &HostState, name: &str| state.link(name).map(|link| link.index);
    for (ifindex, name) in [(5, "spare"), (6, "tun0"), (5, "tun1")] {
        apply(&mut state, new_link(ifindex, name));
    }
    assert_eq!(["tun0", "tun1", "spare"].map(|name| index(&state, name)), [Some(6), Some(5), None]);
    apply(&mut state, del_link(6));
    assert_eq!(["tun0", "tun1"].map(|name| index(&state, name)), [None, Some(5)]);
    // The reports of a rename may overlap with those of a new link of the same name.
    apply(&mut state, new_link(7, "tun1"));
    apply(&mut state, del_link(5));
    assert_eq!(index(&state, "tun1"), Some(7));
}

#[test]
fn link_deletion_removes_its_addresses_and_neighbours() {
    let mut state = busy_host();
    let changes = apply(&mut state, del_link(5));
    let all = Changes {
        links: true,
        addresses: true,
        neighbours: true,
        gateways: true,
        gone: BTreeSet::from([5]),
        unannounced: true,
        ..Changes::default()
    };
    assert_eq!(changes, all);
    let bystander = state_after([
        new_link(6, "vpc0"),
        new_address(6, "10.6.0.1/24"),
        new_neighbour(6, "10.6.0.2", NeighbourState::Reachable),
        new_route("10.60.0.0/16", 6, "10.6.0.2", 0),
    ]);
    assert_eq!(state, bystander);
}

#[test]
fn reused_link_index_starts_empty() {
    let mut state = busy_host();
    apply(&mut state, del_link(5));
    apply(&mut state, new_link(5, "other"));
    assert_eq!(state.links[&5].name, "other");
    assert!(!state.addresses.contains_key(&5));
    assert!(state.neighbours.keys().all(|&(ifindex, _)| ifindex != 5));
    assert!(state.gateways.keys().all(|&(ifindex, _)| ifindex != 5));
}

#[test]
fn bridge_port_removal_is_no_link_deletion() {
    let mut state = busy_host();
    let before = state.clone();
    let mut message = link_message(5, "tun-sh", true);
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes.truncate(1);
    for event in [RouteNetlinkMessage::DelLink(message.clone()), RouteNetlinkMessage::NewLink(message)] {
        assert_eq!(apply(&mut state, event), Changes::default());
    }
    assert_eq!(state, before);
}

#[test]
fn partial_link_message_keeps_other_attributes() {
    let mut state = busy_host();
    let before = state.clone();
    let mut wireless = link_message(5, "tun-sh", true);
    wireless.attributes.truncate(1);
    assert_eq!(apply(&mut state, RouteNetlinkMessage::NewLink(wireless)), Changes::default());
    assert_eq!(state, before);
}

#[test]
fn link_down_removes_its_gateways() {
    let mut state = busy_host();
    let down = RouteNetlinkMessage::NewLink(link_message(5, "tun-sh", false));
    let changes = apply(&mut state, down);
    assert!(changes.carrier && !changes.links && changes.gateways && changes.unannounced);
    assert_eq!(state.gateways.len(), 1);
    assert!(state.addresses.contains_key(&5), "addresses stay");
}

#[test]
fn address_deletion_marks_unannounced_route_changes() {
    let mut state = busy_host();
    let gone = RouteNetlinkMessage::DelAddress(address_message(5, "10.5.0.1/24"));
    let changes = apply(&mut state, gone);
    let expected = Changes { addresses: true, unannounced: true, ..Changes::default() };
    assert_eq!(changes, expected);
    assert!(!state.addresses.contains_key(&5));
}

#[test]
fn point_to_point_link_uses_local_address() {
    let mut message = address_message(5, "10.5.0.2/24");
    message.attributes[1] = AddressAttribute::Local(Ipv4Addr::new(10, 9, 0, 1).into());
    assert_eq!(address(&message), Some("10.9.0.1/32".parse().unwrap()));
    assert_eq!(address(&address_message(5, "fe80::1/64")), Some("fe80::1/64".parse().unwrap()));
}

#[test]
fn neighbour_usability_follows_its_state() {
    let cases = [
        (NeighbourState::Reachable, true),
        (NeighbourState::Stale, true),
        (NeighbourState::Delay, true),
        (NeighbourState::Probe, true),
        (NeighbourState::Permanent, true),
        (NeighbourState::Noarp, true),
        (NeighbourState::Incomplete, false),
        (NeighbourState::Failed, false),
        (NeighbourState::None, false),
    ];
    for (neighbour_state, usable) in cases {
        let state = state_after([new_neighbour(5, "10.5.0.9", neighbour_state)]);
        assert_eq!(!state.neighbours.is_empty(), usable, "{neighbour_state}");
    }
}

#[test]
fn failed_or_deleted_neighbour_is_removed() {
    let key = (5, "10.5.0.2".parse().unwrap());
    let gone = [
        new_neighbour(5, "10.5.0.2", NeighbourState::Failed),
        RouteNetlinkMessage::DelNeighbour(neighbour_message(5, "10.5.0.2", NeighbourState::Reachable)),
    ];
    for message in gone {
        let mut state = busy_host();
        assert!(state.neighbours.contains_key(&key));
        let changes = apply(&mut state, message.clone());
        assert_eq!(changes, Changes { neighbours: true, ..Changes::default() });
        assert!(!state.neighbours.contains_key(&key));
        assert_eq!(apply(&mut state, message), Changes::default(), "again");
    }
}

#[test]
fn moved_neighbour_gets_new_mac() {
    let mut state = busy_host();
    let mut message = neighbour_message(5, "10.5.0.2", NeighbourState::Reachable);
    message.attributes[1] = NeighbourAttribute::LinkLayerAddress(vec![9; 6]);
    let changes = apply(&mut state, RouteNetlinkMessage::NewNeighbour(message));
    assert!(changes.neighbours);
    assert_eq!(state.neighbours[&(5, "10.5.0.2".parse().unwrap())], [9; 6]);
}

#[test]
fn non_ethernet_multicast_and_proxy_entries_are_ignored() {
    let mut infiniband = neighbour_message(5, "10.5.0.9", NeighbourState::Reachable);
    infiniband.attributes[1] = NeighbourAttribute::LinkLayerAddress(vec![1; 20]);
    let mut proxy = neighbour_message(5, "10.5.0.9", NeighbourState::Permanent);
    proxy.header.flags = NeighbourFlags::Proxy;
    let multicast = neighbour_message(5, "ff02::16", NeighbourState::Noarp);
    for message in [infiniband, proxy, multicast] {
        let mut state = HostState::default();
        let event = RouteNetlinkMessage::NewNeighbour(message);
        assert_eq!(apply(&mut state, event), Changes::default());
        assert!(state.neighbours.is_empty());
    }
}

#[test]
fn stale_neighbour_is_reported_unless_probed_in_burst() {
    let key = (5, "10.5.0.2".parse().unwrap());
    let mut state = busy_host();
    let mut changes = Changes::default();
    let went_stale = NetlinkMessage::from(new_neighbour(5, "10.5.0.2", NeighbourState::Stale));
    state.apply(&went_stale, &mut changes);
    state.apply(&went_stale, &mut changes);
    assert_eq!(changes, Changes { stale: BTreeSet::from([key]), ..Changes::default() });
    let probe = NetlinkMessage::from(new_neighbour(5, "10.5.0.2", NeighbourState::Probe));
    state.apply(&probe, &mut changes);
    assert!(changes.is_empty());
}

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    table::{KernelHop, MOST_OVER_QUOTA, NextHopObject, RouteTable, RouteVia, TableChanges},
    wire::{KernelTableRoute, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE, RouteEventKind, TableEvent},
};
use crate::kernel::netlink::{
    learn::{
        wire::RouteEventKind::{Added, Appended, Deleted, Replaced},
        wire::table_event,
    },
    socket::raw_messages,
};

const REPLACE: u16 = 0x100;
const APPEND: u16 = 0x800;
const BIRD: u8 = 12;

fn net(text: &str) -> IpNet {
    text.parse().expect(text)
}

fn hop(ifindex: u32, via: &str, weight: u16) -> KernelHop {
    KernelHop { ifindex, via: via.parse().ok(), weight }
}

/// A netlink message: header, `payload`, attributes.
fn message(kind: u16, flags: u16, payload: &[u8], attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let body = [payload.to_vec(), encoded(attributes)].concat();
    let length = u32::try_from(16 + body.len()).unwrap();
    let header = [length.to_ne_bytes().to_vec(), kind.to_ne_bytes().to_vec(), flags.to_ne_bytes().to_vec(), vec![0; 8]];
    [header.concat(), body].concat()
}

fn encoded(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes {
        bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// `struct rtmsg` of a route in a table above 255.
fn rtmsg(family: u8, length: u8, kind: u8, flags: u32) -> Vec<u8> {
    [vec![family, length, 0, 0, 252, BIRD, 0, kind], flags.to_ne_bytes().to_vec()].concat()
}

fn number(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

fn address(text: &str) -> Vec<u8> {
    match text.parse().expect(text) {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A part of `RTA_MULTIPATH`.
fn rtnexthop(flags: u8, hops: u8, ifindex: u32, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let attributes = encoded(attributes);
    let length = u16::try_from(8 + attributes.len()).unwrap().to_ne_bytes();
    [length.to_vec(), vec![flags, hops], number(ifindex), attributes].concat()
}

fn parsed(bytes: &[u8], table: u32) -> Option<TableEvent> {
    raw_messages(bytes).next().and_then(|message| table_event(message, table))
}

fn parsed_route(bytes: &[u8]) -> (KernelTableRoute, RouteEventKind) {
    match parsed(bytes, 1190) {
        Some(TableEvent::Route { route, change }) => (route, change),
        other => panic!("{other:?}"),
    }
}

#[test]
fn routes_are_read_as_daemons_send_them() {
    let table = (15, number(1190));
    // BIRD: gateway and interface.
    let plain = [table.clone(), (1, address("10.1.0.0")), (6, number(32)), (5, address("169.254.1.2")), (4, number(7))];
    let bytes = message(RTM_NEWROUTE, REPLACE, &rtmsg(2, 16, 1, 0), &plain);
    let (route, change) = parsed_route(&bytes);
    let expected = KernelTableRoute {
        prefix: net("10.1.0.0/16"),
        metric: 32,
        protocol: BIRD,
        via: RouteVia::Hops([hop(7, "169.254.1.2", 1)].into()),
    };
    assert_eq!((route, change), (expected, Replaced));
    assert_eq!(parsed(&bytes, 254), None, "another table");
    // IPv4 over an IPv6 gateway: a family, and an address of it.
    let via = [10_u16.to_ne_bytes().to_vec(), address("fe80::1")].concat();
    let (route, _) =
        parsed_route(&message(RTM_NEWROUTE, 0, &rtmsg(2, 0, 1, 0), &[table.clone(), (18, via), (4, number(7))]));
    assert_eq!((route.prefix, route.via), (net("0.0.0.0/0"), RouteVia::Hops([hop(7, "fe80::1", 1)].into())));
    // Several next hops, one of which the kernel does not use.
    let hops = [
        rtnexthop(0, 2, 7, &[(5, address("fd00::2"))]),
        rtnexthop(1, 0, 8, &[(5, address("fd00::3"))]),
        rtnexthop(16, 0, 9, &[]),
    ];
    let several = [table.clone(), (1, address("fd01::")), (9, hops.concat())];
    let (route, change) = parsed_route(&message(RTM_NEWROUTE, APPEND, &rtmsg(10, 32, 1, 0), &several));
    assert_eq!(route.via, RouteVia::Hops([hop(7, "fd00::2", 3), hop(9, "", 1)].into()));
    assert_eq!((route.prefix, change), (net("fd01::/32"), Appended));
    // FRR: an object's number beside its next hop.
    let with_object = [table.clone(), (1, address("10.2.0.0")), (30, number(5)), (4, number(7))];
    let (route, change) = parsed_route(&message(RTM_DELROUTE, 0, &rtmsg(2, 16, 1, 0), &with_object));
    assert_eq!((route.via, change), (RouteVia::Object(5), Deleted));
    // Unreachable, and encapsulated: no next hop of ours.
    let unreachable = message(RTM_NEWROUTE, 0, &rtmsg(2, 16, 7, 0), &[table.clone(), (4, number(1))]);
    let encapsulated = message(RTM_NEWROUTE, 0, &rtmsg(2, 16, 1, 0), &[table.clone(), (4, number(7)), (22, number(0))]);
    for bytes in [unreachable, encapsulated] {
        assert_eq!(parsed_route(&bytes).0.via, RouteVia::Hops([].into()));
    }
    // Those that match some packets to the destination only: by source, by TOS, or a cached one.
    let mut by_source = rtmsg(2, 16, 1, 0);
    by_source[2] = 8;
    let mut by_tos = rtmsg(2, 16, 1, 0);
    by_tos[3] = 4;
    for header in [by_source, by_tos, rtmsg(2, 16, 1, 0x200)] {
        assert_eq!(parsed(&message(RTM_NEWROUTE, 0, &header, &[table.clone(), (4, number(7))]), 1190), None);
    }
}

#[test]
fn truncated_messages_are_no_events() {
    let attributes =
        [(15, number(1190)), (1, address("10.1.0.0")), (9, rtnexthop(0, 0, 7, &[(5, address("169.254.1.2"))]))];
    let whole = message(RTM_NEWROUTE, 0, &rtmsg(2, 16, 1, 0), &attributes);
    for length in 0..whole.len() {
        // A shorter datagram, and a message that admits to being shorter.
        assert_eq!(parsed(&whole[..length], 1190), None, "{length}");
        let mut shorter = whole[..length].to_vec();
        if let Some(header) = shorter.get_mut(..4) {
            header.copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
        }
        drop(parsed(&shorter, 1190));
    }
}

#[test]
fn next_hop_objects_are_read() {
    let header = |family: u8, flags: u32| [vec![family, 0, BIRD, 0], number(flags)].concat();
    let single = [(1, number(5)), (5, number(7)), (6, address("169.254.1.2"))];
    let object = |bytes: &[u8]| match parsed(bytes, 254) {
        Some(TableEvent::Object(id, object)) => (id, object),
        other => panic!("{other:?}"),
    };
    let expected = NextHopObject::Single(Some(hop(7, "169.254.1.2", 1)));
    assert_eq!(object(&message(RTM_NEWNEXTHOP, 0, &header(2, 0), &single)), (5, Some(expected)));
    let dead = object(&message(RTM_NEWNEXTHOP, 0, &header(2, 1), &single));
    assert_eq!(dead, (5, Some(NextHopObject::Single(None))));
    let members = [number(5), vec![2, 0, 0, 0], number(6), vec![0, 0, 0, 0]].concat();
    let group = object(&message(RTM_NEWNEXTHOP, 0, &header(0, 0), &[(1, number(9)), (2, members)]));
    assert_eq!(group, (9, Some(NextHopObject::Group(vec![(5, 3), (6, 1)]))));
    let blackhole = object(&message(RTM_NEWNEXTHOP, 0, &header(2, 0), &[(1, number(4)), (4, Vec::new())]));
    assert_eq!(blackhole, (4, Some(NextHopObject::Single(None))));
    assert_eq!(object(&message(RTM_DELNEXTHOP, 0, &header(2, 0), &single)), (5, None));
}

/// A route of BIRD by one next hop on an interface with this index.
fn route(prefix: &str, metric: u32, ifindex: u32) -> KernelTableRoute {
    let via = RouteVia::Hops([hop(ifindex, "", 1)].into());
    KernelTableRoute { prefix: net(prefix), metric, protocol: BIRD, via }
}

fn event(route: KernelTableRoute, change: RouteEventKind) -> TableEvent {
    TableEvent::Route { route, change }
}

/// The interfaces of the changed prefixes' next hops.
fn changes(table: &mut RouteTable) -> Vec<(String, Vec<u32>)> {
    let interfaces =
        |hops: Option<super::KernelHops>| hops.iter().flat_map(|hops| hops.iter()).map(|hop| hop.ifindex).collect();
    let changed: TableChanges = table.take_changed(usize::MAX);
    changed.into_iter().map(|(prefix, hops)| (prefix.to_string(), interfaces(hops))).collect()
}

fn changed(prefix: &str, interfaces: &[u32]) -> Vec<(String, Vec<u32>)> {
    vec![(prefix.to_owned(), interfaces.to_vec())]
}

#[test]
fn lowest_metric_of_followed_protocols_is_in_force() {
    const PREFIX: &str = "10.1.0.0/16";
    let mut table = RouteTable::new([BIRD], usize::MAX);
    table.apply(event(route(PREFIX, 32, 7), Added));
    table.apply(event(route(PREFIX, 100, 8), Added));
    assert_eq!(changes(&mut table), changed(PREFIX, &[7]));
    // A route of another protocol matters only where it takes the place of one.
    table.apply(event(KernelTableRoute { protocol: 4, ..route(PREFIX, 10, 9) }, Added));
    table.apply(event(KernelTableRoute { protocol: 4, ..route(PREFIX, 10, 9) }, Deleted));
    assert_eq!(changes(&mut table), []);
    table.apply(event(KernelTableRoute { protocol: 4, ..route(PREFIX, 32, 9) }, Replaced));
    assert_eq!(changes(&mut table), changed(PREFIX, &[8]));
    table.apply(event(route(PREFIX, 100, 6), Replaced));
    assert_eq!(changes(&mut table), changed(PREFIX, &[6]));
    table.apply(event(route(PREFIX, 100, 6), Deleted));
    assert_eq!(changes(&mut table), changed(PREFIX, &[]));
    table.apply(event(route(PREFIX, 100, 6), Deleted));
    assert_eq!((changes(&mut table), table.take_uncertain()), (vec![], false));
}

#[test]
fn routes_by_one_next_hop_beyond_the_limit_are_ignored_and_read_again_when_there_is_room() {
    const MOST: usize = MOST_OVER_QUOTA + 2;
    let prefix = |number: usize| format!("10.{}.{}.0/24", number / 256, number % 256);
    let mut table = RouteTable::new([BIRD], MOST);
    for number in 0..MOST + 5 {
        table.apply(event(route(&prefix(number), 32, 7), Added));
    }
    assert_eq!((changes(&mut table).len(), table.ignored(), table.take_uncertain()), (MOST, 5, false));
    // Another next hop has room of its own.
    table.apply(event(route("10.99.0.0/24", 32, 8), Added));
    assert_eq!(changes(&mut table), changed("10.99.0.0/24", &[8]));
    for number in 0..MOST_OVER_QUOTA {
        assert!(!table.take_uncertain(), "{number}");
        table.apply(event(route(&prefix(number), 32, 7), Deleted));
    }
    assert!(table.take_uncertain());
    // The deletion of an ignored one.
    table.apply(event(route(&prefix(MOST), 32, 7), Deleted));
    assert_eq!(changes(&mut table).len(), MOST_OVER_QUOTA);
}

#[test]
fn ambiguous_events_require_a_new_dump() {
    const PREFIX: &str = "fd01::/32";
    let start = || {
        let mut table = RouteTable::new([BIRD], usize::MAX);
        table.apply(event(route(PREFIX, 32, 7), Added));
        assert!(!table.take_uncertain());
        table
    };
    let mut appended = start();
    appended.apply(event(route(PREFIX, 32, 8), Appended));
    // IPv6 announces the deletion of one of several next hops as that of a route.
    let mut deleted = start();
    deleted.apply(event(route(PREFIX, 32, 8), Deleted));
    let mut unknown_object = start();
    let by_object = KernelTableRoute { via: RouteVia::Object(5), ..route(PREFIX, 32, 0) };
    unknown_object.apply(event(by_object, Replaced));
    let mut object = start();
    object.apply(TableEvent::Object(5, None));
    let another_behind = |change| {
        let mut table = start();
        table.add_dumped(event(route(PREFIX, 32, 8), Added));
        table.apply(event(route(PREFIX, 32, 7), change));
        table
    };
    // The protocol is that of the next hop that goes, not that of the route.
    let mut of_another = start();
    of_another.apply(event(KernelTableRoute { protocol: 4, ..route(PREFIX, 32, 7) }, Deleted));
    let behind = [another_behind(Deleted), another_behind(Replaced)];
    for mut table in [appended, deleted, unknown_object, object, of_another].into_iter().chain(behind) {
        assert!(table.take_uncertain(), "{table:?}");
        assert!(!table.take_uncertain(), "it is cleared");
    }
}

#[test]
fn changed_object_changes_its_routes_and_those_of_its_groups() {
    let by = |prefix: &str, id| KernelTableRoute { via: RouteVia::Object(id), ..route(prefix, 20, 0) };
    let single = |ifindex| Some(NextHopObject::Single(Some(hop(ifindex, "", 1))));
    let mut table = RouteTable::new([BIRD], usize::MAX);
    table.apply(TableEvent::Object(5, single(7)));
    table.apply(TableEvent::Object(6, single(8)));
    table.apply(TableEvent::Object(9, Some(NextHopObject::Group(vec![(5, 1), (6, 1)]))));
    table.apply(event(by("10.1.0.0/16", 5), Added));
    table.apply(event(by("10.2.0.0/16", 9), Added));
    table.apply(event(by("10.3.0.0/16", 6), Added));
    let all = [("10.1.0.0/16", vec![7]), ("10.2.0.0/16", vec![7, 8]), ("10.3.0.0/16", vec![8])];
    assert_eq!(changes(&mut table), all.map(|(prefix, hops)| (prefix.to_owned(), hops)).to_vec());
    table.apply(TableEvent::Object(5, single(4)));
    let some = [("10.1.0.0/16", vec![4]), ("10.2.0.0/16", vec![4, 8])];
    assert_eq!(changes(&mut table), some.map(|(prefix, hops)| (prefix.to_owned(), hops)).to_vec());
    table.apply(TableEvent::Object(5, None));
    let some = [("10.1.0.0/16", vec![]), ("10.2.0.0/16", vec![8])];
    assert_eq!(changes(&mut table), some.map(|(prefix, hops)| (prefix.to_owned(), hops)).to_vec());
    // A group that contains itself, and one that contains a group, end.
    table.apply(TableEvent::Object(9, Some(NextHopObject::Group(vec![(9, 1), (6, 1)]))));
    assert_eq!(changes(&mut table), changed("10.2.0.0/16", &[8]));
    // It is no longer used: its changes concern nothing.
    table.apply(event(route("10.2.0.0/16", 20, 3), Replaced));
    assert_eq!(changes(&mut table), changed("10.2.0.0/16", &[3]));
    table.apply(TableEvent::Object(9, single(8)));
    assert_eq!(changes(&mut table), []);
}

#[test]
fn dump_reports_differences_alone() {
    let mut table = RouteTable::new([BIRD], usize::MAX);
    let mut fresh = table.clone();
    for (prefix, ifindex) in [("10.1.0.0/16", 7), ("10.2.0.0/16", 7), ("10.3.0.0/16", 7)] {
        table.apply(event(route(prefix, 32, ifindex), Added));
    }
    table.take_changed(usize::MAX);
    for (prefix, ifindex) in [("10.2.0.0/16", 8), ("10.3.0.0/16", 7), ("10.4.0.0/16", 7)] {
        fresh.add_dumped(event(route(prefix, 32, ifindex), Added));
    }
    fresh.add_dumped(event(KernelTableRoute { protocol: 4, ..route("10.5.0.0/16", 32, 7) }, Added));
    table.replace(fresh);
    let expected = [("10.1.0.0/16", vec![]), ("10.2.0.0/16", vec![8]), ("10.4.0.0/16", vec![7])];
    assert_eq!(changes(&mut table), expected.map(|(prefix, hops)| (prefix.to_owned(), hops)).to_vec());
}

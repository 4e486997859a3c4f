//! Concurrent requests, the order of operations, and foreign changes to our objects.

use std::{collections::BTreeSet, fs, sync::Arc};

use hub_userspace::kernel::netlink::{KernelNeighbour, METRIC, ReconcileReport, Reconciler, RouteAction, RouteKey};
use ipnet::IpNet;
use rustix::{
    net::sockopt::set_socket_recv_buffer_size,
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use tokio::task::yield_now;

use crate::{
    events::{Event, Events},
    lab::{Lab, Plan, Planned, TABLE, addr, count, hop, in_namespace, ip, log_here, net, only, route, routes, unicast},
    neighbours::near_and_far,
};

/// The n-th of many destinations.
pub fn destination(n: u32) -> IpNet {
    let first = u32::from(std::net::Ipv4Addr::new(11, 0, 0, 0));
    IpNet::new(std::net::Ipv4Addr::from(first + n * 256).into(), 24).unwrap()
}

type Changes = Vec<(RouteKey, Option<Arc<RouteAction>>)>;

/// A route to each of the destinations, in table 1180.
fn changes(of: impl IntoIterator<Item = u32>, action: RouteAction) -> Changes {
    let action = Some(Arc::new(action));
    of.into_iter().map(|n| (key(n), action.clone())).collect()
}

/// Removes the route to each of them.
fn removals(of: impl IntoIterator<Item = u32>) -> Changes {
    of.into_iter().map(|n| (key(n), None)).collect()
}

fn key(n: u32) -> RouteKey {
    RouteKey { table: TABLE, destination: destination(n), metric: METRIC }
}

fn through(ifindex: u32) -> RouteAction {
    unicast(&[hop(ifindex, None)])
}

fn done(added: usize, replaced: usize, deleted: usize) -> ReconcileReport {
    ReconcileReport { added, replaced, deleted, failures: Vec::new() }
}

async fn two_links(lab: &Lab) -> (u32, u32) {
    let (a, b) = (lab.veth("a0", "a1").await, lab.veth("b0", "b1").await);
    lab.address(a, "10.1.0.1/24").await;
    (a, b)
}

/// Enough for several steps.
const MANY: u32 = 20_000;

/// Requests many routes through an interface, and returns when some of them are written.
async fn begin_many(reconciler: &Reconciler, events: &mut Events, ifindex: u32) {
    reconciler.routes(changes(0..MANY, through(ifindex)));
    drop(reconciler.settled());
    while !matches!(events.next().await, Event::Route(..)) {}
}

fn position(events: &[Event], what: impl FnMut(&Event) -> bool) -> usize {
    events.iter().position(what).unwrap_or_else(|| panic!("not among {} events", events.len()))
}

fn last(events: &[Event], what: impl FnMut(&Event) -> bool) -> usize {
    events.iter().rposition(what).unwrap_or_else(|| panic!("not among {} events", events.len()))
}

#[test]
fn neighbours_are_added_before_and_deleted_after_routes() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let mut events = Events::listen();
        let reconciler = Reconciler::start().unwrap();
        let address = addr("10.1.0.9");
        // In the other order.
        reconciler.routes(changes(0..2000, through(a)));
        reconciler.neighbours([KernelNeighbour::Permanent { ifindex: a, address, mac: [2; 6] }].into());
        assert_eq!(reconciler.settled().await.unwrap(), done(2001, 0, 0));
        let seen = events.until_now().await;
        let first = position(&seen, |of| matches!(of, Event::Route(..)));
        assert!(position(&seen, |of| *of == Event::Neighbour(address)) < first);

        // Added before deleted, replaced without a gap.
        reconciler.routes([removals(0..1000), changes(1000..1500, through(b))].concat());
        reconciler.routes(changes(3000..3100, through(a)));
        reconciler.neighbours(BTreeSet::new());
        assert_eq!(reconciler.settled().await.unwrap(), done(100, 500, 1001));
        let seen = events.until_now().await;
        let order = [
            last(&seen, |of| matches!(of, Event::Route(..))),
            position(&seen, |of| matches!(of, Event::RouteGone(_))),
            last(&seen, |of| matches!(of, Event::RouteGone(_))),
            last(&seen, |of| matches!(of, Event::Neighbour(_) | Event::NeighbourGone(_))),
        ];
        assert!(order.is_sorted(), "{order:?}");
        let gone = seen.iter().filter(|of| matches!(of, Event::RouteGone(_))).count();
        assert_eq!(gone, 1000, "a replaced one is never gone");

        assert_eq!(reconciler.clear().await.unwrap(), done(0, 0, 1100));
        assert_eq!(count(&ip("route show table all proto 118")), 0);
    });
}

#[test]
fn newer_change_replaces_pending_one() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let mut events = Events::listen();
        let reconciler = Reconciler::start().unwrap();
        begin_many(&reconciler, &mut events, a).await;
        let (other, none) = (MANY - 1, MANY - 2);
        reconciler.routes(changes([other], through(b)));
        reconciler.routes(removals([none]));
        let report = reconciler.settled().await.unwrap();
        assert_eq!(report.failures, []);
        let seen = events.until_now().await;
        let of = |n| {
            let destination = destination(n);
            seen.iter().filter(move |event| match event {
                Event::Route(other, _) | Event::RouteGone(other) => *other == destination,
                _ => false,
            })
        };
        assert_eq!(of(other).collect::<Vec<_>>(), [&Event::Route(destination(other), Some(b))]);
        assert_eq!(of(none).count(), 0);
        assert_eq!(count(&ip("route show table 1180")), MANY as usize - 1);
    });
}

#[test]
fn neighbour_probe_is_sent_during_route_writes() {
    in_namespace(async |lab| {
        let (near, _peer) = near_and_far(&lab).await;
        let mut events = Events::listen();
        let reconciler = Reconciler::start().unwrap();
        begin_many(&reconciler, &mut events, near).await;
        let far = addr("10.1.0.2");
        reconciler.probe(near, far);
        reconciler.settled().await.unwrap();
        let seen = events.until_now().await;
        let resolved = position(&seen, |event| *event == Event::Neighbour(far));
        let rest = seen[resolved..].iter().filter(|event| matches!(event, Event::Route(..))).count();
        assert!(rest > MANY as usize / 2, "only {rest} routes were written after that");
    });
}

#[test]
fn audit_repairs_foreign_changes() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let address = addr("10.1.0.9");
        let plan = Plan {
            neighbours: [KernelNeighbour::Permanent { ifindex: a, address, mac: [2; 6] }].into(),
            ..routes((0..5).map(|n| (key(n), through(a))))
        };
        let reconciler = Planned::start();
        reconciler.replace(&plan);
        assert_eq!(reconciler.settled().await.unwrap(), done(6, 0, 0));
        for command in [
            "route del 11.0.0.0/24 table 1180",
            "route replace 11.0.1.0/24 dev b0 proto 118 metric 1180 table 1180",
            "route add 11.0.9.0/24 dev b0 proto 118 metric 1180 table 1180",
            "neigh del 10.1.0.9 dev a0",
        ] {
            ip(command);
        }
        assert!(reconciler.settled().await.unwrap().is_empty(), "nobody has looked");
        reconciler.audit();
        assert_eq!(reconciler.settled().await.unwrap(), done(2, 1, 1));
        assert_eq!(only(&ip("route show table 1180"), "dst", "11.0.1.0/24")["dev"], "a0");
        assert_eq!(count(&ip("route show table 1180")), 5);
        only(&ip("neigh show dev a0"), "dst", "10.1.0.9");
    });
}

#[test]
fn reconciler_whose_objects_another_process_changes_is_disturbed() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let address = addr("10.1.0.9");
        let plan = Plan {
            neighbours: [KernelNeighbour::Permanent { ifindex: a, address, mac: [2; 6] }].into(),
            ..routes((0..5).map(|n| (key(n), through(a))))
        };
        let reconciler = Planned::start();
        reconciler.replace(&plan);
        assert_eq!(reconciler.settled().await.unwrap(), done(6, 0, 0));
        for (command, report) in [
            ("route del 11.0.0.0/24 table 1180", done(1, 0, 0)),
            ("route replace 11.0.1.0/24 dev b0 proto 118 metric 1180 table 1180", done(0, 1, 0)),
            ("neigh del 10.1.0.9 dev a0", done(1, 0, 0)),
            ("neigh replace 10.1.0.9 lladdr 02:00:00:00:00:09 nud reachable dev a0", done(1, 0, 0)),
        ] {
            ip(command);
            reconciler.disturbed().await;
            reconciler.audit();
            assert_eq!(reconciler.settled().await.unwrap(), report, "{command}");
        }
        // Another process's route with our metric in the place of ours: the event is about the new one only.
        ip("route replace 11.0.2.0/24 dev b0 proto static metric 1180 table 1180");
        reconciler.disturbed().await;
        reconciler.audit();
        let [failure] = &reconciler.settled().await.unwrap().failures[..] else { panic!("no failure") };
        assert_eq!(failure.destination, Some(destination(2)));
    });
}

#[test]
fn refused_route_is_reported_and_retried_at_audit() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let reconciler = Reconciler::start().unwrap();
        let (key, refused) = route(TABLE, "10.10.0.0/16", unicast(&[hop(b, Some("10.2.0.2"))]));
        reconciler.routes(changes(0..5, through(a)));
        reconciler.routes(vec![(key, Some(Arc::new(refused)))]);
        let report = reconciler.settled().await.unwrap();
        assert_eq!(report.added, 5);
        let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
        assert_eq!(failure.object, "route 10.10.0.0/16 in table 1180");

        lab.address(b, "10.2.0.1/24").await;
        let report = reconciler.settled().await.unwrap();
        assert_eq!((report.added, report.failures.as_slice()), (0, [failure.clone()].as_slice()));
        reconciler.audit();
        assert_eq!(reconciler.settled().await.unwrap(), done(1, 0, 0));

        // Another request is tried at once, and an abandoned one is no longer reported.
        reconciler.routes(vec![(key, Some(Arc::new(unicast(&[hop(b, Some("10.3.0.2"))]))))]);
        let report = reconciler.settled().await.unwrap();
        assert_eq!((report.replaced, report.failures.len()), (0, 1));
        assert_eq!(
            only(&ip("route show table 1180"), "dst", "10.10.0.0/16")["gateway"],
            "10.2.0.2",
            "the old one stays"
        );
        reconciler.routes(vec![(key, None)]);
        assert_eq!(reconciler.settled().await.unwrap(), done(0, 0, 1));
    });
}

#[test]
fn routes_of_killed_agent_stay_until_desired_state_is_known() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let killed = Reconciler::start().unwrap();
        killed.routes(changes(0..1000, through(a)));
        assert_eq!(killed.settled().await.unwrap(), done(1000, 0, 0));
        drop(killed);

        let mut events = Events::listen();
        let reconciler = Reconciler::start().unwrap();
        reconciler.routes(changes(0..100, through(a)));
        reconciler.audit();
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!(events.until_now().await, [], "not all is known yet");
        reconciler.routes(changes(100..998, through(a)));
        reconciler.routes(changes([998], through(b)));
        assert_eq!(reconciler.settled().await.unwrap(), done(0, 1, 1));
        let expected = [Event::Route(destination(998), Some(b)), Event::RouteGone(destination(999))];
        assert_eq!(events.until_now().await, expected);
    });
}

/// Shrinks the receive buffers of all netlink sockets of this namespace.
fn starve_sockets() {
    let shown = fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let inodes: BTreeSet<&str> = shown.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    for file in fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap) {
        // Other tests open and close files at the same time.
        let target = fs::read_link(file.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        if inode.is_some_and(|inode| inodes.contains(inode)) {
            let number = file.file_name().to_str().unwrap().parse().unwrap();
            let socket = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).unwrap();
            set_socket_recv_buffer_size(&socket, 1).unwrap();
        }
    }
}

#[test]
fn lost_answers_are_requested_again_on_new_socket() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let reconciler = Reconciler::start().unwrap();
        reconciler.routes(changes(0..10, through(a)));
        assert_eq!(reconciler.settled().await.unwrap(), done(10, 0, 0));
        let (log, _guard) = log_here();
        starve_sockets();
        let out_of_reach = unicast(&[hop(a, Some("172.16.0.1"))]);
        reconciler.routes(changes(100..600, out_of_reach));
        reconciler.routes(changes(10..20, through(a)));
        let report = reconciler.settled().await.unwrap();
        assert_eq!((report.failures.len(), report.deleted), (500, 0));
        let log = log.text();
        assert!(log.contains("the netlink socket failed while writing routes: No buffer space available"), "{log}");
        assert_eq!(count(&ip("route show table 1180")), 20);
    });
}

#[test]
fn clear_during_batch_leaves_no_route() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        ip("route add 10.77.0.0/16 dev a0 proto 118 table 77");
        let mut events = Events::listen();
        let reconciler = Reconciler::start().unwrap();
        begin_many(&reconciler, &mut events, a).await;
        let report = reconciler.clear().await.unwrap();
        assert_eq!((report.added + 1, report.failures.as_slice()), (report.deleted, [].as_slice()));
        assert!(report.added < MANY as usize, "not in the middle");
        assert_eq!(count(&ip("route show table all proto 118")), 0);
    });
}

#[test]
fn clear_without_desired_state_removes_leftovers() {
    in_namespace(async |lab| {
        two_links(&lab).await;
        ip("route add 10.77.0.0/16 dev a0 proto 118 table 77");
        assert_eq!(Reconciler::start().unwrap().clear().await.unwrap(), done(0, 0, 1));
    });
}

#[test]
fn plan_replacement_leaves_common_routes_untouched() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let of = |destination, ifindex| route(TABLE, destination, unicast(&[hop(ifindex, None)]));
        let reconciler = Planned::start();
        reconciler.keep(&routes([of("10.10.0.0/24", a), of("10.10.1.0/24", a), of("10.10.2.0/24", a)])).await;
        let mut events = Events::listen();
        reconciler.replace(&routes([of("10.10.0.0/24", a), of("10.10.1.0/24", b), of("10.10.3.0/24", b)]));
        assert_eq!(reconciler.settled().await.unwrap(), done(1, 1, 1));
        let expected = [
            Event::Route(net("10.10.1.0/24"), Some(b)),
            Event::Route(net("10.10.3.0/24"), Some(b)),
            Event::RouteGone(net("10.10.2.0/24")),
        ];
        assert_eq!(events.until_now().await, expected);
    });
}

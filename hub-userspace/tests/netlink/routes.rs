//! Routes: every shape, replaced without a gap, left alone if they are foreign.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use hub_userspace::kernel::netlink::{BACKSTOP_METRIC, KernelNextHop, METRIC, ReconcileReport, RouteAction};
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Plan, Planned, TABLE, count, hop, in_namespace, ip, only, route, routes, unicast},
    reconciler::destination,
};

const MAIN: u32 = 254;

fn done(added: usize, replaced: usize, deleted: usize) -> ReconcileReport {
    ReconcileReport { added, replaced, deleted, failures: Vec::new() }
}

/// Two interfaces with IPv4 and IPv6 addresses.
async fn two_links(lab: &Lab) -> (u32, u32) {
    let (a, b) = (lab.veth("a0", "a1").await, lab.veth("b0", "b1").await);
    lab.address(a, "10.1.0.1/24").await;
    lab.address(b, "10.2.0.1/24").await;
    lab.address(a, "2001:db8:1::1/64").await;
    lab.address(b, "2001:db8:2::1/64").await;
    (a, b)
}

fn shapes(a: u32, b: u32) -> Plan {
    let weighted = |weight, hop| KernelNextHop { weight, ..hop };
    routes([
        route(TABLE, "10.10.10.0/24", unicast(&[hop(a, None)])),
        route(TABLE, "10.10.20.0/24", unicast(&[hop(a, Some("10.1.0.2"))])),
        route(TABLE, "10.10.30.0/24", unicast(&[weighted(30, hop(a, Some("10.1.0.2"))), weighted(70, hop(b, None))])),
        route(TABLE, "10.10.40.0/24", unicast(&[hop(a, Some("fe80::2"))])),
        route(TABLE, "10.10.50.0/24", unicast(&[KernelNextHop { onlink: true, ..hop(a, Some("169.254.7.7")) }])),
        route(TABLE, "10.10.60.0/24", RouteAction::Unreachable),
        route(TABLE, "0.0.0.0/0", RouteAction::Unreachable),
        route(TABLE, "2001:db8:10::/48", unicast(&[hop(a, None)])),
        route(TABLE, "2001:db8:20::/48", unicast(&[hop(a, Some("2001:db8:1::2"))])),
        route(
            TABLE,
            "2001:db8:30::/48",
            unicast(&[weighted(30, hop(a, Some("2001:db8:1::2"))), weighted(70, hop(b, Some("fe80::3")))]),
        ),
        route(TABLE, "2001:db8:40::/48", unicast(&[hop(a, None), weighted(3, hop(b, None))])),
        route(TABLE, "2001:db8:60::/48", RouteAction::Unreachable),
        route(TABLE, "::/0", RouteAction::Unreachable),
        route(MAIN, "10.10.10.0/24", unicast(&[hop(b, None)])),
    ])
}

#[test]
fn routes_of_every_shape_appear_in_kernel_as_planned() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let reconciler = Planned::start();
        let plan = shapes(a, b);
        assert_eq!(reconciler.keep(&plan).await, done(14, 0, 0));

        let v4 = ip("-details route show table 1180");
        assert_eq!(count(&v4), 7);
        for shown in v4.as_array().unwrap() {
            let metric = if shown["type"] == "unreachable" { BACKSTOP_METRIC } else { METRIC };
            let protocol = if shown["type"] == "unreachable" { "119" } else { "118" };
            assert_eq!((&shown["protocol"], &shown["metric"]), (&json!(protocol), &json!(metric)));
        }
        let v4_to = |destination| only(&v4, "dst", destination);
        assert_eq!((&v4_to("10.10.10.0/24")["dev"], &v4_to("10.10.10.0/24")["gateway"]), (&json!("a0"), &Value::Null));
        assert_eq!(v4_to("10.10.20.0/24")["gateway"], "10.1.0.2");
        let hops = &v4_to("10.10.30.0/24")["nexthops"];
        assert_eq!(
            (&only(hops, "dev", "a0")["gateway"], &only(hops, "dev", "a0")["weight"]),
            (&json!("10.1.0.2"), &json!(30))
        );
        assert_eq!(
            (&only(hops, "dev", "b0")["gateway"], &only(hops, "dev", "b0")["weight"]),
            (&Value::Null, &json!(70))
        );
        assert_eq!(v4_to("10.10.40.0/24")["via"], json!({"family": "inet6", "host": "fe80::2"}));
        assert_eq!(v4_to("10.10.50.0/24")["flags"], json!(["onlink"]));
        assert_eq!(v4_to("10.10.60.0/24")["type"], "unreachable");
        assert_eq!(v4_to("default")["type"], "unreachable");

        let v6 = ip("-6 -details route show table 1180");
        assert_eq!(count(&v6), 6);
        let v6_to = |destination| only(&v6, "dst", destination);
        assert_eq!(v6_to("2001:db8:10::/48")["dev"], "a0");
        assert_eq!(v6_to("2001:db8:20::/48")["gateway"], "2001:db8:1::2");
        let hops = &v6_to("2001:db8:30::/48")["nexthops"];
        assert_eq!(only(hops, "gateway", "2001:db8:1::2")["weight"], 30);
        assert_eq!(only(hops, "gateway", "fe80::3")["weight"], 70);
        let hops = &v6_to("2001:db8:40::/48")["nexthops"];
        assert_eq!((&only(hops, "dev", "a0")["weight"], &only(hops, "dev", "b0")["weight"]), (&json!(1), &json!(3)));
        assert_eq!(v6_to("2001:db8:60::/48")["type"], "unreachable");
        assert_eq!(v6_to("default")["type"], "unreachable");

        let main = ip("route show table 254 proto 118");
        assert_eq!(only(&main, "dst", "10.10.10.0/24")["dev"], "b0");

        assert!(reconciler.keep(&plan).await.is_empty(), "a second time changes nothing");
        assert_eq!(reconciler.clear().await.unwrap(), done(0, 0, 14));
        assert_eq!(count(&ip("route show table all proto 118")), 0);
        assert_eq!(count(&ip("-6 route show table all proto 118")), 0);
    });
}

/// Every action that a destination of this family can have.
fn actions(a: u32, b: u32, via_a: &str, via_b: &str) -> Vec<RouteAction> {
    vec![
        unicast(&[hop(a, None)]),
        unicast(&[hop(b, Some(via_b))]),
        unicast(&[hop(a, Some(via_a)), hop(b, Some(via_b))]),
        unicast(&[hop(a, None), hop(b, None)]),
        unicast(&[hop(b, None)]),
        unicast(&[KernelNextHop { weight: 9, ..hop(a, Some(via_a)) }, hop(b, Some(via_b))]),
        unicast(&[hop(a, Some(via_a))]),
    ]
}

#[test]
fn route_action_replaces_any_other_in_place() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        for (destination, via_a, via_b) in
            [("10.10.0.0/16", "10.1.0.2", "10.2.0.2"), ("2001:db8:10::/48", "2001:db8:1::2", "2001:db8:2::2")]
        {
            let reconciler = Planned::start();
            let actions = actions(a, b, via_a, via_b);
            for from in &actions {
                for to in actions.iter().filter(|to| *to != from) {
                    let plan = |action: &RouteAction| routes([route(TABLE, destination, action.clone())]);
                    reconciler.keep(&plan(from)).await;
                    let report = reconciler.keep(&plan(to)).await;
                    assert_eq!(report, done(0, 1, 0), "{destination}: {from:?} to {to:?}");
                    let report = reconciler.keep(&plan(to)).await;
                    assert!(report.is_empty(), "{destination}: {from:?} to {to:?} is {report:?}");
                }
            }
            let deleted = reconciler.clear().await.unwrap();
            assert_eq!(deleted, done(0, 0, 1));
        }
    });
}

#[test]
fn destination_of_downed_interface_is_unreachable_at_once() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let reconciler = Planned::start();
        let destinations = [("10.10.0.0/16", "10.10.0.1", "-4"), ("2001:db8:10::/48", "2001:db8:10::1", "-6")];
        let plan = destinations.into_iter().flat_map(|(destination, ..)| {
            [unicast(&[hop(a, None)]), RouteAction::Unreachable].map(|action| route(MAIN, destination, action))
        });
        assert_eq!(reconciler.keep(&routes(plan)).await, done(4, 0, 0));
        for (_, address, family) in destinations {
            assert_eq!(ip(&format!("{family} route get {address}"))[0]["dev"], "a0");
        }
        lab.down(a).await;
        for (destination, _, family) in destinations {
            let left = ip(&format!("{family} route show {destination}"));
            assert_eq!((count(&left), &left[0]["type"]), (1, &json!("unreachable")), "{left}");
        }
    });
}

#[test]
fn replaced_route_is_never_missing() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let plan = |i: usize| {
            let v4 = actions(a, b, "10.1.0.2", "10.2.0.2");
            let v6 = actions(a, b, "2001:db8:1::2", "2001:db8:2::2");
            routes([
                route(MAIN, "10.10.0.0/16", v4[i % v4.len()].clone()),
                route(MAIN, "2001:db8:10::/48", v6[i % v6.len()].clone()),
            ])
        };
        let reconciler = Planned::start();
        reconciler.keep(&plan(0)).await;

        let stop = Arc::new(AtomicBool::new(false));
        let looked_up = Arc::new(AtomicU64::new(0));
        // Connecting a UDP socket looks the route up, and sends nothing.
        let watch = |local: &'static str, remote: &'static str| {
            let (stop, looked_up) = (Arc::clone(&stop), Arc::clone(&looked_up));
            thread::spawn(move || {
                let socket = UdpSocket::bind(local).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    socket.connect(remote).unwrap_or_else(|error| panic!("{remote}: {error}"));
                    looked_up.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let watchers = [watch("0.0.0.0:0", "10.10.1.1:9"), watch("[::]:0", "[2001:db8:10::1]:9")];
        let mut replaced = 0;
        for i in 1..400 {
            let report = reconciler.keep(&plan(i)).await;
            assert_eq!(report.failures, []);
            replaced += report.replaced;
        }
        stop.store(true, Ordering::Relaxed);
        for watcher in watchers {
            watcher.join().expect("the route was missing");
        }
        assert_eq!(replaced, 2 * 399);
        assert!(looked_up.load(Ordering::Relaxed) > 2000, "too few lookups to tell");

        // The watchers do detect a gap.
        reconciler.clear().await.unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert!(socket.connect("10.10.1.1:9").is_err());
    });
}

#[test]
fn foreign_routes_are_not_touched() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let foreign = [
            "route add 10.10.10.0/24 dev b0 proto static table 1180",
            "route add 10.10.20.0/24 dev b0 proto bird",
            "route add 10.10.30.0/24 dev b0 proto bird metric 1180",
            "-6 route add 2001:db8:10::/48 dev b0 proto static table 1180",
        ];
        for command in foreign {
            ip(command);
        }
        let shown = || [ip("route show table all"), ip("-6 route show table all")];
        let before = shown();

        let reconciler = Planned::start();
        let plan = routes([
            route(TABLE, "10.10.10.0/24", unicast(&[hop(a, None)])),
            route(MAIN, "10.10.20.0/24", unicast(&[hop(a, None)])),
            route(MAIN, "10.10.30.0/24", unicast(&[hop(a, None)])),
            route(TABLE, "2001:db8:10::/48", unicast(&[hop(a, None)])),
        ]);
        let report = reconciler.keep(&plan).await;
        assert_eq!(report.added, 3);
        let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
        assert_eq!(failure.object, "route 10.10.30.0/24 in table 254");
        assert!(failure.reason.contains("another process has an entry in its place"), "{failure}");

        reconciler.clear().await.unwrap();
        assert_eq!(shown(), before);
    });
}

#[test]
fn routes_of_killed_agent_are_adopted_or_removed() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let kept = route(TABLE, "10.10.3.0/24", unicast(&[hop(a, None)]));
        let report = Planned::start().keep(&routes([kept.clone()])).await;
        assert_eq!(report, done(1, 0, 0));

        // A second one, as after a restart, which also finds routes of another version.
        let plan = routes([kept, route(TABLE, "10.10.4.0/24", unicast(&[hop(b, None)]))]);
        ip("route add 10.10.1.0/24 dev a0 proto 118 table 77 metric 5");
        ip("route add blackhole 10.10.2.0/24 proto 118 table 1180 metric 1180");
        let report = Planned::start().keep(&plan).await;
        assert_eq!(report, done(1, 0, 2));
        assert_eq!(count(&ip("route show table all proto 118")), 2);
    });
}

#[test]
fn route_returns_after_link_flap() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let reconciler = Planned::start();
        let plan = routes([
            route(TABLE, "10.10.10.0/24", unicast(&[hop(a, Some("10.1.0.2"))])),
            route(TABLE, "10.10.20.0/24", unicast(&[hop(b, None)])),
            route(TABLE, "2001:db8:10::/48", unicast(&[hop(a, None)])),
        ]);
        assert_eq!(reconciler.keep(&plan).await, done(3, 0, 0));

        lab.down(a).await;
        assert_eq!(count(&ip("route show table 1180")), 1, "the kernel dropped it by itself");
        ip("route del 10.10.20.0/24 table 1180");
        let report = reconciler.keep(&plan).await;
        assert_eq!(report.added, 1, "one failure does not stop the others: {report:?}");
        let objects: Vec<_> = report.failures.iter().map(|of| of.object.as_str()).collect();
        assert_eq!(objects, ["route 10.10.10.0/24 in table 1180", "route 2001:db8:10::/48 in table 1180"]);
        let reasons: Vec<_> = report.failures.iter().map(|of| of.reason.as_str()).collect();
        assert!(reasons[0].contains("the gateway is not reachable"), "{reasons:?}");
        assert!(reasons[1].contains("the interface is down"), "{reasons:?}");

        lab.up(a).await;
        assert_eq!(reconciler.keep(&plan).await, done(2, 0, 0));
        assert!(reconciler.keep(&plan).await.is_empty());

        lab.delete(a).await;
        let report = reconciler.keep(&plan).await;
        assert_eq!((report.added, report.failures.len()), (0, 2));
        assert!(report.failures[1].reason.contains("the interface is gone"), "{report:?}");
    });
}

#[test]
fn unreachable_gateway_is_reported_and_other_routes_apply() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let reconciler = Planned::start();
        let plan = routes([
            route(TABLE, "10.10.10.0/24", unicast(&[hop(a, Some("172.16.0.1"))])),
            route(TABLE, "10.10.20.0/24", unicast(&[hop(a, None)])),
        ]);
        let report = reconciler.keep(&plan).await;
        assert_eq!(report.added, 1);
        let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
        assert!(failure.reason.contains("Nexthop has invalid gateway"), "{failure}");
        assert!(failure.reason.contains("give it an address in the gateway's network"), "{failure}");
    });
}

#[test]
fn ten_thousand_routes_are_added_replaced_and_deleted() {
    in_namespace(async |lab| {
        let (a, b) = two_links(&lab).await;
        let many = |action: RouteAction| -> Plan {
            routes((0..10_000).map(|n| route(TABLE, &destination(n).to_string(), action.clone())))
        };
        let reconciler = Planned::start();
        let one = many(unicast(&[hop(a, None)]));
        assert_eq!(reconciler.keep(&one).await, done(10_000, 0, 0));
        assert!(reconciler.keep(&one).await.is_empty());
        let other = many(unicast(&[hop(a, None), hop(b, Some("10.2.0.2"))]));
        assert_eq!(reconciler.keep(&other).await, done(0, 10_000, 0));
        assert_eq!(count(&ip("route show table 1180")), 10_000);
        assert_eq!(reconciler.clear().await.unwrap(), done(0, 0, 10_000));
    });
}

#[test]
fn reconciler_without_cap_net_admin_reports_remedy() {
    in_namespace(async |lab| {
        let (a, _) = two_links(&lab).await;
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
        // For this thread only.
        rustix::thread::set_capabilities(None, sets).unwrap();
        let plan = routes([route(TABLE, "10.10.10.0/24", unicast(&[hop(a, None)]))]);
        let error = {
            let reconciler = Planned::start();
            reconciler.replace(&plan);
            reconciler.settled().await.unwrap_err().to_string()
        };
        assert!(error.contains("route 10.10.10.0/24 in table 1180"), "{error}");
        assert!(error.contains("needs CAP_NET_ADMIN: run as root"), "{error}");
    });
}

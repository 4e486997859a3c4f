//! The follower of a routing daemon's table sees all changes: several next hops, next hop objects and their groups, what
//! the kernel drops without an event, and lost events.

use std::{collections::BTreeMap, time::Duration};

use hub_userspace::kernel::netlink::{FollowedTable, RouteFollower, TableChanges};
use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use tokio::time::timeout;

use crate::lab::{Lab, in_namespace, index, ip_batch, net};

/// Above 255: `rtm_table` does not have it.
const FOLLOWED: u32 = 1190;
const PATIENCE: Duration = Duration::from_secs(20);
/// Everything has been reported when nothing has for so long: several times the delay of a new dump.
const QUIET: Duration = Duration::from_millis(700);

/// The interfaces of a prefix' next hops, with their gateways and weights.
type Routes = BTreeMap<IpNet, Vec<String>>;

fn followed() -> FollowedTable {
    FollowedTable { table: FOLLOWED, protocols: vec![12, 186], most: 1 << 20 }
}

fn apply(routes: &mut Routes, changes: TableChanges) {
    for (prefix, hops) in changes {
        match hops {
            Some(hops) => {
                let text = |hop: &hub_userspace::kernel::netlink::KernelHop| {
                    format!("{} {} {}", hop.ifindex, hop.via.map_or("-".to_owned(), |via| via.to_string()), hop.weight)
                };
                routes.insert(prefix, hops.iter().map(text).collect());
            }
            None => _ = routes.remove(&prefix),
        }
    }
}

/// Follows until the routes are these.
async fn until(follower: &mut RouteFollower, routes: &mut Routes, what: &str, expected: &[(&str, &[String])]) {
    let expected: Routes = expected.iter().map(|(prefix, hops)| (net(prefix), hops.to_vec())).collect();
    let follow = async {
        while *routes != expected {
            apply(routes, follower.changed().await);
        }
    };
    let outcome = timeout(PATIENCE, follow).await;
    assert!(outcome.is_ok(), "{what}: {routes:?} instead of {expected:?}");
}

/// Follows until nothing changes, then compares with a fresh follower's view.
async fn settles_on_the_truth(follower: &mut RouteFollower, routes: &mut Routes, seed: u64) {
    while let Ok(changes) = timeout(QUIET, follower.changed()).await {
        apply(routes, changes);
    }
    let (_, all) = RouteFollower::start(Some(followed())).await.unwrap();
    let mut fresh = Routes::new();
    apply(&mut fresh, all);
    assert_eq!(*routes, fresh, "seed {seed}");
}

fn batch(lines: &[&str]) {
    ip_batch(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
}

/// Three links with addresses, each with a gateway .2.
async fn links(lab: &Lab) -> [u32; 3] {
    for number in 1..=3 {
        lab.veth(&format!("v{number}"), &format!("far{number}")).await;
        batch(&[
            &format!("link set dev far{number} up"),
            &format!("link set dev v{number} up"),
            &format!("addr add 172.16.{number}.1/24 dev v{number}"),
            &format!("addr add fd16:{number}::1/64 dev v{number} nodad"),
        ]);
    }
    [1, 2, 3].map(|number| index(&format!("v{number}")))
}

fn via(ifindex: u32, gateway: &str, weight: u16) -> String {
    format!("{ifindex} {gateway} {weight}")
}

#[test]
fn routes_are_followed_with_several_next_hops_and_objects() {
    in_namespace(async |lab| {
        let [one, two, _] = links(&lab).await;
        batch(&[
            "route add 10.1.0.0/16 via 172.16.1.2 table 1190 proto bird metric 32",
            "route add 10.9.0.0/16 via 172.16.1.2 table 1190 proto static",
            "route add 10.9.1.0/24 via 172.16.1.2 table 1191 proto bird",
            "route add 10.9.2.0/24 via 172.16.1.2 table main proto bird",
        ]);
        let (mut follower, all) = RouteFollower::start(Some(followed())).await.unwrap();
        let mut routes = Routes::new();
        apply(&mut routes, all);
        let first = [via(one, "172.16.1.2", 1)];
        assert_eq!(routes, Routes::from([(net("10.1.0.0/16"), first.to_vec())]), "what is there at the start");

        batch(&[
            "route replace 10.1.0.0/16 table 1190 proto bird metric 32 nexthop via 172.16.1.2 weight 3 nexthop dev v2",
            "route add fd01::/32 table 1190 proto bgp metric 20 nexthop via fd16:1::2 nexthop via fd16:2::2",
        ]);
        let v4 = [via(one, "172.16.1.2", 3), via(two, "-", 1)];
        let v6 = [via(one, "fd16:1::2", 1), via(two, "fd16:2::2", 1)];
        let both: [(&str, &[String]); 2] = [("10.1.0.0/16", &v4), ("fd01::/32", &v6)];
        until(&mut follower, &mut routes, "several next hops", &both).await;
        batch(&["route del fd01::/32 via fd16:1::2 table 1190"]);
        let (v6, other) = ([via(two, "fd16:2::2", 1)], [via(one, "172.16.1.2", 1), via(two, "172.16.2.2", 1)]);
        let both: [(&str, &[String]); 2] = [("10.1.0.0/16", &v4), ("fd01::/32", &v6)];
        until(&mut follower, &mut routes, "one of two IPv6 next hops is gone", &both).await;

        batch(&[
            "route del fd01::/32 table 1190",
            "route del 10.1.0.0/16 table 1190",
            "nexthop add id 5 via 172.16.1.2 dev v1 proto bgp",
            "nexthop add id 6 via 172.16.2.2 dev v2 proto bgp",
            "nexthop add id 9 group 5/6",
            "route add 10.2.0.0/16 nhid 5 table 1190 proto bgp",
            "route add 10.3.0.0/16 nhid 9 table 1190 proto bgp",
        ]);
        let objects: [(&str, &[String]); 2] = [("10.2.0.0/16", &first), ("10.3.0.0/16", &other)];
        until(&mut follower, &mut routes, "objects", &objects).await;
        // The route stays: only its object changes.
        batch(&["nexthop replace id 5 via 172.16.3.2 dev v3 proto bgp"]);
        let third = [via(index("v3"), "172.16.3.2", 1)];
        let other = [via(index("v3"), "172.16.3.2", 1), via(two, "172.16.2.2", 1)];
        let objects: [(&str, &[String]); 2] = [("10.2.0.0/16", &third), ("10.3.0.0/16", &other)];
        until(&mut follower, &mut routes, "a changed object", &objects).await;
        // The kernel drops the one route without an event, and takes the object out of the group.
        batch(&["nexthop del id 5"]);
        let rest = [via(two, "172.16.2.2", 1)];
        until(&mut follower, &mut routes, "a deleted object", &[("10.3.0.0/16", &rest)]).await;
        // Another table, then none.
        follower.follow(Some(FollowedTable { table: 1191, ..followed() }));
        until(&mut follower, &mut routes, "another table", &[("10.9.1.0/24", &first)]).await;
        follower.follow(None);
        until(&mut follower, &mut routes, "no table", &[]).await;
    });
}

#[test]
fn routes_dropped_without_an_event_are_found_by_a_new_dump() {
    in_namespace(async |lab| {
        let [one, two, _] = links(&lab).await;
        let (mut follower, _) = RouteFollower::start(Some(followed())).await.unwrap();
        let mut routes = Routes::new();
        batch(&[
            "route add 10.1.0.0/16 via 172.16.1.2 table 1190 proto bird",
            "route add 10.2.0.0/16 table 1190 proto bird nexthop via 172.16.1.2 nexthop via 172.16.2.2",
        ]);
        let (first, both) = ([via(one, "172.16.1.2", 1)], [via(one, "172.16.1.2", 1), via(two, "172.16.2.2", 1)]);
        let expected: [(&str, &[String]); 2] = [("10.1.0.0/16", &first), ("10.2.0.0/16", &both)];
        until(&mut follower, &mut routes, "before", &expected).await;
        batch(&["link set dev v1 down"]);
        follower.reread();
        let second = [via(two, "172.16.2.2", 1)];
        until(&mut follower, &mut routes, "link down", &[("10.2.0.0/16", &second)]).await;
        // The next hop comes to life without an event, too.
        batch(&["link set dev v1 up"]);
        follower.reread();
        until(&mut follower, &mut routes, "link up", &[("10.2.0.0/16", &both)]).await;
    });
}

#[test]
fn lost_events_lead_to_a_new_dump() {
    in_namespace(async |lab| {
        links(&lab).await;
        let (mut follower, _) = RouteFollower::start(Some(followed())).await.unwrap();
        let mut routes = Routes::new();
        // Many more than the receive buffer holds. The task does not run meanwhile: this thread is its only one.
        let add = |number: u32| {
            let (second, third) = (number >> 8, number & 0xff);
            format!("route add 10.{second}.{third}.0/24 via 172.16.1.2 table 1190 proto bird")
        };
        let lines: Vec<String> = (0..40_000).map(add).collect();
        ip_batch(&lines);
        let dels: Vec<String> = lines[..39_000].iter().map(|line| line.replacen("add", "del", 1)).collect();
        ip_batch(&dels);
        let follow = async {
            while routes.len() != 1000 {
                apply(&mut routes, follower.changed().await);
            }
        };
        timeout(PATIENCE, follow).await.expect("the routes that are left are reported");
        settles_on_the_truth(&mut follower, &mut routes, 0).await;
    });
}

#[test]
fn random_changes_end_in_the_view_of_a_fresh_follower() {
    for seed in 0..4 {
        in_namespace(async move |lab| {
            let mut random = SmallRng::seed_from_u64(seed);
            links(&lab).await;
            let (mut follower, _) = RouteFollower::start(Some(followed())).await.unwrap();
            let mut routes = Routes::new();
            for _ in 0..6 {
                let mut lines = Vec::new();
                for _ in 0..30 {
                    let (prefix, id, link) =
                        (random.random_range(0..6), random.random_range(1..4), random.random_range(1..4));
                    let metric = [20, 32].choose(&mut random).expect("there are some");
                    let protocol = ["bird", "bgp", "static"].choose(&mut random).expect("there are some");
                    let route = format!("10.{prefix}.0.0/16 table 1190 metric {metric} proto {protocol}");
                    let ipv6 = format!("fd0{prefix}::/32 table 1190 metric {metric} proto {protocol}");
                    lines.push(match random.random_range(0..12) {
                        0 => format!("route replace {route} via 172.16.{link}.2"),
                        1 => format!("route append {route} via 172.16.{link}.2"),
                        2 => format!("route replace {route} nexthop via 172.16.{link}.2 nexthop dev v{id}"),
                        3 => format!("route replace {route} nhid {id}"),
                        4 => format!("route del 10.{prefix}.0.0/16 table 1190"),
                        5 => format!("route replace {ipv6} via fd16:{link}::2"),
                        6 => format!("route append {ipv6} via fd16:{link}::2"),
                        7 => format!("route del fd0{prefix}::/32 via fd16:{link}::2 table 1190"),
                        8 => format!("nexthop replace id {id} via 172.16.{link}.2 dev v{link}"),
                        9 => format!("nexthop del id {id}"),
                        10 => format!("nexthop replace id 9 group {id}"),
                        _ => format!("route replace {route} nhid 9"),
                    });
                }
                for line in lines {
                    // Some are not possible.
                    drop(std::process::Command::new("ip").args(line.split(' ')).output().unwrap());
                }
                settles_on_the_truth(&mut follower, &mut routes, seed).await;
            }
        });
    }
}

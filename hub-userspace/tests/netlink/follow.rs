//! The agent's view of the host follows all changes.

use std::{fs, time::Duration};

use hub_userspace::kernel::netlink::{Changes, HostFollower, HostState, KernelNeighbour, Link};
use ipnet::IpNet;
use rtnetlink::{LinkUnspec, LinkVlan};
use tokio::time::{sleep, timeout};

use crate::{
    lab::{Lab, Plan, Planned, TABLE, addr, hop, in_namespace, index, ip, ip_batch, net, route, routes, run, unicast},
    reconciler::destination,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Follows until the view satisfies `desired`. Returns all reported changes.
async fn until(
    follower: &mut HostFollower,
    state: &mut HostState,
    what: &str,
    done: impl Fn(&HostState) -> bool,
) -> Changes {
    let mut told = Changes::default();
    let follow = async {
        while !done(state) {
            let changes = follower.changed(state).await.unwrap();
            told.links |= changes.links;
            told.addresses |= changes.addresses;
            told.neighbours |= changes.neighbours;
            told.gateways |= changes.gateways;
        }
    };
    timeout(PATIENCE, follow).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
    told
}

/// Follows until nothing has changed for a while, then compares with a fresh view.
async fn settles_on_the_truth(follower: &mut HostFollower, state: &mut HostState) {
    while let Ok(changes) = timeout(Duration::from_millis(700), follower.changed(state)).await {
        changes.unwrap();
    }
    let (fresh, _) = HostFollower::start().await.unwrap();
    assert_eq!(*state, fresh);
}

fn by_name<'a>(state: &'a HostState, name: &str) -> Option<&'a Link> {
    state.links.values().find(|link| link.name == name)
}

#[test]
fn links_are_followed_through_creation_rename_and_deletion() {
    in_namespace(async |lab| {
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        assert_eq!(state.links.len(), 1, "only lo");
        let near = lab.veth("near", "far").await;
        let running = |state: &HostState| by_name(state, "near").is_some_and(|link| link.running);
        let told = until(&mut follower, &mut state, "near runs", running).await;
        assert!(told.links);
        let link = &state.links[&near];
        assert_eq!((link.kind.as_deref(), link.ethernet, link.mtu), (Some("veth"), true, 1500));
        let mac = link.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(ip("link show dev near")[0]["address"], mac);

        lab.set(LinkUnspec::new_with_index(near).mtu(1400).build()).await;
        until(&mut follower, &mut state, "mtu", |state| state.links[&near].mtu == 1400).await;

        lab.down(index("far")).await;
        until(&mut follower, &mut state, "no carrier", |state| {
            state.links[&near].admin_up && !state.links[&near].running
        })
        .await;

        lab.down(near).await;
        lab.set(LinkUnspec::new_with_index(near).name("renamed").build()).await;
        until(&mut follower, &mut state, "renamed", |state| {
            state.links[&near].name == "renamed" && !state.links[&near].admin_up
        })
        .await;

        lab.delete(near).await;
        until(&mut follower, &mut state, "gone", |state| state.links.len() == 1).await;
        settles_on_the_truth(&mut follower, &mut state).await;
    });
}

#[test]
fn vlan_link_has_parent_and_loopback_no_ethernet() {
    in_namespace(async |lab| {
        let near = lab.veth("near", "far").await;
        let vlan = LinkVlan::new("near.7", near, 7).build();
        let made = lab.handle.link().add(vlan).execute().await;
        let (state, _) = HostFollower::start().await.unwrap();
        // Not every kernel has 802.1Q; one without it returns an error.
        match made {
            Ok(()) => assert_eq!(by_name(&state, "near.7").unwrap().vlan, Some((near, 7))),
            Err(error) => assert!(error.to_string().contains("not supported"), "{error}"),
        }
        assert_eq!(by_name(&state, "near").unwrap().vlan, None, "a veth's peer is no parent");
        let lo = &state.links[&1];
        assert_eq!((lo.name.as_str(), lo.ethernet, lo.kind.as_deref()), ("lo", false, None));
        assert!(lo.running, "its operational state is unknown");
    });
}

#[test]
fn addresses_are_followed_and_removed_with_link() {
    in_namespace(async |lab| {
        let near = lab.veth("near", "far").await;
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        let has = |text: &'static str| {
            move |state: &HostState| state.addresses.get(&near).is_some_and(|of| of.contains(&net(text)))
        };
        lab.address(near, "10.1.0.1/24").await;
        lab.address(near, "2001:db8::1/64").await;
        let told = until(&mut follower, &mut state, "IPv4", has("10.1.0.1/24")).await;
        assert!(told.addresses);
        until(&mut follower, &mut state, "IPv6", has("2001:db8::1/64")).await;
        ip("addr del 10.1.0.1/24 dev near");
        until(&mut follower, &mut state, "deleted", |state| !has("10.1.0.1/24")(state)).await;
        assert!(has("2001:db8::1/64")(&state), "the other stays");
        lab.delete(near).await;
        until(&mut follower, &mut state, "gone", |state| !state.addresses.contains_key(&near)).await;
        settles_on_the_truth(&mut follower, &mut state).await;
    });
}

#[test]
fn neighbours_are_followed_and_removed_with_link() {
    in_namespace(async |lab| {
        let near = lab.veth("near", "far").await;
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        let key = (near, addr("10.1.0.2"));
        ip("neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 nud reachable dev near");
        let known = |state: &HostState| state.neighbours.contains_key(&key);
        let told = until(&mut follower, &mut state, "known", known).await;
        assert!(told.neighbours);
        assert_eq!(state.neighbours[&key], [2, 0, 0, 0, 0, 2]);
        ip("neigh del 10.1.0.2 dev near");
        until(&mut follower, &mut state, "deleted", |state| !known(state)).await;
        ip("neigh add 10.1.0.2 lladdr 02:00:00:00:00:03 nud permanent dev near");
        until(&mut follower, &mut state, "known again", known).await;
        lab.delete(near).await;
        until(&mut follower, &mut state, "gone", |state| !known(state)).await;
        settles_on_the_truth(&mut follower, &mut state).await;
    });
}

#[test]
fn gateways_of_foreign_routes_only_are_followed() {
    in_namespace(async |lab| {
        let (near, other) = (lab.veth("near", "far").await, lab.veth("other", "far2").await);
        lab.address(near, "10.1.0.1/24").await;
        lab.address(other, "10.2.0.1/24").await;
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        let gateway = |ifindex, to: &'static str, via: &'static str| {
            move |state: &HostState| state.gateways.get(&(ifindex, net(to))) == Some(&addr(via))
        };
        ip("route add 10.10.0.0/16 via 10.1.0.2");
        ip("-6 route add 2001:db8:10::/48 via fe80::2 dev near");
        ip("route add 10.30.0.0/16 via 10.1.0.2 table 77");
        let told = until(&mut follower, &mut state, "IPv4", gateway(near, "10.10.0.0/16", "10.1.0.2")).await;
        assert!(told.gateways);
        let v6 = gateway(near, "2001:db8:10::/48", "fe80::2");
        until(&mut follower, &mut state, "IPv6", v6).await;

        let plan = routes([
            route(254, "10.20.0.0/16", unicast(&[hop(near, Some("10.1.0.2"))])),
            route(TABLE, "10.10.0.0/16", unicast(&[hop(near, Some("10.1.0.3"))])),
        ]);
        let report = Planned::start().keep(&plan).await;
        assert_eq!((report.added, report.failures.len()), (2, 0));
        ip("route replace 10.10.0.0/16 via 10.2.0.2");
        let moved = gateway(other, "10.10.0.0/16", "10.2.0.2");
        until(&mut follower, &mut state, "moved", moved).await;
        let to: Vec<_> = state.gateways.keys().copied().collect();
        assert_eq!(to, [(near, net("2001:db8:10::/48")), (other, net("10.10.0.0/16"))]);

        // The kernel drops IPv4 routes of an interface that goes down without an event.
        lab.down(other).await;
        lab.up(other).await;
        until(&mut follower, &mut state, "dropped", |state| state.gateways.len() == 1).await;
        // The same for routes that depend on a deleted address.
        ip("route add 10.10.0.0/16 via 10.1.0.2");
        until(&mut follower, &mut state, "back", gateway(near, "10.10.0.0/16", "10.1.0.2")).await;
        ip("addr del 10.1.0.1/24 dev near");
        assert!(ip("route show 10.10.0.0/16").as_array().unwrap().is_empty());
        until(&mut follower, &mut state, "dropped", |state| state.gateways.len() == 1).await;
        settles_on_the_truth(&mut follower, &mut state).await;
    });
}

/// Events that sockets of this namespace lost, from /proc/net/netlink.
fn lost_events() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let header = table.lines().next().unwrap();
    let column = header.split_whitespace().position(|name| name == "Drops").unwrap();
    let of = |line: &str| line.split_whitespace().nth(column).unwrap().parse::<u64>().unwrap();
    table.lines().skip(1).map(of).sum()
}

#[test]
fn lost_events_trigger_resync() {
    const MANY: u32 = 60_000;
    in_namespace(async |lab: Lab| {
        let near = lab.veth("near", "far").await;
        ip("neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 nud permanent dev near");
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        let first = u32::from(std::net::Ipv4Addr::new(11, 0, 0, 0));
        let flood = move || {
            let neighbours = (0..MANY).map(|i| KernelNeighbour::Permanent {
                ifindex: near,
                address: std::net::Ipv4Addr::from(first + i).into(),
                mac: [2; 6],
            });
            let plan = Plan { neighbours: neighbours.collect(), ..Plan::default() };
            run(async {
                let report = Planned::start().keep(&plan).await;
                assert_eq!((report.added, report.failures.len()), (MANY as usize, 0));
            });
            // After the flood: a deletion, and an addition.
            ip("neigh del 10.1.0.2 dev near");
            ip("link add late type veth peer name late2");
        };
        // While this thread waits, nothing reads the follower's socket.
        std::thread::spawn(flood).join().unwrap();
        assert!(lost_events() > 0, "the flood was too small to lose anything");

        until(&mut follower, &mut state, "all of them", |state| {
            state.neighbours.len() == MANY as usize && by_name(state, "late").is_some()
        })
        .await;
        settles_on_the_truth(&mut follower, &mut state).await;
    });
}

#[test]
fn cancelled_wait_loses_no_event() {
    in_namespace(async |lab| {
        let near = lab.veth("near", "far").await;
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        for i in 0..50 {
            let net: IpNet = format!("10.1.{i}.1/24").parse().unwrap();
            lab.address(near, &net.to_string()).await;
            let _ = timeout(Duration::from_micros(i * 20), follower.changed(&mut state)).await;
        }
        ip("addr del 10.1.7.1/24 dev near");
        for _ in 0..40 {
            let _ = timeout(Duration::from_millis(5), follower.changed(&mut state)).await;
        }
        settles_on_the_truth(&mut follower, &mut state).await;
        assert_eq!(state.addresses[&near].iter().filter(|of| of.addr().is_ipv4()).count(), 49);
    });
}

#[test]
fn resync_completes_despite_cancelled_waits() {
    const MANY: u32 = 20_000;
    in_namespace(async |lab| {
        let (near, other) = (lab.veth("near", "far").await, lab.veth("other", "far2").await);
        lab.address(near, "10.1.0.1/24").await;
        lab.address(other, "10.2.0.1/24").await;
        let many: Vec<String> = (0..MANY).map(|n| format!("route add {} via 10.1.0.2", destination(n))).collect();
        ip_batch(&many);
        ip("route add 10.10.0.0/16 via 10.2.0.2");
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        assert_eq!(state.gateways.len(), MANY as usize + 1);

        // Its route is deleted with it, which only a full dump shows.
        ip("addr del 10.2.0.1/24 dev other");
        let told = async {
            let mut told = Changes::default();
            for n in (0..MANY).cycle() {
                if let Ok(changes) = timeout(Duration::from_millis(2), follower.changed(&mut state)).await {
                    told.add(changes.unwrap());
                }
                if !state.gateways.contains_key(&(other, net("10.10.0.0/16"))) {
                    return told;
                }
                if n % 10 == 0 {
                    // Other changes continue meanwhile.
                    ip(&format!("route replace {} via 10.1.0.3", destination(n)));
                }
                sleep(Duration::from_micros(100)).await;
            }
            unreachable!("without an end")
        };
        let told = timeout(PATIENCE, told).await.expect("the reading never ended");
        assert!(told.addresses && told.gateways);
        settles_on_the_truth(&mut follower, &mut state).await;
        assert_eq!(state.gateways.len(), MANY as usize);
    });
}

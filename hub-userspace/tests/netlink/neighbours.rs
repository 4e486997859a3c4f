//! Managed neighbours, which the kernel resolves, and permanent ones.

use std::{collections::BTreeSet, fs, net::IpAddr, time::Duration};

use hub_userspace::kernel::netlink::{Changes, HostFollower, HostState, KernelNeighbour, ReconcileReport, Reconciler};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::lab::{Lab, Peer, Plan, Planned, addr, in_namespace, index, ip, log_here, only};

const PATIENCE: Duration = Duration::from_secs(10);

fn plan(neighbours: impl IntoIterator<Item = KernelNeighbour>) -> Plan {
    Plan { neighbours: neighbours.into_iter().collect(), ..Plan::default() }
}

fn shown(address: &str) -> Value {
    only(&ip("-N -details neigh show nud all"), "dst", address).clone()
}

/// An interface `near`, `10.1.0.1` and `2001:db8::1`, whose other end is in another namespace and answers for
/// `10.1.0.2` and `2001:db8::2`. Returns its index, and that namespace.
pub async fn near_and_far(lab: &Lab) -> (u32, Peer) {
    let near = lab.veth("near", "far").await;
    lab.address(near, "10.1.0.1/24").await;
    ip("-6 addr add 2001:db8::1/64 dev near nodad");
    let peer = Peer::new();
    lab.give(index("far"), &peer).await;
    peer.inside(async |there| {
        let far = index("far");
        there.address(far, "10.1.0.2/24").await;
        ip("-6 addr add 2001:db8::2/64 dev far nodad");
        there.up(far).await;
    });
    (near, peer)
}

/// Waits for an entry of the neighbour table in any state.
async fn until_known(address: &str) {
    let known = async {
        while !ip("-N neigh show nud all").as_array().unwrap().iter().any(|entry| entry["dst"] == address) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, known).await.unwrap_or_else(|_| panic!("{address} is not known"));
}

/// The link address of the far end.
fn far_mac(peer: &Peer) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    peer.inside(async move |_| sender.send(ip("link show dev far")).unwrap());
    receiver.recv().unwrap()[0]["address"].as_str().unwrap().to_owned()
}

async fn until(
    follower: &mut HostFollower,
    state: &mut HostState,
    what: &str,
    done: impl Fn(&HostState, &Changes) -> bool,
) {
    let changes = async {
        let mut changes = Changes::default();
        while !done(state, &changes) {
            changes = follower.changed(state).await.unwrap();
        }
    };
    timeout(PATIENCE, changes).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

#[test]
fn managed_neighbour_is_resolved_without_traffic() {
    in_namespace(async |lab| {
        let (near, _peer) = near_and_far(&lab).await;
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        let reconciler = Planned::start();
        let managed = |address| KernelNeighbour::Managed { ifindex: near, address };
        let far = [addr("10.1.0.2"), addr("2001:db8::2")];
        let plan = plan(far.map(managed));
        let report = reconciler.keep(&plan).await;
        assert_eq!(report, ReconcileReport { added: 2, ..ReconcileReport::default() });
        until(&mut follower, &mut state, "resolved", |state, _| {
            far.iter().all(|address| state.neighbours.contains_key(&(near, *address)))
        })
        .await;
        for address in far {
            let shown = shown(&address.to_string());
            assert!(shown.get("managed").is_some(), "{shown}");
            assert_eq!(shown["protocol"], "118");
            let mac = state.neighbours[&(near, address)].map(|byte| format!("{byte:02x}")).join(":");
            assert_eq!(shown["lladdr"], mac);
        }
        assert!(reconciler.keep(&plan).await.is_empty(), "a second time changes nothing");

        let report = reconciler.clear().await.unwrap();
        assert_eq!(report, ReconcileReport { deleted: 2, ..ReconcileReport::default() });
        until(&mut follower, &mut state, "gone", |state, _| {
            far.iter().all(|address| !state.neighbours.contains_key(&(near, *address)))
        })
        .await;
    });
}

#[test]
fn managed_neighbour_returns_after_link_flap() {
    in_namespace(async |lab| {
        let (near, _peer) = near_and_far(&lab).await;
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        let reconciler = Planned::start();
        let far = addr("10.1.0.2");
        let plan = plan([KernelNeighbour::Managed { ifindex: near, address: far }]);
        let known = |state: &HostState, _: &Changes| state.neighbours.contains_key(&(near, far));
        let unknown = |state: &HostState, changes: &Changes| !known(state, changes);
        reconciler.keep(&plan).await;
        until(&mut follower, &mut state, "resolved", known).await;
        lab.down(near).await;
        until(&mut follower, &mut state, "flushed with the link", unknown).await;
        lab.up(near).await;
        assert_eq!(reconciler.keep(&plan).await.added, 1);
        until(&mut follower, &mut state, "resolved again", known).await;
    });
}

#[test]
fn permanent_neighbour_converts_to_managed_and_back() {
    in_namespace(async |lab| {
        let (near, _peer) = near_and_far(&lab).await;
        let reconciler = Planned::start();
        let address = addr("10.1.0.9");
        let fixed = plan([KernelNeighbour::Permanent { ifindex: near, address, mac: [2; 6] }]);
        let managed = plan([KernelNeighbour::Managed { ifindex: near, address }]);
        for _ in 0..2 {
            assert_eq!(reconciler.keep(&fixed).await.added, 1);
            let entry = shown("10.1.0.9");
            assert_eq!(
                (&entry["lladdr"], &entry["state"][0]),
                (&Value::from("02:02:02:02:02:02"), &Value::from("PERMANENT"))
            );
            assert!(reconciler.keep(&fixed).await.is_empty());
            assert_eq!(reconciler.keep(&managed).await.added, 1);
            assert_ne!(shown("10.1.0.9")["state"][0], "PERMANENT");
            assert!(reconciler.keep(&managed).await.is_empty());
        }
    });
}

#[test]
fn foreign_neighbours_are_not_touched() {
    in_namespace(async |lab| {
        let (near, _peer) = near_and_far(&lab).await;
        ip("neigh add 10.1.0.7 lladdr 02:00:00:00:00:07 nud permanent dev near");
        ip("neigh add 10.1.0.8 lladdr 02:00:00:00:00:08 nud permanent dev near");
        ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 nud stale dev near");
        let before = ip("-details neigh show");
        let reconciler = Planned::start();
        let fixed = KernelNeighbour::Permanent { ifindex: near, address: addr("10.1.0.8"), mac: [9; 6] };
        let plan = plan([KernelNeighbour::Managed { ifindex: near, address: addr("10.1.0.7") }, fixed]);
        let report = reconciler.keep(&plan).await;
        let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
        assert_eq!(failure.object, format!("neighbour 10.1.0.8 on interface {near}"));
        assert_eq!((report.added, report.deleted), (0, 0));
        reconciler.clear().await.unwrap();
        assert_eq!(ip("-details neigh show"), before);
    });
}

#[test]
fn stale_neighbour_is_reported_and_refreshed_by_probe() {
    in_namespace(async |lab| {
        let (near, peer) = near_and_far(&lab).await;
        fs::write("/proc/sys/net/ipv4/neigh/near/delay_first_probe_time", "1").unwrap();
        let far: IpAddr = addr("10.1.0.2");
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        ip(&format!("neigh add 10.1.0.2 lladdr {} nud stale dev near", far_mac(&peer)));
        until(&mut follower, &mut state, "told", |_, changes| changes.stale == BTreeSet::from([(near, far)])).await;
        assert!(state.neighbours.contains_key(&(near, far)), "stale is usable");
        assert_eq!(shown("10.1.0.2")["state"][0], "STALE");

        let reconciler = Reconciler::start().unwrap();
        reconciler.probe(near, far);
        let confirmed = async {
            while shown("10.1.0.2")["state"][0] != "REACHABLE" {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, confirmed).await.expect("the neighbour was not confirmed");

        // Nothing to confirm, no such host, no such interface: none is an error.
        let (log, _guard) = log_here();
        reconciler.probe(near, far);
        reconciler.probe(near, addr("10.1.0.77"));
        reconciler.probe(9999, far);
        until_known("10.1.0.77").await;
        reconciler.probe(near, addr("10.1.0.78"));
        until_known("10.1.0.78").await;
        assert_eq!(log.text(), "");
    });
}

#[test]
fn unplanned_neighbour_is_resolved_by_probe() {
    in_namespace(async |lab| {
        let (near, peer) = near_and_far(&lab).await;
        let far: IpAddr = addr("10.1.0.2");
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        assert!(!state.neighbours.contains_key(&(near, far)));
        let reconciler = Reconciler::start().unwrap();
        reconciler.probe(near, far);
        until(&mut follower, &mut state, "resolved", |state, _| state.neighbours.contains_key(&(near, far))).await;
        let mac = state.neighbours[&(near, far)].map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(mac, far_mac(&peer));
    });
}

#[test]
fn initially_stale_neighbour_is_reported_and_stays_managed() {
    in_namespace(async |lab| {
        let (near, _peer) = near_and_far(&lab).await;
        let address = addr("10.1.0.2");
        let reconciler = Planned::start();
        let plan = plan([KernelNeighbour::Managed { ifindex: near, address }]);
        reconciler.keep(&plan).await;
        ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:00:07 nud stale managed dev near");
        ip("neigh replace 10.1.0.3 lladdr 02:00:00:00:00:03 nud stale dev near");
        let (mut state, mut follower) = HostFollower::start().await.unwrap();
        until(&mut follower, &mut state, "told", |_, changes| changes.stale.contains(&(near, addr("10.1.0.3")))).await;
        reconciler.probe(near, address);
        // Requested after the other.
        reconciler.probe(near, addr("10.1.0.78"));
        until_known("10.1.0.78").await;
        assert!(reconciler.keep(&plan).await.is_empty(), "still managed, still ours");
    });
}

//! Paths that come and go: veth pairs whose far ends the kernel answers for.

use std::{
    fs,
    time::{Duration, Instant},
};

use hub_userspace::health::{CheckTarget, LinkLayer, Verdict};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tokio::time::sleep;

use crate::{
    lab::{Lab, Peer, in_namespace, index, ip},
    support::{BOUND, INTERVAL, Probing, desired, target},
};

const FAR: &str = "02:00:00:00:00:02";
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ETHERNET: LinkLayer = LinkLayer::Ethernet { peer: Some(FAR_MAC) };

/// An interface whose far end, in another namespace, has 10.1.0.2 and `2001:db8::2` and a return route to 192.0.2.1 and
/// `2001:db8:1::1`, the hub's addresses.
async fn path(lab: &Lab, name: &str) -> (u32, Peer) {
    let near = lab.veth(name, "far").await;
    lab.address(near, "192.0.2.1/32").await;
    ip(&format!("-6 addr add 2001:db8:1::1/128 dev {name} nodad"));
    let mac = ip(&format!("link show dev {name}"))[0]["address"].as_str().unwrap().to_owned();
    let peer = Peer::new();
    lab.give(index("far"), &peer).await;
    peer.inside(async move |there| {
        let far = index("far");
        ip(&format!("link set dev far address {FAR}"));
        there.up(far).await;
        there.address(far, "10.1.0.2/24").await;
        ip("-6 addr add 2001:db8::2/64 dev far nodad");
        ip("route add 192.0.2.1 via 10.1.0.9 onlink dev far");
        ip("-6 route add 2001:db8:1::1 via 2001:db8::9 onlink dev far");
        for address in ["10.1.0.9", "2001:db8::9"] {
            ip(&format!("neigh add {address} lladdr {mac} nud permanent dev far"));
        }
    });
    (near, peer)
}

/// Makes the far end's kernel ignore echo requests, or answer them.
fn ignore(peer: &Peer, ignored: bool) {
    peer.inside(async move |_| {
        for sysctl in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
            fs::write(format!("/proc/sys/net/{sysctl}"), u8::from(ignored).to_string()).unwrap();
        }
    });
}

#[test]
fn silent_far_end_is_unhealthy_within_bound_until_reply() {
    in_namespace(async |lab| {
        // The near namespace has no route to the far end.
        let (near, peer) = path(&lab, "near").await;
        let versions = [("192.0.2.1", "10.1.0.2"), ("2001:db8:1::1", "2001:db8::2")];
        for (source, destination) in versions {
            let start = Instant::now();
            let mut probing = Probing::start(&[("one", target(near, ETHERNET, source, destination))]);
            probing.healthy("one").await;
            probing.quiet(INTERVAL * 10).await;
            assert_pace(&mut probing, "one", 10, start, INTERVAL).await;
            // The last reply may be under way.
            probing.until("one", "the replies", |report| report.received >= report.sent - 1).await;
            assert_eq!(probing.report("one").lost, 0);

            ignore(&peer, true);
            let after = probing.unhealthy("one", Instant::now()).await;
            println!("{destination}: unhealthy {after:?} after the far end fell silent (bound {BOUND:?})");
            probing.quiet(INTERVAL * 10).await;

            let back = Instant::now();
            ignore(&peer, false);
            probing.healthy("one").await;
            assert!(back.elapsed() < BOUND * 10);
        }
    });
}

/// Waits for this many probes, which never come faster than the interval, on a busy machine either.
async fn assert_pace(probing: &mut Probing, name: &str, count: u64, start: Instant, interval: Duration) {
    loop {
        let report = probing.report(name);
        let most = (start.elapsed().as_micros() / interval.as_micros()) as u64 + 1;
        assert!(report.sent <= most, "more than {most}: {report:?}");
        if report.sent >= count {
            return;
        }
        sleep(interval).await;
    }
}

#[test]
fn far_end_without_address_is_unhealthy_from_start() {
    in_namespace(async |lab| {
        let (near, peer) = path(&lab, "near").await;
        let start = Instant::now();
        let mut probing = Probing::start(&[("one", target(near, ETHERNET, "192.0.2.1", "10.1.0.77"))]);
        assert_eq!(probing.report("one").verdict, None, "nothing is known yet");
        probing.unhealthy("one", start).await;
        peer.inside(async |there| there.address(index("far"), "10.1.0.77/24").await);
        probing.healthy("one").await;
    });
}

#[test]
fn reply_frame_for_other_host_is_ignored() {
    in_namespace(async |lab| {
        let (near, peer) = path(&lab, "near").await;
        let mut probing = Probing::start(&[("one", target(near, ETHERNET, "192.0.2.1", "10.1.0.2"))]);
        probing.healthy("one").await;
        peer.inside(async |_| {
            ip("neigh replace 10.1.0.9 lladdr 02:00:00:00:00:99 nud permanent dev far");
        });
        probing.unhealthy("one", Instant::now()).await;
    });
}

#[test]
fn checks_of_one_destination_over_two_links_are_independent() {
    in_namespace(async |lab| {
        let (first, _first_peer) = path(&lab, "first").await;
        let (second, second_peer) = path(&lab, "second").await;
        // All routes lead to the first; strict reverse-path filters drop nothing from the second.
        ip("route add 10.1.0.2 dev first");
        for interface in ["all", "first", "second"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "1").unwrap();
        }
        let through = |ifindex| target(ifindex, ETHERNET, "192.0.2.1", "10.1.0.2");
        let mut probing = Probing::start(&[("first", through(first)), ("second", through(second))]);
        let events = [probing.event().await, probing.event().await];
        assert!(events.iter().all(|event| event.verdict == Verdict::Healthy), "{events:?}");
        assert!(probing.report("first").is_healthy() && probing.report("second").is_healthy());
        ignore(&second_peer, true);
        probing.unhealthy("second", Instant::now()).await;
        probing.quiet(INTERVAL * 5).await;
        assert!(probing.report("first").is_healthy());
        ignore(&second_peer, false);
        probing.healthy("second").await;
    });
}

#[test]
fn changed_check_restarts_and_others_continue() {
    in_namespace(async |lab| {
        let (near, _peer) = path(&lab, "near").await;
        let kept = target(near, ETHERNET, "192.0.2.1", "10.1.0.2");
        let mut probing = Probing::start(&[("kept", kept.clone()), ("other", kept.clone())]);
        probing.event().await;
        probing.event().await;
        probing.until("kept", "some probes", |report| report.received >= 3).await;

        let mut nowhere = kept.clone();
        nowhere.check.destinations = vec!["10.1.0.77".parse().unwrap()];
        probing.prober.set(desired(&[("kept", kept.clone()), ("other", nowhere)]));
        assert_eq!(probing.report("other").verdict, None);
        assert!(probing.report("kept").received >= 3);
        probing.unhealthy("other", Instant::now()).await;

        // A changed link address does not restart the check.
        let moved = |peer| desired(&[("kept", kept.clone()), ("other", target(near, peer, "192.0.2.1", "10.1.0.77"))]);
        let sent = probing.report("other").sent;
        probing.prober.set(moved(LinkLayer::Ethernet { peer: Some([2, 0, 0, 0, 0, 9]) }));
        assert!(probing.report("other").sent >= sent);
        probing.quiet(INTERVAL * 5).await;

        probing.prober.set(desired(&[("kept", kept.clone())]));
        assert_eq!(probing.prober.report("other"), None);
        probing.prober.set(desired(&[]));
        assert_eq!(probing.prober.report("kept"), None);
        probing.quiet(INTERVAL * 5).await;
        probing.prober.set(desired(&[("kept", kept)]));
        probing.healthy("kept").await;
    });
}

#[test]
fn first_probe_is_sent_as_soon_as_peer_is_known() {
    in_namespace(async |lab| {
        let (near, _peer) = path(&lab, "near").await;
        let mut known = target(near, ETHERNET, "192.0.2.1", "10.1.0.2");
        known.check.interval = Duration::from_secs(3600);
        let mut probing = Probing::start(&[("one", known.clone())]);
        probing.healthy("one").await;

        let unknown = CheckTarget { link: LinkLayer::Ethernet { peer: None }, ..known.clone() };
        let mut probing = Probing::start(&[("one", unknown)]);
        probing.until("one", "the problem", |report| report.problem.is_some()).await;
        let report = probing.report("one");
        assert_eq!(report.problem.as_deref(), Some("the link address of its peer is not known yet"));
        assert_eq!((report.sent, report.verdict), (0, None));
        probing.prober.set(desired(&[("one", known)]));
        probing.healthy("one").await;
        assert_eq!(probing.report("one").problem, None);
    });
}

/// The agent's own threads may be busy with clients and tables.
#[test]
fn probes_go_on_while_the_callers_runtime_is_busy() {
    in_namespace(async |lab| {
        let (near, _peer) = path(&lab, "near").await;
        let probing = Probing::start(&[("one", target(near, ETHERNET, "192.0.2.1", "10.1.0.2"))]);
        let start = Instant::now();
        // Never returns to the runtime, which has this thread only.
        while probing.report("one").received < 5 {
            assert!(start.elapsed() < 100 * INTERVAL, "{:?}", probing.report("one"));
            std::hint::spin_loop();
        }
    });
}

#[test]
fn check_without_cap_net_raw_reports_remedy() {
    in_namespace(async |lab| {
        let (near, _peer) = path(&lab, "near").await;
        // For this thread only, which ends with the test.
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_RAW);
        set_capabilities(None, sets).unwrap();
        let start = Instant::now();
        let mut probing = Probing::start(&[("one", target(near, ETHERNET, "192.0.2.1", "10.1.0.2"))]);
        probing.unhealthy("one", start).await;
        let report = probing.report("one");
        assert!(report.problem.unwrap().starts_with("it needs CAP_NET_RAW: run the agent as root"));
        assert_eq!(report.sent, 0);
    });
}

#[test]
fn check_on_dead_interface_is_unhealthy_and_idle() {
    in_namespace(async |lab| {
        let (near, peer) = path(&lab, "near").await;
        let mut probing = Probing::start(&[("one", target(near, ETHERNET, "192.0.2.1", "10.1.0.2"))]);
        probing.healthy("one").await;
        lab.down(near).await;
        probing.unhealthy("one", Instant::now()).await;
        probing.until("one", "the problem", |report| report.problem.is_some()).await;
        let problem = probing.report("one").problem.unwrap();
        assert_eq!(problem, "its interface is down; retried with every probe");

        assert_idle().await;

        lab.up(near).await;
        probing.healthy("one").await;
        lab.delete(near).await;
        probing.unhealthy("one", Instant::now()).await;
        probing.until("one", "gone", |report| report.problem.as_ref().is_some_and(|it| it.contains("gone"))).await;
        assert_idle().await;
        drop(peer);
    });
}

/// Checks that the next second uses little CPU time.
async fn assert_idle() {
    let before = cpu_time();
    sleep(Duration::from_secs(1)).await;
    let work = cpu_time().saturating_sub(before);
    assert!(work < Duration::from_millis(200), "{work:?} of work in a second");
}

/// CPU time of this thread, which runs the runtime's tasks.
fn cpu_time() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn thousands_of_checks_on_interface_hold_their_intervals() {
    const CHECKS: u64 = 4000;
    in_namespace(async |lab| {
        let (near, _peer) = path(&lab, "near").await;
        let mut often = target(near, ETHERNET, "192.0.2.1", "10.1.0.2");
        often.check.interval = Duration::from_millis(10);
        let start = Instant::now();
        let mut probing = Probing::start(&[("often", often.clone())]);
        probing.healthy("often").await;
        assert_pace(&mut probing, "often", 50, start, often.check.interval).await;
        probing.quiet(Duration::ZERO).await;

        let mut slow = often.clone();
        slow.check.interval = Duration::from_secs(1);
        let names: Vec<String> = (0..CHECKS).map(|number| number.to_string()).collect();
        let targets: Vec<_> = names.iter().map(|name| (name.as_str(), slow.clone())).collect();
        let busy = cpu_time();
        probing.prober.set(desired(&targets));
        for _ in 0..CHECKS {
            assert_eq!(probing.event().await.verdict, Verdict::Healthy);
        }
        for name in &names {
            while probing.report(name).received < 3 {
                sleep(slow.check.interval).await;
            }
        }
        println!("3 × {CHECKS} checks: {:?} of work, the far end's included", cpu_time().saturating_sub(busy));
        probing.quiet(Duration::ZERO).await;
    });
}

//! The table is created, changed, kept and deleted.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures_util::FutureExt as _;
use hub_common::Mark;
use hub_userspace::kernel::netlink::{Guard, GuardCounters, GuardError, GuardService, Ruleset};
use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tokio::time::timeout;

use super::{
    GROUP,
    bench::Bench,
    dump::table,
    names, no_route,
    packet::{What, packet},
    ruleset, selectors, to,
};
use crate::lab::{addr, in_namespace, net};

const FIXED_SETS: [&str; 9] = [
    "sites",
    "next_hops",
    "selectors",
    "tcp_services",
    "udp_services",
    "icmp_input",
    "icmp6_input",
    "icmp_output",
    "icmp6_output",
];

/// Reports only the differences.
pub fn assert_same(found: &BTreeSet<String>, desired: &BTreeSet<String>, what: &str) {
    let differ: Vec<_> = found.symmetric_difference(desired).collect();
    assert!(differ.is_empty(), "{what}: {differ:#?}");
}

pub fn shown() -> BTreeSet<String> {
    table(&FIXED_SETS)
}

/// The table's contents if only this ruleset was ever applied.
async fn alone(ruleset: &Ruleset) -> BTreeSet<String> {
    let mut guard = Guard::open_plain().await.unwrap();
    guard.remove().await.unwrap();
    guard.apply(ruleset).await.unwrap();
    shown()
}

/// Whether the guard has noticed a foreign change.
pub async fn is_disturbed(guard: &mut Guard) -> bool {
    // The kernel reports a change before the call that makes it returns; tokio may need another poll to see it.
    let wait = timeout(Duration::from_millis(50), guard.disturbed()).await;
    wait.map(Result::unwrap).is_ok()
}

#[test]
fn same_ruleset_applied_twice_changes_nothing() {
    in_namespace(async |_lab| {
        let mut guard = Guard::open_plain().await.unwrap();
        let mut other = Guard::open_plain().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        assert!(is_disturbed(&mut other).await, "it hears of what a stranger makes");
        let before = shown();
        guard.apply(&ruleset()).await.unwrap();
        assert!(!is_disturbed(&mut other).await);
        other.apply(&ruleset()).await.unwrap();
        assert_same(&shown(), &before, "another agent writes the same");
        assert_same(&alone(&ruleset()).await, &before, "from nothing");
    });
}

#[test]
fn set_changes_keep_counters_and_other_objects() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let mut guard = Guard::open().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        assert_eq!(bench.send("far1", 0, "10.1.0.5", "10.2.0.5", What::Udp(1, 2)), [""; 0]);
        assert_eq!(bench.send("far4", 0, "10.4.0.5", "10.2.0.5", What::Udp(1, 2)), [""; 0]);
        let counted = guard.counters().await.unwrap();
        assert_eq!((counted.unmarked.packets, counted.strangers["strange"].packets), (1, 1));

        let mut next = ruleset();
        next.next_hops = [(to(9), "site2".to_owned())].into();
        next.output.insert("site2".to_owned(), [(net("0.0.0.0/0"), net("10.2.0.0/16"))].into());
        guard.apply(&next).await.unwrap();
        assert_eq!(bench.send("far1", to(9), "10.1.0.5", "10.2.0.5", What::Udp(1, 2)), ["far2"]);
        assert_eq!(guard.counters().await.unwrap(), counted);
        // Different rules, by an agent without knowledge of the existing table.
        guard.apply(&Ruleset { group: GROUP, ..next.clone() }).await.unwrap();
        assert_eq!(guard.counters().await.unwrap(), counted);
        drop(guard);
        let mut guard = Guard::open().await.unwrap();
        guard.apply(&next).await.unwrap();
        assert_eq!(guard.counters().await.unwrap(), counted);
        drop(guard);
        assert_same(&shown(), &alone(&next).await, "changed");
    });
}

#[test]
fn foreign_table_change_is_detected_and_repaired() {
    in_namespace(async |_lab| {
        let desired = alone(&ruleset()).await;
        let mut guard = Guard::open_plain().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        guard.apply(&Ruleset { sites: names(["x"]), ..ruleset() }).await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        assert!(!is_disturbed(&mut guard).await, "own changes");

        Guard::open_plain().await.unwrap().remove().await.unwrap();
        assert!(is_disturbed(&mut guard).await);
        assert!(!is_disturbed(&mut guard).await, "once");
        guard.apply(&ruleset()).await.unwrap();
        assert_same(&shown(), &desired, "mended");

        // Nothing listens meanwhile: the next change detects it, though its sets equal the cached ones.
        for stranger in [Ruleset::default(), Ruleset { sites: names(["eth9"]), ..ruleset() }] {
            Guard::open_plain().await.unwrap().apply(&stranger).await.unwrap();
            guard.apply(&ruleset()).await.unwrap();
            assert_same(&shown(), &desired, "mended");
            assert!(!is_disturbed(&mut guard).await, "it is mended already");
        }
    });
}

#[test]
fn ruleset_replacement_lets_no_packet_through() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let mut guard = Guard::open().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        let tag = bench.tag();
        let flood = bench.flood("far1", packet(addr("10.1.0.5"), addr("10.2.0.5"), What::Udp(1, 2), &tag));
        for group in 1..=300 {
            // Different rules each time, every second time by an agent without knowledge of the existing table.
            // A command that another test starts has the earlier owner's socket until its exec.
            while let Err(error) = guard.apply(&Ruleset { group, ..ruleset() }).await {
                assert!(matches!(error, GuardError::Owned { .. }) && group > 1, "{error}");
                tokio::task::yield_now().await;
            }
            if group % 2 == 0 {
                guard = Guard::open().await.unwrap();
            }
        }
        let sent = flood.end();
        assert!(sent > 300, "{sent} sent");
        // None arrives twice, and hardly any is lost to a full queue. Some may still wait on another CPU.
        let mut counted = 0;
        loop {
            bench.settle();
            let before = std::mem::replace(&mut counted, guard.counters().await.unwrap().unmarked.packets);
            if before == counted {
                break;
            }
        }
        assert!((sent / 2..=sent).contains(&counted), "{counted} of {sent} counted");
        assert_eq!(bench.arrived(&tag), [""; 0]);
    });
}

#[test]
fn table_removal_works_with_and_without_table() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let mut guard = Guard::open().await.unwrap();
        guard.remove().await.unwrap();
        assert_eq!(guard.counters().await.unwrap(), GuardCounters::default());
        guard.apply(&ruleset()).await.unwrap();
        assert_eq!(bench.send("far1", 0, "10.1.0.5", "10.2.0.5", What::Udp(1, 2)), [""; 0]);
        drop(guard);
        assert_eq!(bench.send("far1", 0, "10.1.0.5", "10.2.0.5", What::Udp(1, 2)), [""; 0], "it stays");
        let mut guard = Guard::open().await.unwrap();
        guard.remove().await.unwrap();
        assert_same(&shown(), &BTreeSet::new(), "removed");
        assert_eq!(bench.send("far1", 0, "10.1.0.5", "10.2.0.5", What::Udp(1, 2)), ["far2"]);
        guard.remove().await.unwrap();
    });
}

#[test]
fn apply_after_cancelled_apply_repairs_table() {
    in_namespace(async |_lab| {
        let desired = alone(&ruleset()).await;
        let mut guard = Guard::open().await.unwrap();
        for sites in [names(["one"]), names(["two", "three"]), names([])] {
            // Polled once: whether it completed or not, the next one takes effect.
            _ = guard.apply(&Ruleset { sites, ..ruleset() }).now_or_never();
            guard.apply(&ruleset()).await.unwrap();
            assert_same(&shown(), &desired, "mended");
        }
    });
}

#[test]
fn ruleset_rejects_ambiguous_mark_and_skips_invalid_names() {
    in_namespace(async |_lab| {
        let mut guard = Guard::open().await.unwrap();
        for (flag, mask) in [(0, 0xff), (3, 0xff), (0x100, 0xff), (1, 1)] {
            let refused = guard.apply(&Ruleset { mark: Mark { flag, mask }, ..ruleset() }).await;
            let error = refused.unwrap_err();
            assert!(error.to_string().contains("correct [dataplane] mark"), "{error}");
        }
        let odd = ["", "sixteen-bytes-xx", "far-longer-than-any-interface"];
        let mut strange = ruleset();
        strange.sites.extend(odd.map(str::to_owned));
        strange.next_hops.extend(odd.map(|name| (no_route(), name.to_owned())));
        strange.next_hops.insert((0, "site1".to_owned()));
        strange.output.extend(odd.map(|name| (name.to_owned(), BTreeSet::from([(net("::/0"), net("::/0"))]))));
        strange.output.get_mut("site1").unwrap().insert((net("::/0"), net("0.0.0.0/0")));
        guard.apply(&strange).await.unwrap();
        drop(guard);
        assert_same(&shown(), &alone(&ruleset()).await, "without the odd names");
    });
}

#[test]
fn guard_without_cap_net_admin_reports_permission_error() {
    in_namespace(async |_lab| {
        let mut sets = capabilities(None).unwrap();
        let all = sets;
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        let opened = Guard::open().await;
        set_capabilities(None, CapabilitySets { ..all }).unwrap();
        assert!(matches!(opened, Err(GuardError::Permission)), "{:?}", opened.err());
    });
}

#[test]
fn random_ruleset_sequence_equals_last_one_alone() {
    const SEED: u64 = 0x9118;
    in_namespace(async |_lab| {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut guard = Guard::open_plain().await.unwrap();
        for round in 0..500 {
            let next = random_ruleset(&mut random);
            guard.apply(&next).await.unwrap_or_else(|error| panic!("round {round}, seed {SEED}: {error}; {next:?}"));
            if round % 50 == 49 {
                let after_all = shown();
                assert_same(&after_all, &alone(&next).await, &format!("round {round}, seed {SEED}"));
                assert!(is_disturbed(&mut guard).await);
            }
        }
    });
}

fn random_ruleset(random: &mut SmallRng) -> Ruleset {
    const NAMES: [&str; 6] = ["eth0", "tun-shanghai", "x", "fifteen-bytes-x", "site1", "ü"];
    let name = |random: &mut SmallRng| (*NAMES.choose(random).unwrap()).to_owned();
    let marks = [Mark::default(), Mark { flag: 0x8000_0000, mask: 0x8000_0fff }];
    let mark = marks[usize::from(random.random_ratio(1, 20))];
    let services = (0..random.random_range(0..5)).map(|_| match random.random_range(0..3) {
        0 => GuardService::Icmp,
        1 => GuardService::Tcp(random.random_range(0..4)),
        _ => GuardService::Udp(random.random()),
    });
    Ruleset {
        vpc: BTreeSet::new(),
        services: services.collect(),
        sites: (0..random.random_range(0..5)).map(|_| name(random)).collect(),
        group: if random.random_ratio(1, 20) { 0 } else { GROUP },
        next_hops: (0..random.random_range(0..6))
            .map(|_| (mark.numbered(random.random_range(0..9)), name(random)))
            .collect(),
        output: selectors((0..random.random_range(0..25)).map(|_| {
            let v6 = random.random();
            (*NAMES.choose(random).unwrap(), random_net(random, v6), random_net(random, v6))
        })),
        mark,
    }
}

/// From few addresses, so that many overlap, and of all lengths; host bits may remain.
fn random_net(random: &mut SmallRng, v6: bool) -> IpNet {
    let bits = if v6 { 128 } else { 32 };
    let length = *[0, 1, 2, 3, bits / 2, bits - 1, bits, random.random_range(0..=bits)].choose(random).unwrap();
    let high = u128::from(random.random_range(0..8_u8)) << 125;
    let low = *[0, 1, u128::MAX >> 8].choose(random).unwrap();
    let address = high | (low & (u128::MAX >> 3));
    let address = if v6 {
        IpAddr::V6(address.into())
    } else {
        IpAddr::V4((((address >> 96) as u32) & !1 | (low & 1) as u32).into())
    };
    IpNet::new(address, length).unwrap()
}

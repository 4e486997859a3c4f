//! Permission to change the table: only its owner if the kernel supports owners (Linux 6.9), otherwise anybody.

use std::{
    net::UdpSocket,
    os::fd::{BorrowedFd, OwnedFd},
    process::Command,
};

use hub_userspace::kernel::netlink::{Guard, GuardCounters, GuardError, Ruleset};

use super::{
    bench::Bench,
    changes::{assert_same, is_disturbed, shown},
    local, names,
    packet::{What, packet},
    ruleset,
};
use crate::lab::{Peer, addr, in_namespace};

/// Changes to the table by others, and whether they succeed on an owned table by skipping it.
const CHANGES: [(&str, bool); 8] = [
    ("flush ruleset", true),
    ("flush ruleset inet", true),
    ("delete table inet vpnhub", false),
    ("flush table inet vpnhub", false),
    ("flush set inet vpnhub sites", false),
    ("add element inet vpnhub next_hops { 0x10020000 . \"site2\" }", false),
    ("insert rule inet vpnhub prerouting accept", false),
    ("add table inet vpnhub { flags dormant; }", false),
];

/// What a command prints, or its error.
pub fn nft(command: &str) -> Result<String, String> {
    let output = Command::new("nft").arg(command).output().expect("nft (apt-get install nftables)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A guard whose table has an owner. `None` if the kernel has no owners: `Guard::open` then makes a plain table, which
/// all other tests cover.
async fn owner() -> Option<Guard> {
    let mut guard = Guard::open().await.unwrap();
    guard.apply(&ruleset()).await.unwrap();
    let says_so = guard.is_owner();
    // Checked with the kernel itself.
    assert_eq!(nft("add table inet vpnhub").is_err(), says_so);
    if !says_so {
        println!("tables of this kernel have no owner: nothing to test");
    }
    says_so.then_some(guard)
}

async fn assert_unchangeable(guard: Option<&mut Guard>) {
    let before = shown();
    for (change, passes) in CHANGES {
        let done = nft(change);
        assert_eq!(done.is_ok(), passes, "{change}: {done:?}");
        assert_same(&shown(), &before, change);
    }
    if let Some(guard) = guard {
        assert!(!is_disturbed(guard).await);
    }
}

fn copy(guard: &Guard) -> OwnedFd {
    let mut copied = None;
    guard.with_socket(|socket: BorrowedFd<'_>| copied = Some(socket.try_clone_to_owned().unwrap()));
    copied.unwrap()
}

#[test]
fn owned_table_rejects_changes_by_others() {
    in_namespace(async |_lab| {
        let Some(mut guard) = owner().await else { return };
        assert_unchangeable(Some(&mut guard)).await;
        // The owner itself can continue.
        guard.apply(&Ruleset { sites: names(["x"]), ..ruleset() }).await.unwrap();
        assert_unchangeable(Some(&mut guard)).await;
    });
}

#[test]
fn second_guard_on_owned_table_reports_owner() {
    in_namespace(async |_lab| {
        let Some(guard) = owner().await else { return };
        let before = shown();
        for mut other in [Guard::open().await.unwrap(), Guard::open_plain().await.unwrap()] {
            for refused in [other.apply(&ruleset()).await, other.remove().await, other.must_be_free().await] {
                let error = refused.unwrap_err();
                assert!(matches!(error, GuardError::Owned { .. }), "{error}");
            }
            assert!(other.is_there().await.unwrap());
        }
        assert_same(&shown(), &before, "refused");
        guard.must_be_free().await.unwrap();
        drop(guard);
        Guard::open().await.unwrap().must_be_free().await.unwrap();
    });
}

#[test]
fn table_of_exited_owner_is_adopted_with_its_content() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let Some(mut guard) = owner().await else { return };
        let (counted, _socket) = fill(&mut bench, &mut guard).await;
        let before = shown();
        for _ in 0..3 {
            drop(guard);
            assert_same(&shown(), &before, "without an owner");
            guard = Guard::open().await.unwrap();
            guard.apply(&ruleset()).await.unwrap();
            assert_same(&shown(), &before, "adopted");
            assert_unchangeable(Some(&mut guard)).await;
            assert_full(&mut bench, &mut guard, &counted).await;
        }
        // A table without an owner is unprotected: hence the use of systemd's store.
        drop(guard);
        nft("flush ruleset").unwrap();
        assert_same(&shown(), &[].into(), "flushed");
        let mut guard = Guard::open().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        assert_same(&shown(), &before, "made again");
        assert_unchangeable(Some(&mut guard)).await;
        guard.remove().await.unwrap();
        assert_same(&shown(), &[].into(), "removed");
    });
}

#[test]
fn socket_held_open_retains_table_ownership() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let Some(mut guard) = owner().await else { return };
        let (counted, _socket) = fill(&mut bench, &mut guard).await;
        for _ in 0..3 {
            let kept = copy(&guard);
            // In flight when the process ends.
            drop(guard);
            assert_unchangeable(None).await;
            guard = Guard::resume(kept).await.unwrap().expect("it is of this namespace");
            assert!(guard.is_owner());
            assert_unchangeable(Some(&mut guard)).await;
            guard.apply(&Ruleset { sites: names(["x"]), ..ruleset() }).await.unwrap();
            guard.apply(&ruleset()).await.unwrap();
            assert!(!is_disturbed(&mut guard).await, "own changes");
            assert_full(&mut bench, &mut guard, &counted).await;
        }
        guard.remove().await.unwrap();
        assert_same(&shown(), &[].into(), "removed");
    });
}

#[test]
fn socket_of_other_namespace_or_kind_is_not_resumed() {
    in_namespace(async |_lab| {
        let guard = Guard::open().await.unwrap();
        let kept = copy(&guard);
        Peer::new().inside(async move |_lab| {
            assert!(Guard::resume(kept).await.unwrap().is_none());
        });
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Guard::resume(file.into()).await.is_err());
        let stream = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(Guard::resume(stream.into()).await.unwrap().is_none());
    });
}

#[test]
fn ownership_change_replaces_table_and_keeps_counters() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let mut guard = Guard::open_plain().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        let (counted, _socket) = fill(&mut bench, &mut guard).await;
        let before = shown();
        for plain in [false, true, false, true] {
            drop(guard);
            guard = if plain { Guard::open_plain().await } else { Guard::open().await }.unwrap();
            guard.apply(&ruleset()).await.unwrap();
            assert_same(&shown(), &before, "replaced");
            assert_full(&mut bench, &mut guard, &counted).await;
        }
    });
}

#[test]
fn owner_change_lets_no_packet_through() {
    in_namespace(async |lab| {
        let mut bench = Bench::new(&lab).await;
        let mut guard = Guard::open_plain().await.unwrap();
        guard.apply(&ruleset()).await.unwrap();
        let tag = bench.tag();
        let flood = bench.flood("far1", packet(addr("10.1.0.5"), addr("10.2.0.5"), What::Udp(1, 2), &tag));
        for round in 0..100 {
            // Replaced, adopted.
            guard = if round % 4 == 0 { Guard::open_plain().await } else { Guard::open().await }.unwrap();
            guard.apply(&ruleset()).await.unwrap();
        }
        let sent = flood.end();
        assert!(sent > 100, "{sent} sent");
        bench.settle();
        assert_eq!(bench.arrived(&tag), [""; 0]);
    });
}

/// Packets that are counted, also per interface, and a query of the hub's, to be answered at the socket.
async fn fill(bench: &mut Bench, guard: &mut Guard) -> (GuardCounters, UdpSocket) {
    assert_eq!(bench.send("far1", 0, "10.1.0.5", "10.2.0.5", What::Udp(1, 2)), [""; 0]);
    assert_eq!(bench.send("far4", 0, "10.4.0.5", "10.2.0.5", What::Udp(1, 2)), [""; 0]);
    let socket = UdpSocket::bind(("10.0.1.1", 4000)).unwrap();
    socket.send_to(b"question", ("10.1.0.5", 5353)).unwrap();
    let counted = guard.counters().await.unwrap();
    assert_eq!((counted.unmarked.packets, counted.strangers["strange"].packets), (1, 1));
    (counted, socket)
}

async fn assert_full(bench: &mut Bench, guard: &mut Guard, counted: &GuardCounters) {
    assert_eq!(guard.counters().await.unwrap(), *counted);
    let answered = bench.send("far1", local(), "10.1.0.5", "10.0.1.1", What::Udp(5353, 4000));
    assert_eq!(answered, ["hub"], "the answer to a question from before");
}

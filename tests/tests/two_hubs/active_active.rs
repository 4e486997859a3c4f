//! Both hubs carry traffic; one is drained, or killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hub_tests::lab::{Ping, PingReport, TwoHubs, agent_binary, retry};

/// Kinds of traffic: see [`TwoHubs::flow`].
const KINDS: usize = 3;
/// Flows of each kind: both hubs have some of them, of 2 to the power of 8 only 2 times none.
const FLOWS: std::ops::Range<u8> = 10..18;

fn start() -> TwoHubs {
    let lab = TwoHubs::start(agent_binary()).unwrap();
    wait_for_answers(&lab);
    lab
}

fn wait_for_answers(lab: &TwoHubs) {
    for kind in 0..KINDS {
        for number in FLOWS {
            let (from, source, to) = lab.flow(kind, number);
            retry("no answer", || {
                let ping = Ping::new(to).source(source).timeout(Duration::from_millis(200)).run(from)?;
                Ok(ping.complete().then_some(()))
            })
            .unwrap();
        }
    }
}

/// Pings of each kind and flow, one each.
fn all_answer(lab: &TwoHubs) {
    for kind in 0..KINDS {
        for number in FLOWS {
            let (from, source, to) = lab.flow(kind, number);
            let report = Ping::new(to).source(source).run(from).unwrap();
            assert!(report.complete(), "kind {kind}, {source} to {to}: {report:?}");
        }
    }
}

/// Packets that each hub receives while all flows ping once.
fn carried(lab: &TwoHubs) -> [u64; 2] {
    let before = [0, 1].map(|hub| lab.received(hub).unwrap());
    all_answer(lab);
    [0, 1].map(|hub| lab.received(hub).unwrap() - before[hub])
}

/// Pings on all flows while `act` runs, and some more afterwards: each flow every 5 ms. Returns what `act` returns, and
/// the reports.
fn during<T>(lab: &TwoHubs, act: impl FnOnce() -> T) -> (T, Vec<PingReport>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flows = (0..KINDS).flat_map(|kind| FLOWS.map(move |number| (kind, number)));
        let pingers: Vec<_> = flows
            .map(|(kind, number)| {
                let done = &done;
                scope.spawn(move || {
                    let (from, source, to) = lab.flow(kind, number);
                    let ping = Ping::new(to).source(source).count(20).interval(Duration::from_millis(5));
                    let mut all: Option<PingReport> = None;
                    loop {
                        let ends = done.load(Ordering::Relaxed);
                        let report = ping.run(from).unwrap();
                        let all = all.get_or_insert_with(|| PingReport { sent: 0, received: 0, ..report.clone() });
                        (all.sent, all.received) = (all.sent + report.sent, all.received + report.received);
                        if ends {
                            return all.clone();
                        }
                    }
                })
            })
            .collect();
        let result = act();
        done.store(true, Ordering::Relaxed);
        (result, pingers.into_iter().map(|pinger| pinger.join().unwrap()).collect())
    })
}

fn assert_complete(reports: &[PingReport]) {
    assert_eq!(reports.len(), KINDS * FLOWS.len());
    for report in reports {
        assert!(report.complete() && report.sent >= 20, "{reports:#?}");
    }
}

pub fn shared() {
    let lab = start();
    for hub in carried(&lab) {
        // Each ping and each answer is one packet for a hub: some of both kinds.
        assert!(hub >= 8, "{:?}", carried(&lab));
    }
    lab.stop().unwrap();
}

pub fn drained() {
    let lab = start();
    let ((), reports) = during(&lab, || {
        let answer = lab.agent(0).json(&["standby", "--drain", "1s"]).unwrap();
        assert_eq!(answer["changed"], true, "{answer}");
        lab.wait_for_next_hops(1).unwrap();
    });
    assert_complete(&reports);
    assert_eq!(lab.agent(0).status().unwrap()["gateway"]["role"], "standby");
    let [drained, other] = carried(&lab);
    // BGP and BFD go on.
    assert!(drained < other / 4, "{drained} and {other}");

    let ((), reports) = during(&lab, || {
        lab.agent(0).json(&["active"]).unwrap();
        lab.wait_for_next_hops(2).unwrap();
    });
    assert_complete(&reports);
    for hub in carried(&lab) {
        assert!(hub >= 8);
    }
    lab.stop().unwrap();
}

pub fn killed() {
    let mut lab = start();
    lab.kill_hub(0).unwrap();
    wait_for_answers(&lab);
    lab.wait_for_next_hops(1).unwrap();
    all_answer(&lab);
    lab.start_hub(0).unwrap();
    lab.wait_for_next_hops(2).unwrap();
    for hub in carried(&lab) {
        assert!(hub >= 8);
    }
    lab.stop().unwrap();
}

//! Every query of the Grafana board has data on a hub on which everything happens that it shows.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use hub_tests::board::{Board, BoardLab, Event, Kind};
use hub_tests::checkout;
use hub_tests::lab::{agent_binary, retry_within};

use crate::PATIENCE;

const SCRAPE: Duration = Duration::from_millis(500);

pub fn queries() {
    let file = checkout::find().unwrap().join("contrib/grafana/vpnhub.json");
    let board = Board::read(&fs::read_to_string(file).unwrap()).unwrap();
    let all = board.panels.iter().flat_map(|panel| panel.targets.iter().map(move |target| (panel, target)));
    let mut open: BTreeSet<(&str, String)> =
        all.map(|(panel, target)| (panel.title.as_str(), target.expression(SCRAPE))).collect();
    assert!(open.len() >= board.panels.iter().filter(|panel| panel.kind != Kind::Row).count(), "{open:?}");

    let lab = BoardLab::start(agent_binary(), SCRAPE).unwrap();
    let begin = now();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        lab.traffic(scope, &ends);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let state = |name: &str, expected: &str| {
                let is = |status: &hub_tests::lab::Status| status.connection(name)["state"] == expected;
                lab.lab.wait_for_status(is).unwrap();
            };
            lab.happens(Event::TunnelEnds).unwrap();
            state("shanghai", "down");
            lab.happens(Event::TunnelReturns).unwrap();
            state("shanghai", "up");
            lab.happens(Event::Rekeyed).unwrap();
            retry_within(2 * PATIENCE, "queries of the board have no data", || {
                // A rate needs two scrapes, and what it counts between them.
                lab.happens(Event::TakenDown)?;
                lab.happens(Event::Forbidden)?;
                lab.happens(Event::Expired)?;
                lab.happens(Event::TakenUp)?;
                open.retain(|(_, expression)| {
                    let found = lab.prometheus.range(expression, [begin, now()], SCRAPE).unwrap_or_default();
                    found.iter().flat_map(|series| &series.samples).all(|sample| !sample.value.is_finite())
                });
                Ok(open.is_empty().then_some(()))
            })
            .unwrap_or_else(|error| panic!("{error:#}: {open:#?}"));
        }));
        ends.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    lab.lab.agent.stop().unwrap();
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

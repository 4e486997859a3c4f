//! The time to reconcile many routes: not a test; `--ignored --nocapture` prints it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hub_userspace::kernel::netlink::{BACKSTOP_METRIC, METRIC, Reconciler, RouteAction, RouteKey};

use crate::{
    lab::{TABLE, hop, in_namespace, unicast},
    reconciler::destination,
};

const DESTINATIONS: u32 = 100_000;

type Changes = Vec<(RouteKey, Option<Arc<RouteAction>>)>;

fn changes(action: &Arc<RouteAction>, backstop: Option<&Arc<RouteAction>>) -> Changes {
    let key = |n, metric| RouteKey { table: TABLE, destination: destination(n), metric };
    let of = |n| {
        let backstop = backstop.map(|backstop| (key(n, BACKSTOP_METRIC), Some(Arc::clone(backstop))));
        [Some((key(n, METRIC), Some(Arc::clone(action)))), backstop].into_iter().flatten()
    };
    (0..DESTINATIONS).flat_map(of).collect()
}

async fn timed(what: &str, reconciler: &Reconciler) -> Duration {
    let start = Instant::now();
    let report = reconciler.settled().await.unwrap();
    println!("{what}: {:?} ({} added, {} replaced)", start.elapsed(), report.added, report.replaced);
    start.elapsed()
}

#[test]
#[ignore = "prints figures, asserts nothing"]
fn reconciler_load_of_100_000_destinations_is_printed() {
    in_namespace(async |lab| {
        let (a, b) = (lab.veth("a0", "a1").await, lab.veth("b0", "b1").await);
        let through = |ifindex| Arc::new(unicast(&[hop(ifindex, None)]));
        let [through_a, through_b] = [a, b].map(through);
        let backstop = Arc::new(RouteAction::Unreachable);
        let reconciler = Reconciler::start().unwrap();
        let before = resident();
        reconciler.routes(changes(&through_a, Some(&backstop)));
        timed("loaded", &reconciler).await;
        println!("{} bytes a route", (resident() - before) / (2 * u64::from(DESTINATIONS)));
        let mut one = Duration::ZERO;
        for n in 0..100 {
            let action = if n % 2 == 0 { &through_b } else { &through_a };
            let key = RouteKey { table: TABLE, destination: destination(n * 700), metric: METRIC };
            let start = Instant::now();
            reconciler.routes(vec![(key, Some(Arc::clone(action)))]);
            reconciler.settled().await.unwrap();
            one += start.elapsed();
        }
        println!("one changed: {:?}", one / 100);
        reconciler.audit();
        timed("audit", &reconciler).await;
        reconciler.routes(changes(&through_b, None));
        timed("all to another interface", &reconciler).await;
        let start = Instant::now();
        reconciler.clear().await.unwrap();
        println!("cleared: {:?}", start.elapsed());
    });
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

//! A prober, its events, and their latency.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hub_userspace::{
    config::model::{HealthCheck, Require, WhenDown},
    health::{CheckTarget, HealthReport, LinkLayer, Prober, Verdict, VerdictChange},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use crate::lab::addr;

pub const INTERVAL: Duration = Duration::from_millis(100);
pub const RETRIES: u32 = 3;
/// Maximum time from the last reply to the verdict, without the latency of a busy machine.
pub const BOUND: Duration = Duration::from_millis(400);
/// Time limit for any wait.
const PATIENCE: Duration = Duration::from_secs(4);

pub struct Probing {
    pub prober: Prober,
    events: UnboundedReceiver<VerdictChange>,
}

pub fn target(ifindex: u32, link: LinkLayer, source: &str, destination: &str) -> CheckTarget {
    let check = HealthCheck {
        source: addr(source),
        destinations: vec![addr(destination)],
        interval: INTERVAL,
        retries: RETRIES,
        require: Require::Any,
        degraded: None,
        when_down: WhenDown::Keep,
    };
    CheckTarget { ifindex, link, check }
}

pub fn desired(targets: &[(&str, CheckTarget)]) -> BTreeMap<String, CheckTarget> {
    targets.iter().map(|(connection, target)| ((*connection).to_owned(), target.clone())).collect()
}

impl Probing {
    pub fn start(targets: &[(&str, CheckTarget)]) -> Self {
        let (sender, events) = unbounded_channel();
        let mut prober = Prober::start(sender).unwrap();
        prober.set(desired(targets));
        Self { prober, events }
    }

    /// The next event.
    pub async fn event(&mut self) -> VerdictChange {
        timeout(PATIENCE, self.events.recv()).await.expect("no event came").unwrap()
    }

    /// The next event, which must be about `connection`.
    pub async fn verdict(&mut self, connection: &str) -> Verdict {
        let event = self.event().await;
        assert_eq!(event.connection, connection, "{event:?}");
        event.verdict
    }

    pub async fn healthy(&mut self, connection: &str) {
        assert_eq!(self.verdict(connection).await, Verdict::Healthy);
        assert!(self.report(connection).is_healthy());
    }

    /// Expects that the next event marks `connection` unhealthy. Returns the time since `death`.
    pub async fn unhealthy(&mut self, connection: &str, death: Instant) -> Duration {
        let verdict = self.verdict(connection).await;
        assert!(matches!(verdict, Verdict::Unhealthy { misses: RETRIES, .. }), "{verdict:?}");
        assert!(!self.report(connection).is_healthy());
        let after = death.elapsed();
        assert!(after < BOUND * 10, "{connection}: told only after {after:?}");
        after
    }

    pub async fn quiet(&mut self, how_long: Duration) {
        if let Ok(event) = timeout(how_long, self.events.recv()).await {
            panic!("{event:?}");
        }
    }

    pub fn report(&self, connection: &str) -> HealthReport {
        self.prober.report(connection).unwrap()
    }

    pub async fn until(&self, connection: &str, what: &str, done: impl Fn(&HealthReport) -> bool) {
        let arrives = async {
            while !done(&self.report(connection)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, arrives).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.report(connection)));
    }
}

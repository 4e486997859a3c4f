//! A limit on log lines, by place in the code and by connection or interface.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::TokenBucket;

/// Target of events that are not limited: those that only the operator can cause.
pub const UNLIMITED: &str = "vpnhub::unlimited";

/// Lines of a kind in a row.
const BURST: u32 = 20;
/// Minimum time between later lines of that kind.
const INTERVAL: Duration = Duration::from_secs(6);
/// Maximum of kinds that are tracked. Beyond it, all lines from one place in the code are one kind.
const MOST: usize = 8192;

/// Fields that distinguish lines from the same place in the code. Events of the crate `log` share one place: it is in
/// the last two fields.
const SUBJECTS: [&str; 4] = ["connection", "interface", "log.target", "log.line"];

/// Limits the rate of log lines that traffic, a peer or another process can cause, whichever part of the agent logs
/// them. Lines of the same place in the code, connection and interface are of one kind.
///
/// A clone shares the state. [`Self::report`] logs how many lines were suppressed.
#[derive(Clone, Default)]
pub struct LogLimit(Arc<Mutex<Kinds>>);

type Kind = (Identifier, u64);

#[derive(Default)]
struct Kinds {
    kinds: HashMap<Kind, Lines>,
}

/// Lines of one kind.
struct Lines {
    bucket: TokenBucket,
    /// Number of lines suppressed since the last report, and the text of the last one.
    suppressed: u64,
    last: String,
    level: Level,
}

impl LogLimit {
    /// Logs what was suppressed since the last report: one line per kind.
    pub fn report(&self) {
        for (level, suppressed, last) in self.suppressed(Instant::now()) {
            match level {
                Level::ERROR => tracing::error!(name: "lines_suppressed", target: UNLIMITED, suppressed, "{last}"),
                Level::WARN => tracing::warn!(name: "lines_suppressed", target: UNLIMITED, suppressed, "{last}"),
                _ => tracing::info!(name: "lines_suppressed", target: UNLIMITED, suppressed, "{last}"),
            }
        }
    }

    /// What was suppressed, and forgets kinds that have been quiet.
    fn suppressed(&self, now: Instant) -> Vec<(Level, u64, String)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let suppressed = kinds
            .kinds
            .values_mut()
            .filter(|lines| lines.suppressed > 0)
            .map(|lines| (lines.level, std::mem::take(&mut lines.suppressed), std::mem::take(&mut lines.last)));
        let suppressed = suppressed.collect();
        kinds.kinds.retain(|_, lines| !lines.bucket.is_full(now));
        suppressed
    }

    fn allows(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if metadata.target() == UNLIMITED {
            return true;
        }
        let mut subject = Subject::default();
        event.record(&mut subject);
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = (metadata.callsite(), subject.hasher.finish());
        if kinds.kinds.len() >= MOST && !kinds.kinds.contains_key(&kind) {
            kind.1 = 0;
        }
        let lines = kinds.kinds.entry(kind).or_insert_with(|| Lines {
            bucket: TokenBucket::new(BURST, INTERVAL),
            suppressed: 0,
            last: String::new(),
            level: *metadata.level(),
        });
        let allowed = lines.bucket.take(now);
        if !allowed {
            lines.suppressed += 1;
            lines.last = subject.text;
        }
        allowed
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.allows(event, Instant::now())
    }
}

/// The distinguishing fields of an event, and its text.
#[derive(Default)]
struct Subject {
    hasher: DefaultHasher,
    text: String,
}

impl Visit for Subject {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let (name, value) = (field.name(), format!("{value:?}"));
        if SUBJECTS.contains(&name) {
            (name, &value).hash(&mut self.hasher);
        }
        match name {
            "message" => self.text.insert_str(0, &value),
            // Repeats a part of the message.
            name if name.starts_with("json.") => {}
            _ => self.text.extend([" ", name, "=", &value]),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Counts the lines that pass, by their text.
    #[derive(Clone, Default)]
    struct Passed(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Passed {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut subject = Subject::default();
            event.record(&mut subject);
            self.0.lock().expect("nobody panics").push(subject.text);
        }
    }

    /// The lines that pass, and the limit after them.
    fn logged(log: impl FnOnce(&LogLimit)) -> Vec<String> {
        let (limit, passed) = (LogLimit::default(), Passed::default());
        let subscriber = tracing_subscriber::registry().with(limit.clone()).with(passed.clone());
        tracing::subscriber::with_default(subscriber, || log(&limit));
        let lines = passed.0.lock().expect("nobody panics");
        lines.clone()
    }

    fn fail(connection: &str, address: u32) {
        tracing::warn!(connection, "{address} does not answer");
    }

    #[test]
    fn log_lines_of_a_connection_beyond_the_burst_are_suppressed_and_counted() {
        let lines = logged(|limit| {
            (0..10_000).for_each(|address| fail("alpha", address));
            fail("beta", 1);
            limit.report();
            limit.report();
        });
        assert_eq!(lines.len(), BURST as usize + 2, "{lines:#?}");
        assert_eq!(lines[0], "0 does not answer connection=\"alpha\"");
        assert_eq!(
            lines[BURST as usize], "1 does not answer connection=\"beta\"",
            "another connection is not affected"
        );
        let report = &lines[BURST as usize + 1];
        assert!(report.contains("9999 does not answer") && report.contains("suppressed=9980"), "{report}");
    }

    #[test]
    fn log_lines_of_the_operator_are_not_limited() {
        let lines = logged(|_| (0..1000).for_each(|line| tracing::warn!(target: UNLIMITED, "line {line}")));
        assert_eq!(lines.len(), 1000);
    }

    #[test]
    fn log_limit_with_countless_subjects_needs_bounded_memory() {
        let lines = logged(|limit| {
            for number in 0..4 * MOST {
                tracing::warn!(connection = number, "down");
            }
            assert!(limit.0.lock().expect("nobody panics").kinds.len() <= MOST + 1);
        });
        assert!(lines.len() <= MOST + BURST as usize, "{} lines", lines.len());
    }

    #[test]
    fn log_limit_after_a_quiet_time_forgets() {
        logged(|limit| {
            fail("alpha", 1);
            let later = Instant::now() + INTERVAL * 2;
            assert!(limit.suppressed(later).is_empty());
            assert!(limit.0.lock().expect("nobody panics").kinds.is_empty());
        });
    }
}

//! When tunnels that lack SAs are initiated again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// Initial delay between attempts; each doubles the next one.
const FIRST: Duration = Duration::from_secs(5);
/// Maximum delay while a child has no SA.
const LONGEST: Duration = Duration::from_secs(60);
/// Maximum delay if all children have SAs.
const LONGEST_NARROWED: Duration = Duration::from_secs(3600);

/// What a connection lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    Nothing,
    /// All children have SAs, but the site admits only part of the selectors.
    Selectors,
    Children,
}

/// The next attempt of each connection that lacks SAs.
#[derive(Debug, Default)]
pub struct Retries {
    by_name: BTreeMap<String, Retry>,
    /// The same, ordered by time.
    by_time: BTreeSet<(Instant, String)>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
    lack: Lack,
}

impl Retries {
    /// Records what a connection lacks.
    pub fn set(&mut self, name: &str, lack: Lack, now: Instant) {
        match (lack, self.by_name.get_mut(name)) {
            (Lack::Nothing, _) => self.remove(name),
            (_, Some(retry)) if retry.lack == lack => {}
            _ => {
                self.remove(name);
                self.insert(name.to_owned(), Retry { at: now + FIRST, wait: FIRST, lack });
            }
        }
    }

    /// The next attempt is at once: what a connection lacks is new.
    pub fn soon(&mut self, name: &str, lack: Lack, now: Instant) {
        self.remove(name);
        self.insert(name.to_owned(), Retry { at: now, wait: FIRST / 2, lack });
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(retry) = self.by_name.remove(name) {
            self.by_time.remove(&(retry.at, name.to_owned()));
        }
    }

    /// Removes all connections but these.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.by_name.retain(|name, _| is_there(name));
        self.by_time.retain(|(_, name)| is_there(name));
    }

    /// Time of the next attempt.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Connections whose attempt is due. Their next attempt is later.
    pub fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.by_time.first()
            && *at <= now
            && let Some((_, name)) = self.by_time.pop_first()
        {
            due.push(name);
        }
        for name in &due {
            if let Some(mut retry) = self.by_name.remove(name) {
                let longest = if retry.lack == Lack::Selectors { LONGEST_NARROWED } else { LONGEST };
                retry.wait = (retry.wait * 2).min(longest);
                retry.at = now + retry.wait;
                self.insert(name.clone(), retry);
            }
        }
        due
    }

    fn insert(&mut self, name: String, retry: Retry) {
        self.by_time.insert((retry.at, name.clone()));
        self.by_name.insert(name, retry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after the start of the attempts of "a" within `until`.
    fn attempts(lack: Lack, until: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut retries = Retries::default();
        retries.set("a", lack, start);
        let mut found = Vec::new();
        while let Some(at) = retries.next().filter(|at| *at <= start + Duration::from_secs(until)) {
            assert_eq!(retries.take_due(at), ["a"]);
            found.push((at - start).as_secs());
            // What is known meanwhile does not shorten the delay.
            retries.set("a", lack, at);
        }
        found
    }

    #[test]
    fn attempts_back_off_to_a_minute_or_to_an_hour_if_the_site_only_narrows() {
        assert_eq!(attempts(Lack::Children, 300), [5, 15, 35, 75, 135, 195, 255]);
        assert_eq!(attempts(Lack::Selectors, 12_000), [5, 15, 35, 75, 155, 315, 635, 1275, 2555, 5115, 8715]);
        assert!(attempts(Lack::Nothing, 300).is_empty());
    }

    #[test]
    fn new_selectors_are_due_at_once_and_again_after_the_usual_delay() {
        let now = Instant::now();
        let mut retries = Retries::default();
        retries.set("a", Lack::Selectors, now);
        retries.soon("a", Lack::Selectors, now);
        retries.set("a", Lack::Selectors, now);
        assert_eq!(retries.take_due(now), ["a"]);
        assert_eq!(retries.next(), Some(now + FIRST));
    }

    #[test]
    fn complete_or_removed_child_is_not_due() {
        let now = Instant::now();
        let mut retries = Retries::default();
        for name in ["a", "b", "c"] {
            retries.set(name, Lack::Children, now);
        }
        retries.set("a", Lack::Nothing, now);
        retries.retain(|name| name != "b");
        assert_eq!(retries.take_due(now + FIRST), ["c"]);
        assert!(retries.take_due(now + FIRST).is_empty());
        retries.remove("c");
        assert_eq!(retries.next(), None);
    }
}

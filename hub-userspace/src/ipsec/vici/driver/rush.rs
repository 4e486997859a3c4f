//! Whether very many tunnels are coming up at once. Pure: the time is an argument.
//!
//! charon sends each line of its log as an event. A thousand negotiations at once took it a third more processor time
//! with an agent that read the log, and less than a fifth more with one that did not. So the log is followed only when
//! the rush is over. A connection that has failed meanwhile is initiated again, and then the log has the reason.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

/// Fewer tunnels are no rush.
const MANY: usize = 32;
/// A rush is over when no tunnel has come up for this long.
const STALLED: Duration = Duration::from_secs(1);
/// A rush is over after this long in any case: whoever waits for a reason must get it.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Rush {
    /// Connections that the hub initiates and that are not up, by name.
    waiting: BTreeSet<String>,
    /// The last one came up, or the rush began.
    progress: Instant,
    began: Instant,
}

impl Rush {
    /// These connections are initiated. `None`: too few for a rush.
    pub fn begin(waiting: BTreeSet<String>, now: Instant) -> Option<Self> {
        Some(Self { waiting, progress: now, began: now }).filter(|rush| rush.waiting.len() >= MANY)
    }

    /// A connection is up.
    pub fn is_up(&mut self, name: &str, now: Instant) {
        if self.waiting.remove(name) {
            self.progress = now;
        }
    }

    /// Time of the end, unless another tunnel comes up before.
    pub fn ends(&self) -> Instant {
        if self.waiting.len() < MANY {
            return self.progress;
        }
        (self.progress + STALLED).min(self.began + LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("c{number}")).collect()
    }

    #[test]
    fn rush_ends_when_few_are_waiting_or_none_comes_up() {
        let now = Instant::now();
        assert!(Rush::begin(names(MANY - 1), now).is_none(), "the log is followed from the first negotiation on");
        let mut rush = Rush::begin(names(MANY + 1), now).expect("many");
        assert_eq!(rush.ends(), now + STALLED);
        let later = now + STALLED / 2;
        rush.is_up("c0", later);
        assert_eq!(rush.ends(), later + STALLED);
        rush.is_up("c0", later + STALLED / 2);
        rush.is_up("another", later + STALLED / 2);
        assert_eq!(rush.ends(), later + STALLED, "neither has come up just now");
        rush.is_up("c1", later);
        assert_eq!(rush.ends(), later, "the others are few");
    }

    #[test]
    fn rush_in_which_tunnels_keep_coming_up_ends_too() {
        let begin = Instant::now();
        let mut rush = Rush::begin(names(1_000), begin).expect("many");
        for number in 0..200 {
            rush.is_up(&format!("c{number}"), begin + STALLED / 2 * number);
        }
        assert_eq!(rush.ends(), begin + LONGEST);
    }
}

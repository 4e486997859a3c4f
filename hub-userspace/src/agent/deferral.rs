//! Delays the kernel's own routes while a routing daemon writes its routes.
//!
//! The kernel changes routes under one lock (`rtnl_mutex`, `net/core/rtnetlink.c`), so the agent's two routes for each
//! learned one slow the daemon down, and with it the program's table, which forwards.

use std::time::Duration;

use tokio::time::Instant;

/// Time without changes after which a burst is over.
const QUIET: Duration = Duration::from_millis(30);
/// Longest delay, for a daemon that never stops.
const LONGEST: Duration = Duration::from_secs(2);

/// A burst of changed learned routes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deferral(Option<Burst>);

#[derive(Debug, Clone, Copy)]
struct Burst {
    begin: Instant,
    last: Instant,
}

impl Deferral {
    /// Learned routes have changed.
    pub fn note(&mut self, now: Instant) {
        let begin = self.0.filter(|burst| now <= burst.last + QUIET).map_or(now, |burst| burst.begin);
        self.0 = Some(Burst { begin, last: now });
    }

    /// When to go on with the kernel's own routes; `None`: now.
    pub fn due(&self) -> Option<Instant> {
        self.0.map(|Burst { begin, last }| (last + QUIET).min(begin + LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_ends_when_it_is_quiet_or_lasts_too_long() {
        let start = Instant::now();
        let (mut deferral, ms) = (Deferral::default(), Duration::from_millis);
        assert_eq!(deferral.due(), None);
        deferral.note(start);
        deferral.note(start + ms(20));
        assert_eq!(deferral.due(), Some(start + ms(50)));
        for number in 2..200 {
            deferral.note(start + ms(20 * number));
        }
        assert_eq!(deferral.due(), Some(start + LONGEST), "a flood");
        deferral.note(start + ms(9000));
        assert_eq!(deferral.due(), Some(start + ms(9030)), "the next one");
    }
}

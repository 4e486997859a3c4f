//! Listing all SAs, for counters and missed events.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    super::super::{
        desired::connection_of,
        event::{ChildSa, IkeSa, listed},
        message::Message,
        session::{Session, SessionError},
    },
    DriverTask,
};

/// Interval of listing all SAs.
const LOOK: Duration = Duration::from_secs(10);
/// Delay of that listing after something went down: rekeying may have changed its number.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// Pause between two listings, as a multiple of the duration of the first: thousands of SAs take a while.
const PAUSE: u32 = 20;
/// Number of repeated listings while one lacks an SA whose end was not reported, and the delay between them.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Maximum number of missing connections that are listed one by one: charon walks over all its SAs for each.
const MOST_SINGLE: usize = 8;

/// When all SAs are listed next.
#[derive(Debug)]
pub struct Looks {
    next: Instant,
    /// Not before.
    earliest: Instant,
}

impl Looks {
    pub fn new(now: Instant) -> Self {
        Self { next: now, earliest: now }
    }

    /// Time of the next listing, which attempts to initiate need as well.
    pub fn next(&self, retry: Option<Instant>) -> Instant {
        retry.map_or(self.next, |retry| retry.min(self.next)).max(self.earliest)
    }

    /// Lists soon.
    pub fn soon(&mut self, now: Instant) {
        self.next = self.next.min(now + LOOK_SOON);
    }

    /// A listing has ended.
    fn done(&mut self, began: Instant, now: Instant) {
        let pause = (now - began) * PAUSE;
        (self.next, self.earliest) = (now + LOOK.max(pause), now + LOOK_SOON.max(pause));
    }
}

impl DriverTask {
    /// Lists all SAs.
    ///
    /// The list is not a snapshot: charon iterates over the IKE SAs. During a replacement, the list can contain the new
    /// one before it has the children, and miss the old one. So a missing tunnel of ours without a reported end is
    /// listed again, on its own.
    pub(super) async fn look(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let began = Instant::now();
        let mut sas = list_sas(session, &Message::default()).await?;
        for _ in 0..LOOKS {
            let mut missing = self.table.lost_by(&sas);
            missing.retain(|name| connection_of(name).is_some());
            if missing.is_empty() {
                break;
            }
            sleep(LOOK_AGAIN).await;
            if missing.len() > MOST_SINGLE {
                sas = list_sas(session, &Message::default()).await?;
                continue;
            }
            for name in missing {
                let own = list_sas(session, &Message::default().with("ike", &name)).await?;
                sas.retain(|(ike, _)| ike.connection != name);
                sas.extend(own);
            }
        }
        self.table.replace(sas);
        self.looks.done(began, Instant::now());
        Ok(())
    }
}

/// The SAs that match a filter; an empty filter matches all.
async fn list_sas(session: &mut Session, filter: &Message) -> Result<Vec<(IkeSa, Vec<ChildSa>)>, SessionError> {
    let messages = session.list("list-sas", "list-sa", filter).await?;
    Ok(messages.iter().flat_map(listed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_many_sas_take_a_bounded_share_of_the_time() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for (took, soon, next) in [(2, 502, 10_002), (100, 2_100, 10_100), (1000, 21_000, 21_000)] {
            let mut looks = Looks::new(start);
            looks.done(start, at(took));
            assert_eq!(looks.next(None), at(next));
            assert_eq!(looks.next(Some(at(3))), at(soon), "a retry waits, too");
            looks.soon(at(took));
            assert_eq!(looks.next(None), at(soon));
        }
    }
}

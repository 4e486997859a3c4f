//! Peers whose connection charon does not know, or not yet. Pure.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::super::{
    fault::Fault,
    hint::{Hint, Stranger},
};

/// Maximum number of remembered IKE SAs without a connection.
const MOST: usize = 256;
/// Another stranger is reported after this time: anyone can send.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Strangers {
    /// The latest IKE SAs that peers have begun.
    begun: VecDeque<Begun>,
    /// The reported peer without a connection.
    last: Option<(Instant, Stranger)>,
}

#[derive(Debug)]
struct Begun {
    ike: u64,
    site: IpAddr,
    identity: Option<String>,
}

impl Strangers {
    /// Returns the address of a peer whose attempt has failed, and why, if a connection has the address.
    pub fn follow(&mut self, hint: Hint, is_known: impl Fn(IpAddr) -> bool, now: Instant) -> Option<(IpAddr, Fault)> {
        match hint {
            Hint::Begun { ike, site } => {
                self.begun.truncate(MOST - 1);
                self.begun.push_front(Begun { ike, site, identity: None });
            }
            Hint::Presented { ike, identity } => {
                if let Some(begun) = self.begun.iter_mut().find(|begun| begun.ike == ike) {
                    begun.identity = Some(identity);
                }
            }
            Hint::Failed { ike, fault } => {
                let Begun { site, identity, .. } = self.begun.iter().find(|begun| begun.ike == ike)?;
                if is_known(*site) {
                    return Some((*site, fault));
                }
                self.report(Stranger { address: *site, identity: identity.clone(), fault: Some(fault) }, now);
            }
            Hint::Stranger(address) => self.report(Stranger { address, identity: None, fault: None }, now),
        }
        None
    }

    fn report(&mut self, stranger: Stranger, now: Instant) {
        if self.last.as_ref().is_none_or(|(since, _)| now >= *since + PAUSE) {
            self.last = Some((now, stranger));
        }
    }

    /// The latest peer that no connection has.
    pub fn last(&self) -> Option<&Stranger> {
        self.last.as_ref().map(|(_, stranger)| stranger)
    }

    /// The configuration has changed: the address may be that of a connection now.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(number: u8) -> IpAddr {
        [198, 51, 100, number].into()
    }

    fn is_known(site: IpAddr) -> bool {
        site != self::site(9)
    }

    #[test]
    fn fault_of_an_unnamed_ike_sa_belongs_to_the_address_that_began_it() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        for number in 1..=3 {
            let begun = Hint::Begun { ike: number.into(), site: site(number) };
            assert_eq!(strangers.follow(begun, is_known, now), None);
        }
        let failed = |ike| Hint::Failed { ike, fault: Fault::Identity };
        assert_eq!(strangers.follow(failed(2), is_known, now), Some((site(2), Fault::Identity)));
        assert_eq!(strangers.follow(failed(9), is_known, now), None);
        for ike in 100..100 + MOST as u64 {
            strangers.follow(Hint::Begun { ike, site: site(9) }, is_known, now);
        }
        assert_eq!((strangers.follow(failed(2), is_known, now), strangers.begun.len()), (None, MOST));
        assert_eq!(strangers.last(), None);
    }

    #[test]
    fn failed_peer_at_an_unknown_address_is_reported_with_its_identity() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        for hint in [
            Hint::Begun { ike: 1, site: site(9) },
            Hint::Presented { ike: 1, identity: "branch".into() },
            Hint::Presented { ike: 2, identity: "another".into() },
            Hint::Failed { ike: 1, fault: Fault::Identity },
        ] {
            assert_eq!(strangers.follow(hint, is_known, now), None);
        }
        let expected = Stranger { address: site(9), identity: Some("branch".into()), fault: Some(Fault::Identity) };
        assert_eq!(strangers.last(), Some(&expected));
    }

    #[test]
    fn strangers_are_reported_one_in_ten_seconds() {
        let start = Instant::now();
        let mut strangers = Strangers::default();
        for (seconds, number, reported) in [(0, 1, 1), (1, 2, 1), (9, 3, 1), (10, 4, 4), (19, 5, 4)] {
            strangers.follow(Hint::Stranger(site(number)), is_known, start + Duration::from_secs(seconds));
            assert_eq!(strangers.last().map(|stranger| stranger.address), Some(site(reported)));
        }
        strangers.forget();
        assert_eq!(strangers.last(), None);
    }
}

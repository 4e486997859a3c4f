//! Peers whose connection charon does not know, or not yet. Pure.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::super::{fault::Fault, hint::Hint};

/// Maximum number of remembered IKE SAs without a connection.
const MOST: usize = 256;
/// Another stranger is reported after this time: anyone can send.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Strangers {
    /// Numbers of the latest IKE SAs that peers have begun, with the peers' addresses.
    begun: VecDeque<(u64, IpAddr)>,
    /// The reported address without a connection.
    last: Option<(Instant, IpAddr)>,
}

impl Strangers {
    /// Returns the address of a peer whose attempt has failed, and why.
    pub fn follow(&mut self, hint: Hint, now: Instant) -> Option<(IpAddr, Fault)> {
        match hint {
            Hint::Begun { ike, site } => {
                self.begun.truncate(MOST - 1);
                self.begun.push_front((ike, site));
                None
            }
            Hint::Failed { ike, fault } => {
                let (_, site) = self.begun.iter().find(|(begun, _)| *begun == ike)?;
                Some((*site, fault))
            }
            Hint::Stranger(address) => {
                if self.last.is_none_or(|(since, _)| now >= since + PAUSE) {
                    self.last = Some((now, address));
                }
                None
            }
        }
    }

    /// The address of a peer that no connection has.
    pub fn address(&self) -> Option<IpAddr> {
        self.last.map(|(_, address)| address)
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

    #[test]
    fn fault_of_an_unnamed_ike_sa_belongs_to_the_address_that_began_it() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        for number in 1..=3 {
            let begun = Hint::Begun { ike: number.into(), site: site(number) };
            assert_eq!(strangers.follow(begun, now), None);
        }
        let failed = |ike| Hint::Failed { ike, fault: Fault::Identity };
        assert_eq!(strangers.follow(failed(2), now), Some((site(2), Fault::Identity)));
        assert_eq!(strangers.follow(failed(9), now), None);
        for ike in 100..100 + MOST as u64 {
            strangers.follow(Hint::Begun { ike, site: site(9) }, now);
        }
        assert_eq!((strangers.follow(failed(2), now), strangers.begun.len()), (None, MOST));
    }

    #[test]
    fn strangers_are_reported_one_in_ten_seconds() {
        let start = Instant::now();
        let mut strangers = Strangers::default();
        for (seconds, number, reported) in [(0, 1, 1), (1, 2, 1), (9, 3, 1), (10, 4, 4), (19, 5, 4)] {
            strangers.follow(Hint::Stranger(site(number)), start + Duration::from_secs(seconds));
            assert_eq!(strangers.address(), Some(site(reported)));
        }
        strangers.forget();
        assert_eq!(strangers.address(), None);
    }
}

//! The quota of a connection's learned routes: the oldest have a place. Pure.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// A connection's routes that no rule refuses, by age: lower numbers are older.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    admitted: BTreeMap<u64, IpNet>,
    over: BTreeMap<u64, IpNet>,
}

impl Quota {
    /// Adds a route. Returns the one that has no place now, if that is another one.
    pub fn add(&mut self, number: u64, prefix: IpNet, most: usize) -> Option<IpNet> {
        if self.over.contains_key(&number) {
            return None;
        }
        self.admitted.insert(number, prefix);
        if self.admitted.len() <= most {
            return None;
        }
        let (newest, last) = self.admitted.pop_last()?;
        self.over.insert(newest, last);
        (newest != number).then_some(last)
    }

    /// Removes a route, if it is there. Returns the one that has a place now.
    pub fn remove(&mut self, number: u64) -> Option<IpNet> {
        self.over.remove(&number);
        self.admitted.remove(&number)?;
        let (oldest, first) = self.over.pop_first()?;
        self.admitted.insert(oldest, first);
        Some(first)
    }

    pub fn has_place(&self, number: u64) -> bool {
        self.admitted.contains_key(&number)
    }

    pub fn is_empty(&self) -> bool {
        self.admitted.is_empty() && self.over.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_routes_have_a_place_whatever_the_order_of_changes() {
        let prefix = |number: u64| IpNet::new_assert([10, u8::try_from(number).unwrap(), 0, 0].into(), 16);
        let mut quota = Quota::default();
        assert_eq!([5, 7].map(|number| quota.add(number, prefix(number), 2)), [None, None]);
        assert_eq!(quota.add(9, prefix(9), 2), None, "the newest has no place");
        assert_eq!(quota.add(6, prefix(6), 2), Some(prefix(7)), "an older one takes the place of the newest");
        assert_eq!(quota.add(6, prefix(6), 2), None, "it is there already");
        assert_eq!([5, 6, 7, 9].map(|number| quota.has_place(number)), [true, true, false, false]);
        assert_eq!(quota.remove(9), None);
        assert_eq!(quota.remove(5), Some(prefix(7)));
        assert_eq!([quota.remove(6), quota.remove(7), quota.remove(8)], [None; 3]);
        assert!(quota.is_empty());
    }
}

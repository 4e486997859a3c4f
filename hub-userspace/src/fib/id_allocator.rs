//! Allocates ids. A key keeps its id as long as it is used.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    ops::Range,
};

/// Allocates ids from a range to keys.
///
/// A round is one compilation: [`IdAllocator::begin`], [`IdAllocator::take`] for each key in use, [`IdAllocator::end`].
/// A partial one is [`IdAllocator::begin_some`] with the keys that may have come out of use, and joins a round that has
/// not ended. An id whose key was not taken in a round is quarantined. The caller calls [`DeferredFree::begin_release`] and, once
/// no packet in flight can use the id, [`DeferredFree::release`].
#[derive(Debug, Clone)]
pub struct IdAllocator<K> {
    what: &'static str,
    given: HashMap<K, Given>,
    /// The keys of the round; `None` means all.
    round: Option<Vec<K>>,
    free: BTreeSet<u32>,
    resting: Vec<u32>,
    /// Ids that were quarantined at the call of [`DeferredFree::begin_release`].
    releasing: Vec<u32>,
    next: u32,
    numbers: Range<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Given {
    number: u32,
    used: bool,
}

/// All ids are in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel program has room for {room} {what}, the configuration needs more: {}", remedy(.is_passing))]
pub struct Full {
    what: &'static str,
    room: usize,
    is_passing: bool,
}

impl Full {
    /// `what`: in the plural.
    pub const fn new(what: &'static str, room: usize) -> Self {
        Self { what, room, is_passing: false }
    }

    /// Whether ids are in quarantine: once no packet uses them, there may be room.
    pub const fn is_passing(&self) -> bool {
        self.is_passing
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the derived `Display` has a reference")]
const fn remedy(is_passing: &bool) -> &'static str {
    match is_passing {
        true => "packets may still use those of the last changes; repeat this change in a second",
        false => "use fewer of them",
    }
}

impl<K: Clone + Eq + Hash> IdAllocator<K> {
    /// `what` names the keys in the error message, in the plural.
    pub fn new(what: &'static str, numbers: Range<u32>) -> Self {
        Self {
            what,
            given: HashMap::new(),
            round: Some(Vec::new()),
            free: BTreeSet::new(),
            resting: Vec::new(),
            releasing: Vec::new(),
            next: numbers.start,
            numbers,
        }
    }

    /// Restores earlier assignments before any allocation. Keys that the next round does not take lose their ids as
    /// usual.
    pub fn inherit(&mut self, keys: impl IntoIterator<Item = (K, u32)>) {
        for (key, number) in keys {
            if self.numbers.contains(&number) {
                self.given.insert(key, Given { number, used: false });
            }
        }
        let taken: BTreeSet<u32> = self.given.values().map(|given| given.number).collect();
        self.next = taken.last().map_or(self.numbers.start, |last| last + 1);
        self.free = (self.numbers.start..self.next).filter(|number| !taken.contains(number)).collect();
    }

    pub fn begin(&mut self) {
        for given in self.given.values_mut() {
            given.used = false;
        }
        self.round = None;
    }

    /// As [`Self::begin`], for these keys only: all others stay in use.
    pub fn begin_some<'a>(&mut self, keys: impl IntoIterator<Item = &'a K>)
    where
        K: 'a,
    {
        for key in keys {
            if let Some(given) = self.given.get_mut(key) {
                given.used = false;
                if let Some(round) = &mut self.round {
                    round.push(key.clone());
                }
            }
        }
    }

    /// The ids of the round whose keys have not been taken.
    pub fn unused(&self) -> BTreeSet<u32> {
        let unused = |given: &Given| (!given.used).then_some(given.number);
        match &self.round {
            None => self.given.values().filter_map(unused).collect(),
            Some(keys) => keys.iter().filter_map(|key| self.given.get(key)).filter_map(unused).collect(),
        }
    }

    /// The key's id; a new key gets the lowest free one.
    pub fn take(&mut self, key: K) -> Result<u32, Full> {
        if let Some(given) = self.given.get_mut(&key) {
            given.used = true;
            return Ok(given.number);
        }
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if self.next < self.numbers.end => {
                self.next += 1;
                self.next - 1
            }
            None => {
                let is_passing = !self.resting.is_empty() || !self.releasing.is_empty();
                return Err(Full { what: self.what, room: self.numbers.len(), is_passing });
            }
        };
        self.given.insert(key, Given { number, used: true });
        Ok(number)
    }

    /// Ends the round: quarantines the ids of keys that were not taken. Returns these keys.
    pub fn end(&mut self) -> Vec<K> {
        let given = &mut self.given;
        let ended: Vec<(K, Given)> = match self.round.replace(Vec::new()) {
            None => given.extract_if(|_, given| !given.used).collect(),
            Some(keys) => {
                let mut end = |key: K| {
                    let is_unused = given.get(&key).is_some_and(|given| !given.used);
                    if is_unused { given.remove_entry(&key) } else { None }
                };
                keys.into_iter().filter_map(&mut end).collect()
            }
        };
        self.resting.extend(ended.iter().map(|(_, given)| given.number));
        ended.into_iter().map(|(key, _)| key).collect()
    }

    /// Whether [`DeferredFree::release`] would free any.
    pub fn is_releasing(&self) -> bool {
        !self.releasing.is_empty()
    }

    /// The id of a key, if it has one.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.given.get(key).map(|given| given.number)
    }
}

/// Release of ids, independent of the key type.
pub trait DeferredFree {
    /// Marks the ids quarantined now. The caller must then wait until no packet in flight uses them. Returns whether
    /// there are any.
    fn begin_release(&mut self) -> bool;

    /// Frees the marked ids. Ids quarantined later stay quarantined.
    fn release(&mut self);
}

impl<K> DeferredFree for IdAllocator<K> {
    fn begin_release(&mut self) -> bool {
        self.releasing.append(&mut self.resting);
        !self.releasing.is_empty()
    }

    fn release(&mut self) {
        self.free.extend(self.releasing.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::{DeferredFree as _, IdAllocator};

    #[test]
    fn partial_round_ends_only_its_unused_keys() {
        let mut slots = IdAllocator::new("things", 1..9);
        round(&mut slots, &["a", "b", "c"]);
        slots.begin_some(&["a", "b", "unknown"]);
        assert_eq!((slots.take("b"), slots.take("d")), (Ok(2), Ok(4)));
        assert_eq!(slots.unused(), [1].into());
        // Joins the round that has not ended: "b" comes out of use, "a" comes back.
        slots.begin_some(&["b"]);
        assert_eq!(slots.take("a"), Ok(1));
        assert_eq!(slots.unused(), [2].into());
        assert_eq!(slots.end(), ["b"]);
        assert!(slots.begin_release());
        slots.release();
        assert_eq!(round(&mut slots, &["a", "c", "d", "e"]), [1, 3, 4, 2]);
    }

    fn round(slots: &mut IdAllocator<&'static str>, keys: &[&'static str]) -> Vec<u32> {
        slots.begin();
        let numbers = keys.iter().map(|key| slots.take(key).unwrap()).collect();
        slots.end();
        numbers
    }

    #[test]
    fn key_in_use_keeps_its_id() {
        let mut slots = IdAllocator::new("things", 1..9);
        assert_eq!(round(&mut slots, &["a", "b", "c"]), [1, 2, 3]);
        assert_eq!(round(&mut slots, &["c", "a"]), [3, 1]);
    }

    #[test]
    fn freed_id_is_quarantined_before_reuse() {
        let mut slots = IdAllocator::new("things", 0..9);
        round(&mut slots, &["a", "b"]);
        assert_eq!(round(&mut slots, &["b"]), [1]);
        assert_eq!(round(&mut slots, &["b", "c"]), [1, 2]);
        assert!(slots.begin_release());
        assert_eq!(round(&mut slots, &["b"]), [1]);
        slots.release();
        // Not 2, which was quarantined in the meantime.
        assert_eq!(round(&mut slots, &["b", "d", "e"]), [1, 0, 3]);
    }

    #[test]
    fn inherited_id_is_reused_or_quarantined_if_unclaimed() {
        let mut slots = IdAllocator::new("things", 1..9);
        slots.inherit([("a", 4), ("b", 2), ("beyond", 9)]);
        assert_eq!(round(&mut slots, &["new", "a", "newer", "newest"]), [1, 4, 3, 5]);
        assert!(slots.begin_release());
        slots.release();
        assert_eq!(round(&mut slots, &["a", "c"]), [4, 2]);
    }

    #[test]
    fn exhausted_ids_are_passing_while_some_are_in_quarantine() {
        let mut slots = IdAllocator::new("things", 0..2);
        round(&mut slots, &["a", "b"]);
        round(&mut slots, &["b"]);
        assert!(slots.take("c").is_err_and(|full| full.is_passing()), "not marked yet");
        assert!(slots.begin_release());
        assert!(slots.take("c").is_err_and(|full| full.is_passing()), "marked");
        slots.release();
        assert_eq!(slots.take("c"), Ok(0));
        assert!(slots.take("d").is_err_and(|full| !full.is_passing()));
    }

    #[test]
    fn exhausted_ids_error_names_objects() {
        let mut slots = IdAllocator::new("things", 0..1);
        slots.take("a").unwrap();
        let error = slots.take("b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel program has room for 1 things, the configuration needs more: use fewer of them"
        );
    }
}

//! The difference between two states of a table: entries to write and to delete. Pure.

use std::{cmp::Ordering, collections::BTreeMap};

/// The changes from one table to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapDifference<K, V> {
    /// New, or with a new value.
    pub puts: Vec<(K, V)>,
    pub deletes: Vec<K>,
}

impl<K, V> Default for MapDifference<K, V> {
    fn default() -> Self {
        Self { puts: Vec::new(), deletes: Vec::new() }
    }
}

/// Walks both tables once, in parallel.
pub fn difference<K: Ord + Copy, V: Eq + Clone>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> MapDifference<K, V> {
    let mut difference = MapDifference::default();
    let mut old = old.iter().peekable();
    let mut new = new.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return difference,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let desired = if order.is_ge() { new.next() } else { None };
        match (gone, desired) {
            (gone, Some((key, value))) if gone.is_none_or(|(_, old)| old != value) => {
                difference.puts.push((*key, value.clone()));
            }
            (Some((key, _)), None) => difference.deletes.push(*key),
            _ => {}
        }
    }
}

/// The changes that add these entries and delete those of `obsolete` that are not among them.
pub fn partial_difference<K: Ord + Copy, V: Eq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    obsolete: impl Iterator<Item = K>,
) -> MapDifference<K, V> {
    let differs = |(key, value): &(&K, &V)| old.get(key) != Some(value);
    let puts = new.iter().filter(differs).map(|(key, value)| (*key, value.clone())).collect();
    let is_left = |key: &K| !new.contains_key(key) && old.contains_key(key);
    MapDifference { puts, deletes: obsolete.filter(is_left).collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::difference;

    #[test]
    fn difference_lists_new_changed_and_deleted_entries() {
        let old = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c'), (5, 'e')]);
        let new = BTreeMap::from([(0, 'z'), (2, 'b'), (3, 'C'), (4, 'd')]);
        let difference = difference(&old, &new);
        assert_eq!(difference.puts, [(0, 'z'), (3, 'C'), (4, 'd')]);
        assert_eq!(difference.deletes, [1, 5]);
    }

    #[test]
    fn difference_of_equal_tables_is_empty() {
        let table: BTreeMap<u32, u32> = (0..100).map(|n| (n, n * n)).collect();
        let difference = difference(&table, &table.clone());
        assert!(difference.puts.is_empty() && difference.deletes.is_empty());
    }
}

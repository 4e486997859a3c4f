//! Classes and rows in the memory. Prefixes with the same values share one class and one row.

use std::{collections::HashMap, sync::Arc};

use hub_common::{
    class_trie::{CHUNK_BITS, CLASS_WORDS, Class, PAIR_WORDS, Pair, slot_index},
    maps::Route,
};

use super::memory::{Backing, Exhausted, Extent, Memory, Use};

/// The address of a class in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// The pairs that apply to an address, in order of their columns. The longest prefix with a pair for a column wins.
type Row = Arc<[Pair]>;

/// The values of one prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixValue {
    pub route: Option<Route>,
    /// In order of the columns.
    pub pairs: Box<[Pair]>,
}

impl PrefixValue {
    pub fn is_empty(&self) -> bool {
        self.route.is_none() && self.pairs.is_empty()
    }
}

/// All classes of a memory.
pub struct Classes {
    numbers: HashMap<(Option<Route>, Row), ClassId>,
    entries: HashMap<ClassId, Entry>,
    rows: HashMap<Row, StoredRow>,
    /// Classes that may be unused.
    idle: Vec<ClassId>,
    /// The class without a route and without pairs.
    pub empty: ClassId,
}

struct Entry {
    route: Option<Route>,
    row: Row,
    /// Words of the trie that point to it.
    uses: u64,
}

/// A row in the memory.
#[derive(Clone, Copy)]
struct StoredRow {
    extent: Extent,
    hash: u32,
    /// Classes that point to it.
    uses: usize,
}

impl Classes {
    pub fn new<B: Backing>(memory: &mut Memory<B>) -> Result<Self, Exhausted<B::Error>> {
        let mut classes = Self {
            numbers: HashMap::new(),
            entries: HashMap::new(),
            rows: HashMap::new(),
            idle: Vec::new(),
            empty: ClassId(0),
        };
        classes.empty = classes.number(memory, None, &Row::default())?;
        classes.hold(classes.empty, 1);
        Ok(classes)
    }

    /// The class of addresses within one more prefix: `outer` is the class of the shorter prefixes, `value` overrides
    /// it.
    pub fn within<B: Backing>(
        &mut self,
        memory: &mut Memory<B>,
        outer: ClassId,
        value: &PrefixValue,
    ) -> Result<ClassId, Exhausted<B::Error>> {
        let entry = &self.entries[&outer];
        let route = value.route.or(entry.route);
        let row = match value.pairs.is_empty() {
            true => Arc::clone(&entry.row),
            false => merged(&entry.row, &value.pairs),
        };
        self.number(memory, route, &row)
    }

    fn number<B: Backing>(
        &mut self,
        memory: &mut Memory<B>,
        route: Option<Route>,
        row: &Row,
    ) -> Result<ClassId, Exhausted<B::Error>> {
        // A clone of the row is cheap: it is an `Arc`.
        let key = (route, Arc::clone(row));
        if let Some(id) = self.numbers.get(&key) {
            return Ok(*id);
        }
        let StoredRow { extent: row_extent, hash, .. } = self.store_row(memory, row)?;
        let extent = memory.take(CLASS_WORDS, Use::Class).inspect_err(|_| self.release_row(memory, row))?;
        let (first_bucket, mask_and_flags) = match route {
            Some(route) => (route.first_bucket, u32::from(route.flags) << 16 | u32::from(route.bucket_mask)),
            None => (0, u32::from(Class::NO_ROUTE) << 16),
        };
        let own = row.first().copied().unwrap_or(Pair::EMPTY);
        memory.write(extent, Class { first_bucket, mask_and_flags, row: row_extent.first, hash, own }.words());
        let id = ClassId(extent.first);
        self.entries.insert(id, Entry { route, row: Arc::clone(row), uses: 0 });
        self.numbers.insert(key, id);
        self.idle.push(id);
        Ok(id)
    }

    /// Adds a use of a row; writes the row at its first use.
    fn store_row<B: Backing>(&mut self, memory: &mut Memory<B>, row: &Row) -> Result<StoredRow, Exhausted<B::Error>> {
        if let Some(stored) = self.rows.get_mut(row) {
            stored.uses += 1;
            return Ok(*stored);
        }
        let (bits, hash) = hash(row);
        if bits > MOST_BITS {
            return Err(Exhausted::Capacity);
        }
        let mut pairs = vec![Pair::EMPTY; 1 << bits];
        for pair in row.iter() {
            pairs[slot_index(pair.column, hash) as usize] = *pair;
        }
        let extent = memory.take(PAIR_WORDS << bits, Use::Class)?;
        memory.write(extent, pairs.iter().flat_map(Pair::words));
        let stored = StoredRow { extent, hash, uses: 1 };
        self.rows.insert(Arc::clone(row), stored);
        Ok(stored)
    }

    /// Drops a use of a row; frees the row with its last use.
    fn release_row<B: Backing>(&mut self, memory: &mut Memory<B>, row: &Row) {
        let stored = self.rows.get_mut(row).expect("a class has it");
        stored.uses -= 1;
        if stored.uses == 0 {
            memory.retire(stored.extent);
            self.rows.remove(row);
        }
    }

    /// Adds references from this many words.
    pub fn hold(&mut self, id: ClassId, words: u64) {
        self.entries.get_mut(&id).expect("it is in the memory").uses += words;
    }

    /// Drops references from this many words.
    pub fn drop(&mut self, id: ClassId, words: u64) {
        let entry = self.entries.get_mut(&id).expect("it is in the memory");
        entry.uses -= words;
        if entry.uses == 0 {
            self.idle.push(id);
        }
    }

    /// Frees unused classes.
    pub fn sweep<B: Backing>(&mut self, memory: &mut Memory<B>) {
        for id in std::mem::take(&mut self.idle) {
            if self.entries.get(&id).is_none_or(|entry| entry.uses > 0) {
                continue;
            }
            let Entry { route, row, .. } = self.entries.remove(&id).expect("just seen");
            memory.retire(Extent { first: id.0, words: CLASS_WORDS });
            self.release_row(memory, &row);
            self.numbers.remove(&(route, row));
        }
    }
}

/// Merges two rows; `inner` wins, column by column.
fn merged(outer: &Row, inner: &[Pair]) -> Row {
    let remaining = outer.iter().filter(|pair| inner.binary_search_by_key(&pair.column, |pair| pair.column).is_err());
    let mut row: Vec<Pair> = remaining.chain(inner).copied().collect();
    row.sort_unstable_by_key(|pair| pair.column);
    row.into()
}

/// A row of this many bits of slots is half a chunk.
const MOST_BITS: u32 = CHUNK_BITS - 3;
/// Multipliers to try before the slots of a row are doubled.
const TRIES: u32 = 64;

/// Bits of the row's slot indices, and a hash that gives each column a slot of its own.
fn hash(row: &[Pair]) -> (u32, u32) {
    let last = row.last().map_or(0, |pair| pair.column);
    let mut bits = row.len().next_power_of_two().trailing_zeros();
    loop {
        let mut multiplier = 1_u32;
        for _ in 0..TRIES {
            // Bits of the product that depend on all bits of the column.
            for shift in [0, 8] {
                let hash = multiplier << 16 | bits << 8 | shift;
                if is_perfect(row, bits, hash) {
                    return (bits, hash);
                }
            }
            if last >> bits == 0 {
                break;
            }
            // Any odd multiplier works.
            multiplier = (multiplier.wrapping_mul(0x2c9f) + 0x3456) & 0xffff | 1;
        }
        bits += 1;
    }
}

fn is_perfect(row: &[Pair], bits: u32, hash: u32) -> bool {
    let mut taken = vec![false; 1 << bits];
    row.iter().all(|pair| !std::mem::replace(&mut taken[slot_index(pair.column, hash) as usize], true))
}

const _: () = assert!(PAIR_WORDS as usize == Pair::EMPTY.words().len());

#[cfg(test)]
mod tests {
    use hub_common::class_trie::{Pair, slot_index};
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

    use super::hash;

    fn row(columns: impl IntoIterator<Item = u32>) -> Vec<Pair> {
        columns.into_iter().map(|column| Pair { column, policy: 0, connection: 7, rules: 0 }).collect()
    }

    #[test]
    fn row_columns_have_distinct_slots() {
        let mut random = SmallRng::seed_from_u64(1);
        for columns in [0, 1, 2, 3, 5, 8, 20, 100, 1000, 4000] {
            let mut row = row((0..columns).map(|_| random.random_range(2..40_000)));
            row.sort_unstable();
            row.dedup();
            let (bits, hash) = hash(&row);
            let mut slots: Vec<u32> = row.iter().map(|pair| slot_index(pair.column, hash)).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), row.len());
            assert!(slots.iter().all(|slot| *slot < 1 << bits));
        }
    }

    #[test]
    fn row_hash_size_stays_small() {
        assert_eq!(hash(&row([])).0, 0);
        assert_eq!(hash(&row([4097])).0, 0);
        // Scopes of neighbours, as connections get them.
        assert_eq!(hash(&row(2..4002)).0, 12);
        assert!(hash(&row([2, 700, 3000, 16_390])).0 <= 3);
    }
}

//! Classes and rows in the memory: each once, however many prefixes share it.

use std::{collections::HashMap, sync::Arc};

use hub_common::{
    compiled::{CHUNK_BITS, CLASS_WORDS, Class, PAIR_WORDS, Pair, place},
    maps::Route,
};

use super::memory::{Backing, Exhausted, Memory, Part, Use};

/// A class that is in the memory: its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// What the prefixes around an address say of it, the longest first: by column, each once.
type Row = Arc<[Pair]>;

/// What a prefix says by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    pub route: Option<Route>,
    /// In order of the columns.
    pub pairs: Box<[Pair]>,
}

impl Said {
    pub fn is_nothing(&self) -> bool {
        self.route.is_none() && self.pairs.is_empty()
    }
}

/// All classes of a memory.
pub struct Classes {
    numbers: HashMap<(Option<Route>, Row), ClassId>,
    entries: HashMap<ClassId, Entry>,
    rows: HashMap<Row, Placed>,
    /// Classes that perhaps nobody uses.
    idle: Vec<ClassId>,
    /// Says nothing.
    pub nothing: ClassId,
}

struct Entry {
    route: Option<Route>,
    row: Row,
    /// Words that lead to it.
    uses: u64,
}

/// A row in the memory.
#[derive(Clone, Copy)]
struct Placed {
    part: Part,
    hash: u32,
    /// Classes that have it.
    uses: usize,
}

impl Classes {
    pub fn new<B: Backing>(memory: &mut Memory<B>) -> Result<Self, Exhausted<B::Error>> {
        let mut classes = Self {
            numbers: HashMap::new(),
            entries: HashMap::new(),
            rows: HashMap::new(),
            idle: Vec::new(),
            nothing: ClassId(0),
        };
        classes.nothing = classes.number(memory, None, &Row::default())?;
        classes.hold(classes.nothing, 1);
        Ok(classes)
    }

    /// The class of addresses of which the prefixes around say `outer`, and one more says this.
    pub fn within<B: Backing>(
        &mut self,
        memory: &mut Memory<B>,
        outer: ClassId,
        said: &Said,
    ) -> Result<ClassId, Exhausted<B::Error>> {
        let entry = &self.entries[&outer];
        let route = said.route.or(entry.route);
        let row = match said.pairs.is_empty() {
            true => Arc::clone(&entry.row),
            false => merged(&entry.row, &said.pairs),
        };
        self.number(memory, route, &row)
    }

    fn number<B: Backing>(
        &mut self,
        memory: &mut Memory<B>,
        route: Option<Route>,
        row: &Row,
    ) -> Result<ClassId, Exhausted<B::Error>> {
        // The tuple is made to look it up: a row is a counted pointer.
        let key = (route, Arc::clone(row));
        if let Some(id) = self.numbers.get(&key) {
            return Ok(*id);
        }
        let Placed { part: row_part, hash, .. } = self.place(memory, row)?;
        let part = memory.take(CLASS_WORDS, Use::Class).inspect_err(|_| self.leave(memory, row))?;
        let (first_bucket, mask_and_flags) = match route {
            Some(route) => (route.first_bucket, u32::from(route.flags) << 16 | u32::from(route.bucket_mask)),
            None => (0, u32::from(Class::NO_ROUTE) << 16),
        };
        let own = row.first().copied().unwrap_or(Pair::NOTHING);
        memory.write(part, Class { first_bucket, mask_and_flags, row: row_part.first, hash, own }.words());
        let id = ClassId(part.first);
        self.entries.insert(id, Entry { route, row: Arc::clone(row), uses: 0 });
        self.numbers.insert(key, id);
        self.idle.push(id);
        Ok(id)
    }

    /// The place of a row, for one more class.
    fn place<B: Backing>(&mut self, memory: &mut Memory<B>, row: &Row) -> Result<Placed, Exhausted<B::Error>> {
        if let Some(placed) = self.rows.get_mut(row) {
            placed.uses += 1;
            return Ok(*placed);
        }
        let (bits, hash) = hash(row);
        if bits > MOST_BITS {
            return Err(Exhausted::ProtoPorts);
        }
        let mut pairs = vec![Pair::NOTHING; 1 << bits];
        for pair in row.iter() {
            pairs[place(pair.column, hash) as usize] = *pair;
        }
        let part = memory.take(PAIR_WORDS << bits, Use::Class)?;
        memory.write(part, pairs.iter().flat_map(Pair::words));
        let placed = Placed { part, hash, uses: 1 };
        self.rows.insert(Arc::clone(row), placed);
        Ok(placed)
    }

    /// One class less has the row.
    fn leave<B: Backing>(&mut self, memory: &mut Memory<B>, row: &Row) {
        let placed = self.rows.get_mut(row).expect("a class has it");
        placed.uses -= 1;
        if placed.uses == 0 {
            memory.rest(placed.part);
            self.rows.remove(row);
        }
    }

    /// So many more words lead to the class.
    pub fn hold(&mut self, id: ClassId, words: u64) {
        self.entries.get_mut(&id).expect("it is in the memory").uses += words;
    }

    /// So many fewer.
    pub fn drop(&mut self, id: ClassId, words: u64) {
        let entry = self.entries.get_mut(&id).expect("it is in the memory");
        entry.uses -= words;
        if entry.uses == 0 {
            self.idle.push(id);
        }
    }

    /// Takes what nobody uses out of the memory.
    pub fn sweep<B: Backing>(&mut self, memory: &mut Memory<B>) {
        for id in std::mem::take(&mut self.idle) {
            if self.entries.get(&id).is_none_or(|entry| entry.uses > 0) {
                continue;
            }
            let Entry { route, row, .. } = self.entries.remove(&id).expect("just seen");
            memory.rest(Part { first: id.0, words: CLASS_WORDS });
            self.leave(memory, &row);
            self.numbers.remove(&(route, row));
        }
    }
}

/// What is said last counts, column by column.
fn merged(outer: &Row, said: &[Pair]) -> Row {
    let kept = outer.iter().filter(|pair| said.binary_search_by_key(&pair.column, |pair| pair.column).is_err());
    let mut row: Vec<Pair> = kept.chain(said).copied().collect();
    row.sort_unstable_by_key(|pair| pair.column);
    row.into()
}

/// A row of so many places is half a chunk.
const MOST_BITS: u32 = CHUNK_BITS - 3;
/// Multipliers to try before a row gets twice the places.
const TRIES: u32 = 64;

/// Bits of the row's places, and a hash under which no two columns have the same.
fn hash(row: &[Pair]) -> (u32, u32) {
    let last = row.last().map_or(0, |pair| pair.column);
    let mut bits = row.len().next_power_of_two().trailing_zeros();
    loop {
        let mut multiplier = 1_u32;
        for _ in 0..TRIES {
            // The bits of the product that the column's own bits have all had a part in.
            for shift in [0, 8] {
                let hash = multiplier << 16 | bits << 8 | shift;
                if is_perfect(row, bits, hash) {
                    return (bits, hash);
                }
            }
            if last >> bits == 0 {
                break;
            }
            // Odd, and any will do.
            multiplier = (multiplier.wrapping_mul(0x2c9f) + 0x3456) & 0xffff | 1;
        }
        bits += 1;
    }
}

fn is_perfect(row: &[Pair], bits: u32, hash: u32) -> bool {
    let mut taken = vec![false; 1 << bits];
    row.iter().all(|pair| !std::mem::replace(&mut taken[place(pair.column, hash) as usize], true))
}

const _: () = assert!(PAIR_WORDS as usize == Pair::NOTHING.words().len());

#[cfg(test)]
mod tests {
    use hub_common::compiled::{Pair, place};
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

    use super::hash;

    fn row(columns: impl IntoIterator<Item = u32>) -> Vec<Pair> {
        columns.into_iter().map(|column| Pair { column, policy: 0, connection: 7, rules: 0 }).collect()
    }

    #[test]
    fn columns_have_places_of_their_own() {
        let mut random = SmallRng::seed_from_u64(1);
        for columns in [0, 1, 2, 3, 5, 8, 20, 100, 1000, 4000] {
            let mut row = row((0..columns).map(|_| random.random_range(2..40_000)));
            row.sort_unstable();
            row.dedup();
            let (bits, hash) = hash(&row);
            let mut places: Vec<u32> = row.iter().map(|pair| place(pair.column, hash)).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), row.len());
            assert!(places.iter().all(|place| *place < 1 << bits));
        }
    }

    #[test]
    fn rows_are_small() {
        assert_eq!(hash(&row([])).0, 0);
        assert_eq!(hash(&row([4097])).0, 0);
        // Scopes of neighbours, as connections get them.
        assert_eq!(hash(&row(2..4002)).0, 12);
        assert!(hash(&row([2, 700, 3000, 16_390])).0 <= 3);
    }
}

//! Random changes of random prefixes. After each step the reader's results are compared with a linear scan.

use std::{collections::BTreeMap, convert::Infallible, sync::atomic::AtomicU32};

use hub_common::{
    class_trie::{self, CHUNK_WORDS, Chunk, Key, POLICY_COLUMN, Reader},
    maps::{Local, Remote, Route},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{Change, ClassTrie, TrieFamily, memory::Backing};

#[derive(Default)]
pub struct Heap(Vec<AtomicU32>);

impl Backing for Heap {
    type Error = Infallible;

    fn words(&self) -> &[AtomicU32] {
        &self.0[..self.0.len().saturating_sub(CHUNK_WORDS as usize)]
    }

    fn grow(&mut self) -> Result<(), Infallible> {
        // One extra chunk behind the last: a `Chunk` is longer than its used words.
        let used = self.0.len().saturating_sub(CHUNK_WORDS as usize);
        self.0.resize_with(used + 2 * CHUNK_WORDS as usize, || AtomicU32::new(0));
        Ok(())
    }
}

/// Policy, connection and rules.
type Value = (u32, u32, u32);

/// The memory as the program sees it.
struct Seen<'a>(&'a [AtomicU32]);

impl class_trie::Memory for Seen<'_> {
    fn chunk(&self, number: u32) -> Option<&Chunk> {
        let first = number as usize * CHUNK_WORDS as usize;
        let words = self.0.get(first..)?.get(..size_of::<Chunk>() / size_of::<u32>())?;
        // SAFETY: the length and layout of a chunk; there are no writes while it is borrowed.
        Some(unsafe { &*words.as_ptr().cast() })
    }
}

impl ClassTrie<Heap> {
    fn seen(&self) -> Seen<'_> {
        Seen(&self.memory.backing().0)
    }
}

impl Seen<'_> {
    fn ask<K: Key>(&self, address: K, columns: &[u32]) -> (Option<Route>, Vec<Option<Value>>) {
        let reader = Reader::new(self).unwrap();
        let (class, default) = (reader.find(address).unwrap(), reader.default_class::<K>().unwrap());
        let pair = |column: &u32| {
            let pair = reader.pair(class, *column).or_else(|| reader.pair(default, *column)).copied();
            pair.map(|pair| (pair.policy, pair.connection, pair.rules))
        };
        (class.route().or(default.route()), columns.iter().map(pair).collect())
    }

    fn answer(&self, family: TrieFamily, address: u128, columns: &[u32]) -> (Option<Route>, Vec<Option<Value>>) {
        match family {
            TrieFamily::V4 => self.ask((address >> 96) as u32, columns),
            TrieFamily::V6 => self.ask([(address >> 64) as u64, address as u64], columns),
        }
    }
}

/// Reference implementation by linear scans.
#[derive(Default)]
struct Reference {
    routes: BTreeMap<(u128, u8), Route>,
    pairs: BTreeMap<(u32, (u128, u8)), Value>,
}

fn contains((bits, length): (u128, u8), address: u128) -> bool {
    length == 0 || (bits ^ address) >> (128 - u32::from(length)) == 0
}

impl Reference {
    fn apply(&mut self, prefix: (u128, u8), change: Change) {
        let mut pair = |column: u32, value: Option<Value>| match value {
            Some(value) => drop(self.pairs.insert((column, prefix), value)),
            None => drop(self.pairs.remove(&(column, prefix))),
        };
        match change {
            Change::Route(Some(route)) => drop(self.routes.insert(prefix, route)),
            Change::Route(None) => drop(self.routes.remove(&prefix)),
            Change::Remote { scope, remote } => pair(scope, remote.map(|remote| (remote.policy, remote.connection, 0))),
            Change::Local { policy, local } => {
                pair(policy + POLICY_COLUMN, local.map(|local| (0, local.connection, local.rules)));
            }
        }
    }

    fn answer(&self, address: u128, columns: &[u32]) -> (Option<Route>, Vec<Option<Value>>) {
        let route = self.routes.iter().filter(|(prefix, _)| contains(**prefix, address));
        let route = route.max_by_key(|((_, length), _)| *length).map(|(_, route)| *route);
        let pair = |column: &u32| {
            let around = self.pairs.iter().filter(|((of, prefix), _)| of == column && contains(*prefix, address));
            around.max_by_key(|((_, (_, length)), _)| *length).map(|(_, value)| *value)
        };
        (route, columns.iter().map(pair).collect())
    }
}

/// The distribution of random prefixes.
struct Shape {
    family: TrieFamily,
    /// Bits that random prefixes begin with.
    base: (u128, u8),
    /// Number of random bits behind the base. Few bits make prefixes overlap.
    loose: u8,
}

const SHAPES: [Shape; 6] = [
    Shape { family: TrieFamily::V4, base: (0, 0), loose: 32 },
    Shape { family: TrieFamily::V4, base: (10 << 120, 8), loose: 12 },
    // A few networks with very many prefixes each: blocks are made and removed.
    Shape { family: TrieFamily::V4, base: (0x0a50 << 112, 13), loose: 15 },
    Shape { family: TrieFamily::V6, base: (0, 0), loose: 20 },
    Shape { family: TrieFamily::V6, base: (0xfd64 << 112, 48), loose: 40 },
    // Long walks.
    Shape { family: TrieFamily::V6, base: (0x2001_0db8 << 96, 32), loose: 4 },
];

impl Shape {
    fn bits(&self) -> u8 {
        if self.family == TrieFamily::V4 { 32 } else { 128 }
    }

    fn address(&self, random: &mut SmallRng) -> u128 {
        let mut bits: u128 = random.random();
        // Long runs of the same bit.
        for _ in 0..random.random_range(0..4) {
            let from = random.random_range(0..128);
            bits = if random.random() { bits | u128::MAX >> from } else { bits & !(u128::MAX >> from) };
        }
        let (base, length) = self.base;
        let masked = |bits: u128, length: u8| if length == 0 { 0 } else { bits & u128::MAX << (128 - length) };
        let end = (length + random.random_range(0..=self.loose)).min(self.bits());
        base | (masked(bits, end) & !masked(u128::MAX, length))
    }

    fn prefix(&self, random: &mut SmallRng) -> (u128, u8) {
        if random.random_ratio(1, 40) {
            return (0, 0);
        }
        let length = match random.random_range(0..4) {
            0 => self.bits(),
            1 => random.random_range(1..=self.bits()),
            _ => (self.base.1 + random.random_range(1..=self.loose + 4)).min(self.bits()),
        };
        (self.address(random) & u128::MAX << (128 - length), length)
    }
}

const COLUMNS: [u32; 6] = [2, 3, 8200, POLICY_COLUMN + 1, POLICY_COLUMN + 2, POLICY_COLUMN + 9000];

fn change(random: &mut SmallRng) -> Change {
    let gone = random.random_ratio(1, 3);
    let number = random.random_range(2..6);
    let column = COLUMNS[random.random_range(0..COLUMNS.len())];
    match random.random_range(0..4) {
        0 | 1 => Change::Route((!gone).then_some(Route { first_bucket: number, bucket_mask: 255, flags: 0 })),
        _ if column >= POLICY_COLUMN => {
            let local = Local { connection: number, rules: number % 3 };
            Change::Local { policy: column - POLICY_COLUMN, local: (!gone).then_some(local) }
        }
        _ => Change::Remote { scope: column, remote: (!gone).then_some(Remote { policy: 1, connection: number }) },
    }
}

fn check(shape: &Shape, seed: u64, steps: u32, most: u32) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut trie = ClassTrie::new(Heap::default(), 64).unwrap_or_else(|_| panic!("there is memory"));
    let mut reference = Reference::default();
    let mut known = vec![(0, 0)];
    for step in 0..steps {
        let changes: Vec<_> = (0..random.random_range(1..=most))
            .map(|_| {
                // Some prefixes repeatedly.
                let old = known[random.random_range(0..known.len())];
                let prefix = if random.random_ratio(1, 3) { old } else { shape.prefix(&mut random) };
                known.push(prefix);
                (prefix, change(&mut random))
            })
            .collect();
        for (prefix, change) in &changes {
            reference.apply(*prefix, *change);
        }
        trie.apply(shape.family, &changes).unwrap_or_else(|_| panic!("there is memory"));
        trie.begin_release();
        trie.release();
        let memory = trie.seen();
        let edges = changes.iter().flat_map(|((bits, length), _)| {
            let last = bits | if *length == 0 { u128::MAX } else { (u128::MAX >> 1) >> (length - 1) };
            [*bits, last, bits.wrapping_sub(1 << (128 - shape.bits())), last.wrapping_add(1)]
        });
        let mut addresses: Vec<u128> = edges.collect();
        addresses.extend((0..20).map(|_| shape.address(&mut random)));
        for address in addresses {
            let found = memory.answer(shape.family, address, &COLUMNS);
            let expected = reference.answer(if shape.bits() == 32 { address >> 96 << 96 } else { address }, &COLUMNS);
            assert_eq!(found, expected, "seed {seed}, step {step}, address {address:032x}, after {changes:x?}");
        }
    }
}

#[test]
fn single_changes_equal_reference_table() {
    for (shape, number) in SHAPES.iter().zip(0..) {
        for seed in 0..6 {
            check(shape, seed * 100 + number, 150, 1);
        }
    }
}

#[test]
fn batched_changes_equal_reference_table() {
    for (shape, number) in SHAPES.iter().zip(0..) {
        for seed in 0..4 {
            check(shape, seed * 100 + number, 30, 60);
        }
    }
}

/// Bytes in use with this many host routes.
fn bytes(routes: u32, address: impl Fn(u32) -> u32) -> usize {
    let mut trie = ClassTrie::new(Heap::default(), 64).unwrap_or_else(|_| panic!("there is memory"));
    let route = Change::Route(Some(Route { first_bucket: 1, bucket_mask: 0, flags: 0 }));
    let changes: Vec<_> = (0..routes).map(|number| ((u128::from(address(number)) << 96, 32), route)).collect();
    trie.apply(TrieFamily::V4, &changes).unwrap_or_else(|_| panic!("there is memory"));
    trie.memory.backing().words().len() * size_of::<u32>()
}

#[test]
fn memory_grows_with_table_size() {
    const CHUNK: usize = CHUNK_WORDS as usize * size_of::<u32>();
    assert_eq!(bytes(20, |number| number.wrapping_mul(0x9e37_79b1)), CHUNK);
    // A cache line each, and the unused ends of chunks.
    assert!(bytes(50_000, |number| number.wrapping_mul(0x9e37_79b1)) <= 50_000 * 64 + 2 * CHUNK);
    assert!(bytes(200_000, |number| 0x0a00_0000 + number) <= 200_000 * 8 + 2 * CHUNK);
}

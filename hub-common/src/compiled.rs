//! The compiled look-up: routes and selectors of both families in one memory, walked the same way by the kernel program
//! and by the agent that writes it.
//!
//! All addresses that no prefix tells apart are one *class*. An address leads to its class through a few nodes of a trie
//! that is path-compressed and level-compressed: a node may skip bits that all prefixes below it share, and has as many
//! slots as pay off. The class then answers everything that is asked of an address:
//!
//! ```text
//! roots[family] -> slot word -> node -> slot word -> .. -> class   (of the source, and of the destination)
//! class { route, row }
//! row[hash(column)] -> Pair { column, policy, connection }         column: a scope, or a policy
//! ```
//!
//! What a class does not say, the *default class* of its family says: it has what the prefixes of length 0 say, so that
//! these stand in one place and not in every class.
//!
//! The memory is an array of [`Line`]s of 64 bytes, a cache line each, in chunks of [`CHUNK_LINES`] that are made when they
//! are needed. Words are `u32` in the host's byte order. A *quarter* is four words, and the number of a quarter is an address:
//! classes and pairs are a quarter each. Whatever a word leads to is complete before the word is written, and stays as it is
//! until no packet can be on its way to it.

use crate::maps::{Remote, Route};

/// Words of a line.
pub const LINE_WORDS: u32 = 16;
/// Words of a quarter.
pub const QUARTER_WORDS: u32 = 4;
/// Quarters of a line.
pub const LINE_QUARTERS: u32 = LINE_WORDS / QUARTER_WORDS;
/// Lines of a chunk: 256 KiB.
pub const CHUNK_LINES: u32 = 1 << 12;
/// Most chunks: 4 GiB.
pub const MAX_CHUNKS: u32 = 1 << 14;

/// 64 bytes of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u32; LINE_WORDS as usize]);

/// In a slot: this is a class, the other bits are its quarter. Without it the word is a node's first line.
pub const CLASS: u32 = 1 << 31;

/// The line that all begins with.
pub const ROOTS: u32 = 0;
/// Words of [`ROOTS`], for IPv4 and IPv6: the slot that the walk begins with, and the quarter of the default class.
pub const ROOT: [u32; 2] = [0, 2];
pub const DEFAULT: [u32; 2] = [1, 3];

/// What a node begins with; its slots follow at once.
///
/// The slot of an address is `(address ^ prefix) >> shift`; if that is no slot, the address has other bits than all
/// prefixes below the node and `otherwise` takes the slot's place.
pub mod node {
    /// Bits 0..=6 shift, bit 7 [`LOW`], the rest is the agent's own.
    pub const SHIFT: u32 = 0;
    /// Number of slots.
    pub const SLOTS: u32 = 1;
    /// A word as in a slot.
    pub const OTHERWISE: u32 = 2;
    /// Prefixes below the node; the agent's own.
    pub const COUNT: u32 = 3;
    /// The bits that all prefixes below share, the others 0: one word, or four, the most significant first.
    pub const PREFIX: u32 = 4;

    /// In an IPv6 node: slots are told apart by bits of the address's low half. The high half must be the prefix's.
    pub const LOW: u32 = 1 << 7;
    pub const SHIFT_MASK: u32 = LOW - 1;

    /// Words before the first slot.
    pub const HEADER_V4: u32 = PREFIX + 1;
    pub const HEADER_V6: u32 = PREFIX + 4;
}

/// Most nodes on the way to a class; the agent builds no longer ways.
pub const MAX_NODES_V4: u32 = 11;
pub const MAX_NODES_V6: u32 = 24;

/// What is known of all addresses of a class, as it stands in its quarter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Class {
    pub first_bucket: u32,
    /// [`Route::flags`] in the upper half, with [`Class::NO_ROUTE`]; [`Route::bucket_mask`] in the lower one.
    pub mask_and_flags: u32,
    /// Quarter of the row's first pair.
    pub row: u32,
    /// How a column's place in the row is found: see [`place`].
    pub hash: u32,
}

impl Class {
    /// Among the route's flags: there is none.
    pub const NO_ROUTE: u16 = 1 << 15;

    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        [self.first_bucket, self.mask_and_flags, self.row, self.hash]
    }

    #[inline(always)]
    pub const fn from_words([first_bucket, mask_and_flags, row, hash]: [u32; 4]) -> Self {
        Self { first_bucket, mask_and_flags, row, hash }
    }

    #[inline(always)]
    pub const fn route(&self) -> Option<Route> {
        let flags = (self.mask_and_flags >> 16) as u16;
        if flags & Self::NO_ROUTE != 0 {
            return None;
        }
        Some(Route { first_bucket: self.first_bucket, bucket_mask: self.mask_and_flags as u16, flags })
    }
}

/// What a row says in one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    pub column: u32,
    /// Policy of a remote prefix; 0 where the column is a policy.
    pub policy: u32,
    /// `COUNTERS` slot.
    pub connection: u32,
}

impl Pair {
    /// Nothing is ever asked in this column.
    pub const NO_COLUMN: u32 = u32::MAX;
    pub const NOTHING: Self = Self { column: Self::NO_COLUMN, policy: 0, connection: 0 };

    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        [self.column, self.policy, self.connection, 0]
    }

    #[inline(always)]
    pub const fn remote(&self) -> Remote {
        Remote { policy: self.policy, connection: self.connection }
    }
}

/// Added to a policy's number to get its column; all scopes are below. Columns are dense, see [`place`].
pub const POLICY_COLUMN: u32 = 1 << 14;

/// Place of a column in a row. `hash`: bits 0..=4 shift, 8..=12 bits of a place, 16..=31 multiplier.
///
/// Few columns find places of their own in a small row by a multiplier that suits them; with 1 as multiplier and enough bits
/// any do.
#[inline(always)]
pub const fn place(column: u32, hash: u32) -> u32 {
    let mixed = column.wrapping_mul(hash >> 16) >> (hash & 31);
    mixed & ((1 << (hash >> 8 & 31)) - 1)
}

/// The memory, for the walk.
pub trait Memory {
    /// `None`, if there is no such line: never for one that a word leads to.
    fn line(&self, number: u32) -> Option<&Line>;
}

/// An address, for the walk.
pub trait Key: Copy {
    /// Index into [`ROOT`] and [`DEFAULT`].
    const FAMILY: usize;
    const HEADER: u32;
    const MAX_NODES: u32;

    /// The slot of a node, by the node's first line; [`u32::MAX`] where the address is none of the prefix's.
    fn slot(self, node: &Line) -> u32;
}

impl Key for u32 {
    const FAMILY: usize = 0;
    const HEADER: u32 = node::HEADER_V4;
    const MAX_NODES: u32 = MAX_NODES_V4;

    #[inline(always)]
    fn slot(self, node: &Line) -> u32 {
        let rest = self ^ node.0[node::PREFIX as usize];
        // In 64 bits, where a shift by 32 is one.
        (u64::from(rest) >> (node.0[node::SHIFT as usize] & node::SHIFT_MASK)) as u32
    }
}

/// High half and low half.
impl Key for [u64; 2] {
    const FAMILY: usize = 1;
    const HEADER: u32 = node::HEADER_V6;
    const MAX_NODES: u32 = MAX_NODES_V6;

    #[inline(always)]
    fn slot(self, node: &Line) -> u32 {
        let word = |offset: u32| u64::from(node.0[(node::PREFIX + offset) as usize]);
        let high = self[0] ^ (word(0) << 32 | word(1));
        let shift = node.0[node::SHIFT as usize];
        let rest = match shift & node::LOW {
            0 => high,
            _ if high != 0 => return u32::MAX,
            _ => self[1] ^ (word(2) << 32 | word(3)),
        };
        let slot = rest >> (shift & 63);
        if slot > u64::from(u32::MAX) { u32::MAX } else { slot as u32 }
    }
}

/// Quarter of the address's class.
#[inline(always)]
pub fn find<K: Key>(memory: &impl Memory, address: K) -> Option<u32> {
    let mut word = memory.line(ROOTS)?.0[ROOT[K::FAMILY] as usize];
    for _ in 0..K::MAX_NODES {
        if word & CLASS != 0 {
            break;
        }
        let first = memory.line(word)?;
        let slot = address.slot(first);
        word = if slot < first.0[node::SLOTS as usize] {
            let place = K::HEADER + slot;
            let line = memory.line(word + place / LINE_WORDS)?;
            line.0[(place % LINE_WORDS) as usize]
        } else {
            first.0[node::OTHERWISE as usize]
        };
    }
    Some(word & !CLASS)
}

#[inline(always)]
pub fn quarter(memory: &impl Memory, number: u32) -> Option<[u32; 4]> {
    let line = memory.line(number / LINE_QUARTERS)?;
    let first = (number % LINE_QUARTERS * QUARTER_WORDS) as usize;
    Some([line.0[first], line.0[first + 1], line.0[first + 2], line.0[first + 3]])
}

#[inline(always)]
pub fn class(memory: &impl Memory, number: u32) -> Option<Class> {
    quarter(memory, number).map(Class::from_words)
}

/// What prefixes of length 0 say.
#[inline(always)]
pub fn default_class<K: Key>(memory: &impl Memory) -> Option<Class> {
    class(memory, memory.line(ROOTS)?.0[DEFAULT[K::FAMILY] as usize])
}

/// What a class says in a column.
#[inline(always)]
pub fn pair(memory: &impl Memory, class: &Class, column: u32) -> Option<Pair> {
    let [found, policy, connection, _] = quarter(memory, class.row + place(column, class.hash))?;
    if found == column { Some(Pair { column, policy, connection }) } else { None }
}

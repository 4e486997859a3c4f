//! The compiled look-up: routes and selectors of both families in one memory, walked the same way by the kernel program
//! and by the agent that writes it.
//!
//! All addresses that no prefix tells apart are one *class*. An address leads to its class through a few slots:
//!
//! ```text
//! IPv4: front[first 16 bits] -> (block[next 8 bits] -> (block[last 8 bits] ->)) (node -> ..) class
//! IPv6: root                 ->                                                  node -> ..  class
//! ```
//!
//! The front and the blocks are slots and nothing else: what an IPv4 address costs most of the time is two loads. A node is
//! one of a trie that is path-compressed and level-compressed: it may skip bits that all prefixes below it share, and has
//! as many slots as pay off. The class, of the source and of the destination, then answers everything that is asked of an
//! address:
//!
//! ```text
//! class { route, row, own }
//! own                     Pair { column, policy, connection, rules } column: a scope, or a policy
//! row[hash(column)]       the same of all columns, where there are more than one
//! ```
//!
//! What a class does not say, the *default class* of its family says: it has what the prefixes of length 0 say, so that
//! these stand in one place and not in every class.
//!
//! The memory consists of chunks of [`CHUNK_WORDS`] words, made when they are needed; a word is a `u32` in the host's byte
//! order. An address in it has the number of the chunk above the word's number in the chunk. What belongs together lies in
//! one chunk, and what most packets need in chunk 0: a look-up in a map is needed where a walk comes into another chunk
//! alone, all else is loads. Whatever a word leads to is complete before the word is written, and stays as it is until no
//! packet can be on its way to it.

use crate::maps::{Local, Remote, Route};

/// Bits of a word's number in its chunk.
pub const CHUNK_BITS: u32 = 19;
/// Words of a chunk: 2 MiB. Older kernels take values of `KMALLOC_MAX_SIZE` at most, 4 MiB (kernel/bpf/arraymap.c).
pub const CHUNK_WORDS: u32 = 1 << CHUNK_BITS;
/// Most chunks: 4 GiB.
pub const MAX_CHUNKS: u32 = 1 << 11;
/// Words of a pair, which begins at a multiple of it.
pub const PAIR_WORDS: u32 = 4;
/// Words of a class, which begins at a multiple of it.
pub const CLASS_WORDS: u32 = 8;

/// Words of the longest header of a node: so many can be read from any word on.
const SLACK: usize = 8;

/// A chunk, the value of an array of one. What is behind [`CHUNK_WORDS`] is never used: for the verifier, a header may begin
/// with any word.
#[repr(transparent)]
pub struct Chunk(Words);

/// A chunk as the map of chunks describes it. Not a structure, for which the description (BTF) would be looked through for
/// timers: before Linux 6.3 the kernel then takes only chunks that the agent has described as well
/// (`bpf_map_meta_equal`, `kernel/bpf/map_in_map.c`).
pub type Words = [u32; CHUNK_WORDS as usize + SLACK];

impl Chunk {
    #[inline(always)]
    pub const fn of(words: &Words) -> &Self {
        // SAFETY: `repr(transparent)`: it is nothing else.
        unsafe { &*core::ptr::from_ref(words).cast() }
    }

    /// Words from an address in this chunk on.
    #[inline(always)]
    pub fn words<const N: usize>(&self, address: u64) -> &[u32; N] {
        const { assert!(N <= SLACK) };
        let first = address as usize & (CHUNK_WORDS as usize - 1);
        // SAFETY: no more than the last word of `CHUNK_WORDS` and `SLACK` behind it.
        unsafe { &*self.0.as_ptr().add(first).cast() }
    }

    #[inline(always)]
    pub fn word(&self, address: u64) -> u32 {
        self.words::<1>(address)[0]
    }

    /// The class that begins at an address.
    #[inline(always)]
    fn class(&self, address: u64) -> &Class {
        let words: &[u32; CLASS_WORDS as usize] = self.words(address);
        // SAFETY: a class is as many words, and any words are one.
        unsafe { &*words.as_ptr().cast() }
    }
}

/// In a slot: the word is the address of a class and this, of a block and [`BLOCK`], or of a node. These begin at
/// multiples of 4 and more.
pub const CLASS: u32 = 1;
pub const BLOCK: u32 = 2;

/// In chunk 0: slots by the first bits of an IPv4 address.
pub const FRONT: u32 = 16;
pub const FRONT_BITS: u8 = 16;
/// The next bits, as many of them as tell the slots of a block apart.
pub const BLOCK_BITS: u8 = 8;
/// In chunk 0: the slot that the walk of an IPv6 address begins with.
pub const ROOT: u32 = 0;
/// In chunk 0, for IPv4 and IPv6: the address of the default class.
pub const DEFAULT: [u32; 2] = [1, 2];

/// What a node begins with; its slots follow at once.
///
/// The slot of an address is `(address ^ prefix) >> shift`; if that is no slot, the address has other bits than all
/// prefixes below the node and `otherwise` takes the slot's place.
pub mod node {
    /// Bits 0..=5 shift, bit 7 [`LOW`], the rest is the agent's own.
    pub const SHIFT: usize = 0;
    /// Number of slots.
    pub const SLOTS: usize = 1;
    /// A word as in a slot.
    pub const OTHERWISE: usize = 2;
    /// Prefixes below the node; the agent's own.
    pub const COUNT: usize = 3;
    /// The bits that all prefixes below share, the others 0: one word, or four, the least significant first.
    pub const PREFIX: usize = 4;

    /// In an IPv6 node: slots are told apart by bits of the address's low half. The high half must be the prefix's.
    pub const LOW: u32 = 1 << 7;

    /// Words before the first slot.
    pub const HEADER_V4: usize = PREFIX + 1;
    pub const HEADER_V6: usize = PREFIX + 4;
}

/// Most nodes on the way to a class; the agent builds no longer ways.
pub const MAX_NODES_V4: u32 = 4;
pub const MAX_NODES_V6: u32 = 16;

/// What is known of all addresses of a class, as it stands in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Class {
    pub first_bucket: u32,
    /// [`Route::flags`] in the upper half, with [`Class::NO_ROUTE`]; [`Route::bucket_mask`] in the lower one.
    pub mask_and_flags: u32,
    /// Address of the row's first pair.
    pub row: u32,
    /// How a column's place in the row is found: see [`place`].
    pub hash: u32,
    /// The pair of the first column: the only one of most addresses, which belong to one connection.
    pub own: Pair,
}

impl Class {
    /// Among the route's flags: there is none.
    pub const NO_ROUTE: u16 = 1 << 15;

    pub const fn words(&self) -> [u32; CLASS_WORDS as usize] {
        let [column, policy, connection, rules] = self.own.words();
        [self.first_bucket, self.mask_and_flags, self.row, self.hash, column, policy, connection, rules]
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
#[repr(C)]
pub struct Pair {
    pub column: u32,
    /// Policy of a remote prefix; 0 where the column is a policy.
    pub policy: u32,
    /// `COUNTERS` slot.
    pub connection: u32,
    /// [`Local::rules`] where the column is a policy; 0 where it is a scope.
    pub rules: u32,
}

impl Pair {
    /// Nothing is ever asked in this column.
    pub const NO_COLUMN: u32 = u32::MAX;
    pub const NOTHING: Self = Self { column: Self::NO_COLUMN, policy: 0, connection: 0, rules: 0 };

    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        [self.column, self.policy, self.connection, self.rules]
    }

    #[inline(always)]
    pub const fn remote(&self) -> Remote {
        Remote { policy: self.policy, connection: self.connection }
    }

    #[inline(always)]
    pub const fn local(&self) -> Local {
        Local { connection: self.connection, rules: self.rules }
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
    /// `None`, if there is no such chunk: never for one that a word leads to.
    fn chunk(&self, number: u32) -> Option<&Chunk>;
}

/// An address, for the walk.
pub trait Key: Copy {
    /// Index into [`DEFAULT`].
    const FAMILY: usize;
    /// Words of a node before its slots.
    const HEADER: usize;
    const MAX_NODES: u32;

    /// The word that leads to the first node, or at once to the class.
    fn enter<M: Memory>(self, reader: &Reader<'_, M>) -> Option<u64>;

    /// The slot of the node that begins with this header; no slot's number where the address is none of the prefix's.
    fn slot(self, header: &[u32; SLACK]) -> u64;
}

impl Key for u32 {
    const FAMILY: usize = 0;
    const HEADER: usize = node::HEADER_V4;
    const MAX_NODES: u32 = MAX_NODES_V4;

    #[inline(always)]
    fn enter<M: Memory>(self, reader: &Reader<'_, M>) -> Option<u64> {
        const BEHIND: u8 = 32 - FRONT_BITS;
        let mut word = u64::from(reader.first.word(u64::from(FRONT) + u64::from(self >> BEHIND)));
        for behind in [BEHIND - BLOCK_BITS, BEHIND - 2 * BLOCK_BITS] {
            if word & u64::from(BLOCK) == 0 {
                break;
            }
            let slot = u64::from(self >> behind) & ((1 << BLOCK_BITS) - 1);
            word = u64::from(reader.chunk(word)?.word((word & !u64::from(BLOCK)) + slot));
        }
        Some(word)
    }

    #[inline(always)]
    fn slot(self, header: &[u32; SLACK]) -> u64 {
        // In 64 bits, where a shift by 32 is one.
        u64::from(self ^ header[node::PREFIX]) >> (header[node::SHIFT] & 63)
    }
}

/// High half and low half.
impl Key for [u64; 2] {
    const FAMILY: usize = 1;
    const HEADER: usize = node::HEADER_V6;
    const MAX_NODES: u32 = MAX_NODES_V6;

    #[inline(always)]
    fn enter<M: Memory>(self, reader: &Reader<'_, M>) -> Option<u64> {
        Some(reader.first.word(ROOT.into()).into())
    }

    #[inline(always)]
    fn slot(self, header: &[u32; SLACK]) -> u64 {
        let half = |first: usize| u64::from(header[first]) | u64::from(header[first + 1]) << 32;
        let high = self[0] ^ half(node::PREFIX + 2);
        let shift = header[node::SHIFT];
        let rest = match shift & node::LOW {
            0 => high,
            _ if high != 0 => return u64::MAX,
            _ => self[1] ^ half(node::PREFIX),
        };
        rest >> (shift & 63)
    }
}

/// A memory that is being read.
pub struct Reader<'m, M> {
    memory: &'m M,
    first: &'m Chunk,
}

impl<'m, M: Memory> Reader<'m, M> {
    #[inline(always)]
    pub fn new(memory: &'m M) -> Option<Self> {
        Some(Self { memory, first: memory.chunk(0)? })
    }

    /// The chunk that an address is in.
    #[inline(always)]
    fn chunk(&self, address: u64) -> Option<&'m Chunk> {
        match address >> CHUNK_BITS {
            0 => Some(self.first),
            number => self.memory.chunk(number as u32),
        }
    }

    /// Class of an address.
    #[inline(always)]
    pub fn find<K: Key>(&self, key: K) -> Option<&'m Class> {
        // 64 bits: registers have them, and the program need not cut anything off.
        let mut word = key.enter(self)?;
        for _ in 0..u64::from(K::MAX_NODES) {
            if word & u64::from(CLASS) != 0 {
                break;
            }
            let chunk = self.chunk(word)?;
            let header = chunk.words(word);
            let slot = key.slot(header);
            word = u64::from(match slot < u64::from(header[node::SLOTS]) {
                true => chunk.word(word + K::HEADER as u64 + slot),
                false => header[node::OTHERWISE],
            });
        }
        self.class(word & !u64::from(CLASS))
    }

    /// What prefixes of length 0 say.
    #[inline(always)]
    pub fn default_class<K: Key>(&self) -> Option<&'m Class> {
        self.class(self.first.word(DEFAULT[K::FAMILY].into()).into())
    }

    /// What a class says in a column.
    #[inline(always)]
    pub fn pair(&self, class: &'m Class, column: u32) -> Option<Pair> {
        if class.own.column == column {
            return Some(class.own);
        }
        let address = u64::from(class.row + place(column, class.hash) * PAIR_WORDS);
        let [found, policy, connection, rules] = *self.chunk(address)?.words(address);
        if found == column { Some(Pair { column, policy, connection, rules }) } else { None }
    }

    #[inline(always)]
    fn class(&self, address: u64) -> Option<&'m Class> {
        Some(self.chunk(address)?.class(address))
    }
}

const _: () = {
    assert!(size_of::<Class>() == CLASS_WORDS as usize * size_of::<u32>() && CLASS_WORDS as usize <= SLACK);
    assert!(FRONT.is_multiple_of(1 << 4) && FRONT + (1 << FRONT_BITS) <= CHUNK_WORDS / 2);
};

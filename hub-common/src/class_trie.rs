//! The class trie: routes and selectors of both families in one memory. The agent writes it; this is its format, and
//! the reader that the kernel program uses.
//!
//! Addresses that are contained in the same prefixes form one *class*. The walk from an address to its class:
//!
//! ```text
//! IPv4: front[first 16 bits] -> (block[next 8 bits] -> (block[last 8 bits] ->)) (node -> ..) class
//! IPv6: root                 ->                                                  node -> ..  class
//! ```
//!
//! The front and the blocks are arrays of slots without a header, so most IPv4 addresses take two loads. Nodes form a
//! path-compressed and level-compressed trie: a node may skip bits that all prefixes below it share, and has between 1
//! and 2^17 slots. The class holds the results of all later look-ups of the address:
//!
//! ```text
//! class { route, row, own }
//! own                     Pair { column, policy, connection, rules } column: a scope, or a policy
//! row[hash(column)]       Pairs of all columns, if there are several
//! ```
//!
//! A value that a class lacks is taken from the *default class* of its family, which has the values of the prefix of
//! length 0. So a change of a default route changes one class.
//!
//! The memory consists of chunks of [`CHUNK_WORDS`] words, allocated on demand. A word is a `u32` in the host's byte
//! order. The upper bits of an address are the number of the chunk, the lower [`CHUNK_BITS`] bits the number of the
//! word within it. Every object lies within one chunk, and the most used ones in chunk 0: a walk needs a map look-up
//! only when it enters another chunk. An object is complete before a word points to it, and does not change until no
//! packet can be reading it.

use crate::maps::{Local, Remote, Route};

/// Bits of a word's number in its chunk.
pub const CHUNK_BITS: u32 = 19;
/// Words of a chunk: 2 MiB. Older kernels take values of `KMALLOC_MAX_SIZE` at most, 4 MiB (kernel/bpf/arraymap.c).
pub const CHUNK_WORDS: u32 = 1 << CHUNK_BITS;
/// Maximum number of chunks: 4 GiB.
pub const MAX_CHUNKS: u32 = 1 << 11;
/// Words and alignment of a pair.
pub const PAIR_WORDS: u32 = 4;
/// Words and alignment of a class.
pub const CLASS_WORDS: u32 = 8;

/// Words of the longest node header. This many words can be read from any word on.
const SLACK: usize = 8;

/// A chunk: the value of an array map with one element. The words after the first [`CHUNK_WORDS`] are unused. They
/// exist because the verifier assumes that a header may start at any word.
#[repr(transparent)]
pub struct Chunk(Words);

/// The chunk's type in the definition of the outer map. An array, not a structure: the kernel searches the BTF of a
/// structure for timers, and before Linux 6.3 it then accepts only inner maps with the same BTF (`bpf_map_meta_equal`,
/// `kernel/bpf/map_in_map.c`).
pub type Words = [u32; CHUNK_WORDS as usize + SLACK];

impl Chunk {
    #[inline(always)]
    pub const fn of(words: &Words) -> &Self {
        // SAFETY: `repr(transparent)` gives both types the same layout.
        unsafe { &*core::ptr::from_ref(words).cast() }
    }

    /// The first `N` words at an address in this chunk.
    #[inline(always)]
    pub fn words<const N: usize>(&self, address: u64) -> &[u32; N] {
        const { assert!(N <= SLACK) };
        let first = address as usize & (CHUNK_WORDS as usize - 1);
        // SAFETY: `first` is below `CHUNK_WORDS`, and `SLACK` words follow those.
        unsafe { &*self.0.as_ptr().add(first).cast() }
    }

    #[inline(always)]
    pub fn word(&self, address: u64) -> u32 {
        self.words::<1>(address)[0]
    }

    /// The class at an address.
    #[inline(always)]
    fn class(&self, address: u64) -> &Class {
        let words: &[u32; CLASS_WORDS as usize] = self.words(address);
        // SAFETY: a class consists of this many words, and every bit pattern is valid.
        unsafe { &*words.as_ptr().cast() }
    }

    /// The pair at an address.
    #[inline(always)]
    fn pair(&self, address: u64) -> &Pair {
        let words: &[u32; PAIR_WORDS as usize] = self.words(address);
        // SAFETY: as above.
        unsafe { &*words.as_ptr().cast() }
    }
}

/// Tag bits of a slot: the word is the address of a class with [`CLASS`], of a block with [`BLOCK`], or of a node
/// without a tag. Addresses of these objects are multiples of at least 4.
pub const CLASS: u32 = 1;
pub const BLOCK: u32 = 2;

/// In chunk 0: slots indexed by the first [`FRONT_BITS`] bits of an IPv4 address.
pub const FRONT: u32 = 16;
pub const FRONT_BITS: u8 = 16;
/// Index bits of a block.
pub const BLOCK_BITS: u8 = 8;
/// In chunk 0: the slot where the walk of an IPv6 address starts.
pub const ROOT: u32 = 0;
/// In chunk 0, for IPv4 and IPv6: the words with the address of the default class.
pub const DEFAULT: [u32; 2] = [1, 2];

/// Header of a node; its slots follow.
///
/// The slot of an address is `(address ^ prefix) >> shift`. If that is not below [`node::SLOTS`], the address is not
/// contained in the node's prefix, and [`node::OTHERWISE`] is used instead of a slot.
pub mod node {
    /// Bits 0..=5: shift. Bit 7: [`LOW`]. Only the agent uses the rest.
    pub const SHIFT: usize = 0;
    /// Number of slots.
    pub const SLOTS: usize = 1;
    /// A word in the format of a slot.
    pub const OTHERWISE: usize = 2;
    /// Prefixes below the node; only the agent uses it.
    pub const COUNT: usize = 3;
    /// The bits that all prefixes below share, other bits 0: one word, or four, the least significant first.
    pub const PREFIX: usize = 4;

    /// In an IPv6 node: slots are indexed by bits of the address's low half. The high half must equal the prefix's.
    pub const LOW: u32 = 1 << 7;

    /// Words before the first slot.
    pub const HEADER_V4: usize = PREFIX + 1;
    pub const HEADER_V6: usize = PREFIX + 4;
}

/// Maximum nodes on a walk. The agent builds no longer walks.
pub const MAX_NODES_V4: u32 = 4;
pub const MAX_NODES_V6: u32 = 16;

/// A class as it is stored in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Class {
    pub first_bucket: u32,
    /// [`Route::flags`] in the upper half, with [`Class::NO_ROUTE`]; [`Route::bucket_mask`] in the lower one.
    pub mask_and_flags: u32,
    /// Address of the row's first pair.
    pub row: u32,
    /// Parameters of the row's hash: see [`slot_index`].
    pub hash: u32,
    /// The pair of the first column. Most addresses belong to one connection and have no other.
    pub own: Pair,
}

impl Class {
    /// Flag among the route's flags: the class has no route.
    pub const NO_ROUTE: u16 = 1 << 15;

    pub const fn words(&self) -> [u32; CLASS_WORDS as usize] {
        let [column, policy, connection, rules] = self.own.words();
        [self.first_bucket, self.mask_and_flags, self.row, self.hash, column, policy, connection, rules]
    }

    /// First bucket, mask and flags from bit 0 up, by one load.
    #[inline(always)]
    pub const fn packed_route(&self) -> u64 {
        // SAFETY: the first two words, which every bit pattern is valid for.
        let words = unsafe { core::ptr::from_ref(self).cast::<u64>().read_unaligned() };
        if cfg!(target_endian = "little") { words } else { words.rotate_left(u32::BITS) }
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

/// The value of a row in one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Pair {
    pub column: u32,
    /// Policy of a remote prefix; 0 where the column is a policy.
    pub policy: u32,
    /// The owner ([`crate::maps::owner`]).
    pub connection: u32,
    /// [`Local::rules`] where the column is a policy; 0 where it is a scope.
    pub rules: u32,
}

impl Pair {
    /// A column that is never looked up.
    pub const NO_COLUMN: u32 = u32::MAX;
    pub const EMPTY: Self = Self { column: Self::NO_COLUMN, policy: 0, connection: 0, rules: 0 };

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

/// Offset from a policy's number to its column. All scopes are below it. Columns should be dense: see [`slot_index`].
pub const POLICY_COLUMN: u32 = 1 << 14;

/// Index of a column's slot in a row. `hash`: bits 0..=4 are the shift, 8..=12 the bits of an index, 16..=31 the
/// multiplier.
///
/// The agent searches a multiplier that gives each column a slot of its own. The multiplier 1 works for any columns if
/// the index has enough bits.
#[inline(always)]
pub const fn slot_index(column: u32, hash: u32) -> u32 {
    let mixed = column.wrapping_mul(hash >> 16) >> (hash & 31);
    mixed & ((1 << (hash >> 8 & 31)) - 1)
}

/// Access to the memory.
pub trait Memory {
    /// `None` if there is no such chunk. Never `None` for an address that is stored in the memory.
    fn chunk(&self, number: u32) -> Option<&Chunk>;
}

/// An address to look up.
pub trait Key: Copy {
    /// Index into [`DEFAULT`].
    const FAMILY: usize;
    /// Words of a node before its slots.
    const HEADER: usize;
    const MAX_NODES: u32;

    /// The word that points to the first node, or to the class.
    fn enter<M: Memory>(self, reader: &Reader<'_, M>) -> Option<u64>;

    /// Index of the slot in the node with this header. Not a valid index if the node's prefix does not contain the
    /// address.
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
        // In 64 bits, where a shift by 32 is defined.
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

/// Reader of a memory.
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
        // The comparison needs no shift, in most cases.
        if address < 1 << CHUNK_BITS { Some(self.first) } else { self.memory.chunk((address >> CHUNK_BITS) as u32) }
    }

    /// The class of an address.
    #[inline(always)]
    pub fn find<K: Key>(&self, key: K) -> Option<&'m Class> {
        // 64 bits, the width of a register: the program needs no truncation.
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

    /// The class of the prefix of length 0.
    #[inline(always)]
    pub fn default_class<K: Key>(&self) -> Option<&'m Class> {
        self.class(self.first.word(DEFAULT[K::FAMILY].into()).into())
    }

    /// The pair of a class in a column, without the default class.
    #[inline(always)]
    pub fn pair(&self, class: &'m Class, column: u32) -> Option<&'m Pair> {
        if class.own.column == column {
            return Some(&class.own);
        }
        let address = u64::from(class.row + slot_index(column, class.hash) * PAIR_WORDS);
        let pair = self.chunk(address)?.pair(address);
        if pair.column == column { Some(pair) } else { None }
    }

    #[inline(always)]
    fn class(&self, address: u64) -> Option<&'m Class> {
        Some(self.chunk(address)?.class(address))
    }
}

const _: () = {
    assert!(size_of::<Class>() == CLASS_WORDS as usize * size_of::<u32>() && CLASS_WORDS as usize <= SLACK);
    assert!(size_of::<Pair>() == PAIR_WORDS as usize * size_of::<u32>());
    assert!(FRONT.is_multiple_of(1 << 4) && FRONT + (1 << FRONT_BITS) <= CHUNK_WORDS / 2);
};

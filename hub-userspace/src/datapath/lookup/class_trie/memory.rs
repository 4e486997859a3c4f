//! The allocator of the class trie's memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU32, Ordering},
};

use hub_common::class_trie::{CHUNK_WORDS, FRONT, FRONT_BITS, MAX_CHUNKS, PAIR_WORDS};

/// The storage of the words.
pub trait Backing {
    type Error;

    /// All allocated words: whole chunks.
    fn words(&self) -> &[AtomicU32];

    /// Adds a chunk of zeros.
    fn grow(&mut self) -> Result<(), Self::Error>;
}

/// A run of words from an address on, within one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub first: u32,
    pub words: u32,
}

/// The purpose of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Classes and rows. They are few and every packet needs them, so half of chunk 0 is reserved for them.
    Class,
    Node,
}

/// Words of a cache line. Extents of this length or more are aligned to it.
pub const LINE_WORDS: u32 = 16;
/// First word of chunk 0 that is reserved for classes and rows.
const RESERVED: u32 = CHUNK_WORDS / 2;

/// Allocates extents. Frees them when no packet can still be reading them.
pub struct Memory<B> {
    backing: B,
    /// First words that were never allocated: in the reserved half of chunk 0, and elsewhere.
    reserved: u32,
    next: u32,
    /// Capacity in words.
    limit: u32,
    /// Addresses of free extents, by length; those in the reserved half are separate.
    free: HashMap<Use, BTreeMap<u32, Vec<u32>>>,
    /// No longer referenced, but packets may still be reading them.
    retired: Vec<Extent>,
    releasing: Vec<Extent>,
}

/// Why an allocation failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Exhausted<E> {
    Capacity,
    Backing(E),
}

impl<B: Backing> Memory<B> {
    /// Reserves the first cache line and the IPv4 front.
    ///
    /// # Errors
    /// When the backing cannot allocate the first chunk.
    pub fn new(mut backing: B, chunks: u32) -> Result<Self, Exhausted<B::Error>> {
        backing.grow().map_err(Exhausted::Backing)?;
        Ok(Self {
            backing,
            reserved: RESERVED,
            next: FRONT + (1 << FRONT_BITS),
            limit: chunks.clamp(1, MAX_CHUNKS) * CHUNK_WORDS,
            free: HashMap::from([(Use::Class, BTreeMap::new()), (Use::Node, BTreeMap::new())]),
            retired: Vec::new(),
            releasing: Vec::new(),
        })
    }

    /// Allocates an extent of at least this many words, at most half a chunk.
    pub fn take(&mut self, words: u32, kind: Use) -> Result<Extent, Exhausted<B::Error>> {
        let words = match words {
            ..=PAIR_WORDS => PAIR_WORDS,
            more if more < LINE_WORDS => more.next_power_of_two(),
            more => more.next_multiple_of(LINE_WORDS),
        };
        if kind == Use::Class
            && let Some(first) = self.reuse(words, kind).or_else(|| self.fresh_reserved(words))
        {
            return Ok(Extent { first, words });
        }
        if let Some(first) = self.reuse(words, Use::Node) {
            return Ok(Extent { first, words });
        }
        let first = match self.fresh(words) {
            Err(Exhausted::Capacity) => self.split(words).ok_or(Exhausted::Capacity)?,
            first => first?,
        };
        Ok(Extent { first, words })
    }

    fn free(&mut self, kind: Use) -> &mut BTreeMap<u32, Vec<u32>> {
        self.free.get_mut(&kind).expect("there is one for each use")
    }

    fn reuse(&mut self, words: u32, kind: Use) -> Option<u32> {
        self.free(kind).get_mut(&words)?.pop()
    }

    fn fresh_reserved(&mut self, words: u32) -> Option<u32> {
        let first = self.reserved.next_multiple_of(words.min(LINE_WORDS));
        if first + words > CHUNK_WORDS {
            return None;
        }
        self.reserved = first + words;
        Some(first)
    }

    fn fresh(&mut self, words: u32) -> Result<u32, Exhausted<B::Error>> {
        let mut first = self.next.next_multiple_of(words.min(LINE_WORDS));
        let end = if first < CHUNK_WORDS { RESERVED } else { first.next_multiple_of(CHUNK_WORDS) };
        if first + words > end && !first.is_multiple_of(CHUNK_WORDS) {
            // The rest of the chunk is free for shorter extents.
            let rest = Extent { first, words: (end - first) / LINE_WORDS * LINE_WORDS };
            first = first.next_multiple_of(CHUNK_WORDS);
            if first < self.limit && rest.words > 0 {
                self.give_back(rest);
            }
        }
        if words > self.limit.saturating_sub(first) {
            return Err(Exhausted::Capacity);
        }
        while self.backing.words().len() < (first + words) as usize {
            self.backing.grow().map_err(Exhausted::Backing)?;
        }
        self.next = first + words;
        Ok(first)
    }

    /// Allocates from the smallest free extent that is long enough.
    fn split(&mut self, words: u32) -> Option<u32> {
        let aligned = words.next_multiple_of(LINE_WORDS);
        let (length, parts) = self.free(Use::Node).range_mut(aligned..).find(|(_, parts)| !parts.is_empty())?;
        let (length, first) = (*length, parts.pop()?);
        if length > aligned {
            self.give_back(Extent { first: first + aligned, words: length - aligned });
        }
        Some(first)
    }

    /// Call it when no word points to the extent any more. Packets may still be reading it.
    pub fn retire(&mut self, extent: Extent) {
        self.retired.push(extent);
    }

    #[cfg(test)]
    pub fn backing(&self) -> &B {
        &self.backing
    }

    pub fn load(&self, address: u32) -> u32 {
        self.backing.words()[address as usize].load(Ordering::Relaxed)
    }

    /// Publishes a word: a packet on any CPU that sees the word sees everything that was written before it.
    pub fn store(&self, address: u32, value: u32) {
        self.backing.words()[address as usize].store(value, Ordering::Release);
    }

    /// Writes to an extent that no packet can reach yet.
    pub fn write(&self, extent: Extent, values: impl IntoIterator<Item = u32>) {
        let words = &self.backing.words()[extent.first as usize..][..extent.words as usize];
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl<B> Memory<B> {
    /// Marks the retired extents for [`Self::release`]. Returns whether there are any.
    pub fn begin_release(&mut self) -> bool {
        self.releasing.append(&mut self.retired);
        !self.releasing.is_empty()
    }

    /// Frees the extents that [`Self::begin_release`] marked. Call it when no packet can still be reading them.
    pub fn release(&mut self) {
        for extent in std::mem::take(&mut self.releasing) {
            self.give_back(extent);
        }
    }

    fn give_back(&mut self, Extent { first, words }: Extent) {
        let kind = if (RESERVED..CHUNK_WORDS).contains(&first) { Use::Class } else { Use::Node };
        self.free.get_mut(&kind).expect("there is one for each use").entry(words).or_default().push(first);
    }
}

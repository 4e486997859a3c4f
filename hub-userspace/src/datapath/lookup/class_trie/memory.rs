//! The memory of the compiled look-up: who has which part of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU32, Ordering},
};

use hub_common::compiled::{CHUNK_WORDS, FRONT, FRONT_BITS, MAX_CHUNKS, PAIR_WORDS};

/// Where the words are.
pub trait Backing {
    type Error;

    /// All words there are: whole chunks.
    fn words(&self) -> &[AtomicU32];

    /// Adds a chunk. Its words are 0.
    fn grow(&mut self) -> Result<(), Self::Error>;
}

/// A part of the memory: so many words from an address on, all in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: u32,
    pub words: u32,
}

/// What a part is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Classes and rows: few, and needed by every packet, so they have a place reserved in chunk 0.
    Class,
    Node,
}

/// Words of a cache line. What is as long or longer begins with one.
pub const LINE_WORDS: u32 = 16;
/// In chunk 0, classes and rows are from here on.
const RESERVED: u32 = CHUNK_WORDS / 2;

/// Gives parts of the memory away, and takes them back when no packet can be on its way to them.
pub struct Memory<B> {
    backing: B,
    /// What was never given away, of chunk 0's reserved half, and of all else.
    reserved: u32,
    next: u32,
    /// Words there may be.
    limit: u32,
    /// Addresses of free parts, by length; those of the reserved half apart.
    free: HashMap<Use, BTreeMap<u32, Vec<u32>>>,
    resting: Vec<Part>,
    releasing: Vec<Part>,
}

/// Why there is no more memory.
#[derive(Debug, PartialEq, Eq)]
pub enum Exhausted<E> {
    ProtoPorts,
    Backing(E),
}

impl<B: Backing> Memory<B> {
    /// The first line and IPv4's front have their places.
    ///
    /// # Errors
    /// When the backing has no first chunk to give.
    pub fn new(mut backing: B, chunks: u32) -> Result<Self, Exhausted<B::Error>> {
        backing.grow().map_err(Exhausted::Backing)?;
        Ok(Self {
            backing,
            reserved: RESERVED,
            next: FRONT + (1 << FRONT_BITS),
            limit: chunks.clamp(1, MAX_CHUNKS) * CHUNK_WORDS,
            free: HashMap::from([(Use::Class, BTreeMap::new()), (Use::Node, BTreeMap::new())]),
            resting: Vec::new(),
            releasing: Vec::new(),
        })
    }

    /// A part of at least so many words, no more than half a chunk.
    pub fn take(&mut self, words: u32, kind: Use) -> Result<Part, Exhausted<B::Error>> {
        let words = match words {
            ..=PAIR_WORDS => PAIR_WORDS,
            more if more < LINE_WORDS => more.next_power_of_two(),
            more => more.next_multiple_of(LINE_WORDS),
        };
        if kind == Use::Class
            && let Some(first) = self.reuse(words, kind).or_else(|| self.fresh_reserved(words))
        {
            return Ok(Part { first, words });
        }
        if let Some(first) = self.reuse(words, Use::Node) {
            return Ok(Part { first, words });
        }
        let first = match self.fresh(words) {
            Err(Exhausted::ProtoPorts) => self.split(words).ok_or(Exhausted::ProtoPorts)?,
            first => first?,
        };
        Ok(Part { first, words })
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
            // The rest of the chunk is for somebody who needs less.
            let rest = Part { first, words: (end - first) / LINE_WORDS * LINE_WORDS };
            first = first.next_multiple_of(CHUNK_WORDS);
            if first < self.limit && rest.words > 0 {
                self.give_back(rest);
            }
        }
        if words > self.limit.saturating_sub(first) {
            return Err(Exhausted::ProtoPorts);
        }
        while self.backing.words().len() < (first + words) as usize {
            self.backing.grow().map_err(Exhausted::Backing)?;
        }
        self.next = first + words;
        Ok(first)
    }

    /// Takes so many words from the smallest free part that has as many.
    fn split(&mut self, words: u32) -> Option<u32> {
        let aligned = words.next_multiple_of(LINE_WORDS);
        let (length, parts) = self.free(Use::Node).range_mut(aligned..).find(|(_, parts)| !parts.is_empty())?;
        let (length, first) = (*length, parts.pop()?);
        if length > aligned {
            self.give_back(Part { first: first + aligned, words: length - aligned });
        }
        Some(first)
    }

    /// Nothing leads to this part any more, but a packet may be on its way to it.
    pub fn rest(&mut self, part: Part) {
        self.resting.push(part);
    }

    #[cfg(test)]
    pub fn backing(&self) -> &B {
        &self.backing
    }

    pub fn load(&self, address: u32) -> u32 {
        self.backing.words()[address as usize].load(Ordering::Relaxed)
    }

    /// Puts a word in force: packets on all CPUs that see it see all that was written before.
    pub fn store(&self, address: u32, value: u32) {
        self.backing.words()[address as usize].store(value, Ordering::Release);
    }

    /// Writes where no packet looks yet.
    pub fn write(&self, part: Part, values: impl IntoIterator<Item = u32>) {
        let words = &self.backing.words()[part.first as usize..][..part.words as usize];
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl<B> Memory<B> {
    /// Marks what rests now. Whether that is anything.
    pub fn begin_release(&mut self) -> bool {
        self.releasing.append(&mut self.resting);
        !self.releasing.is_empty()
    }

    /// No packet is on its way any more to what rested at [`Self::begin_release`].
    pub fn release(&mut self) {
        for part in std::mem::take(&mut self.releasing) {
            self.give_back(part);
        }
    }

    fn give_back(&mut self, Part { first, words }: Part) {
        let kind = if (RESERVED..CHUNK_WORDS).contains(&first) { Use::Class } else { Use::Node };
        self.free.get_mut(&kind).expect("there is one for each use").entry(words).or_default().push(first);
    }
}

//! The memory of the compiled look-up: who has which part of it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use hub_common::compiled::{CHUNK_LINES, LINE_QUARTERS, LINE_WORDS, MAX_CHUNKS, QUARTER_WORDS};

/// Where the words are.
pub trait Backing {
    type Error;

    /// All words there are: whole chunks.
    fn words(&self) -> &[AtomicU32];

    /// Adds a chunk. Its words are 0.
    fn grow(&mut self) -> Result<(), Self::Error>;
}

/// A part of the memory: so many quarters from one on. Parts of four or more begin with a line and are whole lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub first: u32,
    pub quarters: u32,
}

/// Gives parts of the memory away, and takes them back when no packet can be on its way to them.
pub struct Memory<B> {
    backing: B,
    /// First line that was never given away.
    next: u32,
    /// Lines there may be.
    limit: u32,
    /// First quarters of free parts, by length.
    free: BTreeMap<u32, Vec<u32>>,
    resting: Vec<Part>,
    releasing: Vec<Part>,
}

/// Why there is no more memory.
#[derive(Debug, PartialEq, Eq)]
pub enum Exhausted<E> {
    Limit,
    Backing(E),
}

impl<B: Backing> Memory<B> {
    /// Line 0 is nobody's.
    ///
    /// # Errors
    /// When the backing has no first chunk to give.
    pub fn new(mut backing: B, chunks: u32) -> Result<Self, Exhausted<B::Error>> {
        backing.grow().map_err(Exhausted::Backing)?;
        let limit = chunks.clamp(1, MAX_CHUNKS) * CHUNK_LINES;
        Ok(Self { backing, next: 1, limit, free: BTreeMap::new(), resting: Vec::new(), releasing: Vec::new() })
    }

    /// Bytes that the backing has.
    pub fn bytes(&self) -> usize {
        size_of_val(self.backing.words())
    }

    pub fn take(&mut self, quarters: u32) -> Result<Part, Exhausted<B::Error>> {
        let quarters = match quarters {
            0 | 1 => 1,
            2 => 2,
            more => more.next_multiple_of(LINE_QUARTERS),
        };
        if let Some(first) = self.free.get_mut(&quarters).and_then(Vec::pop) {
            return Ok(Part { first, quarters });
        }
        let lines = quarters.div_ceil(LINE_QUARTERS);
        let first = match self.fresh(lines) {
            Err(Exhausted::Limit) => self.split(lines * LINE_QUARTERS).ok_or(Exhausted::Limit)?,
            first => first?,
        };
        // The rest of a line of which a part was wanted.
        for other in (first + quarters..first + lines * LINE_QUARTERS).step_by(quarters as usize) {
            self.free.entry(quarters).or_default().push(other);
        }
        Ok(Part { first, quarters })
    }

    /// Lines that were never given away; the first quarter.
    fn fresh(&mut self, lines: u32) -> Result<u32, Exhausted<B::Error>> {
        let first = self.next;
        if lines > self.limit - first {
            return Err(Exhausted::Limit);
        }
        while self.backing.words().len() < ((first + lines) * LINE_WORDS) as usize {
            self.backing.grow().map_err(Exhausted::Backing)?;
        }
        self.next += lines;
        Ok(first * LINE_QUARTERS)
    }

    /// Takes so many quarters from the smallest free part that has as many.
    fn split(&mut self, quarters: u32) -> Option<u32> {
        let (length, parts) = self.free.range_mut(quarters..).find(|(_, parts)| !parts.is_empty())?;
        let (length, first) = (*length, parts.pop()?);
        if length > quarters {
            self.free.entry(length - quarters).or_default().push(first + quarters);
        }
        Some(first)
    }

    /// Nothing leads to this part any more, but a packet may be on its way to it.
    pub fn rest(&mut self, part: Part) {
        self.resting.push(part);
    }

    /// Nothing has ever led to this part.
    pub fn give_back(&mut self, Part { first, quarters }: Part) {
        self.free.entry(quarters).or_default().push(first);
    }

    #[cfg(test)]
    pub fn words(&self) -> &[AtomicU32] {
        self.backing.words()
    }

    pub fn load(&self, word: u32) -> u32 {
        self.backing.words()[word as usize].load(Ordering::Relaxed)
    }

    /// Puts a word in force: packets on all CPUs that see it see all that was written before.
    pub fn store(&self, word: u32, value: u32) {
        self.backing.words()[word as usize].store(value, Ordering::Release);
    }

    /// Writes where no packet looks yet.
    pub fn write(&self, part: Part, values: impl IntoIterator<Item = u32>) {
        let words = &self.backing.words()[(part.first * QUARTER_WORDS) as usize..];
        for (word, value) in words[..(part.quarters * QUARTER_WORDS) as usize].iter().zip(values) {
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
        for Part { first, quarters } in self.releasing.drain(..) {
            self.free.entry(quarters).or_default().push(first);
        }
    }
}

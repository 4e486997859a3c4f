//! Nodes and blocks in the memory: built from prefixes in order, read back, and taken out again.

use std::{collections::HashMap, ops::Range};

use hub_common::compiled::{
    BLOCK, BLOCK_BITS, CHUNK_BITS, CLASS, FRONT, FRONT_BITS, MAX_NODES_V4, MAX_NODES_V6, ROOT,
    node::{COUNT, HEADER_V4, HEADER_V6, LOW, OTHERWISE, PREFIX, SHIFT, SLOTS},
};

use super::{
    classes::{ClassId, Classes, Said},
    memory::{Backing, Exhausted, LINE_WORDS, Memory, Part, Use},
};

/// A prefix of either family: its bits from the highest of 128 on, those behind its length 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits {
    pub bits: u128,
    pub length: u8,
}

impl Bits {
    /// All addresses.
    pub const NONE: Self = Self { bits: 0, length: 0 };
}

/// What differs by family.
#[derive(Debug)]
pub struct Shape {
    /// Bits of an address.
    pub bits: u8,
    /// Words before the first slot.
    header: u32,
    max_nodes: u32,
    /// Where the high half ends: a node's slots are told apart by bits of one half.
    half: u8,
    /// The slots that every walk begins with.
    pub top: Node,
    /// What is below a slot that ends here may be a block.
    blocks: &'static [u8],
}

pub const V4: Shape = Shape {
    bits: 32,
    header: HEADER_V4 as u32,
    max_nodes: MAX_NODES_V4,
    half: 32,
    top: Node::slots_alone(FRONT, Bits::NONE, FRONT_BITS),
    blocks: &[FRONT_BITS, FRONT_BITS + BLOCK_BITS],
};
pub const V6: Shape = Shape {
    bits: 128,
    header: HEADER_V6 as u32,
    max_nodes: MAX_NODES_V6,
    half: 64,
    top: Node::slots_alone(ROOT, Bits::NONE, 0),
    blocks: &[],
};

/// Slots are told apart by this many bits at most: a node has half a MiB then, and two of them find place in a chunk.
const MOST_BITS: u8 = CHUNK_BITS as u8 - 2;
/// With so few bits a node is one cache line.
const FREE_BITS: u8 = 3;
/// Where the whole table is small, a node may have so many in any case: ways are shorter, and the memory is there.
const FREE_BITS_IF_SMALL: u8 = 8;
/// Prefixes of a small table.
const SMALL: usize = 2048;
/// A node may have so many slots for each that has prefixes of its own below.
const SLOTS_EACH: u64 = 4;
/// Bits that each node on the rest of a way can tell apart without being too large, when the way gets long.
const BITS_IN_NEED: u32 = 9;

/// A block takes a KiB. So many there may be in any case, because they make ways short; tests are to meet both.
const FREE_BLOCKS: usize = if cfg!(test) { 4 } else { 256 };
/// Beyond, it must have so many prefixes below; one that is there stays until it has so few.
const BLOCK_FROM: u32 = 16;
const BLOCK_UNTIL: u32 = 8;

/// Prefixes in order, with what they say.
pub type Item<'a> = (Bits, &'a Said);

/// Slots, and how an address finds its own: a node, as its first words describe it, or slots without such words, which
/// are a block or the family's top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub address: u32,
    /// What all prefixes below share.
    pub prefix: Bits,
    /// Bits that tell the slots apart.
    pub bits: u8,
    /// Prefixes below.
    pub count: u32,
    /// The power of two that was next to the count when the node was built.
    pub built: u8,
    /// Words before the first slot: 0 of a block and a top.
    header: u32,
}

impl Node {
    const fn slots_alone(address: u32, prefix: Bits, bits: u8) -> Self {
        Self { address, prefix, bits, count: 0, built: 0, header: 0 }
    }

    /// Where the bits end that tell the slots apart.
    pub const fn end(&self) -> u8 {
        self.prefix.length + self.bits
    }

    /// Of what a slot leads to.
    pub const fn is_block(&self) -> bool {
        self.header == 0
    }

    /// Words of the slots of all addresses of a prefix, which is longer than the node's own.
    pub fn slots(&self, prefix: Bits) -> Range<u32> {
        let end = self.end();
        let first = bits_between(prefix.bits, self.prefix.length, end);
        let slots = if prefix.length < end { 1 << (end - prefix.length) } else { 1 };
        let word = self.address + self.header + first;
        word..word + slots
    }

    /// The prefix of a slot, by its word.
    pub fn slot_prefix(&self, word: u32) -> Bits {
        let slot = word - self.address - self.header;
        let length = self.end();
        let bits = if slot == 0 { 0 } else { u128::from(slot) << (128 - length) };
        Bits { bits: self.prefix.bits | bits, length }
    }

    pub fn contains(&self, prefix: Bits) -> bool {
        prefix.length > self.prefix.length && shared(prefix.bits, self.prefix.bits) >= self.prefix.length
    }

    /// All of it, as it was taken.
    fn part(&self) -> Part {
        Part { first: self.address, words: (self.header + (1 << self.bits)).next_multiple_of(LINE_WORDS) }
    }
}

/// Builds and takes apart; holds a place in the memory for a moment.
pub struct Builder<'a, B> {
    pub shape: &'static Shape,
    /// Prefixes in the whole table.
    pub prefixes: usize,
    /// Prefixes below each block, by its address.
    pub blocks: &'a mut HashMap<u32, u32>,
    pub memory: &'a mut Memory<B>,
    pub classes: &'a mut Classes,
}

impl<B: Backing> Builder<'_, B> {
    /// What the slots must hold of all addresses of a prefix, told apart by so many bits behind it: `items` are the longer
    /// prefixes within, `outer` is what else holds there. `level`: nodes on the way to these slots, theirs included.
    pub fn slots(
        &mut self,
        items: &[Item<'_>],
        outer: ClassId,
        length: u8,
        bits: u8,
        level: u32,
    ) -> Result<Vec<u32>, Exhausted<B::Error>> {
        let mut slots = vec![CLASS | outer.0; 1 << bits];
        // All slots hold classes by now; nodes come when every class is known.
        self.fill(&mut slots, items, length, bits)?;
        for same in slots.chunk_by(|one, other| one == other) {
            self.classes.hold(ClassId(same[0] & !CLASS), same.len() as u64);
        }
        match self.descend(&mut slots, items, length, bits, level) {
            Ok(()) => Ok(slots),
            Err(error) => {
                self.release_all(slots);
                Err(error)
            }
        }
    }

    /// What a slot must hold that ends at this bit and in which these prefixes are, longer ones all.
    fn below(&mut self, items: &[Item<'_>], outer: ClassId, end: u8, level: u32) -> Result<u32, Exhausted<B::Error>> {
        let count = u32::try_from(items.len()).expect("fewer than addresses of the memory");
        if self.shape.blocks.contains(&end) && self.suits_block(count, BLOCK_FROM) {
            self.block(items, outer, end, level)
        } else {
            self.build(items, outer, level)
        }
    }

    fn suits_block(&self, count: u32, least: u32) -> bool {
        count >= least || self.blocks.len() < FREE_BLOCKS
    }

    /// Whether it is still right, with so many prefixes below, to have a block there.
    pub fn keeps_block(&self, count: u32) -> bool {
        count > 0 && self.suits_block(count, BLOCK_UNTIL)
    }

    fn block(
        &mut self,
        items: &[Item<'_>],
        outer: ClassId,
        length: u8,
        level: u32,
    ) -> Result<u32, Exhausted<B::Error>> {
        let slots = self.slots(items, outer, length, BLOCK_BITS, level)?;
        let part = self.take(&slots, 0)?;
        self.memory.write(part, slots);
        self.blocks.insert(part.first, items.len() as u32);
        Ok(BLOCK | part.first)
    }

    /// A node for these prefixes, of which there is one at least.
    fn build(&mut self, items: &[Item<'_>], outer: ClassId, level: u32) -> Result<u32, Exhausted<B::Error>> {
        let [(first, said), ..] = items else { unreachable!("there are prefixes below") };
        let (last, _) = items[items.len() - 1];
        let length = shared(first.bits, last.bits).min(first.length);
        let prefix = Bits { bits: truncated(first.bits, length), length };
        let (inner, items) = match first.length == length {
            true => (self.classes.within(self.memory, outer, said)?, &items[1..]),
            false => (outer, items),
        };
        let bits = self.bits(items, length, level);
        let slots = self.slots(items, inner, length, bits, level + 1)?;
        let part = self.take(&slots, self.shape.header)?;
        self.classes.hold(outer, 1);
        let header = self.header(prefix, bits, items.len(), outer);
        self.memory.write(part, header.into_iter().chain(slots));
        Ok(part.first)
    }

    /// A place for these slots and a header; without one the slots are given up.
    fn take(&mut self, slots: &[u32], header: u32) -> Result<Part, Exhausted<B::Error>> {
        let words = (header + slots.len() as u32).next_multiple_of(LINE_WORDS);
        self.memory.take(words, Use::Node).inspect_err(|_| self.release_all(slots.iter().copied()))
    }

    /// Gives each slot the class that the prefixes around it have. An outer prefix comes before those within it.
    fn fill(&mut self, slots: &mut [u32], items: &[Item<'_>], length: u8, bits: u8) -> Result<(), Exhausted<B::Error>> {
        let end = length + bits;
        for (prefix, said) in items.iter().filter(|(prefix, _)| prefix.length <= end) {
            let first = bits_between(prefix.bits, length, end) as usize;
            let class = self.classes.within(self.memory, ClassId(slots[first] & !CLASS), said)?;
            slots[first..][..1 << (end - prefix.length)].fill(CLASS | class.0);
        }
        Ok(())
    }

    /// Puts nodes where there are longer prefixes than a slot's.
    fn descend(
        &mut self,
        slots: &mut [u32],
        items: &[Item<'_>],
        length: u8,
        bits: u8,
        level: u32,
    ) -> Result<(), Exhausted<B::Error>> {
        let end = length + bits;
        let slot = |(prefix, _): &Item<'_>| bits_between(prefix.bits, length, end);
        for below in items.chunk_by(|one, other| slot(one) == slot(other)) {
            let longer = below.partition_point(|(prefix, _)| prefix.length <= end);
            if let Some(item) = below.get(longer) {
                let word = &mut slots[slot(item) as usize];
                let outer = ClassId(*word & !CLASS);
                *word = self.below(&below[longer..], outer, end, level)?;
                self.classes.drop(outer, 1);
            }
        }
        Ok(())
    }

    /// How many bits are to tell the slots apart of a node with these prefixes below, all longer than `length`.
    fn bits(&self, items: &[Item<'_>], length: u8, level: u32) -> u8 {
        let Some(longest) = items.iter().map(|(prefix, _)| prefix.length).max() else {
            return 0;
        };
        let end = if length < self.shape.half { self.shape.half } else { self.shape.bits };
        let most = (longest.min(end) - length).min(MOST_BITS);
        // Where neighbours differ first: as many slots more are used from that bit on.
        let mut differ = [0_u64; MOST_BITS as usize + 1];
        for (one, other) in items.iter().zip(&items[1..]) {
            let at = shared(one.0.bits, other.0.bits);
            // A prefix and another within it are in one slot, or many, but for their bits the same.
            differ[usize::from((at - length).min(MOST_BITS))] += 1;
        }
        let mut used = 1;
        let free = if self.prefixes < SMALL { FREE_BITS_IF_SMALL } else { FREE_BITS };
        let mut bits = free.min(most);
        for candidate in 1..=most {
            used += differ[usize::from(candidate) - 1];
            if 1 << candidate <= SLOTS_EACH * used {
                bits = bits.max(candidate);
            }
        }
        let left = u32::from(longest - length);
        let levels = self.shape.max_nodes.checked_sub(level + 1).expect("no way is longer, by the line below");
        bits.max(u8::try_from(left.saturating_sub(levels * BITS_IN_NEED)).expect("no more than 128")).min(end - length)
    }

    fn header(&self, prefix: Bits, bits: u8, count: usize, outer: ClassId) -> Vec<u32> {
        let end = prefix.length + bits;
        let shift = if end <= self.shape.half { u32::from(self.shape.half - end) } else { u32::from(128 - end) | LOW };
        let count = u32::try_from(count).expect("fewer than addresses of the memory");
        let mut header = vec![0; self.shape.header as usize];
        header[SHIFT] = shift | (built(count) << 8) | (u32::from(prefix.length) << 16) | (u32::from(bits) << 24);
        header[SLOTS] = 1 << bits;
        header[OTHERWISE] = CLASS | outer.0;
        header[COUNT] = count;
        let unused = 128 - self.shape.bits;
        for (word, place) in header[PREFIX..].iter_mut().zip((unused..).step_by(32)) {
            *word = (prefix.bits >> place) as u32;
        }
        header
    }

    /// What a slot leads to, unless it is a class. `prefix`: the slot's own.
    pub fn node(&self, slot: u32, prefix: Bits) -> Option<Node> {
        if slot & CLASS != 0 {
            return None;
        }
        if slot & BLOCK != 0 {
            let address = slot & !BLOCK;
            return Some(Node { count: self.blocks[&address], ..Node::slots_alone(address, prefix, BLOCK_BITS) });
        }
        let word = |number: usize| self.memory.load(slot + number as u32);
        let [_, built, length, bits] = word(SHIFT).to_le_bytes();
        let unused = 128 - self.shape.bits;
        let words = (PREFIX..self.shape.header as usize).zip((unused..).step_by(32));
        let prefix = words.fold(0, |bits, (number, place)| bits | u128::from(word(number)) << place);
        let prefix = Bits { bits: prefix, length };
        Some(Node { address: slot, prefix, bits, count: word(COUNT), built, header: self.shape.header })
    }

    /// As many prefixes are below the node from now on.
    pub fn set_count(&mut self, node: &Node, count: u32) {
        match node.is_block() {
            true => drop(self.blocks.insert(node.address, count)),
            false => self.memory.store(node.address + COUNT as u32, count),
        }
    }

    /// Puts another word into a slot; what the old one led to rests.
    pub fn replace(&mut self, word: u32, value: u32) {
        let old = self.memory.load(word);
        self.memory.store(word, value);
        self.release(old);
    }

    /// A slot that held this is gone.
    fn release(&mut self, slot: u32) {
        let Some(node) = self.node(slot, Bits::NONE) else {
            return self.classes.drop(ClassId(slot & !CLASS), 1);
        };
        for word in node.slots(node.prefix) {
            self.release(self.memory.load(word));
        }
        match node.is_block() {
            true => drop(self.blocks.remove(&node.address)),
            false => self.release(self.memory.load(node.address + OTHERWISE as u32)),
        }
        self.memory.rest(node.part());
    }

    fn release_all(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            self.release(slot);
        }
    }
}

/// The power of two next to a count.
pub fn built(count: u32) -> u32 {
    count.max(1).ilog2()
}

/// Bits that both begin with.
pub fn shared(one: u128, other: u128) -> u8 {
    u8::try_from((one ^ other).leading_zeros()).expect("no more than 128")
}

/// With the bits behind `length` 0.
pub fn truncated(bits: u128, length: u8) -> u128 {
    if length == 0 { 0 } else { bits & u128::MAX << (128 - length) }
}

/// The bits from one to another, as a number; fewer than 32.
fn bits_between(bits: u128, from: u8, to: u8) -> u32 {
    if from == to {
        return 0;
    }
    ((bits << from) >> (128 - (to - from))) as u32
}

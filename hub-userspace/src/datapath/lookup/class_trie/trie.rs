//! Nodes and blocks in the memory: built from sorted prefixes, read back, and freed.

use std::{collections::HashMap, ops::Range};

use hub_common::class_trie::{
    BLOCK, BLOCK_BITS, CHUNK_BITS, CLASS, FRONT, FRONT_BITS, MAX_NODES_V4, MAX_NODES_V6, ROOT,
    node::{COUNT, HEADER_V4, HEADER_V6, LOW, OTHERWISE, PREFIX, SHIFT, SLOTS},
};

use super::{
    classes::{ClassId, Classes, PrefixValue},
    memory::{Backing, Exhausted, Extent, LINE_WORDS, Memory, Use},
};

/// A prefix of either family: its bits from the highest of 128 on; bits beyond its length are 0.
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
    /// Bits of the high half. A node indexes its slots by bits of one half.
    half: u8,
    /// The slots that every walk starts from.
    pub top: Node,
    /// Prefix lengths at which a slot may point to a block.
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

/// Maximum index bits of a node: the node then has half a MiB, and a chunk has room for two of them.
const MOST_BITS: u8 = CHUNK_BITS as u8 - 2;
/// With this many index bits a node is one cache line.
const FREE_BITS: u8 = 3;
/// In a small table a node may always have this many index bits: walks are shorter, and memory is no concern.
const FREE_BITS_IF_SMALL: u8 = 8;
/// Maximum prefixes of a small table.
const SMALL: usize = 2048;
/// Maximum slots of a node for each slot that has prefixes of its own below.
const SLOTS_EACH: u64 = 4;
/// Index bits of each remaining node when a walk would otherwise become too long.
const BITS_IN_NEED: u32 = 9;

/// Blocks, a KiB each, that are always allowed, because they shorten walks. Few in tests, so that tests cover both
/// cases.
const FREE_BLOCKS: usize = if cfg!(test) { 4 } else { 256 };
/// Beyond that number, a block is made from this many prefixes on, and stays down to this many.
const BLOCK_FROM: u32 = 16;
const BLOCK_UNTIL: u32 = 8;

/// A prefix and its values, in sorted sequences.
pub type Item<'a> = (Bits, &'a PrefixValue);

/// Slots and how they are indexed: a node, whose header describes it, or slots without a header, which are a block or
/// the family's top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub address: u32,
    /// The bits that all prefixes below share.
    pub prefix: Bits,
    /// Index bits of the slots.
    pub bits: u8,
    /// Prefixes below.
    pub count: u32,
    /// Base-2 logarithm of the count when the node was built, rounded down.
    pub built: u8,
    /// Words before the first slot; 0 for a block or a top.
    header: u32,
}

impl Node {
    const fn slots_alone(address: u32, prefix: Bits, bits: u8) -> Self {
        Self { address, prefix, bits, count: 0, built: 0, header: 0 }
    }

    /// Prefix length of a slot.
    pub const fn end(&self) -> u8 {
        self.prefix.length + self.bits
    }

    /// Whether this is a block. Valid for nodes that a slot points to, so not for a top.
    pub const fn is_block(&self) -> bool {
        self.header == 0
    }

    /// Words of the slots that a prefix covers. The prefix is longer than the node's own.
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

    /// The memory of the node, as it was allocated.
    fn extent(&self) -> Extent {
        Extent { first: self.address, words: (self.header + (1 << self.bits)).next_multiple_of(LINE_WORDS) }
    }
}

/// Builds and frees nodes.
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
    /// Values of the slots of a prefix of this length, indexed by the next `bits` bits. `items`: the longer prefixes
    /// within. `outer`: the class of all other addresses. `level`: nodes on the walk to these slots, including their
    /// own.
    pub fn slots(
        &mut self,
        items: &[Item<'_>],
        outer: ClassId,
        length: u8,
        bits: u8,
        level: u32,
    ) -> Result<Vec<u32>, Exhausted<B::Error>> {
        let mut slots = vec![CLASS | outer.0; 1 << bits];
        // All slots hold classes now. Nodes follow when every class is known.
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

    /// Value of a slot of prefix length `end` for these prefixes, all of them longer.
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

    /// Whether a block stays when it has this many prefixes below.
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
        let extent = self.take(&slots, 0)?;
        self.memory.write(extent, slots);
        self.blocks.insert(extent.first, items.len() as u32);
        Ok(BLOCK | extent.first)
    }

    /// Builds a node for these prefixes, at least one.
    fn build(&mut self, items: &[Item<'_>], outer: ClassId, level: u32) -> Result<u32, Exhausted<B::Error>> {
        let [(first, value), ..] = items else { unreachable!("there are prefixes below") };
        let (last, _) = items[items.len() - 1];
        let length = shared(first.bits, last.bits).min(first.length);
        let prefix = Bits { bits: truncated(first.bits, length), length };
        let (inner, items) = match first.length == length {
            true => (self.classes.within(self.memory, outer, value)?, &items[1..]),
            false => (outer, items),
        };
        let bits = self.bits(items, length, level);
        let slots = self.slots(items, inner, length, bits, level + 1)?;
        let extent = self.take(&slots, self.shape.header)?;
        self.classes.hold(outer, 1);
        let header = self.header(prefix, bits, items.len(), outer);
        self.memory.write(extent, header.into_iter().chain(slots));
        Ok(extent.first)
    }

    /// Allocates memory for a header and these slots. On failure the slots are released.
    fn take(&mut self, slots: &[u32], header: u32) -> Result<Extent, Exhausted<B::Error>> {
        let words = (header + slots.len() as u32).next_multiple_of(LINE_WORDS);
        self.memory.take(words, Use::Node).inspect_err(|_| self.release_all(slots.iter().copied()))
    }

    /// Sets the class of each slot from the prefixes that contain it. In the order of the items, outer prefixes come
    /// first.
    fn fill(&mut self, slots: &mut [u32], items: &[Item<'_>], length: u8, bits: u8) -> Result<(), Exhausted<B::Error>> {
        let end = length + bits;
        for (prefix, value) in items.iter().filter(|(prefix, _)| prefix.length <= end) {
            let first = bits_between(prefix.bits, length, end) as usize;
            let class = self.classes.within(self.memory, ClassId(slots[first] & !CLASS), value)?;
            slots[first..][..1 << (end - prefix.length)].fill(CLASS | class.0);
        }
        Ok(())
    }

    /// Builds nodes below slots that contain longer prefixes.
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

    /// Index bits of a node with these prefixes below, all longer than `length`.
    fn bits(&self, items: &[Item<'_>], length: u8, level: u32) -> u8 {
        let Some(longest) = items.iter().map(|(prefix, _)| prefix.length).max() else {
            return 0;
        };
        let end = if length < self.shape.half { self.shape.half } else { self.shape.bits };
        let most = (longest.min(end) - length).min(MOST_BITS);
        // First bits in which neighbours differ: from that bit on, one more slot is used.
        let mut differ = [0_u64; MOST_BITS as usize + 1];
        for (one, other) in items.iter().zip(&items[1..]) {
            let at = shared(one.0.bits, other.0.bits);
            // A prefix and a longer one within it differ in no bit; counting them does no harm.
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
        let levels = self.shape.max_nodes.checked_sub(level + 1).expect("no walk is longer, by the line below");
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
        for (word, shift) in header[PREFIX..].iter_mut().zip((unused..).step_by(32)) {
            *word = (prefix.bits >> shift) as u32;
        }
        header
    }

    /// The node or block that a slot points to; `None` for a class. `prefix`: the slot's own.
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
        let prefix = words.fold(0, |bits, (number, shift)| bits | u128::from(word(number)) << shift);
        let prefix = Bits { bits: prefix, length };
        Some(Node { address: slot, prefix, bits, count: word(COUNT), built, header: self.shape.header })
    }

    /// Stores the number of prefixes below a node.
    pub fn set_count(&mut self, node: &Node, count: u32) {
        match node.is_block() {
            true => drop(self.blocks.insert(node.address, count)),
            false => self.memory.store(node.address + COUNT as u32, count),
        }
    }

    /// Replaces a slot and releases the target of the old value.
    pub fn replace(&mut self, word: u32, value: u32) {
        let old = self.memory.load(word);
        self.memory.store(word, value);
        self.release(old);
    }

    /// Releases the target of a removed slot.
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
        self.memory.retire(node.extent());
    }

    fn release_all(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            self.release(slot);
        }
    }
}

/// Base-2 logarithm of a count, rounded down.
pub fn built(count: u32) -> u32 {
    count.max(1).ilog2()
}

/// Length of the common prefix.
pub fn shared(one: u128, other: u128) -> u8 {
    u8::try_from((one ^ other).leading_zeros()).expect("no more than 128")
}

/// Clears the bits beyond `length`.
pub fn truncated(bits: u128, length: u8) -> u128 {
    if length == 0 { 0 } else { bits & u128::MAX << (128 - length) }
}

/// The bits `from..to` as a number; fewer than 32.
fn bits_between(bits: u128, from: u8, to: u8) -> u32 {
    if from == to {
        return 0;
    }
    ((bits << from) >> (128 - (to - from))) as u32
}

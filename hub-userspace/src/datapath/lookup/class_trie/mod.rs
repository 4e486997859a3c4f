//! Writer of the class trie: turns prefixes into words of the memory. [`hub_common::class_trie`] has the format and the
//! reader.
//!
//! | file | job |
//! | --- | --- |
//! | `memory.rs` | allocates the memory |
//! | `classes.rs` | classes and rows, deduplicated |
//! | `trie.rs` | nodes and blocks, built from sorted prefixes |
//!
//! A change of one prefix descends to the last node that can stay, and rebuilds everything below the slots that the
//! prefix covers. Each slot is replaced by one store, so a packet sees the old or the new value of an address. Memory
//! that no word points to any more is freed when no packet can still be reading it.

pub mod memory;

mod classes;
mod trie;

use std::collections::{HashMap, HashSet};

use hub_common::{
    class_trie::{CLASS, DEFAULT, POLICY_COLUMN, Pair},
    maps::{Local, Remote, Route},
};
use prefix_trie::PrefixMap;

use self::{
    classes::{ClassId, Classes, PrefixValue},
    memory::{Backing, Exhausted, Memory},
    trie::{Bits, Builder, Item, Node, Shape, V4, V6, built},
};

/// Below a node with at most this many prefixes everything is rebuilt: finding the parts to reuse would take as long.
const FEW: u32 = 24;
/// If more than one in this many prefixes change at once, the whole trie is rebuilt.
const ONE_IN: usize = 8;

/// A change of one prefix's values. `None` removes the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Route(Option<Route>),
    Remote { scope: u32, remote: Option<Remote> },
    Local { policy: u32, local: Option<Local> },
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrieFamily {
    V4,
    V6,
}

/// Routes and selectors of both families, in one memory.
pub struct ClassTrie<B> {
    memory: Memory<B>,
    classes: Classes,
    /// Prefixes below each block, by its address.
    blocks: HashMap<u32, u32>,
    /// IPv4 and IPv6.
    tables: [Table; 2],
}

/// The prefixes of a family.
struct Table {
    shape: &'static Shape,
    prefixes: PrefixMap<(u128, u8), PrefixValue>,
    /// The word that points to the default class.
    default: u32,
}

impl<B: Backing> ClassTrie<B> {
    /// An empty trie. `chunks`: capacity of the memory.
    pub fn new(backing: B, chunks: u32) -> Result<Self, Exhausted<B::Error>> {
        let mut memory = Memory::new(backing, chunks)?;
        let mut classes = Classes::new(&mut memory)?;
        let table = |shape, family: usize| Table { shape, prefixes: PrefixMap::new(), default: DEFAULT[family] };
        let tables = [table(&V4, 0), table(&V6, 1)];
        let empty = classes.empty;
        for table in &tables {
            let slots = table.shape.top.slots(Bits::NONE);
            classes.hold(empty, slots.len() as u64 + 1);
            slots.for_each(|word| memory.store(word, CLASS | empty.0));
            memory.store(table.default, empty.0);
        }
        Ok(Self { memory, classes, blocks: HashMap::new(), tables })
    }

    /// Applies changes in order. `prefix`: bits from the highest of 128 on, and their number.
    ///
    /// # Errors
    /// When the memory is full. Changes applied until then are in effect; applying the same changes again continues
    /// from there.
    pub fn apply(&mut self, family: TrieFamily, changes: &[((u128, u8), Change)]) -> Result<(), Exhausted<B::Error>> {
        let Self { memory, classes, blocks, tables } = self;
        let table = &mut tables[family as usize];
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        for (prefix, change) in changes {
            let grown = table.insert(*prefix, *change);
            if seen.insert(*prefix) {
                order.push((*prefix, grown));
            }
        }
        let mut builder = Builder { shape: table.shape, prefixes: table.prefixes.len(), blocks, memory, classes };
        let done = if order.len() > table.prefixes.len() / ONE_IN + FEW as usize {
            table.default(&mut builder).and_then(|()| table.range(&mut builder, &table.shape.top, Bits::NONE, 0))
        } else {
            order.iter().try_for_each(|(prefix, grown)| table.follow(&mut builder, *prefix, *grown))
        };
        classes.sweep(memory);
        done
    }

    /// Marks unreferenced memory for [`Self::release`]. Returns whether there is any.
    pub fn begin_release(&mut self) -> bool {
        self.memory.begin_release()
    }

    /// Frees the marked memory. Call it when no packet can still be reading it.
    pub fn release(&mut self) {
        self.memory.release();
    }
}

impl Table {
    /// Stores a change in the prefix map. Returns the change of the number of prefixes.
    fn insert(&mut self, prefix: (u128, u8), change: Change) -> i8 {
        let before = self.prefixes.remove(&prefix);
        let was = before.is_some();
        let mut value = before.unwrap_or_default();
        match change {
            Change::Route(route) => value.route = route,
            Change::Remote { scope, remote } => {
                let pair = |Remote { policy, connection }| Pair { column: scope, policy, connection, rules: 0 };
                value.set(scope, remote.map(pair));
            }
            Change::Local { policy, local } => {
                let column = policy + POLICY_COLUMN;
                let pair = |Local { connection, rules }| Pair { column, policy: 0, connection, rules };
                value.set(column, local.map(pair));
            }
        }
        let is = !value.is_empty();
        if is {
            self.prefixes.insert(prefix, value);
        }
        i8::from(is) - i8::from(was)
    }

    /// Updates the trie for one changed prefix.
    fn follow<B: Backing>(
        &self,
        builder: &mut Builder<'_, B>,
        (bits, length): (u128, u8),
        grows: i8,
    ) -> Result<(), Exhausted<B::Error>> {
        if length == 0 {
            return self.default(builder);
        }
        let prefix = Bits { bits, length };
        let (mut node, mut level) = (self.shape.top, 0);
        loop {
            let slots = node.slots(prefix);
            if slots.len() > 1 || prefix.length == node.end() {
                return self.range(builder, &node, prefix, level);
            }
            let slot = node.slot_prefix(slots.start);
            let next = builder.node(builder.memory.load(slots.start), slot);
            let next = next.and_then(|next| grown(builder, next, prefix, grows));
            match next {
                Some(next) => {
                    level += u32::from(!next.is_block());
                    node = next;
                }
                None => return self.range(builder, &node, slot, level),
            }
        }
    }

    /// Rebuilds the slots of a node that a prefix covers. The prefix is no longer than the slots' own.
    fn range<B: Backing>(
        &self,
        builder: &mut Builder<'_, B>,
        node: &Node,
        prefix: Bits,
        level: u32,
    ) -> Result<(), Exhausted<B::Error>> {
        let outer = self.class(builder, prefix)?;
        let within = self.prefixes.children(&(prefix.bits, prefix.length));
        let items: Vec<Item<'_>> = within.map(|((bits, length), value)| (Bits { bits, length }, value)).collect();
        let longer = items.partition_point(|(within, _)| within.length <= prefix.length);
        let slots = builder.slots(&items[longer..], outer, prefix.length, node.end() - prefix.length, level)?;
        for (word, value) in node.slots(prefix).zip(slots) {
            builder.replace(word, value);
        }
        Ok(())
    }

    /// Updates the default class: the values of the prefix of length 0.
    fn default<B: Backing>(&self, builder: &mut Builder<'_, B>) -> Result<(), Exhausted<B::Error>> {
        let empty = builder.classes.empty;
        let class = match self.prefixes.get(&(0, 0)) {
            Some(value) => builder.classes.within(builder.memory, empty, value)?,
            None => empty,
        };
        builder.classes.hold(class, 1);
        let old = builder.memory.load(self.default);
        builder.memory.store(self.default, class.0);
        builder.classes.drop(ClassId(old), 1);
        Ok(())
    }

    /// The class of the values of all prefixes that contain this one, itself included. Length 0 belongs to the default
    /// class.
    fn class<B: Backing>(&self, builder: &mut Builder<'_, B>, prefix: Bits) -> Result<ClassId, Exhausted<B::Error>> {
        let empty = builder.classes.empty;
        let around = self.prefixes.cover(&(prefix.bits, prefix.length)).filter(|((_, length), _)| *length > 0);
        let mut around: Vec<_> = around.collect();
        around.sort_unstable_by_key(|((_, length), _)| *length);
        around.into_iter().try_fold(empty, |class, (_, value)| builder.classes.within(builder.memory, class, value))
    }
}

/// The node with `grows` more prefixes below it. `None` if it must be rebuilt: the prefix is not below it, it has few
/// prefixes, or another shape suits their number much better.
fn grown<B: Backing>(builder: &mut Builder<'_, B>, node: Node, prefix: Bits, grows: i8) -> Option<Node> {
    let count = node.count.saturating_add_signed(grows.into());
    let stays = match node.is_block() {
        true => builder.keeps_block(count),
        false => node.contains(prefix) && count > FEW && built(count).abs_diff(node.built.into()) <= 1,
    };
    stays.then(|| builder.set_count(&node, count)).map(|()| node)
}

impl PrefixValue {
    fn set(&mut self, column: u32, pair: Option<Pair>) {
        let mut pairs = std::mem::take(&mut self.pairs).into_vec();
        match (pairs.binary_search_by_key(&column, |pair| pair.column), pair) {
            (Ok(at), Some(pair)) => pairs[at] = pair,
            (Err(at), Some(pair)) => pairs.insert(at, pair),
            (Ok(at), None) => drop(pairs.remove(at)),
            (Err(_), None) => {}
        }
        self.pairs = pairs.into();
    }
}

#[cfg(test)]
mod tests;

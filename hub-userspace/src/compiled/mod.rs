//! The compiled look-up's side of the agent: prefixes in, words in the memory out. How the memory is read stands in
//! [`hub_common::compiled`].
//!
//! | file | job |
//! | --- | --- |
//! | `memory.rs` | who has which part of the memory |
//! | `classes.rs` | classes and rows, each once |
//! | `trie.rs` | nodes and blocks, built from prefixes in order |
//!
//! A change of one prefix goes down to the last node that stays as it is, and builds anew what is below the slot, or the
//! slots, that the prefix is in. Each slot is changed by one store, so an address has what it had before, or what it
//! has from now on. What nobody leads to any more rests until no packet can be on its way with it.

pub mod memory;

mod classes;
mod trie;

use std::collections::{HashMap, HashSet};

use hub_common::{
    compiled::{CLASS, DEFAULT, POLICY_COLUMN, Pair},
    maps::{Local, Remote, Route},
};
use prefix_trie::PrefixMap;

use self::{
    classes::{ClassId, Classes, Said},
    memory::{Backing, Exhausted, Memory},
    trie::{Bits, Builder, Item, Node, Shape, V4, V6, built},
};

/// Below a node with so few prefixes all is built anew: finding out what stays would take as long.
const FEW: u32 = 24;
/// If more than one in so many prefixes change at once, all is built anew.
const ONE_IN: usize = 8;

/// What a prefix says from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Route(Option<Route>),
    Remote { scope: u32, remote: Option<Remote> },
    Local { policy: u32, local: Option<Local> },
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Routes and selectors of both families, in one memory.
pub struct Compiled<B> {
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
    prefixes: PrefixMap<(u128, u8), Said>,
    /// The word that says where the default class is.
    default: u32,
}

impl<B: Backing> Compiled<B> {
    /// Nothing is said of any address. `chunks`: how large the memory may become.
    pub fn new(backing: B, chunks: u32) -> Result<Self, Exhausted<B::Error>> {
        let mut memory = Memory::new(backing, chunks)?;
        let mut classes = Classes::new(&mut memory)?;
        let table = |shape, family: usize| Table { shape, prefixes: PrefixMap::new(), default: DEFAULT[family] };
        let tables = [table(&V4, 0), table(&V6, 1)];
        let nothing = classes.nothing;
        for table in &tables {
            let slots = table.shape.top.slots(Bits::NONE);
            classes.hold(nothing, slots.len() as u64 + 1);
            slots.for_each(|word| memory.store(word, CLASS | nothing.0));
            memory.store(table.default, nothing.0);
        }
        Ok(Self { memory, classes, blocks: HashMap::new(), tables })
    }

    /// Makes these changes, one prefix after the other. `prefix`: bits from the highest of 128 on, and their number.
    ///
    /// # Errors
    /// When there is no more memory. What has been changed until then is in force; the same changes once more go on from
    /// there.
    pub fn apply(&mut self, family: Family, changes: &[((u128, u8), Change)]) -> Result<(), Exhausted<B::Error>> {
        let Self { memory, classes, blocks, tables } = self;
        let table = &mut tables[family as usize];
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        for (prefix, change) in changes {
            let grown = table.say(*prefix, *change);
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

    /// Marks what nobody leads to any more. Whether there is anything.
    pub fn begin_release(&mut self) -> bool {
        self.memory.begin_release()
    }

    /// No packet is on its way any more to what was marked.
    pub fn release(&mut self) {
        self.memory.release();
    }
}

impl Table {
    /// Takes a change over; how many prefixes more there are.
    fn say(&mut self, prefix: (u128, u8), change: Change) -> i8 {
        let before = self.prefixes.remove(&prefix);
        let was = before.is_some();
        let mut said = before.unwrap_or_default();
        match change {
            Change::Route(route) => said.route = route,
            Change::Remote { scope, remote } => {
                let pair = |Remote { policy, connection }| Pair { column: scope, policy, connection, rules: 0 };
                said.set(scope, remote.map(pair));
            }
            Change::Local { policy, local } => {
                let column = policy + POLICY_COLUMN;
                let pair = |Local { connection, rules }| Pair { column, policy: 0, connection, rules };
                said.set(column, local.map(pair));
            }
        }
        let is = !said.is_nothing();
        if is {
            self.prefixes.insert(prefix, said);
        }
        i8::from(is) - i8::from(was)
    }

    /// Brings the trie into step with one prefix.
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

    /// Builds all anew that a node's slots hold of the addresses of a prefix, which is no longer than the slots' own.
    fn range<B: Backing>(
        &self,
        builder: &mut Builder<'_, B>,
        node: &Node,
        prefix: Bits,
        level: u32,
    ) -> Result<(), Exhausted<B::Error>> {
        let outer = self.class(builder, prefix)?;
        let within = self.prefixes.children(&(prefix.bits, prefix.length));
        let items: Vec<Item<'_>> = within.map(|((bits, length), said)| (Bits { bits, length }, said)).collect();
        let longer = items.partition_point(|(within, _)| within.length <= prefix.length);
        let slots = builder.slots(&items[longer..], outer, prefix.length, node.end() - prefix.length, level)?;
        for (word, value) in node.slots(prefix).zip(slots) {
            builder.replace(word, value);
        }
        Ok(())
    }

    /// The class of what prefixes of length 0 say.
    fn default<B: Backing>(&self, builder: &mut Builder<'_, B>) -> Result<(), Exhausted<B::Error>> {
        let nothing = builder.classes.nothing;
        let class = match self.prefixes.get(&(0, 0)) {
            Some(said) => builder.classes.within(builder.memory, nothing, said)?,
            None => nothing,
        };
        builder.classes.hold(class, 1);
        let old = builder.memory.load(self.default);
        builder.memory.store(self.default, class.0);
        builder.classes.drop(ClassId(old), 1);
        Ok(())
    }

    /// What prefixes around an address, up to this one, say of it. Those of length 0 say it elsewhere.
    fn class<B: Backing>(&self, builder: &mut Builder<'_, B>, prefix: Bits) -> Result<ClassId, Exhausted<B::Error>> {
        let nothing = builder.classes.nothing;
        let around = self.prefixes.cover(&(prefix.bits, prefix.length)).filter(|((_, length), _)| *length > 0);
        let mut around: Vec<_> = around.collect();
        around.sort_unstable_by_key(|((_, length), _)| *length);
        around.into_iter().try_fold(nothing, |class, (_, said)| builder.classes.within(builder.memory, class, said))
    }
}

/// The node with so many prefixes more below, unless it has to be built anew: because the prefix is none of its own, there
/// are few, or another shape would fit them better by far.
fn grown<B: Backing>(builder: &mut Builder<'_, B>, node: Node, prefix: Bits, grows: i8) -> Option<Node> {
    let count = node.count.saturating_add_signed(grows.into());
    let stays = match node.is_block() {
        true => builder.keeps_block(count),
        false => node.contains(prefix) && count > FEW && built(count).abs_diff(node.built.into()) <= 1,
    };
    stays.then(|| builder.set_count(&node, count)).map(|()| node)
}

impl Said {
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
#[path = "../compiled_tests.rs"]
mod tests;

//! The file's text in blocks, so that a change of one leaves the others alone.
//!
//! A block begins with the line of a section header and goes on to the next one's; what is before the first header is
//! a block too, be it empty. All blocks together are the text, to the byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use toml::de::DeTable;

use super::{
    Judged, bulk,
    draft::RouteDraft,
    edit::{Splice, apply, newline},
    model::Route,
};

/// A block's place among the others: they are in the order of their numbers. It stays the same while the block is there.
pub(super) type BlockId = u64;

/// What is before the first header.
const HEAD: BlockId = 0;
/// Between the blocks of a text at first, so that there is room for new ones.
const STEP: BlockId = 1 << 32;
/// The buffer may have as many bytes of no block as it has of blocks, and these besides.
const WASTE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Document {
    /// The blocks' texts; new ones are put at the end.
    buffer: String,
    blocks: BTreeMap<BlockId, Block>,
    /// Numbers of the blocks that are routes, that have a weight, that have `publish`: the last one is asked for at each
    /// change, and may be far from the end, or nowhere.
    by_kind: [BTreeSet<BlockId>; 3],
    /// Bytes of all blocks.
    length: usize,
}

/// Offsets in the buffer: 32 bits are enough for a file of at most 64 MiB, and a buffer of a few times that.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u32,
    length: u32,
    kind: Kind,
}

/// What is known of a block without reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kind {
    pub is_route: bool,
    /// A route with this key in the text.
    pub has_weight: bool,
    pub has_publish: bool,
}

/// Indices of [`Document::by_kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Route,
    Weight,
    Publish,
}

impl Kind {
    /// All that it is.
    fn sorts(self) -> impl Iterator<Item = Sort> {
        let Self { is_route, has_weight, has_publish } = self;
        let all = [(is_route, Sort::Route), (has_weight, Sort::Weight), (has_publish, Sort::Publish)];
        all.into_iter().filter(|(is, _)| *is).map(|(_, sort)| sort)
    }

    pub fn of(route: &RouteDraft) -> Self {
        // A value that is not in the text stands where its section does.
        let written = |at: Option<usize>| at.is_some_and(|at| at != route.at);
        Self {
            is_route: true,
            has_weight: written(route.weight.map(|weight| weight.at)),
            has_publish: written(route.publish.map(|publish| publish.at)),
        }
    }
}

/// Some blocks' texts, one after the other: what a change is tried on.
pub(super) struct Part {
    pub text: String,
    /// With the offset in the text where it begins.
    blocks: Vec<(usize, BlockId)>,
}

/// New text for blocks that follow one another.
#[derive(Debug)]
pub(super) struct Patch {
    range: Range<BlockId>,
    text: String,
    /// The bytes that the blocks had before.
    length_before: usize,
    /// With the length of each.
    blocks: Vec<(BlockId, usize, Kind)>,
}

/// What blocks that follow one another are made of.
pub(super) struct Contents {
    starts: Vec<(usize, Kind)>,
    pub routes: Vec<Route>,
}

impl Part {
    /// A patch of the blocks `run`, which follow one another and are all in the part, with what these consist of now and
    /// afterwards. `ids` are the blocks' numbers afterwards. `None` when `splices` touch others, or have another
    /// number of blocks for result.
    pub fn patch(
        &self,
        run: Range<BlockId>,
        splices: Vec<Splice>,
        ids: &[BlockId],
    ) -> Option<(Patch, Contents, Contents)> {
        let first = self.blocks.iter().position(|&(_, id)| run.contains(&id))?;
        let after = self.blocks[first..].iter().find(|(_, id)| !run.contains(id));
        let (start, end) = (self.blocks[first].0, after.map_or(self.text.len(), |&(at, _)| at));
        let shift = |(range, new): Splice| {
            let range = range.start.checked_sub(start)?..range.end.checked_sub(start)?;
            (range.end <= end - start).then_some((range, new))
        };
        let before = &self.text[start..end];
        let text = apply(before, splices.into_iter().map(shift).collect::<Option<_>>()?);
        let has_head = run.start == HEAD;
        let (was, is) = (Contents::of(before, has_head)?, Contents::of(&text, has_head)?);
        if is.starts.len() != ids.len() {
            return None;
        }
        let ends = is.starts[1..].iter().map(|&(start, _)| start).chain([text.len()]);
        let blocks = ids.iter().zip(is.starts.iter().zip(ends));
        let blocks = blocks.map(|(&id, (&(start, kind), end))| (id, end - start, kind)).collect();
        Some((Patch { range: run, length_before: before.len(), text, blocks }, was, is))
    }
}

impl Patch {
    /// Of its blocks.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Document {
    /// Cuts a text at its headers. Hands it back when it is not written so that changes of single blocks are possible.
    pub fn of(text: String, judged: &Judged) -> Result<Self, String> {
        let Some(blocks) = cut(&text, judged) else { return Err(text) };
        let mut by_kind = [const { BTreeSet::new() }; 3];
        for (id, block) in &blocks {
            for sort in block.kind.sorts() {
                by_kind[sort as usize].insert(*id);
            }
        }
        Ok(Self { length: text.len(), buffer: text, blocks, by_kind })
    }

    /// The block that has byte `offset` of the text, once that is cut.
    pub fn block_at(judged: &Judged, offset: usize) -> BlockId {
        judged.headers.partition_point(|&header| header <= offset) as BlockId * STEP
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn before(&self, id: BlockId) -> Option<BlockId> {
        self.blocks.range(..id).next_back().map(|(id, _)| *id)
    }

    pub fn after(&self, id: BlockId) -> Option<BlockId> {
        self.blocks.range(id + 1..).next().map(|(id, _)| *id)
    }

    /// The last block of such a kind.
    pub fn last(&self, sort: Sort) -> Option<BlockId> {
        self.by_kind[sort as usize].last().copied()
    }

    /// The line end that the file uses.
    pub fn newline(&self) -> &'static str {
        self.blocks.values().map(|block| self.slice(*block)).find(|text| text.contains('\n')).map_or("\n", newline)
    }

    /// These blocks, in the order of the text.
    pub fn part(&self, blocks: impl IntoIterator<Item = BlockId>) -> Part {
        let mut ids: Vec<BlockId> = blocks.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut part = Part { text: String::new(), blocks: Vec::new() };
        for id in ids {
            if let Some(block) = self.blocks.get(&id) {
                part.blocks.push((part.text.len(), id));
                part.text.push_str(self.slice(*block));
            }
        }
        part
    }

    /// The length of the text with the patch.
    pub fn length_with(&self, patch: &Patch) -> usize {
        self.length - patch.length_before + patch.text.len()
    }

    pub fn apply(&mut self, patch: Patch) {
        self.length = self.length_with(&patch);
        if self.buffer.len() > 2 * self.length + WASTE {
            self.compact();
        }
        let replaced: Vec<BlockId> = self.blocks.range(patch.range).map(|(id, _)| *id).collect();
        for id in replaced {
            self.blocks.remove(&id);
            for ids in &mut self.by_kind {
                ids.remove(&id);
            }
        }
        let mut start = self.buffer.len();
        for (id, length, kind) in patch.blocks {
            self.blocks.insert(id, block(start, length, kind));
            for sort in kind.sorts() {
                self.by_kind[sort as usize].insert(id);
            }
            start += length;
        }
        self.buffer.push_str(&patch.text);
    }

    fn compact(&mut self) {
        let mut buffer = String::with_capacity(self.length + WASTE);
        for found in self.blocks.values_mut() {
            let Block { start, length, kind } = *found;
            *found = block(buffer.len(), length as usize, kind);
            buffer.push_str(&self.buffer[start as usize..(start + length) as usize]);
        }
        self.buffer = buffer;
    }

    /// The text in pieces, as it is or as it will be.
    pub fn slices<'a>(&'a self, patch: Option<&'a Patch>) -> impl Iterator<Item = &'a str> {
        let Range { start, end } = patch.map_or(0..0, |patch| patch.range.clone());
        let new = patch.map(|patch| patch.text.as_str());
        let before = self.coalesced(0..start);
        before.chain(new).chain(self.coalesced(end..BlockId::MAX))
    }

    /// Blocks that are side by side in the buffer are one slice: a text just cut is a single one.
    fn coalesced(&self, range: Range<BlockId>) -> impl Iterator<Item = &str> {
        let mut blocks = self.blocks.range(range).map(|(_, block)| *block).peekable();
        std::iter::from_fn(move || {
            let mut joined = blocks.next()?;
            while let Some(next) = blocks.next_if(|next| next.start == joined.start + joined.length) {
                joined.length += next.length;
            }
            Some(self.slice(joined))
        })
    }

    fn slice(&self, block: Block) -> &str {
        &self.buffer[block.start as usize..(block.start + block.length) as usize]
    }
}

fn block(start: usize, length: usize, kind: Kind) -> Block {
    Block { start: start as u32, length: length as u32, kind }
}

fn cut(text: &str, judged: &Judged) -> Option<BTreeMap<BlockId, Block>> {
    // A byte order mark belongs to the file, not to the block that would begin with it.
    if text.starts_with('\u{feff}') || u32::try_from(text.len()).is_err() {
        return None;
    }
    let mut routes = judged.routes.iter().peekable();
    let mut blocks = Vec::with_capacity(judged.headers.len() + 1);
    blocks.push((0, Kind::default()));
    for &header in &judged.headers {
        let kind = routes.next_if(|route| route.0 == header).map_or(Kind::default(), |route| route.1);
        blocks.push((line_start(text, header), kind));
    }
    // Routes that have no header of their own stand in a list.
    if routes.next().is_some() || !blocks[1..].is_sorted_by(|(a, _), (b, _)| a < b) {
        return None;
    }
    let ends = blocks[1..].iter().map(|&(start, _)| start).chain([text.len()]);
    let numbered = blocks.iter().zip(ends).enumerate();
    Some(
        numbered
            .map(|(index, (&(start, kind), end))| (index as BlockId * STEP, block(start, end - start, kind)))
            .collect(),
    )
}

impl Contents {
    /// `None` when the text has more or other mistakes than a part of a file without any could have.
    fn of(text: &str, has_head: bool) -> Option<Self> {
        let tree = DeTable::parse(text).ok()?;
        let mut headers = bulk::headers(text, tree.get_ref());
        headers.sort_unstable();
        let elements = tree.get_ref().get("route").and_then(|routes| routes.get_ref().as_array()).into_iter().flatten();
        let drafts = elements.map(|table| bulk::route(table, 0, 1)).collect::<Option<Vec<_>>>()?;
        let mut starts: Vec<(usize, Kind)> = headers
            .into_iter()
            .map(|header| {
                let route = drafts.iter().find(|route| route.at == header);
                (line_start(text, header), route.map_or(Kind::default(), Kind::of))
            })
            .collect();
        if has_head {
            starts.insert(0, (0, Kind::default()));
        } else if starts.first()?.0 != 0 {
            return None;
        }
        let routes = drafts.into_iter().map(RouteDraft::finish).collect::<Option<_>>()?;
        Some(Self { starts, routes })
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

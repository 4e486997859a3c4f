//! Text by bytes and lines.

use std::{borrow::Cow, ops::Range};

use toml::{Spanned, de::DeValue};

/// What stands in a range of the text afterwards.
pub(in super::super) type Splice = (Range<usize>, String);

/// Replaces ranges that do not overlap.
pub(in super::super) fn apply(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|(range, _)| range.start);
    let mut result = String::with_capacity(text.len() + 128);
    let mut done = 0;
    for (range, new) in splices {
        result.push_str(&text[done..range.start]);
        result.push_str(&new);
        done = range.end;
    }
    result + &text[done..]
}

/// The line end that the file uses.
pub(in super::super) fn newline(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// Where the line with byte `at` begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where the line with byte `at` ends: before its line end.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    let end = next_line(text, at);
    let line = &text[at..end];
    at + line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line)).len()
}

/// Where the line after the one with byte `at` begins, or the text ends.
pub(super) fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// The line before the one that begins at `start`, `floor` at the earliest.
pub(super) fn line_before(text: &str, start: usize, floor: usize) -> Option<Range<usize>> {
    let last = start.checked_sub(1).filter(|last| *last >= floor)?;
    let start_before = line_start(text, last);
    (start_before >= floor).then_some(start_before..start)
}

/// Where the line before the one that begins at `start` ends.
pub(super) fn previous_line_end(text: &str, start: usize) -> usize {
    start.checked_sub(1).map_or(0, |last| line_end(text, line_start(text, last)))
}

pub(super) fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

pub(super) fn blank_or_comment(rest_of_line: &str) -> bool {
    is_blank(rest_of_line) || is_comment(rest_of_line)
}

/// The start of the comment lines directly above the line that begins at `start`.
pub(super) fn with_comments_above(text: &str, mut start: usize, floor: usize) -> usize {
    while let Some(line) = line_before(text, start, floor).filter(|line| is_comment(&text[line.clone()])) {
        start = line.start;
    }
    start
}

/// A key with its value.
pub(super) struct Pair<'a> {
    pub key: &'a Spanned<Cow<'a, str>>,
    pub value: &'a Spanned<DeValue<'a>>,
}

/// The keys of a table in their order in the text. Empty for what is no table.
pub(super) fn pairs<'a>(value: &'a Spanned<DeValue<'a>>) -> Vec<Pair<'a>> {
    let mut pairs: Vec<_> =
        value.get_ref().as_table().into_iter().flatten().map(|(key, value)| Pair { key, value }).collect();
    pairs.sort_by_key(|pair| pair.key.span().start);
    pairs
}

impl Pair<'_> {
    pub fn is(&self, name: &str) -> bool {
        self.key.get_ref() == name
    }
}

/// A line up to the value: indent, `key`, and an equals sign placed as on the lines of `pairs`.
///
/// Where these stand in one column, so does the new one.
pub(super) fn spaced_like(text: &str, pairs: &[&Pair<'_>], key: &str) -> String {
    let Some(model) = pairs.last() else {
        return format!("{key} = ");
    };
    let before = |pair: &Pair<'_>| text[line_start(text, pair.key.span().start)..pair.key.span().start].len();
    let between = |pair: &Pair<'_>| &text[pair.key.span().end..pair.value.span().start];
    let column = |pair: &Pair<'_>| before(pair) + pair.key.span().len() + between(pair).find('=').unwrap_or(0);
    let aligned = pairs.iter().any(|pair| pair.key.span().len() != model.key.span().len())
        && pairs.iter().all(|pair| column(pair) == column(model));
    let start = model.key.span().start;
    let left = &text[line_start(text, start)..start];
    let (blanks, after) = between(model).split_once('=').unwrap_or((" ", " "));
    let blanks = match aligned {
        true => column(model).saturating_sub(left.len() + key.len()),
        false => blanks.len(),
    };
    format!("{left}{key}{}={after}", " ".repeat(blanks))
}

//! A connection's `enabled`.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    EditError, Enable, Source,
    splice::{
        Pair, Splice, is_blank, is_comment, line_before, line_end, line_start, next_line, pairs, previous_line_end,
        spaced_like,
    },
};

/// The table of the connection.
///
/// # Errors
/// When there is none of that name.
pub(super) fn require<'a>(root: &'a DeTable<'a>, name: &str) -> Result<&'a Spanned<DeValue<'a>>, EditError> {
    let connections = root.get("connection").and_then(|connections| connections.get_ref().as_table());
    connections.and_then(|connections| connections.get(name)).ok_or_else(|| EditError::NoConnection {
        name: name.to_owned(),
        known: connections.into_iter().flatten().map(|(name, _)| name.get_ref().clone().into_owned()).collect(),
    })
}

/// `enabled` is true when it is absent: to enable a connection, the line goes, unless a comment belongs to it.
pub(super) fn enable(source: &Source<'_>, enable: &Enable) -> Result<Vec<Splice>, EditError> {
    let &Source { text, root, newline } = source;
    let table = require(root, &enable.connection)?;
    let pairs = pairs(table);
    let written = pairs.iter().find(|pair| pair.is("enabled"));
    let is_inline =
        [root.get("connection"), Some(table)].into_iter().flatten().any(|value| text[value.span()].starts_with('{'));
    let enabled = written.is_none_or(|pair| pair.value.get_ref().as_bool() != Some(false));
    Ok(match written {
        _ if enabled == enable.enabled => Vec::new(),
        Some(pair) if enable.enabled && !is_inline && stands_alone(text, pair) => vec![remove_line(text, pair)],
        Some(pair) => vec![(pair.value.span(), enable.enabled.to_string())],
        None => add(text, newline, &pairs, is_inline, enable.enabled).into_iter().collect(),
    })
}

/// After the last key that is no table.
fn add(text: &str, newline: &str, pairs: &[Pair<'_>], is_inline: bool, enabled: bool) -> Option<Splice> {
    let simple: Vec<_> = pairs.iter().filter(|pair| !pair.value.get_ref().is_table()).collect();
    let last = simple.last()?;
    let end = last.value.span().end;
    if is_inline {
        // With dotted keys, the connection's name is part of each.
        let key = last.key.span();
        let before = text[..key.start].rfind(['{', ',', '\n']).map_or(0, |at| at + 1);
        let path = text[before..key.start].trim_start();
        let equals = &text[key.end..last.value.span().start];
        return Some((end..end, format!(", {path}enabled{equals}{enabled}")));
    }
    let at = line_end(text, end);
    Some((at..at, format!("{newline}{}{enabled}", spaced_like(text, &simple, "enabled"))))
}

/// Whether no comment is about it.
fn stands_alone(text: &str, pair: &Pair<'_>) -> bool {
    let end = pair.value.span().end;
    let above = line_before(text, line_start(text, pair.key.span().start), 0);
    is_blank(&text[end..line_end(text, end)]) && above.is_none_or(|line| !is_comment(&text[line]))
}

fn remove_line(text: &str, pair: &Pair<'_>) -> Splice {
    let start = line_start(text, pair.key.span().start);
    let end = pair.value.span().end;
    let range = match (next_line(text, end), line_end(text, end)) {
        // A file without a line end at its end has none there afterwards either.
        (next, end) if next == end => previous_line_end(text, start)..end,
        (next, _) => start..next,
    };
    (range, String::new())
}

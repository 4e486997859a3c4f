//! A text's statements, by their look: a header, or a key and its value, with the lines that go on with it.
//!
//! Used only on a file that is not TOML as a whole, to keep one mistake from hiding the rest.

use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// From the first byte that is not blank to the end of the last line, in bytes of the text.
    pub range: Range<usize>,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[section]`, `[[section]]`, or an attempt at one.
    Header,
    /// `key = value`, or an attempt at one.
    Pair,
    /// Whatever comes before the first of the others.
    Preamble,
}

/// Splits `text`; every byte that is not blank belongs to exactly one statement.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut found: Vec<Statement> = Vec::new();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let line_end = line_start + line.len();
        let start = line_start + (line.len() - line.trim_start_matches([' ', '\t']).len());
        match (kind_of_line(line.trim()), found.last_mut()) {
            (None, Some(last)) => last.range.end = line_end,
            (kind, _) => found.push(Statement { range: start..line_end, kind: kind.unwrap_or(Kind::Preamble) }),
        }
        line_start = line_end;
    }
    found
}

/// What a line begins; `None` when it goes on with the statement before it.
fn kind_of_line(line: &str) -> Option<Kind> {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    let after_brackets = line.trim_start_matches('[').trim_start();
    let goes_on = line.ends_with(',');
    if line.starts_with('[') {
        return (after_brackets.starts_with(name) && !goes_on).then_some(Kind::Header);
    }
    // Elements of a list may begin with a letter when their quotes are forgotten: they have no `=`.
    let attempt = line.starts_with(name) && !goes_on && !line.ends_with(']');
    let pair = line.contains('=') && line.starts_with(|c| name(c) || "\"'=.-".contains(c));
    (attempt || pair).then_some(Kind::Pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_comments_go_on_with_their_statement() {
        let text = "# top\n[a]\nx = [\n  \"1\",\n  fd00::/8,\n]\n# about y\n  y 3\n[[b]\n";
        let split: Vec<_> = statements(text).into_iter().map(|found| (found.kind, &text[found.range])).collect();
        assert_eq!(
            split,
            [
                (Kind::Preamble, "# top\n"),
                (Kind::Header, "[a]\n"),
                (Kind::Pair, "x = [\n  \"1\",\n  fd00::/8,\n]\n# about y\n"),
                (Kind::Pair, "y 3\n"),
                (Kind::Header, "[[b]\n"),
            ]
        );
    }
}

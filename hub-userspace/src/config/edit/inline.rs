//! Routes written as `route = [{ ... }, ...]`.

use std::ops::Range;

use toml::{Spanned, de::DeValue};

use super::{
    routes::Entry,
    splice::{
        Splice, blank_or_comment, is_blank, line_end, line_start, next_line, pairs, previous_line_end,
        with_comments_above,
    },
};

pub(super) struct Inline<'a> {
    pub text: &'a str,
    pub newline: &'static str,
    /// The list.
    pub routes: &'a Spanned<DeValue<'a>>,
    /// In the file's order.
    pub entries: Vec<Entry<'a>>,
}

impl Inline<'_> {
    /// After the last one: on a line of its own where that has one.
    pub fn add(&self, assignments: &[(&str, String)]) -> Vec<Splice> {
        let text = self.text;
        let element = self.element(assignments);
        let Some(last) = self.entries.len().checked_sub(1) else {
            return vec![self.first(element)];
        };
        let Range { start, end } = self.span(last);
        let comma = self.comma_after(last);
        let after = comma.map_or(end, |comma| comma + 1);
        let mut splices = Vec::new();
        if comma.is_none() {
            splices.push((end..end, ",".to_owned()));
        }
        let closing = if comma.is_some() { "," } else { "" };
        if self.begins_line(start) {
            let at = if self.ends_line(after) { line_end(text, after) } else { after };
            let indent = &text[line_start(text, start)..start];
            splices.push((at..at, format!("{}{indent}{element}{closing}", self.newline)));
        } else {
            splices.push((after..after, format!(" {element}{closing}")));
        }
        splices
    }

    /// Removes the route, its comma, and where it has lines of its own these and the comments directly above.
    pub fn delete(&self, index: usize) -> Vec<Splice> {
        let text = self.text;
        let Range { start, end } = self.span(index);
        let comma = self.comma_after(index);
        let comma_before = index.checked_sub(1).and_then(|before| self.comma_after(before));
        let after = comma.map_or(end, |comma| comma + 1);
        let mut removed = Vec::new();
        if self.begins_line(start) {
            let floor = index.checked_sub(1).map_or(self.routes.span().start, |before| self.span(before).end);
            let block = with_comments_above(text, line_start(text, start), floor);
            if comma.is_none() {
                removed.extend(comma_before.map(|comma| comma..comma + 1));
            }
            removed.push(match (self.ends_line(after), comma) {
                (true, _) => block..next_line(text, after),
                (false, None) => previous_line_end(text, block)..end,
                (false, Some(_)) => start..skip_blanks(text, after),
            });
        } else {
            let is_last = index + 1 == self.entries.len();
            removed.push(match (comma, comma_before) {
                (Some(_), Some(before)) if is_last => before + 1..after,
                (None, Some(before)) => before..end,
                (Some(_), _) => start..skip_blanks(text, after),
                (None, None) => start..end,
            });
        }
        removed.into_iter().map(|range| (range, String::new())).collect()
    }

    /// Changes values, and adds keys that are not there yet after the last one.
    pub fn set(&self, index: usize, assignments: &[(&str, String)]) -> Vec<Splice> {
        let pairs = pairs(self.entries[index].table);
        let end = pairs.last().map_or(self.span(index).end, |last| last.value.span().end);
        let splice = |(key, value): &(&str, String)| match pairs.iter().find(|pair| pair.is(key)) {
            Some(pair) => (pair.value.span(), value.clone()),
            None => (end..end, format!(", {key}{}{value}", self.equals())),
        };
        assignments.iter().map(splice).collect()
    }

    /// The only route of a list that is empty so far.
    fn first(&self, element: String) -> Splice {
        let Range { start, end } = self.routes.span();
        let inside = start + 1..end - 1;
        if is_blank(&self.text[inside.clone()]) {
            return (inside, element);
        }
        let at = line_start(self.text, inside.end);
        (at..at, format!("    {element},{}", self.newline))
    }

    fn element(&self, assignments: &[(&str, String)]) -> String {
        let equals = self.equals();
        let pairs: Vec<_> = assignments.iter().map(|(key, value)| format!("{key}{equals}{value}")).collect();
        let blank = match self.entries.last() {
            Some(last) if !self.text[last.table.span().start + 1..].starts_with(char::is_whitespace) => "",
            _ => " ",
        };
        format!("{{{blank}{}{blank}}}", pairs.join(", "))
    }

    /// What stands between key and value.
    fn equals(&self) -> &str {
        let first = self.entries.last().and_then(|last| pairs(last.table).into_iter().next());
        first.map_or(" = ", |pair| &self.text[pair.key.span().end..pair.value.span().start])
    }

    fn span(&self, index: usize) -> Range<usize> {
        self.entries[index].table.span()
    }

    /// The comma behind a route, past blanks and comments.
    fn comma_after(&self, index: usize) -> Option<usize> {
        let end = self.span(index).end;
        let limit = self.entries.get(index + 1).map_or(self.routes.span().end - 1, |next| next.table.span().start);
        let mut in_comment = false;
        let mut after = self.text[end..limit].char_indices();
        after.find_map(|(at, c)| {
            in_comment = c != '\n' && (in_comment || c == '#');
            (c == ',' && !in_comment).then_some(end + at)
        })
    }

    /// Whether nothing stands before `at` on its line.
    fn begins_line(&self, at: usize) -> bool {
        is_blank(&self.text[line_start(self.text, at)..at])
    }

    /// Whether at most a comment stands behind `at` on its line.
    fn ends_line(&self, at: usize) -> bool {
        blank_or_comment(&self.text[at..line_end(self.text, at)])
    }
}

fn skip_blanks(text: &str, at: usize) -> usize {
    at + text[at..].find(|c| !matches!(c, ' ' | '\t')).unwrap_or(0)
}

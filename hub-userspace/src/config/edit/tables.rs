//! Routes written as `[[route]]` tables.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    routes::Entry,
    splice::{
        Pair, Splice, is_blank, is_comment, line_before, line_end, line_start, next_line, pairs, previous_line_end,
        spaced_like, with_comments_above,
    },
};

pub(super) struct Tables<'a> {
    pub text: &'a str,
    pub newline: &'static str,
    pub root: &'a DeTable<'a>,
    /// In the file's order.
    pub entries: Vec<Entry<'a>>,
}

impl Tables<'_> {
    /// After the last route, as that one is written; the first route comes at the end of the file.
    pub fn add(&self, assignments: &[(&str, String)]) -> Splice {
        let newline = self.newline;
        let header = self.entries.last().map_or("[[route]]", |last| {
            let header = last.table.span();
            &self.text[line_start(self.text, header.start)..header.end]
        });
        let lines = assignments.iter().map(|(key, value)| self.assignment(key, value));
        let block = std::iter::once(header.to_owned()).chain(lines).collect::<Vec<_>>().join(newline);
        if let Some(last) = self.entries.last() {
            let at = self.body_end(last.table);
            return (at..at, newline.repeat(1 + self.blank_lines_above(last.table)) + &block);
        }
        let at = self.text.len();
        match self.text.ends_with('\n') {
            true => (at..at, format!("{newline}{block}{newline}")),
            false => (at..at, format!("{newline}{newline}{block}")),
        }
    }

    /// Removes the table and the comments that belong to it: directly above, within, and directly below where a blank
    /// line ends them. Of the blank lines around it those above go.
    pub fn delete(&self, index: usize) -> Splice {
        let text = self.text;
        let table = self.entries[index].table;
        let (start, body_end) = (self.block_start(table), self.body_end(table));
        let end = next_line(text, body_end);
        let at_end = text[end..].is_empty();
        let blank_follows = at_end || is_blank(&text[end..next_line(text, end)]);
        let above = self.blank_above(table);
        let range = match (blank_follows, above.is_empty()) {
            // A file without a line end at its end has none there afterwards either.
            (true, _) if end == body_end && above.start > 0 => previous_line_end(text, above.start)..end,
            (true, true) if start == 0 => start..skip_blank(text, end),
            (true, _) => above.start..end,
            // Without a blank line a comment above could seem to belong to what comes next.
            (false, _) => start..end,
        };
        (range, String::new())
    }

    /// Changes values, and adds keys that are not there yet below the last one.
    pub fn set(&self, index: usize, assignments: &[(&str, String)]) -> Vec<Splice> {
        let pairs = pairs(self.entries[index].table);
        let mut splices = Vec::new();
        let mut added = String::new();
        for (key, value) in assignments {
            match pairs.iter().find(|pair| pair.is(key)) {
                Some(pair) => splices.push((pair.value.span(), value.clone())),
                None => added += &(self.newline.to_owned() + &self.assignment(key, value)),
            }
        }
        if !added.is_empty() {
            let at = line_end(self.text, keys_end(&pairs, self.entries[index].table));
            splices.push((at..at, added));
        }
        splices
    }

    /// `key = value`, spaced as other routes are.
    fn assignment(&self, key: &str, value: &str) -> String {
        for entry in self.entries.iter().rev() {
            if let Some(pair) = pairs(entry.table).iter().find(|pair| pair.is(key)) {
                let line = line_start(self.text, pair.key.span().start);
                return self.text[line..pair.value.span().start].to_owned() + value;
            }
        }
        let model = self.entries.last().map(|last| pairs(last.table)).unwrap_or_default();
        spaced_like(self.text, &model.iter().collect::<Vec<_>>(), key) + value
    }

    /// Where the table begins, with the comments above it.
    fn block_start(&self, table: &Spanned<DeValue<'_>>) -> usize {
        let header = table.span().start;
        with_comments_above(self.text, line_start(self.text, header), self.floor(header))
    }

    /// Where the table's last line ends: of its last key, or of the comments directly below.
    fn body_end(&self, table: &Spanned<DeValue<'_>>) -> usize {
        let text = self.text;
        let keys_end = line_end(text, keys_end(&pairs(table), table));
        let mut end = keys_end;
        loop {
            let next = next_line(text, end);
            let line = &text[next..next_line(text, next)];
            if is_blank(line) {
                return end;
            }
            if !is_comment(line) {
                // They belong to what comes next.
                return keys_end;
            }
            end = line_end(text, next);
        }
    }

    /// The blank lines above the table and its comments.
    fn blank_above(&self, table: &Spanned<DeValue<'_>>) -> Range<usize> {
        let end = self.block_start(table);
        let floor = self.floor(table.span().start);
        let mut start = end;
        while let Some(line) = line_before(self.text, start, floor).filter(|line| is_blank(&self.text[line.clone()])) {
            start = line.start;
        }
        start..end
    }

    fn blank_lines_above(&self, table: &Spanned<DeValue<'_>>) -> usize {
        let above = self.blank_above(table);
        match above.end {
            // It is the first thing in the file.
            0 => 1,
            _ => self.text[above].matches('\n').count(),
        }
    }

    /// Where the last value before `at` ends: what looks like a comment above may be part of a text.
    fn floor(&self, at: usize) -> usize {
        let mut floor = 0;
        for value in self.root.values() {
            raise(&mut floor, value, at);
        }
        floor
    }
}

fn raise(floor: &mut usize, value: &Spanned<DeValue<'_>>, at: usize) {
    let end = value.span().end;
    if end <= at {
        *floor = end.max(*floor);
    }
    match value.get_ref() {
        DeValue::Table(below) => below.values().for_each(|value| raise(floor, value, at)),
        DeValue::Array(elements) => elements.iter().for_each(|value| raise(floor, value, at)),
        _ => {}
    }
}

fn keys_end(pairs: &[Pair<'_>], table: &Spanned<DeValue<'_>>) -> usize {
    pairs.last().map_or(table.span().end, |last| last.value.span().end)
}

fn skip_blank(text: &str, mut at: usize) -> usize {
    while at < text.len() && is_blank(&text[at..next_line(text, at)]) {
        at = next_line(text, at);
    }
    at
}

//! Text to tree, past every mistake in the writing.
//!
//! The `toml` crate goes on after a mistake, but what it makes of the rest is often wrong: after a `key` without `=`
//! it reads nothing more, and a list that is not closed swallows the lines after it. So a file with a mistake is read
//! again statement by statement: each is parsed alone, the broken ones are reported and blanked out, and the tree is
//! made of what is left. [`Gaps`] remembers what is missing in it, so that nothing is reported for being absent.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use toml::de::{DeTable, DeValue, Error};

use super::{
    diagnostic::{Problem, Report, join, quoted},
    explain::explain,
    statement::{Kind, Statement, statements},
};

/// Broken statements that are reported; a file with more is not a configuration.
const MAX_BROKEN: usize = 100;
/// Statements that look like ones of their own but may still belong to a list or table opened before them.
const MAX_JOINED: usize = 16;

/// What the writing mistakes took out of the tree.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Offsets of the section headers (of their `[`) with a statement missing.
    pub sections: HashSet<usize>,
    /// Every word of the missing statements and headers: what they define may well be referred to.
    pub words: HashSet<String>,
}

/// Parses `text`, reports what is not TOML in it, and has `read` make something of the rest.
pub(super) fn parse<R>(
    text: &str,
    report: &mut Report<'_>,
    read: impl FnOnce(&DeTable<'_>, Gaps, &mut Report<'_>) -> R,
) -> R {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return read(table.get_ref(), Gaps::default(), report);
    }
    let mut repair = Repair::new(text, report);
    repair.run();
    let (readable, gaps) = (repair.readable(), repair.gaps);
    let (table, errors) = DeTable::parse_recoverable(&readable);
    for error in &errors {
        report_leftover(&readable, error, report);
    }
    read(table.get_ref(), gaps, report)
}

/// A section's place among the headers: `[[route]]` makes the headers under `route` new ones, so its count is part.
type SectionKey = (usize, Vec<String>);

struct Repair<'t, 'r, 'l> {
    text: &'t str,
    report: &'r mut Report<'l>,
    statements: Vec<Statement>,
    gaps: Gaps,
    blanked: Vec<Range<usize>>,
    broken: usize,
    /// Where each section's header is.
    headers: HashMap<SectionKey, usize>,
    /// `[[section]]` headers seen so far, by their first word.
    elements: HashMap<String, usize>,
    /// Where each key of the current section is.
    keys: HashMap<String, usize>,
    /// Offset of the current section's header.
    section: usize,
    /// The current section as diagnostics name it.
    path: String,
    /// The current section's header is broken: what is below it belongs to nothing.
    skipping: bool,
}

impl<'t, 'r, 'l> Repair<'t, 'r, 'l> {
    fn new(text: &'t str, report: &'r mut Report<'l>) -> Self {
        Self {
            text,
            report,
            statements: statements(text),
            gaps: Gaps::default(),
            blanked: Vec::new(),
            broken: 0,
            headers: HashMap::new(),
            elements: HashMap::new(),
            keys: HashMap::new(),
            section: 0,
            path: String::new(),
            skipping: false,
        }
    }

    fn run(&mut self) {
        let mut next = 0;
        while next < self.statements.len() {
            let (statement, taken) = self.take(next);
            next += taken;
            let range = statement.range.clone();
            let (table, errors) = DeTable::parse_recoverable(&self.text[range.clone()]);
            if statement.kind == Kind::Header {
                self.enter_section(&range);
            }
            if !errors.is_empty() {
                self.report_broken(&statement, &errors);
            } else if statement.kind == Kind::Header {
                self.check_header(&range, table.get_ref());
            } else if !self.skipping {
                self.check_key(&range, table.get_ref());
            }
            if self.skipping {
                self.blanked.push(range);
            }
            if self.broken == MAX_BROKEN {
                self.give_up(next);
                return;
            }
        }
    }

    /// The statement that begins with the `first`, and how many it is made of: a list or table that is open at the end
    /// of the first goes on in those that follow, if it is closed there.
    fn take(&self, first: usize) -> (Statement, usize) {
        let start = &self.statements[first];
        let candidates = self.statements[first..].iter().take(MAX_JOINED).enumerate();
        for (more, last) in candidates {
            let range = start.range.start..last.range.end;
            let (_, errors) = DeTable::parse_recoverable(&self.text[range.clone()]);
            if !errors.iter().any(is_open) {
                return (Statement { range, kind: start.kind }, more + 1);
            }
            if start.kind == Kind::Header {
                break;
            }
        }
        (start.clone(), 1)
    }

    fn enter_section(&mut self, range: &Range<usize>) {
        self.section = range.start;
        self.path.clear();
        self.keys.clear();
        self.skipping = false;
    }

    fn report_broken(&mut self, statement: &Statement, errors: &[Error]) {
        self.broken += 1;
        let range = statement.range.clone();
        let text = &self.text[range.clone()];
        let path = match statement.kind {
            Kind::Pair => first_word(text).map_or_else(|| self.path.clone(), |key| join(&self.path, key)),
            _ => String::new(),
        };
        let mut lines = HashSet::new();
        let open = errors.iter().position(is_open);
        // What the parser says about the lines after an unclosed list is about other statements.
        let errors = open.map_or(errors, |open| &errors[open..=open]);
        let mut found: Vec<_> = errors.iter().map(|error| explain(text, error)).collect();
        found.sort_by_key(|&(at, _)| at);
        for (at, problem) in found {
            let at = range.start + at;
            if lines.insert(self.report.line(at)) {
                self.report.error(at, path.as_str(), problem);
            }
        }
        self.gaps.words.extend(words(text));
        if statement.kind == Kind::Header {
            // What is below is named after what the header was probably meant to be.
            self.path = bare_words(text).join(".");
            self.skipping = true;
        } else {
            self.gaps.sections.insert(self.section);
            self.blanked.push(range);
        }
    }

    fn check_header(&mut self, range: &Range<usize>, table: &DeTable<'_>) {
        let (path, is_array) = header_path(table);
        let first = path.first().cloned().unwrap_or_default();
        self.path = path.iter().fold(String::new(), |path, key| join(&path, key));
        let elements = self.elements.entry(first.clone()).or_default();
        if is_array && path.len() == 1 {
            let single = self.headers.get(&(0, path.clone())).copied();
            *elements += 1;
            self.path = format!("{}[{elements}]", self.path);
            if let Some(at) = single {
                self.mixed_headers(range, at, &first);
            }
            return;
        }
        if *elements > 0 && path.len() == 1 {
            let at = self.first_element(&first);
            return self.mixed_headers(range, at, &first);
        }
        let key = (*elements, path);
        if let Some(&at) = self.headers.get(&key) {
            let line = self.report.line(at);
            let problem = Problem::new(format!("the section [{}] stands twice, first on line {line}", self.path));
            let problem = match first.as_str() {
                "route" => problem.help("write [[route]] for each route"),
                _ => problem.help("join the two, or give this one another name"),
            };
            self.report.error(range.start, "", problem);
            self.gaps.sections.insert(at);
            self.skipping = true;
        } else if !is_array {
            self.headers.insert(key, range.start);
        }
    }

    fn mixed_headers(&mut self, range: &Range<usize>, other: usize, name: &str) {
        let line = self.report.line(other);
        let problem = Problem::new(format!("both [{name}] and [[{name}]] are used, the other on line {line}"));
        self.report.error(range.start, "", problem.help(format!("write [[{name}]] for each of several")));
        self.gaps.sections.insert(self.section);
        self.skipping = true;
    }

    /// Where the first `[[name]]` is.
    fn first_element(&self, name: &str) -> usize {
        let is_it = |statement: &&Statement| {
            let text = &self.text[statement.range.clone()];
            statement.kind == Kind::Header && text.starts_with("[[") && first_word(text) == Some(name)
        };
        self.statements.iter().find(is_it).map_or(0, |statement| statement.range.start)
    }

    /// Reports the second of two equal keys; dotted keys are left to the parser.
    fn check_key(&mut self, range: &Range<usize>, table: &DeTable<'_>) {
        let Some(key) = table.keys().next() else {
            return;
        };
        let text = &self.text[range.clone()];
        let after = text.get(key.span().end..).unwrap_or_default().trim_start();
        if !after.starts_with('=') {
            return;
        }
        let at = range.start + key.span().start;
        let name = key.get_ref().as_ref();
        if let Some(&first) = self.keys.get(name) {
            let line = self.report.line(first);
            let problem = Problem::new(format!("the key stands twice, first on line {line}"));
            self.report.error(at, join(&self.path, name), problem.help("remove one of the two"));
            self.blanked.push(range.clone());
        } else {
            self.keys.insert(name.to_owned(), at);
        }
    }

    fn give_up(&mut self, next: usize) {
        let Some(statement) = self.statements.get(next) else {
            return;
        };
        let start = statement.range.start;
        let problem = Problem::new(format!("the file is not read further after {MAX_BROKEN} broken statements"));
        self.report.error(start, "", problem.help("mend those first; is this the right file?"));
        self.gaps.words.extend(words(&self.text[start..]));
        self.gaps.sections.insert(self.section);
        self.blanked.push(start..self.text.len());
    }

    /// The text with blanks for what is broken, every other byte where it was.
    fn readable(&self) -> String {
        let mut readable = String::with_capacity(self.text.len());
        for range in &self.blanked {
            if range.start < readable.len() {
                continue;
            }
            readable.push_str(&self.text[readable.len()..range.start]);
            let blank = self.text[range.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' });
            readable.extend(blank);
        }
        readable.push_str(&self.text[readable.len()..]);
        readable
    }
}

/// Whether the statement's end was reached inside a list, table or multi-line text.
fn is_open(error: &Error) -> bool {
    let message = error.message();
    message.starts_with("unclosed") || message.starts_with("invalid multi-line")
}

/// The keys of a header parsed alone, and whether it has double brackets.
fn header_path(table: &DeTable<'_>) -> (Vec<String>, bool) {
    let mut path = Vec::new();
    let mut table = table;
    while let Some((key, value)) = table.iter().next() {
        path.push(key.get_ref().clone().into_owned());
        match value.get_ref() {
            DeValue::Table(below) => table = below,
            value => return (path, value.is_array()),
        }
    }
    (path, false)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "._-".contains(c)
}

/// The words of a statement's first line, split at dots.
fn bare_words(text: &str) -> Vec<&str> {
    let line = text.lines().next().unwrap_or_default();
    line.split(|c| !is_word(c) || c == '.').filter(|word| !word.is_empty()).take(4).collect()
}

fn first_word(text: &str) -> Option<&str> {
    text.split(|c| !is_word(c) || c == '.').find(|word| !word.is_empty())
}

/// Names that `text` may define: its words, whole and at their dots.
fn words(text: &str) -> impl Iterator<Item = String> {
    let whole = text.split(|c| !is_word(c));
    let parts = text.split(|c| !is_word(c) || c == '.');
    // `connection.dc.east`: all but the section's own name.
    let below = whole.clone().filter_map(|word| word.split_once('.').map(|(_, name)| name));
    whole.chain(parts).chain(below).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// Reports what only shows when the statements stand together.
fn report_leftover(text: &str, error: &Error, report: &mut Report<'_>) {
    let span = error.span().unwrap_or(0..0);
    let key = text.get(span.clone()).unwrap_or_default();
    let problem = if error.message() == "duplicate key" {
        Problem::new(format!("{} is already defined above", quoted(key))).help("join the two, or remove one")
    } else {
        Problem::new(error.message()).help("write KEY = VALUE lines under [SECTION] headers")
    };
    report.error(span.start.min(text.len()), "", problem);
}

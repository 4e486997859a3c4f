//! Diagnostics of a configuration file: problem, location and remedy.

use std::{
    cell::OnceCell,
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Effect of a diagnostic on the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is rejected.
    Error,
    /// The file is accepted, but may not do what its author intended.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The included file with the problem; absent for the main file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Counted from 1; 0 if the diagnostic concerns the file as a whole.
    pub line: usize,
    /// In characters, counted from 1; 0 if the diagnostic concerns the file as a whole.
    pub column: usize,
    /// Path of the key or table, as `connection.shanghai.remote_cidrs`. Routes are counted from 1, as
    /// `route[3].weight`. May be empty.
    pub path: String,
    /// The problem, in one line.
    pub message: String,
    /// The remedy, in one line.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error about the file as a whole.
    pub(super) fn whole_file(problem: Problem) -> Self {
        let Problem { message, help } = problem;
        Self { severity: Severity::Error, file: None, line: 0, column: 0, path: String::new(), message, help }
    }

    /// The text in a command's response, without a line number: the file is not part of the command.
    pub fn sentence(&self) -> String {
        sentence(&self.message, self.help.as_deref())
    }

    /// The line for the operator, with the file name: `hub.toml:12:5: error: ...`. `file` is the main file.
    pub fn in_file(&self, file: &str) -> String {
        let included = self.file.as_ref().map(|included| included.display().to_string());
        let file = included.as_deref().unwrap_or(file);
        let separator = if self.line == 0 { ": " } else { ":" };
        format!("{file}{separator}{self}")
    }
}

/// One line, without the file name: `12:5: error: path: message; help: ...`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line != 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        write!(f, "{}: ", self.severity)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; help: {help}")?;
        }
        Ok(())
    }
}

/// A diagnostic without its location, as returned by the functions that validate one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub message: String,
    pub help: Option<String>,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// As [`Diagnostic::sentence`].
    pub fn sentence(&self) -> String {
        sentence(&self.message, self.help.as_deref())
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn sentence(message: &str, help: Option<&str>) -> String {
    match help {
        Some(help) => format!("{message}; help: {help}"),
        None => message.to_owned(),
    }
}

/// A value and its position in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub value: T,
    /// Byte offset.
    pub at: usize,
}

/// A source text with its line index.
pub(super) struct PlacedText<'t> {
    file: &'t Path,
    text: &'t str,
    /// Position of its first byte among all sources.
    base: usize,
    /// Byte offset of each line's first byte.
    line_starts: OnceCell<Vec<usize>>,
}

impl<'t> PlacedText<'t> {
    fn new(file: &'t Path, text: &'t str, base: usize) -> Self {
        Self { file, text, base, line_starts: OnceCell::new() }
    }

    /// The line of a position, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.line_starts().partition_point(|&start| start <= at - self.base)
    }

    /// Computed on first use: a text without errors needs none.
    fn line_starts(&self) -> &[usize] {
        self.line_starts.get_or_init(|| {
            let after_newlines = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(after_newlines).collect()
        })
    }
}

/// Conflicts with everything before the position.
pub(super) const ALL_BEFORE: usize = usize::MAX;

/// A diagnostic with its position, for sorting, and the position that it conflicts with.
pub(super) struct PlacedDiagnostic {
    pub at: usize,
    pub against: Option<usize>,
    pub diagnostic: Diagnostic,
}

/// Collects diagnostics and resolves their lines.
///
/// Positions count through all sources in order: the main file, the included files and, from
/// [`DiagnosticReport::end`] on, one position for each object of the store.
pub(super) struct DiagnosticReport<'t> {
    sources: Vec<PlacedText<'t>>,
    found: Vec<PlacedDiagnostic>,
    /// Diagnostics by severity, including those not listed.
    errors: usize,
    warnings: usize,
}

/// Listed diagnostics of each severity; a text with more is not a configuration. All are counted.
const MOST_FOUND: usize = 1000;

impl<'t> DiagnosticReport<'t> {
    /// For one text.
    pub fn new(text: &'t str) -> Self {
        Self::of([(Path::new(""), text)])
    }

    /// For several texts, the main file first.
    pub fn of(texts: impl IntoIterator<Item = (&'t Path, &'t str)>) -> Self {
        let mut sources: Vec<PlacedText<'t>> = Vec::new();
        for (file, text) in texts {
            // One more than its length: the position at the end of a text belongs to that text.
            let base = sources.last().map_or(0, |last| last.base + last.text.len() + 1);
            sources.push(PlacedText::new(file, text, base));
        }
        Self { sources, found: Vec::new(), errors: 0, warnings: 0 }
    }

    /// Position of a source's first byte.
    pub fn base(&self, source: usize) -> usize {
        self.sources[source].base
    }

    /// The first position after all sources.
    pub fn end(&self) -> usize {
        self.sources.last().map_or(0, |last| last.base + last.text.len() + 1)
    }

    pub fn error(&mut self, at: usize, path: impl Into<String>, problem: Problem) {
        self.push(Severity::Error, at, None, path.into(), problem);
    }

    /// As [`Self::error`], for errors that a text may have in any number: `describe` is called only for those listed.
    pub fn error_with(&mut self, at: usize, describe: impl FnOnce() -> (String, Problem)) {
        if self.errors >= MOST_FOUND && at < self.end() {
            self.errors += 1;
            return;
        }
        let (path, problem) = describe();
        self.error(at, path, problem);
    }

    /// An error at `at` that conflicts with an earlier position.
    pub fn conflict(&mut self, at: usize, path: impl Into<String>, problem: Problem, against: usize) {
        self.push(Severity::Error, at, Some(against), path.into(), problem);
    }

    /// An error at `at`: there are too many entries up to this position.
    pub fn too_many(&mut self, at: usize, path: impl Into<String>, problem: Problem) {
        self.push(Severity::Error, at, Some(ALL_BEFORE), path.into(), problem);
    }

    pub fn warning(&mut self, at: usize, path: impl Into<String>, problem: Problem) {
        self.push(Severity::Warning, at, None, path.into(), problem);
    }

    /// Whether further errors of a file are only counted.
    pub fn is_full(&self) -> bool {
        self.errors >= MOST_FOUND
    }

    /// Merges the diagnostics of a part of a source, which starts after this many lines and routes.
    pub fn absorb_part(&mut self, report: DiagnosticReport<'_>, offset: usize, lines: usize, routes: usize) {
        self.errors += report.errors;
        self.warnings += report.warnings;
        self.found.extend(report.found.into_iter().map(|mut found| {
            found.at += offset;
            found.diagnostic.line += lines;
            found.diagnostic.path = renumbered(found.diagnostic.path, routes);
            found
        }));
    }

    /// Merges the diagnostics of one source.
    pub fn absorb(&mut self, report: DiagnosticReport<'_>, source: usize) {
        let PlacedText { base, file, .. } = self.sources[source];
        let included = (source > 0).then(|| file.to_owned());
        self.errors += report.errors;
        self.warnings += report.warnings;
        self.found.extend(report.found.into_iter().map(|mut found| {
            found.at += base;
            found.diagnostic.file.clone_from(&included);
            found
        }));
    }

    /// The index of the source and the line, counted from 1; `None` for an object of the store.
    pub fn origin(&self, at: usize) -> Option<(usize, usize)> {
        if at >= self.end() {
            return None;
        }
        let index = self.sources.partition_point(|source| source.base <= at).checked_sub(1)?;
        Some((index, self.sources[index].line(at)))
    }

    /// The position `other` in a message about `at`: `line 12`, preceded by the file name if the files differ.
    pub fn place(&self, at: usize, other: usize) -> String {
        match (self.origin(at), self.origin(other)) {
            (_, None) => "in the store".to_owned(),
            (Some((here, _)), Some((there, line))) if here == there => format!("line {line}"),
            (_, Some((there, line))) => format!("{} line {line}", self.sources[there].file.display()),
        }
    }

    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Removes and returns the diagnostics about objects of the store.
    pub fn take_stored(&mut self) -> Vec<PlacedDiagnostic> {
        let end = self.end();
        let (stored, others) = std::mem::take(&mut self.found).into_iter().partition(|found| found.at >= end);
        self.found = others;
        self.errors = self.found.iter().filter(|found| found.diagnostic.severity == Severity::Error).count();
        self.warnings = self.found.len() - self.errors;
        stored
    }

    /// All diagnostics, by position.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|found| found.at);
        let mut found: Vec<Diagnostic> = self.found.into_iter().map(|found| found.diagnostic).collect();
        if let omitted @ 1.. = self.errors + self.warnings - found.len() {
            let severity = if self.errors > MOST_FOUND { Severity::Error } else { Severity::Warning };
            let problem = Problem::new(format!("{omitted} more errors or warnings are not listed"))
                .help("correct the listed ones first");
            found.push(Diagnostic { severity, ..Diagnostic::whole_file(problem) });
        }
        found
    }

    fn push(&mut self, severity: Severity, at: usize, against: Option<usize>, path: String, problem: Problem) {
        // A mistake in what tunnels of a connection share is found for each of them.
        let is_same = |last: &PlacedDiagnostic| {
            last.at == at && last.diagnostic.severity == severity && last.diagnostic.message == problem.message
        };
        if self.found.last().is_some_and(is_same) {
            return;
        }
        let count = if severity == Severity::Error { &mut self.errors } else { &mut self.warnings };
        *count += 1;
        if *count > MOST_FOUND && at < self.end() {
            return;
        }
        let Problem { message, help } = problem;
        let (line, column, file) = match self.origin(at) {
            None => (0, 0, None),
            Some((index, line)) => {
                let source = &self.sources[index];
                let start = source.line_starts()[line - 1];
                // The parser's positions are character boundaries; a wrong one must not crash the agent.
                let before = source.text.get(start..at - source.base);
                let column = before.map_or(0, |before| before.chars().count()) + 1;
                (line, column, (index > 0).then(|| source.file.to_owned()))
            }
        };
        let diagnostic = Diagnostic { severity, file, line, column, path, message, help };
        self.found.push(PlacedDiagnostic { at, against, diagnostic });
    }
}

/// The path of a route, counted from `routes` on.
fn renumbered(path: String, routes: usize) -> String {
    let number = |path: &str| {
        let (number, rest) = path.strip_prefix("route[")?.split_once(']')?;
        Some(format!("route[{}]{rest}", number.parse::<usize>().ok()? + routes))
    };
    number(&path).unwrap_or(path)
}

/// Text of the file for a message: quoted, on one line, limited in length.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    let shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let dots = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    // Text that contains double quotes is put in single quotes, so that it needs no escapes.
    let quote = if text.contains('"') { '\'' } else { '"' };
    let shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    format!("{quote}{shown}{dots}{quote}")
}

/// "1 route", "2 routes".
pub(super) fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// `path.key`, with the key quoted where TOML requires it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare && key.len() <= 64 { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

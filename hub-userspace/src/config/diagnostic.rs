//! What is wrong with a file, where, and what to do about it.

use std::{cell::OnceCell, fmt};

use serde::Serialize;

/// What a diagnostic means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but may not do what its author thinks.
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

/// One mistake, or one doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Counted from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// In characters, counted from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// The thing's place in the configuration, as `connection.shanghai.remote_cidrs`; routes are counted from 1, as
    /// `route[3].weight`. Empty when there is none.
    pub path: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do, in one line.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error about the file as a whole.
    pub(super) fn whole_file(problem: Problem) -> Self {
        let Problem { message, help } = problem;
        Self { severity: Severity::Error, line: 0, column: 0, path: String::new(), message, help }
    }

    /// What it says, wherever in the file: the same for the text before and after a change elsewhere in it.
    pub(super) fn subject(&self) -> (String, String) {
        let digits_after = |text: &str, start: &str| match text.split_once(start) {
            Some((before, after)) => {
                format!("{before}{start}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => text.to_owned(),
        };
        (digits_after(&self.path, "route["), digits_after(&self.message, "(line "))
    }

    /// As an answer to a command says it: the file's lines are of no use there.
    pub fn sentence(&self) -> String {
        sentence(&self.message, self.help.as_deref())
    }

    /// The line an operator reads, with the file's name before it: `hub.toml:12:5: error: ...`.
    pub fn in_file(&self, file: &str) -> String {
        let separator = if self.line == 0 { ": " } else { ":" };
        format!("{file}{separator}{self}")
    }
}

/// One line, without the file's name: `12:5: error: path: message; help: ...`.
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

/// A diagnostic without its place: what the functions that judge one value return.
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

/// A value and where it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub value: T,
    /// Byte offset.
    pub at: usize,
}

/// Collects diagnostics and gives them their lines.
pub(super) struct Report<'t> {
    text: &'t str,
    /// Byte offset of each line's first byte.
    line_starts: OnceCell<Vec<usize>>,
    /// With the byte offset, for sorting.
    diagnostics: Vec<(usize, Diagnostic)>,
}

impl<'t> Report<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, line_starts: OnceCell::new(), diagnostics: Vec::new() }
    }

    pub fn error(&mut self, at: usize, path: impl Into<String>, problem: Problem) {
        self.push(Severity::Error, at, path.into(), problem);
    }

    pub fn warning(&mut self, at: usize, path: impl Into<String>, problem: Problem) {
        self.push(Severity::Warning, at, path.into(), problem);
    }

    /// The line that byte `at` is on, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.line_starts().partition_point(|&start| start <= at)
    }

    /// Made when the first one is asked for: a text without mistakes needs none.
    fn line_starts(&self) -> &[usize] {
        self.line_starts.get_or_init(|| {
            let after_newlines = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(after_newlines).collect()
        })
    }

    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|(_, found)| found.severity == Severity::Error)
    }

    /// All of them, by place.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|&(at, _)| at);
        self.diagnostics.into_iter().map(|(_, found)| found).collect()
    }

    fn push(&mut self, severity: Severity, at: usize, path: String, problem: Problem) {
        let Problem { message, help } = problem;
        let line = self.line(at);
        let start = self.line_starts()[line - 1];
        // The parser's places are character boundaries; a wrong one must not take the agent down.
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count()) + 1;
        let found = Diagnostic { severity, line, column, path, message, help };
        self.diagnostics.push((at, found));
    }
}

/// Text of the file as a message shows it: quoted, on one line, of bearable length.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    let shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let dots = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    // A text with quotes in it stands in the other kind, so that it reads as it is in the file.
    let quote = if text.contains('"') { '\'' } else { '"' };
    let shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    format!("{quote}{shown}{dots}{quote}")
}

/// "1 route", "2 routes".
pub(super) fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// `path.key`, the key quoted where TOML would have it quoted.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare && key.len() <= 64 { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

//! Text to tree. What is not TOML is reported in the parser's words.

use toml::{Spanned, de::DeTable};

use super::diagnostic::{DiagnosticReport, Problem};

/// The tree of `text`, or a report of the first thing in it that is not TOML.
pub(super) fn parse<'t>(text: &'t str, report: &mut DiagnosticReport<'_>) -> Option<Spanned<DeTable<'t>>> {
    match DeTable::parse(text) {
        Ok(tree) => Some(tree),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let message: Vec<&str> = error.message().lines().map(str::trim).collect();
            let problem = Problem::new(message.join(", "));
            report.error(at, "", problem.help("correct the TOML here first: nothing else of the file was checked"));
            None
        }
    }
}

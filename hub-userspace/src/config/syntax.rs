//! Text to tree. TOML errors are reported with the parser's message.

use toml::{Spanned, de::DeTable};

use super::diagnostic::{DiagnosticReport, Problem};

/// The tree of `text`; on a TOML error, reports the first one.
pub(super) fn parse<'t>(text: &'t str, report: &mut DiagnosticReport<'_>) -> Option<Spanned<DeTable<'t>>> {
    match DeTable::parse(text) {
        Ok(tree) => Some(tree),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let message: Vec<&str> = error.message().lines().map(str::trim).collect();
            let problem = Problem::new(message.join(", "));
            report.error(at, "", problem.help("correct the TOML here first: the rest of the file was not checked"));
            None
        }
    }
}

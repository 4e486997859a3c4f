//! `vpnhub check`: says all that is wrong with a file.

use std::path::Path;

use serde::Serialize;

use super::{
    diagnostic::{Diagnostic, Severity, counted},
    load::{Loaded, load},
};

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckFormat {
    /// A line a diagnostic and a closing one, for people.
    Table,
    /// `{"ok":bool,"errors":[..],"warnings":[..]}`.
    Json,
}

/// What the command prints and exits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    /// Ends with a newline.
    pub stdout: String,
    /// 0 when the file can be applied, 1 when not.
    pub exit_code: u8,
}

#[derive(Serialize)]
struct CheckVerdict<'a> {
    ok: bool,
    errors: Vec<&'a Diagnostic>,
    warnings: Vec<&'a Diagnostic>,
}

/// Checks the file at `path`; changes nothing.
pub fn run(path: &Path, format: CheckFormat) -> CheckOutcome {
    let (diagnostics, ok_line) = match load(path) {
        Ok(Loaded { config, warnings, .. }) => {
            let connections = counted(config.connections.len(), "connection");
            (warnings, Some(format!("{connections}, {}", counted(config.routes.len(), "route"))))
        }
        Err(error) => (error.diagnostics, None),
    };
    let of = |severity| diagnostics.iter().filter(move |found| found.severity == severity).collect::<Vec<_>>();
    let verdict = CheckVerdict { ok: ok_line.is_some(), errors: of(Severity::Error), warnings: of(Severity::Warning) };
    let stdout = match format {
        CheckFormat::Table => table(&path.display().to_string(), &diagnostics, &verdict, ok_line.as_deref()),
        CheckFormat::Json => json(&verdict),
    };
    CheckOutcome { stdout, exit_code: u8::from(!verdict.ok) }
}

fn table(file: &str, diagnostics: &[Diagnostic], verdict: &CheckVerdict<'_>, ok_line: Option<&str>) -> String {
    let mut lines: Vec<String> = diagnostics.iter().map(|found| found.in_file(file)).collect();
    let warnings = match verdict.warnings.len() {
        0 => String::new(),
        count => format!(", {}", counted(count, "warning")),
    };
    lines.push(match ok_line {
        Some(counts) => format!("{file}: ok: {counts}{warnings}"),
        None => format!("{}{warnings}: nothing was applied", counted(verdict.errors.len(), "error")),
    });
    lines.join("\n") + "\n"
}

fn json(verdict: &CheckVerdict<'_>) -> String {
    // Strings, numbers and booleans only: nothing in it can fail to be written.
    serde_json::to_string(verdict).unwrap_or_default() + "\n"
}

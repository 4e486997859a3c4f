//! `vpnhub check`: reports all errors in a file.

use std::path::Path;

use serde::Serialize;

use super::{
    diagnostic::{Diagnostic, Severity, counted},
    load::{Loaded, load},
};

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckFormat {
    /// One line per diagnostic and a summary line, for people.
    Table,
    /// `{"ok":bool,"errors":[..],"warnings":[..]}`.
    Json,
}

/// Output and exit code of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    /// Ends with a newline.
    pub stdout: String,
    /// 0 if the file can be applied, else 1.
    pub exit_code: u8,
}

#[derive(Serialize)]
struct CheckVerdict<'a> {
    ok: bool,
    errors: Vec<&'a Diagnostic>,
    warnings: Vec<&'a Diagnostic>,
}

/// Checks the file at `path`; modifies nothing.
pub fn run(path: &Path, format: CheckFormat) -> CheckOutcome {
    let (diagnostics, ok_line) = match load(path) {
        Ok(Loaded { config, warnings, .. }) => {
            let connections = counted(config.configured().count(), "connection");
            let policy_routes = match config.policy_routes.len() {
                0 => String::new(),
                count => format!(", {}", counted(count, "policy route")),
            };
            (warnings, Some(format!("{connections}, {}{policy_routes}", counted(config.routes.len(), "route"))))
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
    // Only strings, numbers and booleans: serialization cannot fail.
    serde_json::to_string(verdict).unwrap_or_default() + "\n"
}

//! Findings as text.

use std::fmt::Write as _;

use crate::api_types::diagnose::{Area, Diagnosis, Finding, Severity};

/// One finding after the other, what to do on a line of its own.
pub fn text(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for Finding { severity, area, subject, cloud_code, message, action, .. } in &diagnosis.findings {
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Ok => "ok",
        };
        let area = match area {
            Area::Connection => "connection ",
            Area::Configuration | Area::Host => "",
            Area::Interface => "interface ",
        };
        let code = cloud_code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        let _ = writeln!(text, "{severity:<8} {area}{subject}: {message}{code}");
        if let Some(action) = action {
            let _ = writeln!(text, "         -> {action}");
        }
    }
    let (errors, warnings) = (diagnosis.errors, diagnosis.warnings);
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let _ = writeln!(text, "\n{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings));
    text
}

//! Limits of the configuration's size, so that time and memory are bounded for a file of any content.

use std::path::Path;

use super::{
    bulk,
    diagnostic::{DiagnosticReport, Problem, counted},
    draft::Draft,
    read::{TextPart, Unread},
    read_whole,
};

const MOST_LINES: usize = 16_000_000;
/// A million, and some for the sites' own networks.
const MOST_ROUTES: usize = 1 << 20;
/// Sections other than routes.
const MOST_SECTIONS: usize = 100_000;

/// Reports texts that exceed the limits.
pub(super) fn check(texts: &[(&Path, &str)], report: &mut DiagnosticReport<'_>) {
    let total = |count: fn(&str) -> usize| texts.iter().map(|(_, text)| count(text)).sum::<usize>();
    let (routes, sections) = (total(routes), total(sections));
    let limits = [
        (total(lines), MOST_LINES, "lines"),
        (routes, MOST_ROUTES, "routes"),
        (sections.saturating_sub(routes), MOST_SECTIONS, "sections"),
    ];
    for (count, most, what) in limits {
        if count > most {
            let problem = Problem::new(format!("more than {most} {what} in all files together"));
            report.error(0, "", problem.help("is this the right file?"));
        }
    }
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn routes(text: &str) -> usize {
    text.matches("[[route]]").count()
}

/// Lines that start a section.
fn sections(text: &str) -> usize {
    text.matches("\n[").count()
}

/// Reads the first part of a large text that has errors, so that these are reported; the rest is not checked. There is
/// no draft.
pub(super) fn read_part(text: &str, report: &mut DiagnosticReport<'_>) -> Option<(Draft, Unread)> {
    let part = bulk::first_unreadable(text, bulk::PIECE).filter(|(part, _)| bulk::is_small(&text[part.clone()]));
    let Some((part, before)) = part else {
        let problem = Problem::new(format!("more than {}", counted(bulk::MOST_VALUES, "value")));
        report.error(0, "", problem.help("is this the right file?"));
        return None;
    };
    let mut own = DiagnosticReport::new(&text[part.clone()]);
    read_whole(&text[part.clone()], TextPart::Included, &mut own);
    report.absorb_part(own, part.start, lines(&text[..part.start]), before);
    if !report.has_errors() {
        // The part alone is valid.
        let problem = Problem::new("these routes cannot be read").help("write each as a section [[route]]");
        report.error(part.start, "", problem);
    }
    let problem = Problem::new("only the first routes with errors were checked, and nothing after them");
    report.error(part.end.saturating_sub(1), "", problem.help("correct them first"));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid route, as often as a number of bytes needs.
    fn routes_of(bytes: usize) -> String {
        "[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"a\"\n".repeat(bytes / 52)
    }

    #[test]
    fn error_in_a_large_file_is_reported_with_its_line_and_route() {
        let before = routes_of(40 << 20);
        let text = format!("{before}[[route]]\ndestination = 7\nnext_hop = \"a\"\n{}", routes_of(1 << 20));
        assert!(!bulk::is_small(&text));
        let mut report = DiagnosticReport::new(&text);
        assert!(read_part(&text, &mut report).is_none());
        let found = report.finish();
        assert_eq!(found.len(), 2, "{found:#?}");
        assert_eq!(found[0].path, format!("route[{}].destination", routes(&before) + 1));
        assert_eq!(found[0].line, lines(&before) + 2);
        assert!(found[1].message.starts_with("only the first"), "{found:#?}");
    }
}

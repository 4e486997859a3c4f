//! Reads the routes piecewise: the fast path for a text without errors in them.
//!
//! The tree of a hundred thousand routes takes a few hundred megabytes and most of the reading time. Therefore the text
//! is cut before `[[route]]` lines and each piece is parsed alone; its tree is dropped before the next one is parsed.
//! The rest of the text (the *frame*) is parsed at once, padded with spaces, so that its positions stay the same.
//!
//! The result equals that of parsing the whole text, because every cut is between two statements. A piece that ends in
//! an open list or string is an error. At the first cut, a marker header must appear in the parsed frame. In any
//! unusual case, [`read()`] gives up without a report, and the whole text is parsed instead.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{DiagnosticReport, Located},
    draft::{Draft, RouteDraft},
    entries,
    model::DEFAULT_WEIGHT,
    prefix::{self, Purpose},
    read::{self, INCLUDE, SECTIONS, TextPart, Unread},
};

/// Minimum bytes of a piece, which ends at the next cut: its tree fits the processor's cache.
pub(super) const PIECE: usize = 32 * 1024;
/// Values of a text that is parsed at once: each needs up to half a KiB.
pub(super) const MOST_VALUES: usize = 1_500_000;
const ROUTE_LINE: &str = "\n[[route]]";
/// Replaces the routes in the frame. If the parser finds this header, the position is between two statements.
const MARK: &str = "here-are-routes";

/// Whether a text can be parsed at once.
pub(super) fn is_small(text: &str) -> bool {
    text.bytes().filter(|byte| b"=,[{.".contains(byte)).nth(MOST_VALUES).is_none()
}

/// The draft of `text`; `None` if it must be read as a whole. Pieces have at least `piece` bytes.
pub(super) fn read(
    text: &str,
    piece: usize,
    part: TextPart,
    report: &mut DiagnosticReport<'_>,
) -> Option<(Draft, Unread)> {
    let (start, end) = routes_of(text)?;
    let mut routes = Vec::new();
    for part in pieces(text, piece, (start, end)) {
        read_piece(&text[part.clone()], part.start, &mut routes)?;
    }
    let frame = frame(text, start, end).filter(|frame| is_small(frame))?;
    let (mut tree, errors) = DeTable::parse_recoverable(&frame);
    let mark = tree.get_mut().remove(MARK)?;
    let is_plain = |name: &str| (SECTIONS.contains(&name) || name == INCLUDE) && name != "route";
    if !errors.is_empty() || mark.span().start != start || !tree.get_ref().keys().all(|key| is_plain(key.get_ref())) {
        return None;
    }
    let (mut draft, unread) = read::read(tree.get_ref(), part, report);
    draft.routes = routes;
    Some((draft, unread))
}

/// The first piece that cannot be read, and the number of routes before it.
pub(super) fn first_unreadable(text: &str, piece: usize) -> Option<(Range<usize>, usize)> {
    let mut routes = Vec::new();
    pieces(text, piece, routes_of(text)?).find_map(|part| {
        let before = routes.len();
        read_piece(&text[part.clone()], part.start, &mut routes).is_none().then_some((part, before))
    })
}

/// Start and end of the routes.
fn routes_of(text: &str) -> Option<(usize, usize)> {
    let start = if text.starts_with(&ROUTE_LINE[1..]) { 0 } else { text.find(ROUTE_LINE)? + 1 };
    let last = text.rfind(ROUTE_LINE).map_or(start, |at| at + 1);
    Some((start, text[last..].find("\n[").map_or(text.len(), |at| last + at + 1)))
}

fn pieces(text: &str, piece: usize, (start, end): (usize, usize)) -> impl Iterator<Item = Range<usize>> {
    let mut at = start;
    std::iter::from_fn(move || {
        let from = at;
        let rest = ceil(text, from + piece);
        at = text.get(rest..end).and_then(|text| text.find(ROUTE_LINE)).map_or(end, |cut| rest + cut + 1);
        (from < end).then_some(from..at)
    })
}

fn ceil(text: &str, mut at: usize) -> usize {
    while at < text.len() && !text.is_char_boundary(at) {
        at += 1;
    }
    at.min(text.len())
}

/// The text without the routes in `start..end`.
fn frame(text: &str, start: usize, end: usize) -> Option<String> {
    let mut frame = String::with_capacity(text.len() - (end - start) + MARK.len() + 2);
    frame.push_str(&text[..start]);
    frame.push('[');
    frame.push_str(MARK);
    frame.push(']');
    if end < text.len() {
        // The rest of the text keeps its positions.
        frame.extend(std::iter::repeat_n(' ', end.checked_sub(frame.len() + 1)?));
        frame.push('\n');
        frame.push_str(&text[end..]);
    }
    Some(frame)
}

fn read_piece(piece: &str, offset: usize, routes: &mut Vec<RouteDraft>) -> Option<()> {
    let (tree, errors) = DeTable::parse_recoverable(piece);
    let mut sections = tree.get_ref().iter();
    let (name, elements) = sections.next()?;
    if !errors.is_empty() || name.get_ref() != "route" || sections.next().is_some() {
        return None;
    }
    for table in elements.get_ref().as_array()? {
        routes.push(route(table, offset, routes.len() + 1)?);
    }
    Some(())
}

/// A route without errors, as [`read::read`] would read it; `None` if it has any.
fn route(table: &Spanned<DeValue<'_>>, offset: usize, number: usize) -> Option<RouteDraft> {
    let at = offset + table.span().start;
    let mut route = RouteDraft {
        number,
        at,
        destination: None,
        next_hop: None,
        weight: Some(Located { value: DEFAULT_WEIGHT, at }),
        publish: Some(Located { value: false, at }),
    };
    for (key, found) in table.get_ref().as_table()? {
        let (at, found) = (offset + found.span().start, found.get_ref());
        match key.get_ref().as_ref() {
            "destination" => {
                route.destination = Some(Located { value: prefix::prefix(found, Purpose::Forwarding).ok()?, at });
            }
            "next_hop" => route.next_hop = Some(Located { value: found.as_str()?.to_owned(), at }),
            "weight" => route.weight = Some(Located { value: entries::weight(found).ok()?, at }),
            "publish" => route.publish = Some(Located { value: found.as_bool()?, at }),
            _ => return None,
        }
    }
    (route.destination.is_some() && route.next_hop.is_some()).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"a\"\n";

    fn is_read(text: &str) -> bool {
        read(text, 1, TextPart::Main, &mut DiagnosticReport::new(text)).is_some()
    }

    #[test]
    fn route_sections_are_extracted_from_file() {
        for text in [
            ROUTE.to_owned(),
            format!("{ROUTE}\n{ROUTE}"),
            format!("[vpc]\n{ROUTE}# \u{e4}\n{ROUTE}[gateway]\nname = \"hub\""),
            format!("# \u{e4}\n{ROUTE}weight = 1 # \u{e4}"),
        ] {
            assert!(is_read(&text), "{text}");
        }
    }

    #[test]
    fn route_text_in_other_context_is_not_extracted() {
        for text in [
            // In a string, in a list; with the marker in the text.
            format!("gateway.name = '''\n{ROUTE}[vpc]\n'''\n"),
            format!("gateway.name = '''\n{ROUTE}[vpc]\n'''\n[{MARK}]\n"),
            format!("vpc.cidrs = [\n{ROUTE}[vpc]\n]\n"),
            format!("{ROUTE}x = '''\n{ROUTE}'''\n"),
            format!("{ROUTE}weight = [\n[1]]\n"),
            // With another section between the routes, or routes elsewhere.
            format!("{ROUTE}[vpc]\n{ROUTE}"),
            format!("route = []\n{ROUTE}"),
            format!("{ROUTE}[vpc]\n[route.x]\n"),
            // With an error.
            format!("{ROUTE}weight = 101\n"),
            format!("{ROUTE}[vpc]\n[vpc]\n"),
            format!("{ROUTE}[vpn]\n"),
            format!("[{MARK}]\n{ROUTE}"),
        ] {
            assert!(!is_read(&text), "{text}");
        }
    }
}

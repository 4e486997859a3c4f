//! Reading of the routes in pieces: the quick way for a text without a mistake in them.
//!
//! A tree of a hundred thousand routes takes a few hundred megabytes and most of the time of reading them. So the text
//! is cut before `[[route]]` lines, each piece is parsed alone, and its tree is gone before the next one is made. What
//! is not routes (the *frame*) is parsed as one text, with blanks for the pieces, so that its places stay the same.
//!
//! That is the same as parsing the whole, because every cut is known to be between two statements: a piece that ends
//! in an open list or text is a mistake, and the frame is known to be whole at the first cut by a header of our own
//! that is found there. Where anything is unusual, [`read()`] gives up and reports nothing: the whole text is read then.

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

/// Bytes of a piece, and a few more to the next cut: its tree stays within the processor's cache.
pub(super) const PIECE: usize = 32 * 1024;
const ROUTE_LINE: &str = "\n[[route]]";
/// Stands in the frame where the routes were: if the parser sees it, it is between two statements there.
const MARK: &str = "here-are-routes";

/// The draft of `text`; `None` if it has to be read as a whole. Pieces are at least `piece` bytes long.
pub(super) fn read(
    text: &str,
    piece: usize,
    part: TextPart,
    report: &mut DiagnosticReport<'_>,
) -> Option<(Draft, Unread)> {
    let start = if text.starts_with(&ROUTE_LINE[1..]) { 0 } else { text.find(ROUTE_LINE)? + 1 };
    let last = text.rfind(ROUTE_LINE).map_or(start, |at| at + 1);
    let end = text[last..].find("\n[").map_or(text.len(), |at| last + at + 1);
    let mut routes = Vec::new();
    let mut at = start;
    while at < end {
        let rest = ceil(text, at + piece);
        let next = text.get(rest..end).and_then(|text| text.find(ROUTE_LINE)).map_or(end, |cut| rest + cut + 1);
        read_piece(&text[at..next], at, &mut routes)?;
        at = next;
    }
    let frame = frame(text, start, end)?;
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
        // What follows stays where it is.
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

/// A route without a mistake in it, as [`read::read`] would make it.
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
    fn routes_are_cut_out_of_all_that_is_around_them() {
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
    fn what_only_looks_like_a_cut_is_none() {
        for text in [
            // Within a text, within a list; with a mark that is not ours.
            format!("gateway.name = '''\n{ROUTE}[vpc]\n'''\n"),
            format!("gateway.name = '''\n{ROUTE}[vpc]\n'''\n[{MARK}]\n"),
            format!("vpc.cidrs = [\n{ROUTE}[vpc]\n]\n"),
            format!("{ROUTE}x = '''\n{ROUTE}'''\n"),
            format!("{ROUTE}weight = [\n[1]]\n"),
            // With something else between the routes, or of them elsewhere.
            format!("{ROUTE}[vpc]\n{ROUTE}"),
            format!("route = []\n{ROUTE}"),
            format!("{ROUTE}[vpc]\n[route.x]\n"),
            // With a mistake.
            format!("{ROUTE}weight = 101\n"),
            format!("{ROUTE}[vpc]\n[vpc]\n"),
            format!("{ROUTE}[vpn]\n"),
            format!("[{MARK}]\n{ROUTE}"),
        ] {
            assert!(!is_read(&text), "{text}");
        }
    }
}

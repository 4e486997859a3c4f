//! The configuration file: SPEC of the TOML, its rules, and what is wrong with a file.
//!
//! A file's way: [`load`] reads the bytes, `syntax` makes a tree of them, `read` makes a draft of the tree (each value
//! with its place), `rules` and `overlap` judge the draft as a whole, and a draft without errors becomes a
//! [`Config`]. No step stops at the first mistake: all of them end up in one list of [`Diagnostic`]s. Where there is no
//! mistake in the routes, `bulk` makes their draft with less time and memory.
//!
//! A change's way: [`store`] proposes and commits it; `quick` makes and judges it by itself, if it can, in the blocks of
//! `document` and with the answers of `index`; else [`edit`] makes it in the whole text, which is judged as above.

mod bulk;
pub mod check;
mod diagnostic;
pub mod difference;
mod document;
mod draft;
pub mod edit;
mod entries;
mod explain;
mod index;
pub mod ipsec;
mod load;
mod marks;
pub mod model;
mod overlap;
mod prefix;
mod quick;
mod read;
mod replace;
mod routes;
mod rules;
mod section;
mod sites;
mod statement;
pub mod store;
mod suggest;
mod syntax;
mod value;

pub use diagnostic::{Diagnostic, Severity};
pub use load::{LoadError, Loaded, MAX_FILE_SIZE, load};
pub use model::Config;

use diagnostic::Report;
use document::Kind;
use ipsec::Files;

/// Makes a [`Config`] of a file's text.
///
/// Judged by itself: files that it names are not looked at. `Ok` carries the warnings; `Err` carries every error and warning. Both are sorted by place.
pub fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    judge(text, Files::Unseen).map(|judged| (judged.config, judged.warnings))
}

/// A text that breaks no rule.
struct Judged {
    config: Config,
    /// By place.
    warnings: Vec<Diagnostic>,
    /// Offsets of the section headers, in their order.
    headers: Vec<usize>,
    /// Offsets of the connections' names, with the names.
    connections: Vec<(usize, String)>,
    /// Offsets of the routes' tables, in the configuration's order.
    routes: Vec<(usize, Kind)>,
}

/// As [`parse`], with the places that changes need, and with an eye on the files that it names.
fn judge(text: &str, files: Files) -> Result<Judged, Vec<Diagnostic>> {
    let mut report = Report::new(text);
    let (draft, unread, headers) =
        bulk::read(text, bulk::PIECE, &mut report).unwrap_or_else(|| read_whole(text, &mut report));
    rules::judge(&draft, &unread, &mut report);
    ipsec::judge(&draft, files, &mut report);
    let sound = !report.has_errors();
    let connections = draft.connections.iter().map(|found| (found.name.at, found.name.value.clone())).collect();
    let routes = draft.routes.iter().map(|route| (route.at, Kind::of(route))).collect();
    match draft.into_config() {
        Some(config) if sound => Ok(Judged { config, warnings: report.finish(), headers, connections, routes }),
        _ => Err(report.finish()),
    }
}

/// The draft of a text with whatever mistakes, and the offsets of the headers in it.
fn read_whole(text: &str, report: &mut Report<'_>) -> (draft::Draft, read::Unread, Vec<usize>) {
    syntax::parse(text, report, |tree, gaps, report| {
        let mut headers = bulk::headers(text, tree);
        headers.sort_unstable();
        let (draft, unread) = read::read(tree, gaps, report);
        (draft, unread, headers)
    })
}

//! The configuration file: SPEC of the TOML, its rules, and what is wrong with a file.
//!
//! A file's way: [`load`] reads the bytes, `syntax` makes a tree of them, `read` makes a draft of the tree (each value
//! with its place), `rules` and `overlap` judge the draft as a whole, and a draft without errors becomes a
//! [`Config`]. No step stops at the first mistake: all of them end up in one list of [`Diagnostic`]s.

pub mod check;
mod diagnostic;
pub mod difference;
mod draft;
pub mod edit;
mod entries;
mod explain;
mod load;
pub mod model;
mod overlap;
mod prefix;
mod read;
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

/// Makes a [`Config`] of a file's text.
///
/// `Ok` carries the warnings; `Err` carries every error and warning. Both are sorted by place.
pub fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut report = Report::new(text);
    let (draft, unread) = syntax::parse(text, &mut report, read::read);
    rules::judge(&draft, &unread, &mut report);
    let sound = !report.has_errors();
    match draft.into_config() {
        Some(config) if sound => Ok((config, report.finish())),
        _ => Err(report.finish()),
    }
}

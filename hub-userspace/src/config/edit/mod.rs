//! Changes of the file's text, by command: what a change does not name keeps every byte.
//!
//! Not by way of a document that is written anew: the parser tells where each key and value stands, and the change is
//! spliced in there. So comments, order, line ends and spacing cannot suffer. Pure: text and [`Edit`] in, text out; the
//! result is to be judged by [`super::parse`], as any other file.

mod connection;
mod error;
mod inline;
mod routes;
mod splice;
mod tables;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use toml::{Spanned, de::DeTable};

use super::prefix::{self, Purpose};
pub use error::EditError;
pub(super) use splice::{Splice, apply, newline};

const BYTE_ORDER_MARK: char = '\u{feff}';

/// A change that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    AddRoute(AddRoute),
    DeleteRoute(DeleteRoute),
    SetRoute(SetRoute),
    Enable(Enable),
}

/// A new route. That it is there already, just so, is nothing to change; with other values it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRoute {
    #[serde(deserialize_with = "destination")]
    pub destination: IpNet,
    /// Name of a connection.
    pub next_hop: String,
    /// 0..=100; without one, the default.
    #[serde(default, deserialize_with = "weight")]
    pub weight: Option<u8>,
    #[serde(default)]
    pub publish: bool,
}

/// A route to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteRoute {
    #[serde(deserialize_with = "destination")]
    pub destination: IpNet,
    /// Needed only where the destination has several routes.
    pub next_hop: Option<String>,
}

/// New values for a route that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRoute {
    #[serde(deserialize_with = "destination")]
    pub destination: IpNet,
    /// Needed only where the destination has several routes.
    pub next_hop: Option<String>,
    /// 0..=100; `None` leaves it as it is.
    #[serde(default, deserialize_with = "weight")]
    pub weight: Option<u8>,
    /// `None` leaves it as it is.
    pub publish: Option<bool>,
}

/// A connection's administrative state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enable {
    pub connection: String,
    pub enabled: bool,
}

/// The text with the change made in it; the same text when there is nothing to change.
///
/// # Errors
/// When the change does not fit what is there.
pub fn edit(text: &str, edit: &Edit) -> Result<String, EditError> {
    let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (&text[..BYTE_ORDER_MARK.len_utf8()], rest),
        None => ("", text),
    };
    let table = parse(text)?;
    let source = Source { text, root: table.get_ref(), newline: newline(text) };
    if let Edit::AddRoute(add) = edit {
        connection::require(source.root, &add.next_hop)?;
    }
    Ok(mark.to_owned() + &apply(text, splices(&source, edit)?))
}

/// As [`edit()`] of a file, on a part of it that has what matters to the change: which ranges of the part become what.
/// `newline` is the file's; the next hop of a new route is there, if not in this part.
///
/// # Errors
/// When the change does not fit what is there.
pub(super) fn edit_part(text: &str, newline: &'static str, edit: &Edit) -> Result<Vec<Splice>, EditError> {
    splices(&Source { text, root: parse(text)?.get_ref(), newline }, edit)
}

/// What a change is made in.
struct Source<'a> {
    text: &'a str,
    root: &'a DeTable<'a>,
    /// The line end that the file uses.
    newline: &'static str,
}

fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, EditError> {
    DeTable::parse(text).map_err(|error| EditError::NotToml(error.message().to_owned()))
}

fn splices(source: &Source<'_>, edit: &Edit) -> Result<Vec<Splice>, EditError> {
    match edit {
        Edit::AddRoute(add) => routes::add(source, add),
        Edit::DeleteRoute(delete) => routes::delete(source, delete),
        Edit::SetRoute(set) => routes::set(source, set),
        Edit::Enable(enable) => connection::enable(source, enable),
    }
}

/// A route's destination as a command names it.
///
/// # Errors
/// One sentence with advice: the rules are those of the file.
pub fn parse_destination(text: &str) -> Result<IpNet, String> {
    prefix::of_text(text, Purpose::Forwarding).map_err(|problem| match problem.help {
        Some(help) => format!("{}: {help}", problem.message),
        None => problem.message,
    })
}

fn destination<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    parse_destination(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    match Option::<u64>::deserialize(deserializer)? {
        None => Ok(None),
        Some(weight) => match u8::try_from(weight) {
            Ok(fits @ 0..=100) => Ok(Some(fits)),
            _ => Err(D::Error::custom(format!("weight must be a whole number from 0 to 100, is {weight}"))),
        },
    }
}

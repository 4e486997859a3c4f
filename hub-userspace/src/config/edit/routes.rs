//! Changes of routes: which one is meant, and what is to be written.

use ipnet::IpNet;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    super::{
        entries,
        model::{DEFAULT_WEIGHT, Route},
    },
    AddRoute, DeleteRoute, EditError, SetRoute, Source,
    inline::Inline,
    splice::Splice,
    tables::Tables,
};

/// A route and the text it is in.
pub(super) struct Entry<'a> {
    pub table: &'a Spanned<DeValue<'a>>,
    pub route: Route,
}

/// How the file writes its routes.
enum Layout<'a> {
    /// `[[route]]` before each, or none yet.
    Tables(Tables<'a>),
    /// `route = [{ ... }]`.
    Inline(Inline<'a>),
}

pub(super) fn add(source: &Source<'_>, add: &AddRoute) -> Result<Vec<Splice>, EditError> {
    let entries = entries(source.root);
    let wanted = Route {
        destination: add.destination,
        next_hop: add.next_hop.clone(),
        weight: add.weight.unwrap_or(DEFAULT_WEIGHT),
        publish: add.publish,
    };
    let same =
        |entry: &&Entry<'_>| entry.route.destination == wanted.destination && entry.route.next_hop == wanted.next_hop;
    if let Some(Entry { route, .. }) = entries.iter().find(same) {
        let Route { destination, next_hop, weight, publish } = route.clone();
        let as_wanted = *route == wanted;
        return if as_wanted {
            Ok(Vec::new())
        } else {
            Err(EditError::RouteExists { destination, next_hop, weight, publish })
        };
    }
    // Quotes are all that these values need: a prefix has none in it, nor has a connection's name.
    let mut assignments =
        vec![("destination", quote(&add.destination.to_string())), ("next_hop", quote(&add.next_hop))];
    assignments.extend(add.weight.map(|weight| ("weight", weight.to_string())));
    assignments.extend(add.publish.then(|| ("publish", "true".to_owned())));
    Ok(match layout(source, entries) {
        Layout::Tables(tables) => vec![tables.add(&assignments)],
        Layout::Inline(inline) => inline.add(&assignments),
    })
}

pub(super) fn delete(source: &Source<'_>, delete: &DeleteRoute) -> Result<Vec<Splice>, EditError> {
    let entries = entries(source.root);
    let index = pick(&entries, delete.destination, delete.next_hop.as_deref())?;
    Ok(match layout(source, entries) {
        Layout::Tables(tables) => vec![tables.delete(index)],
        Layout::Inline(inline) => inline.delete(index),
    })
}

pub(super) fn set(source: &Source<'_>, set: &SetRoute) -> Result<Vec<Splice>, EditError> {
    if set.weight.is_none() && set.publish.is_none() {
        return Err(EditError::NothingAsked);
    }
    let entries = entries(source.root);
    let index = pick(&entries, set.destination, set.next_hop.as_deref())?;
    let route = &entries[index].route;
    let weight = set.weight.filter(|weight| *weight != route.weight).map(|weight| ("weight", weight.to_string()));
    let publish = set.publish.filter(|publish| *publish != route.publish).map(|flag| ("publish", flag.to_string()));
    let assignments: Vec<_> = weight.into_iter().chain(publish).collect();
    if assignments.is_empty() {
        return Ok(Vec::new());
    }
    Ok(match layout(source, entries) {
        Layout::Tables(tables) => tables.set(index, &assignments),
        Layout::Inline(inline) => inline.set(index, &assignments),
    })
}

/// The routes, in the file's order. What is none is left out: a file with such does not pass the rules.
fn entries<'a>(root: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let elements = root.get("route").and_then(|routes| routes.get_ref().as_array()).into_iter().flatten();
    elements.filter_map(entry).collect()
}

fn entry<'a>(table: &'a Spanned<DeValue<'a>>) -> Option<Entry<'a>> {
    let keys = table.get_ref().as_table()?;
    let route = Route {
        destination: keys.get("destination")?.get_ref().as_str()?.parse().ok()?,
        next_hop: keys.get("next_hop")?.get_ref().as_str()?.to_owned(),
        weight: keys.get("weight").map_or(Some(DEFAULT_WEIGHT), |weight| entries::weight(weight.get_ref()).ok())?,
        publish: keys.get("publish").map_or(Some(false), |publish| publish.get_ref().as_bool())?,
    };
    Some(Entry { table, route })
}

fn layout<'a>(source: &'a Source<'a>, entries: Vec<Entry<'a>>) -> Layout<'a> {
    let &Source { text, root, newline } = source;
    match root.get("route") {
        Some(routes) if !text[routes.span()].starts_with("[[") => {
            Layout::Inline(Inline { text, newline, routes, entries })
        }
        _ => Layout::Tables(Tables { text, newline, root, entries }),
    }
}

/// The index of the route that is meant.
fn pick(entries: &[Entry<'_>], destination: IpNet, next_hop: Option<&str>) -> Result<usize, EditError> {
    let to_it: Vec<usize> =
        (0..entries.len()).filter(|index| entries[*index].route.destination == destination).collect();
    let next_hops = || to_it.iter().map(|index| entries[*index].route.next_hop.clone()).collect();
    match (to_it.as_slice(), next_hop) {
        ([], _) => Err(EditError::NoRoute { destination }),
        ([one], None) => Ok(*one),
        (_, None) => Err(EditError::Ambiguous { destination, next_hops: next_hops() }),
        (_, Some(name)) => to_it
            .iter()
            .copied()
            .find(|index| entries[*index].route.next_hop == name)
            .ok_or_else(|| EditError::NoSuchHop { destination, next_hop: name.to_owned(), next_hops: next_hops() }),
    }
}

fn quote(text: &str) -> String {
    format!("\"{text}\"")
}

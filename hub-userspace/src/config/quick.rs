//! The quick way of a change: in a text whose blocks are known, and judged by itself.
//!
//! The editor and the rules are those of the whole file: the editor works on the few blocks that matter to the change,
//! with the same result to the byte; the rules are asked of an [`Index`]. Where either cannot tell, so it is said, and
//! the change is made and judged by the whole text.

use toml::de::DeTable;

use super::{
    Judged,
    diagnostic::Problem,
    difference::{ChangedRoute, Difference},
    document::{BlockId, Document, Patch, Sort},
    edit::{AddRoute, DeleteRoute, Edit, EditError, Enable, SetRoute, edit_part},
    index::{Index, Step},
    model::{DEFAULT_WEIGHT, Route},
};

#[cfg(test)]
mod random_tests;

/// A text without a mistake, and what it says about routes and connections.
#[derive(Debug)]
pub(super) struct Known {
    document: Document,
    index: Index,
}

/// What a change comes to.
pub(super) enum Outcome {
    Nothing,
    Change(Box<Quick>),
    /// It breaks a rule, or changes what the rules say of other parts of the file: the whole text has to be judged.
    Edited(Patch),
    /// It has to be made in the whole text.
    CannotTell,
}

/// A change that breaks no rule.
#[derive(Debug)]
pub(super) struct Quick {
    pub difference: Difference,
    /// One that was not there before.
    pub warning: Option<Problem>,
    pub patch: Patch,
    effect: Effect,
}

/// What becomes of the index.
#[derive(Debug)]
enum Effect {
    None,
    Added(Step, BlockId),
    Deleted(Step),
}

impl From<Quick> for Outcome {
    fn from(quick: Quick) -> Self {
        Self::Change(Box::new(quick))
    }
}

impl Known {
    /// Hands the text back when it is not written so that its blocks could be changed.
    pub fn of(text: String, judged: &Judged) -> Result<Self, String> {
        Ok(Self { document: Document::of(text, judged)?, index: Index::of(judged) })
    }

    /// What the change comes to; nothing has changed yet.
    ///
    /// # Errors
    /// When it does not fit what is there; the error is the one that the whole file would give.
    pub fn judge(&self, edit: &Edit) -> Result<Outcome, EditError> {
        let found = match edit {
            Edit::AddRoute(add) => self.add(edit, add),
            Edit::DeleteRoute(delete) => self.delete(edit, delete),
            Edit::SetRoute(set) => self.set(edit, set),
            Edit::Enable(enable) => self.enable(edit, enable),
        };
        match found {
            Ok(found) => Ok(found.unwrap_or(Outcome::CannotTell)),
            // The part may lack a connection, or not be a text of its own.
            Err(EditError::NoConnection { .. } | EditError::NotToml(_)) => Ok(Outcome::CannotTell),
            Err(error) => Err(error),
        }
    }

    /// Does what was judged last.
    pub fn apply(&mut self, quick: Quick) {
        self.document.apply(quick.patch);
        match quick.effect {
            Effect::None => {}
            Effect::Added(step, block) => self.index.added(&step, block),
            Effect::Deleted(step) => self.index.deleted(&step),
        }
    }

    /// Bytes of the text, as it is or as it will be.
    pub fn len(&self, patch: Option<&Patch>) -> usize {
        patch.map_or(self.document.len(), |patch| self.document.length_with(patch))
    }

    /// The text in pieces, as it is or as it will be.
    pub fn slices<'a>(&'a self, patch: Option<&'a Patch>) -> impl Iterator<Item = &'a str> {
        self.document.slices(patch)
    }

    fn add(&self, edit: &Edit, add: &AddRoute) -> Result<Option<Outcome>, EditError> {
        let document = &self.document;
        // The first route comes at the end of the file: that is rare.
        let (Some(last), Some(_)) = (document.last(Sort::Route), self.index.connection(&add.next_hop)) else {
            return Ok(None);
        };
        let around = [document.before(last), document.after(last)].into_iter().flatten();
        let part = document.part(around.chain(self.models(last)).chain(self.index.routes(add.destination)));
        let splices = edit_part(&part.text, document.newline(), edit)?;
        if splices.is_empty() {
            return Ok(Some(Outcome::Nothing));
        }
        let new = last + 1;
        let outcome = || {
            let (patch, was, is) = part.patch(last..new, splices, &[last, new])?;
            let route = Route {
                destination: add.destination,
                next_hop: add.next_hop.clone(),
                weight: add.weight.unwrap_or(DEFAULT_WEIGHT),
                publish: add.publish,
            };
            if is.routes != [was.routes, vec![route.clone()]].concat() {
                return None;
            }
            let Some(step) = self.index.add(add) else { return Some(Outcome::Edited(patch)) };
            let mut difference = Difference::default();
            difference.routes.added.push(route);
            let warning = step.warning.clone();
            Some(Quick { difference, warning, patch, effect: Effect::Added(step, new) }.into())
        };
        Ok(outcome())
    }

    fn delete(&self, edit: &Edit, delete: &DeleteRoute) -> Result<Option<Outcome>, EditError> {
        let document = &self.document;
        let block = self.index.route(delete.destination, delete.next_hop.as_deref());
        let before = block.and_then(|block| document.before(block));
        let after = block.and_then(|block| document.after(block));
        let part = document.part(self.index.routes(delete.destination).into_iter().chain(before).chain(after));
        let splices = edit_part(&part.text, document.newline(), edit)?;
        let (Some(block), Some(before)) = (block, before) else { return Ok(None) };
        let outcome = || {
            let (patch, was, is) = part.patch(before..block + 1, splices, &[before])?;
            let (route, left) = was.routes.split_last()?;
            if is.routes != left || route.destination != delete.destination {
                return None;
            }
            let Some(step) = self.index.delete(route.destination, &route.next_hop) else {
                return Some(Outcome::Edited(patch));
            };
            let mut difference = Difference::default();
            difference.routes.removed.push(route.clone());
            let warning = step.warning.clone();
            Some(Quick { difference, warning, patch, effect: Effect::Deleted(step) }.into())
        };
        Ok(outcome())
    }

    /// No rule asks for a route's weight, or whether it is published.
    fn set(&self, edit: &Edit, set: &SetRoute) -> Result<Option<Outcome>, EditError> {
        let document = &self.document;
        let block = self.index.route(set.destination, set.next_hop.as_deref());
        let models = document.last(Sort::Route).map(|last| self.models(last));
        let routes = self.index.routes(set.destination).into_iter();
        let part = document.part(routes.chain(models.into_iter().flatten()));
        let splices = edit_part(&part.text, document.newline(), edit)?;
        if splices.is_empty() {
            return Ok(Some(Outcome::Nothing));
        }
        let Some(block) = block else { return Ok(None) };
        let outcome = || {
            let (patch, was, is) = part.patch(block..block + 1, splices, &[block])?;
            let ([from], [to]) = (was.routes.as_slice(), is.routes.as_slice()) else { return None };
            let wanted = Route {
                weight: set.weight.unwrap_or(from.weight),
                publish: set.publish.unwrap_or(from.publish),
                ..from.clone()
            };
            if *to != wanted {
                return None;
            }
            let mut difference = Difference::default();
            difference.routes.changed.push(ChangedRoute { from: from.clone(), to: to.clone() });
            Some(Quick { difference, warning: None, patch, effect: Effect::None }.into())
        };
        Ok(outcome())
    }

    /// No rule asks whether a connection is enabled.
    fn enable(&self, edit: &Edit, enable: &Enable) -> Result<Option<Outcome>, EditError> {
        let document = &self.document;
        let Some(block) = self.index.connection(&enable.connection) else { return Ok(None) };
        let part = document.part([block]);
        if is_enabled(&part.text, &enable.connection).is_none() {
            return Ok(None);
        }
        let splices = edit_part(&part.text, document.newline(), edit)?;
        if splices.is_empty() {
            return Ok(Some(Outcome::Nothing));
        }
        let outcome = || {
            let (patch, was, is) = part.patch(block..block + 1, splices, &[block])?;
            if is.routes != was.routes || is_enabled(patch.text(), &enable.connection)? != enable.enabled {
                return None;
            }
            let mut difference = Difference::default();
            difference.connections.changed.insert(enable.connection.clone(), vec!["enabled".to_owned()]);
            Some(Quick { difference, warning: None, patch, effect: Effect::None }.into())
        };
        Ok(outcome())
    }

    /// The blocks that a new line of a route is modelled on: the last route, and the last ones with either key that a
    /// route may lack.
    fn models(&self, last: BlockId) -> impl Iterator<Item = BlockId> {
        [Some(last), self.document.last(Sort::Weight), self.document.last(Sort::Publish)].into_iter().flatten()
    }
}

/// Whether the connection is enabled, if the text has its keys.
fn is_enabled(text: &str, name: &str) -> Option<bool> {
    let tree = DeTable::parse(text).ok()?;
    let connection = tree.get_ref().get("connection")?.get_ref().as_table()?.get(name)?.get_ref().as_table()?;
    connection.get("interface")?;
    connection.get("enabled").map_or(Some(true), |enabled| enabled.get_ref().as_bool())
}

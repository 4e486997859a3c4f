//! Which routes are wanted, which ones the kernel holds, and so what is to be written. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    plan::{RouteAction, RouteKey},
    socket::Refusal,
};

/// Routes, wanted and held.
///
/// A change of one costs a few look-ups, however many there are. An entry needs 44 bytes, with its part of the tree 50
/// after a reading and up to 90 where it has grown since; actions are shared. During a reading it needs some 30 more.
#[derive(Debug, Default)]
pub(super) struct RouteState {
    routes: BTreeMap<RouteKey, RouteEntry>,
    /// The kernel was asked what it holds. Before that nothing is to be written.
    known: bool,
    /// The last reading showed all that is there.
    whole: bool,
    /// While the kernel is read: what it held by then, and what readings that were not whole have shown.
    before: BTreeSet<RouteKey>,
    to_write: BTreeSet<RouteKey>,
    to_delete: BTreeSet<RouteKey>,
    /// What the kernel did not take. It is not tried again before the next reading or another wish.
    refused: BTreeMap<RouteKey, Refusal>,
}

/// One route; there is none that is neither wanted nor held. Actions are [normalised](RouteAction::normalised).
#[derive(Debug, Default)]
struct RouteEntry {
    wanted: Option<Arc<RouteAction>>,
    /// As read last, or written since.
    held: Option<Arc<RouteAction>>,
}

/// A route to be added or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteWrite {
    pub key: RouteKey,
    pub action: Arc<RouteAction>,
    /// There is one already.
    pub replaces: bool,
}

impl RouteState {
    /// What a route is to do from now on; nothing: it is to go.
    pub fn want(&mut self, key: RouteKey, action: Option<Arc<RouteAction>>) {
        let action = action.map(normalised);
        if action.is_none() && !self.routes.contains_key(&key) {
            return;
        }
        let entry = self.routes.entry(key).or_default();
        if entry.wanted == action {
            return;
        }
        entry.wanted = action;
        self.refused.remove(&key);
        self.judge(key);
    }

    /// All routes are to go.
    pub fn want_nothing(&mut self) {
        let wanted = self.routes.iter().filter(|(_, entry)| entry.wanted.is_some());
        for key in wanted.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.want(key, None);
        }
    }

    /// The kernel is read now: [`Self::note`] is called for each route that it shows, then [`Self::conclude`].
    pub fn begin_reading(&mut self) {
        self.known = false;
        self.to_write.clear();
        self.to_delete.clear();
        let held = self.routes.iter_mut().filter_map(|(key, entry)| entry.held.take().map(|_| *key));
        self.before.append(&mut held.collect());
    }

    /// The kernel shows this; no action if nobody could have wanted it.
    pub fn note(&mut self, key: RouteKey, action: Option<RouteAction>) {
        let entry = self.routes.entry(key).or_default();
        // Two of one key (appended by hand): replaced by one.
        let action = action.filter(|_| entry.held.is_none()).unwrap_or(NOT_OURS);
        let as_wanted = entry.wanted.as_ref().filter(|wanted| ***wanted == action);
        entry.held = Some(as_wanted.cloned().unwrap_or_else(|| Arc::new(action)));
    }

    /// The kernel has shown everything, or, if that is not `whole`, has passed over some because others changed
    /// meanwhile. Then those that were there before and were not shown are replaced: that adds one that has gone, while
    /// to add one that is there would fail. What the kernel refused before is due again.
    pub fn conclude(&mut self, whole: bool) {
        self.known = true;
        self.whole = whole;
        self.refused.clear();
        let before = std::mem::take(&mut self.before);
        if !whole {
            let unsure = Arc::new(NOT_OURS);
            for key in before {
                self.routes.entry(key).or_default().held.get_or_insert_with(|| Arc::clone(&unsure));
            }
        }
        // Made anew rather than thinned out: a tree that grew in order is only half filled.
        let routes = std::mem::take(&mut self.routes).into_iter();
        self.routes = routes.filter(|(_, entry)| entry.wanted.is_some() || entry.held.is_some()).collect();
        let due = |entry: &&RouteEntry| entry.wanted != entry.held;
        let keys_of = |routes: &BTreeMap<RouteKey, RouteEntry>, wanted: bool| {
            let due = routes.iter().filter(|(_, entry)| entry.wanted.is_some() == wanted && due(entry));
            due.map(|(key, _)| *key).collect()
        };
        self.to_write = keys_of(&self.routes, true);
        self.to_delete = keys_of(&self.routes, false);
    }

    /// Whether the kernel was read, to the end.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Whether the last reading passed nothing over.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether anything is to be written or deleted.
    pub fn is_due(&self) -> bool {
        !self.to_write.is_empty() || !self.to_delete.is_empty()
    }

    /// Whether anything is to be written.
    pub fn has_writes(&self) -> bool {
        !self.to_write.is_empty()
    }

    /// Up to so many routes that are to be written now. Each is not due any more, and must be told to
    /// [`Self::written`] or [`Self::refused`].
    pub fn next_writes(&mut self, limit: usize) -> Vec<RouteWrite> {
        let Self { routes, to_write, .. } = self;
        let keys = std::iter::from_fn(|| to_write.pop_first()).take(limit);
        keys.filter_map(|key| {
            let entry = routes.get(&key)?;
            Some(RouteWrite { key, action: entry.wanted.clone()?, replaces: entry.held.is_some() })
        })
        .collect()
    }

    /// The same for routes that are to be deleted: [`Self::deleted`] or [`Self::refused`].
    pub fn next_deletions(&mut self, limit: usize) -> Vec<RouteKey> {
        std::iter::from_fn(|| self.to_delete.pop_first()).take(limit).collect()
    }

    /// The kernel took it.
    pub fn written(&mut self, write: RouteWrite) {
        if let Some(entry) = self.routes.get_mut(&write.key) {
            entry.held = Some(write.action);
        }
    }

    /// The kernel holds it no more.
    pub fn deleted(&mut self, key: RouteKey) {
        if let Some(entry) = self.routes.get_mut(&key) {
            entry.held = None;
        }
        self.judge(key);
    }

    /// The kernel did not take a change of it.
    pub fn refused(&mut self, key: RouteKey, refusal: Refusal) {
        self.refused.insert(key, refusal);
    }

    /// What the kernel did not take at the last try, in order.
    pub fn refusals(&self) -> impl Iterator<Item = (&RouteKey, &Refusal)> {
        self.refused.iter()
    }

    /// Finds out what is to be done about a route.
    fn judge(&mut self, key: RouteKey) {
        if !self.known {
            return;
        }
        self.to_write.remove(&key);
        self.to_delete.remove(&key);
        let Some(entry) = self.routes.get(&key) else {
            return;
        };
        match (&entry.wanted, &entry.held) {
            (None, None) => drop(self.routes.remove(&key)),
            (wanted, held) if wanted == held => {}
            (Some(_), _) => drop(self.to_write.insert(key)),
            (None, Some(_)) => drop(self.to_delete.insert(key)),
        }
    }
}

/// Stands for what no plan could have asked for: no wish equals it.
const NOT_OURS: RouteAction = RouteAction::Unicast { next_hops: Vec::new() };

/// The form in which actions are compared. One that has it already stays shared.
fn normalised(action: Arc<RouteAction>) -> Arc<RouteAction> {
    if action.is_normalised() { action } else { Arc::new(action.normalised()) }
}

#[cfg(test)]
mod tests;

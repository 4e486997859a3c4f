//! Desired routes, existing routes in the kernel, and the resulting writes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    plan::{RouteAction, RouteKey},
    socket::Refusal,
};

/// Desired and existing routes.
///
/// A change of one route costs a few look-ups, regardless of their number. An entry needs 44 bytes. Including its share
/// of the tree it needs 50 after a resync and up to 90 after later growth. Actions are shared. During a resync an entry
/// needs some 30 bytes more.
#[derive(Debug, Default)]
pub(super) struct RouteState {
    routes: BTreeMap<RouteKey, RouteEntry>,
    /// The kernel's routes have been read. Nothing is written before.
    known: bool,
    /// The last dump was complete.
    whole: bool,
    /// During a resync: the existing routes at its start, and those found by incomplete dumps.
    before: BTreeSet<RouteKey>,
    to_write: BTreeSet<RouteKey>,
    to_delete: BTreeSet<RouteKey>,
    /// Changes that the kernel refused. They are retried after the next resync or change of the desired action.
    refused: BTreeMap<RouteKey, Refusal>,
}

/// One route, desired or existing or both. Actions are [normalised](RouteAction::normalised).
#[derive(Debug, Default)]
struct RouteEntry {
    desired: Option<Arc<RouteAction>>,
    /// As last read or written.
    held: Option<Arc<RouteAction>>,
}

/// A route to be added or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteWrite {
    pub key: RouteKey,
    pub action: Arc<RouteAction>,
    /// The route exists already.
    pub replaces: bool,
}

impl RouteState {
    /// Sets the desired action of a route; `None` deletes it.
    pub fn want(&mut self, key: RouteKey, action: Option<Arc<RouteAction>>) {
        let action = action.map(normalised);
        if action.is_none() && !self.routes.contains_key(&key) {
            return;
        }
        let entry = self.routes.entry(key).or_default();
        if entry.desired == action {
            return;
        }
        entry.desired = action;
        self.refused.remove(&key);
        self.classify(key);
    }

    /// Clears the desired state.
    pub fn want_nothing(&mut self) {
        let desired = self.routes.iter().filter(|(_, entry)| entry.desired.is_some());
        for key in desired.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.want(key, None);
        }
    }

    /// Starts a resync: the caller passes each route of the dump to [`Self::note`], then calls [`Self::conclude`].
    pub fn begin_reading(&mut self) {
        self.known = false;
        self.to_write.clear();
        self.to_delete.clear();
        let held = self.routes.iter_mut().filter_map(|(key, entry)| entry.held.take().map(|_| *key));
        self.before.append(&mut held.collect());
    }

    /// Records a route of the dump; `None` if the action cannot be one of ours.
    pub fn note(&mut self, key: RouteKey, action: Option<RouteAction>) {
        let entry = self.routes.entry(key).or_default();
        // Two routes with one key (appended manually) are replaced by one.
        let action = action.filter(|_| entry.held.is_none()).unwrap_or(NOT_OURS);
        let as_desired = entry.desired.as_ref().filter(|desired| ***desired == action);
        entry.held = Some(as_desired.cloned().unwrap_or_else(|| Arc::new(action)));
    }

    /// Ends a resync. A dump that is not `whole` may lack routes because others changed routes meanwhile. Routes that
    /// existed before but were missing in such a dump are replaced: that also adds a missing one, while adding an
    /// existing one would fail. Refused changes become due again.
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
        // Rebuilt rather than pruned: a tree that grew in key order is only half filled.
        let routes = std::mem::take(&mut self.routes).into_iter();
        self.routes = routes.filter(|(_, entry)| entry.desired.is_some() || entry.held.is_some()).collect();
        let due = |entry: &&RouteEntry| entry.desired != entry.held;
        let keys_of = |routes: &BTreeMap<RouteKey, RouteEntry>, desired: bool| {
            let due = routes.iter().filter(|(_, entry)| entry.desired.is_some() == desired && due(entry));
            due.map(|(key, _)| *key).collect()
        };
        self.to_write = keys_of(&self.routes, true);
        self.to_delete = keys_of(&self.routes, false);
    }

    /// Whether the kernel's routes have been read completely.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Whether a route with this key is desired.
    pub fn wants(&self, key: &RouteKey) -> bool {
        self.routes.get(key).is_some_and(|entry| entry.desired.is_some())
    }

    /// Number of routes to write or to delete.
    pub fn due(&self) -> usize {
        self.to_write.len() + self.to_delete.len()
    }

    /// Whether the last dump was complete.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether any write or deletion is due.
    pub fn is_due(&self) -> bool {
        !self.to_write.is_empty() || !self.to_delete.is_empty()
    }

    /// Whether any write is due.
    pub fn has_writes(&self) -> bool {
        !self.to_write.is_empty()
    }

    /// Returns up to `limit` due writes and marks them as not due. The caller must report each to [`Self::written`] or
    /// [`Self::refused`].
    pub fn next_writes(&mut self, limit: usize) -> Vec<RouteWrite> {
        let Self { routes, to_write, .. } = self;
        let keys = std::iter::from_fn(|| to_write.pop_first()).take(limit);
        keys.filter_map(|key| {
            let entry = routes.get(&key)?;
            Some(RouteWrite { key, action: entry.desired.clone()?, replaces: entry.held.is_some() })
        })
        .collect()
    }

    /// The same for deletions: report to [`Self::deleted`] or [`Self::refused`].
    pub fn next_deletions(&mut self, limit: usize) -> Vec<RouteKey> {
        std::iter::from_fn(|| self.to_delete.pop_first()).take(limit).collect()
    }

    /// The kernel accepted the write.
    pub fn written(&mut self, write: RouteWrite) {
        if let Some(entry) = self.routes.get_mut(&write.key) {
            entry.held = Some(write.action);
        }
    }

    /// The route no longer exists in the kernel.
    pub fn deleted(&mut self, key: RouteKey) {
        if let Some(entry) = self.routes.get_mut(&key) {
            entry.held = None;
        }
        self.classify(key);
    }

    /// The kernel refused a change of the route.
    pub fn refused(&mut self, key: RouteKey, refusal: Refusal) {
        self.refused.insert(key, refusal);
    }

    /// Changes that the kernel refused at the last attempt, in order.
    pub fn refusals(&self) -> impl Iterator<Item = (&RouteKey, &Refusal)> {
        self.refused.iter()
    }

    /// Determines whether a write or deletion is due for a route.
    fn classify(&mut self, key: RouteKey) {
        if !self.known {
            return;
        }
        self.to_write.remove(&key);
        self.to_delete.remove(&key);
        let Some(entry) = self.routes.get(&key) else {
            return;
        };
        match (&entry.desired, &entry.held) {
            (None, None) => drop(self.routes.remove(&key)),
            (desired, held) if desired == held => {}
            (Some(_), _) => drop(self.to_write.insert(key)),
            (None, Some(_)) => drop(self.to_delete.insert(key)),
        }
    }
}

/// An action outside any plan: no desired action equals it.
const NOT_OURS: RouteAction = RouteAction::Unicast { next_hops: Vec::new(), source: None };

/// The canonical form for comparison. An action already in this form stays shared.
fn normalised(action: Arc<RouteAction>) -> Arc<RouteAction> {
    if action.is_normalised() { action } else { Arc::new(action.normalised()) }
}

#[cfg(test)]
mod tests;

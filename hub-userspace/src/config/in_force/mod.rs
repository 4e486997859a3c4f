//! The configuration in force: the union of the operator's files and the store.
//!
//! [`InForce`] holds both, validates changes to either, and applies them once they are committed. A change to one route
//! or administrative state is validated incrementally, with an `index::Index`. If that is inconclusive, and for all
//! other changes, file and store are merged again (`unite`). Both paths give the same result.

mod change;
mod error;
mod index;
mod policy_routes;
#[cfg(test)]
mod policy_tests;
mod propose;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod state_tests;
mod stored;
#[cfg(test)]
mod tests;
mod unite;

use std::{collections::HashSet, path::Path};

use serde_json::Value;

pub use self::{
    change::{
        AddRoute, Admin, DeleteRoute, ObjectChange, PutMode, PutObject, SetRoute,
        destination as deserialize_destination, parse_destination, priority as deserialize_priority,
        weight as deserialize_weight,
    },
    error::ProposeError,
    policy_routes::PolicyRouteChange,
};
use self::{index::Index, unite::unite};
use super::{
    diagnostic::Diagnostic, difference::Difference, load::FileSet, model::Config, provenance::SetAside, rules,
};
use crate::store::{ObjectId, Objects, Op, RouteId, RouteKeys};

/// Files, store, and the state derived from them.
#[derive(Debug)]
pub struct InForce {
    files: FileSet,
    objects: Objects,
    set_aside: Vec<(ObjectId, String)>,
    index: Index,
}

/// Effect of a proposal on the configuration.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time: a box would save nothing")]
pub enum ProposedChange {
    /// No effect on the configuration in force.
    Nothing,
    /// Only routes, the role or `enabled` of connections differ: see [`Config::apply`].
    Small(Difference),
    Whole(Box<Config>),
}

/// A validated change. The caller commits it, then passes it to [`InForce::apply`].
#[derive(Debug)]
pub struct ValidatedChange {
    pub change: ProposedChange,
    /// For the store.
    pub ops: Vec<Op>,
    /// Possible mistakes; one sentence each.
    pub warnings: Vec<String>,
    /// For the audit log: the changed object, its keys before and after.
    pub object: String,
    pub before: Value,
    pub after: Value,
    next: Next,
}

#[derive(Debug)]
enum Next {
    Nothing,
    Route(RouteId, Option<RouteKeys>),
    Whole { index: Box<Index>, set_aside: Vec<(ObjectId, String)>, files: Option<Box<FileSet>> },
}

impl ValidatedChange {
    /// A change that has no effect.
    pub fn nothing(id: &ObjectId) -> Self {
        Self {
            change: ProposedChange::Nothing,
            ops: Vec::new(),
            warnings: Vec::new(),
            object: id.to_string(),
            before: Value::Null,
            after: Value::Null,
            next: Next::Nothing,
        }
    }

    /// Whether the change is a no-op and the store needs no write either.
    pub fn is_nothing(&self) -> bool {
        self.ops.is_empty() && matches!(self.change, ProposedChange::Nothing)
    }
}

impl InForce {
    /// Merges files and store. Also returns the configuration in force.
    pub fn new(files: FileSet, objects: Objects) -> Option<(Self, Config)> {
        let united = unite(&files, &objects)?;
        let index = Index::of(&united.config);
        Some((Self { files, objects, set_aside: united.set_aside, index }, united.config))
    }

    pub fn files(&self) -> &FileSet {
        &self.files
    }

    /// The main file.
    pub fn path(&self) -> &Path {
        self.files.texts.first().map_or(Path::new(""), |source| &source.path)
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The objects of the store that are not in force.
    pub fn set_aside(&self) -> Vec<SetAside> {
        self.set_aside.iter().map(unite::shown).collect()
    }

    /// Warnings about the files, without those that objects of the store resolve.
    pub fn file_warnings(&self) -> Vec<&Diagnostic> {
        let next_hops = self.objects.routes.keys().map(|(_, next_hop)| next_hop);
        let next_hops = next_hops.chain(self.objects.policy_routes.keys().map(|id| &id.next_hop));
        let routed: HashSet<String> = next_hops.map(|next_hop| format!("connection.{next_hop}")).collect();
        let connections = self.objects.connections.values().map(|stored| &stored.value);
        let gateways = connections.flat_map(|keys| {
            let tunnels = keys.get("tunnels").and_then(Value::as_array).into_iter().flatten();
            let gateways =
                [keys.get("customer_gateway")].into_iter().chain(tunnels.map(|keys| keys.get("customer_gateway")));
            gateways.filter_map(|name| name?.as_str())
        });
        let used: HashSet<String> = gateways.map(|name| format!("customer_gateway.{name}")).collect();
        let is_good = |found: &Diagnostic| match found.message.as_str() {
            rules::UNROUTED => routed.contains(&found.path),
            rules::UNUSED => used.contains(&found.path),
            _ => false,
        };
        self.files.warnings.iter().filter(|found| !is_good(found)).collect()
    }

    /// Validates new files against the same store.
    pub fn propose_files(&self, files: FileSet) -> Option<ValidatedChange> {
        let united = unite(&files, &self.objects)?;
        let index = Box::new(Index::of(&united.config));
        let object = files.texts.first().map(|source| source.path.display().to_string()).unwrap_or_default();
        Some(ValidatedChange {
            next: Next::Whole { index, set_aside: united.set_aside, files: Some(Box::new(files)) },
            change: ProposedChange::Whole(Box::new(united.config)),
            ops: Vec::new(),
            warnings: Vec::new(),
            object,
            before: Value::Null,
            after: Value::Null,
        })
    }

    /// Applies a committed change.
    pub fn apply(&mut self, proposal: ValidatedChange) {
        for op in &proposal.ops {
            self.objects.apply(op);
        }
        match proposal.next {
            Next::Nothing => {}
            Next::Route(id, keys) => self.index.put(&id, keys),
            Next::Whole { index, set_aside, files } => {
                self.index = *index;
                self.set_aside = set_aside;
                if let Some(files) = files {
                    self.files = *files;
                }
            }
        }
    }
}

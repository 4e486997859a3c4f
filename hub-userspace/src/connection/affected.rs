//! The connections that an event affects.

use std::collections::BTreeSet;

use crate::config::Config;

/// Connections whose evidence may have changed, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    All,
    Some(BTreeSet<String>),
}

impl Default for Affected {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Affected {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        match other {
            Self::All => *self = Self::All,
            Self::Some(names) => self.add(names),
        }
    }

    pub fn add(&mut self, added: impl IntoIterator<Item = String>) {
        if let Self::Some(names) = self {
            names.extend(added);
        }
    }

    /// The affected connections of this configuration, in order.
    pub fn names<'a>(&'a self, config: &'a Config) -> Box<dyn Iterator<Item = &'a String> + 'a> {
        match self {
            Self::All => Box::new(config.connections.keys()),
            Self::Some(names) => Box::new(names.iter().filter(|name| config.connections.contains_key(*name))),
        }
    }
}

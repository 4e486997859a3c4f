//! Origin of each object: a file and line, or the store.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::tunnels::connection_of;

/// Where an object is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "origin", rename_all = "lowercase")]
pub enum Origin {
    File {
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    Store,
    /// A route of a routing daemon.
    Learned,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{} line {line}", file.display()),
            Self::Store => f.write_str("store"),
            Self::Learned => f.write_str("learned"),
        }
    }
}

/// An object of the store that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SetAside {
    /// As the configuration file calls it: `connection`, `customer_gateway`, `segment`, `route`, `policy_route`.
    pub kind: String,
    /// Unique in its kind; a route's is `DESTINATION NEXT_HOP`, a policy route's `SOURCE DESTINATION NEXT_HOP`.
    pub name: String,
    /// What it conflicts with, and what to do, in one line.
    pub reason: String,
}

/// Whether a reload with `--confirm` is open.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Confirmation {
    /// It ends by itself, unless confirmed.
    Pending {
        /// Seconds since 1970, UTC.
        until: f64,
    },
    /// It was not confirmed: what was in force before is in force again, and the files say something else.
    Reverted,
}

/// Index of a file, and a line in it.
pub(super) type FileLine = (u32, u32);

/// Positions of the files' objects.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub segments: BTreeMap<String, FileLine>,
    pub customer_gateways: BTreeMap<String, FileLine>,
    pub connections: BTreeMap<String, FileLine>,
    /// In the files' order.
    pub routes: Vec<FileLine>,
    pub policy_routes: Vec<FileLine>,
}

/// Origins of a configuration's objects, and the objects of the store that are set aside.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    files: Vec<PathBuf>,
    places: Places,
    /// Names of the connections in the order of validation: those of the files in file order, then those of the store,
    /// oldest first. A later prefix within an earlier one is an error; one that contains an earlier one is a warning.
    pub(super) connections: Vec<String>,
    pub set_aside: Vec<SetAside>,
    pub confirmation: Option<Confirmation>,
}

impl Provenance {
    pub(super) fn of(files: Vec<PathBuf>, places: Places) -> Self {
        Self { files, places, connections: Vec::new(), set_aside: Vec::new(), confirmation: None }
    }

    /// The main file.
    pub fn main(&self) -> String {
        self.files.first().map(|file| file.display().to_string()).unwrap_or_default()
    }

    pub fn segment(&self, name: &str) -> Origin {
        self.origin(self.places.segments.get(name))
    }

    pub fn customer_gateway(&self, name: &str) -> Origin {
        self.origin(self.places.customer_gateways.get(name))
    }

    /// Of a connection, or of one of its tunnels.
    pub fn connection(&self, name: &str) -> Origin {
        self.origin(self.places.connections.get(connection_of(name)))
    }

    /// Origin of the route with this index in [`Config::routes`](super::Config::routes); routes of the files come
    /// first.
    pub fn route(&self, index: usize) -> Origin {
        self.origin(self.places.routes.get(index))
    }

    /// As [`Self::route`], for [`Config::policy_routes`](super::Config::policy_routes).
    pub fn policy_route(&self, index: usize) -> Origin {
        self.origin(self.places.policy_routes.get(index))
    }

    /// Number of routes defined in files.
    pub fn routes_of_files(&self) -> usize {
        self.places.routes.len()
    }

    fn origin(&self, place: Option<&FileLine>) -> Origin {
        match place {
            Some(&(file, line)) => {
                Origin::File { file: self.files.get(file as usize).cloned().unwrap_or_default(), line: line as usize }
            }
            None => Origin::Store,
        }
    }
}

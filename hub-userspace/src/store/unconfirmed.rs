//! A reload that was not confirmed: what it took, and what was in force before.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Text of a configuration file, as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceText {
    pub path: PathBuf,
    pub text: String,
}

/// The files of two configurations, the main one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// Confirmed, and in force unless the other is confirmed in time.
    pub before: Vec<SourceText>,
    /// Not to be taken by an agent that starts, as long as the files have these texts.
    pub after: Vec<SourceText>,
}

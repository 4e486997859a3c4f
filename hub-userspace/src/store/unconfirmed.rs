//! An unconfirmed reload: its files, and those that were in force before.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Text of a configuration file, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceText {
    pub path: PathBuf,
    pub text: String,
}

/// The files of two configurations, the main one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// Confirmed. These come into force again unless the reload is confirmed in time.
    pub before: Vec<SourceText>,
    /// Not loaded at startup, as long as the files still have these texts.
    pub after: Vec<SourceText>,
}

//! Whether the store is writable, for status queries; readable without access to the store itself.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::StoreError;

/// Clones share one state.
#[derive(Debug, Clone)]
pub struct WriteState {
    file: PathBuf,
    problem: Arc<Mutex<Option<String>>>,
}

impl WriteState {
    pub fn new(file: PathBuf, problem: Option<String>) -> Self {
        Self { file, problem: Arc::new(Mutex::new(problem)) }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Why the last write failed, or why none can succeed, with the remedy.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the result of a write.
    pub(super) fn note(&self, written: &Result<(), StoreError>) {
        let problem = written.as_ref().err().map(StoreError::problem);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

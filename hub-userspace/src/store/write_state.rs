//! Whether the store can be written, for a status: to be asked beside whoever writes it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::StoreError;

/// Shared by its clones.
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

    /// Why the last write failed, or why none can succeed, with the way out.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a write ended.
    pub(super) fn note(&self, written: &Result<(), StoreError>) {
        let problem = written.as_ref().err().map(StoreError::problem);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

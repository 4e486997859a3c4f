//! Whether the last reload succeeded.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Shared by its clones.
#[derive(Debug, Clone)]
pub struct ReloadState(Arc<AtomicBool>);

impl Default for ReloadState {
    /// Without a reload: the start has succeeded.
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl ReloadState {
    /// `false` after a reload that failed, or was not confirmed.
    pub fn is_successful(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, is_successful: bool) {
        self.0.store(is_successful, Ordering::Relaxed);
    }
}

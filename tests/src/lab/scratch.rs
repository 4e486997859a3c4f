//! A directory for configuration, sockets and logs, gone when dropped.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{cleanup, unique_prefix};

/// A new directory under the system's temporary one. Its path is short enough for Unix sockets (108 bytes).
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Errors
    /// When the directory cannot be made; one that exists already is not taken over.
    pub fn new() -> anyhow::Result<Self> {
        let mut made = cleanup::made();
        let path = std::env::temp_dir().join(unique_prefix());
        std::fs::create_dir(&path).with_context(|| format!("making the directory {}", path.display()))?;
        made.directories.push(path.clone());
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut made = cleanup::made();
        // A directory that cannot be removed is litter, not a failure of the test.
        drop(std::fs::remove_dir_all(&self.path));
        made.directories.retain(|path| *path != self.path);
    }
}

//! A directory for configuration, sockets and logs, removed on drop.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{cleanup, unique_prefix};

/// A new directory under the system's temporary one. Its path is short enough for Unix sockets (108 bytes).
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Errors
    /// When the directory cannot be created, or exists already.
    pub fn new() -> anyhow::Result<Self> {
        Self::create(std::env::temp_dir().join(unique_prefix()), false)
    }

    /// One with a fixed name, so that the leftovers of a killed process are found and replaced.
    ///
    /// # Errors
    /// When the directory cannot be made, or the name belongs to anything but a directory of this user.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        Self::create(std::env::temp_dir().join(name), true)
    }

    fn create(path: PathBuf, replace: bool) -> anyhow::Result<Self> {
        let mut made = cleanup::made();
        // Anyone may write to the temporary directory: never follow or remove a link or another user's directory.
        let ours = |found: fs::Metadata| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
        if replace && fs::symlink_metadata(&path).is_ok_and(ours) {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("making the directory {}", path.display()))?;
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

impl Scratch {
    /// An executable copy of a file.
    ///
    /// Another process writes it. If this process wrote it, a child that another thread is starting may still have it
    /// open, and the kernel refuses to run such a file (`ETXTBSY`).
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn executable(&self, from: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let to = self.file(name);
        let status =
            Command::new("install").args(["-m", "755"]).arg(from).arg(&to).status().context("running install")?;
        anyhow::ensure!(status.success(), "{} cannot be copied to {}", from.display(), to.display());
        Ok(to)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut made = cleanup::made();
        // A directory that cannot be removed is litter, not a failure of the test.
        drop(fs::remove_dir_all(&self.path));
        made.directories.retain(|path| *path != self.path);
    }
}

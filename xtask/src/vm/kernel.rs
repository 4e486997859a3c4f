//! A Debian kernel, unpacked in the cache: nothing of it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::initramfs::modules_of;
use crate::{
    process::{self, Step},
    setup::apt,
};

/// The package that depends on the distribution's current kernel. Others depend on the current one of a later version, such
/// as `linux-image-6.12-amd64` on Debian 12.
pub const METAPACKAGE: &str = "linux-image-amd64";

/// Modules that the guest's first process loads for its root directory.
const FIRST_MODULES: [&str; 4] = ["virtio_pci", "9p", "9pnet_virtio", "overlay"];

/// An unpacked kernel.
pub struct Kernel {
    dir: PathBuf,
    /// As `uname -r` has it.
    pub release: String,
}

impl Kernel {
    /// The one that a metapackage depends on; fetched (70 to 110 MB) and unpacked the first time.
    pub fn ensure(cache: &Path, metapackage: &str) -> Result<Self> {
        let cache = cache.join("vm");
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        let package = if let Some(package) = current(metapackage) {
            package
        } else {
            apt::update()?;
            current(metapackage).with_context(|| {
                format!("apt knows no package {metapackage} that depends on a kernel: Debian 12 has {METAPACKAGE}")
            })?
        };
        let dir = cache.join(&package);
        if !dir.exists() {
            fetch(&package, &dir, &cache)?;
        }
        let release = package.trim_start_matches("linux-image-").to_owned();
        let kernel = Self { dir, release };
        ensure!(kernel.image().is_file(), "{} is missing: remove {}", kernel.image().display(), kernel.dir.display());
        Ok(kernel)
    }

    pub fn image(&self) -> PathBuf {
        self.dir.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Of all releases: here, of one.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules")
    }

    /// The files of the modules that the guest begins with, in the order to load them in.
    pub fn first_modules(&self) -> Result<Vec<PathBuf>> {
        modules_of(&self.dir, &self.release, &FIRST_MODULES)
    }
}

/// The package's name, if apt knows it: `linux-image-6.1.0-56-amd64`.
fn current(metapackage: &str) -> Option<String> {
    let said = process::capture(Command::new("apt-cache").env("LC_ALL", "C").args(["depends", metapackage]))?;
    said.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|rest| format!("linux-image-{rest}"))
}

/// Whole or not at all: it gets its name when it is complete.
fn fetch(package: &str, dir: &Path, cache: &Path) -> Result<()> {
    // An earlier kernel stays, should this one not do.
    let unpacked = cache.join("unindexed");
    apt::unpack(&format!("fetching {package} (70 to 110 MB)"), &[package], &unpacked, &cache.join("unpacking"))?;
    let release = package.trim_start_matches("linux-image-");
    let index = Step { title: "indexing its modules", log: "kernel", limit: None, quiet: false };
    index.run(Command::new("depmod").arg("-b").arg(&unpacked).arg(release))?;
    fs::rename(&unpacked, dir).with_context(|| format!("naming {}", dir.display()))
}

//! cargo-deb, which makes the Debian package.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::process::{self, Step};

/// One version for everybody: another one could make another package of the same files.
const VERSION: &str = "3.8.0";

/// Builds it the first time, into a directory that has the version in its name.
pub fn ensure(cache: &Path) -> Result<PathBuf> {
    let root = cache.join(format!("tools/cargo-deb-{VERSION}"));
    let program = root.join("bin/cargo-deb");
    if program.is_file() {
        return Ok(program);
    }
    // A directory that stays when this is interrupted: the next run goes on from there.
    let target = cache.join("build/cargo-deb");
    let mut command = process::cargo();
    // Without its own liblzma, which needs a C library's headers: it calls xz instead.
    command.args(["install", "--locked", "--no-default-features", "--root"]).arg(&root);
    command.arg(format!("cargo-deb@{VERSION}")).env("CARGO_TARGET_DIR", &target);
    let title = format!("building cargo-deb {VERSION} (two minutes)");
    Step { title: &title, log: "cargo-deb", limit: None, quiet: false }.run(&mut command)?;
    // Nothing needs it any more; a failure to remove it is no failure.
    let _ = fs::remove_dir_all(target);
    Ok(program)
}

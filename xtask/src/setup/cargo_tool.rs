//! Programs from crates.io that only some verbs need, built below the cache.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::process::{self, Step};

/// A program, of one version for everybody: another one could make other files of the same source.
pub struct CargoTool {
    /// Of crate and program.
    name: &'static str,
    version: &'static str,
    /// More arguments of `cargo install`.
    features: &'static [&'static str],
}

/// Makes the Debian package. Without its own liblzma, which needs a C library's headers: it calls xz instead.
pub const CARGO_DEB: CargoTool =
    CargoTool { name: "cargo-deb", version: "3.8.0", features: &["--no-default-features"] };

/// Makes the book of the manual. Without its web server.
pub const MDBOOK: CargoTool =
    CargoTool { name: "mdbook", version: "0.5.4", features: &["--no-default-features", "--features", "search"] };

/// Builds it the first time, into a directory that has the version in its name.
pub fn ensure(tool: &CargoTool, cache: &Path) -> Result<PathBuf> {
    let CargoTool { name, version, features } = tool;
    let root = cache.join(format!("tools/{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    // A directory that stays when this is interrupted: the next run goes on from there.
    let target = cache.join("build").join(name);
    let mut command = process::cargo();
    command.args(["install", "--locked"]).args(*features).arg("--root").arg(&root);
    command.arg(format!("{name}@{version}")).env("CARGO_TARGET_DIR", &target);
    let title = format!("building {name} {version} (some minutes)");
    Step { title: &title, log: name, limit: None, quiet: false }.run(&mut command)?;
    // Nothing needs it any more; a failure to remove it is no failure.
    let _ = fs::remove_dir_all(target);
    Ok(program)
}

//! The `vpnhub` to test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail};

use crate::checkout;

/// Names a `vpnhub` that was built elsewhere: nothing is built then.
const VARIABLE: &str = "VPNHUB_BINARY";

/// The agent, as built from the sources of now: `cargo test` builds no binaries of other packages, so this does, once
/// in a process and with the test's own profile. Under sudo, where a build would leave root's files, it takes the one
/// that is there.
///
/// # Panics
/// When it cannot be built or is not there: with what to do.
pub fn agent_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| find().unwrap_or_else(|error| panic!("no agent to test: {error:#}")))
}

fn find() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{VARIABLE} names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    // target/PROFILE/deps/TEST
    let test = env::current_exe().context("asking for the path of this program")?;
    let place = test.parent().filter(|parent| parent.ends_with("deps")).and_then(Path::parent);
    let place = place.with_context(|| {
        format!("{} does not lie where cargo puts tests: name the agent with {VARIABLE}", test.display())
    })?;
    if env::var_os("SUDO_UID").is_none() {
        build(place)?;
    }
    let binary = place.join("vpnhub");
    if !binary.is_file() {
        bail!("{} is not there: cargo xtask build", binary.display());
    }
    Ok(binary)
}

fn build(place: &Path) -> anyhow::Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        // As `cargo xtask build` does: chosen otherwise, packages have other features and are built once more.
        .args(["build", "--quiet", "--bin", "vpnhub"])
        .current_dir(checkout::find()?);
    if place.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = place.parent() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    let output = cargo.output().context("running `cargo build --bin vpnhub`")?;
    if !output.status.success() {
        bail!("`cargo build --bin vpnhub` failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

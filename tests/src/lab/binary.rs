//! The `vpnhub` under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail};

use crate::checkout;

/// Path of a `vpnhub` built elsewhere; nothing is built if it is set.
const VARIABLE: &str = "VPNHUB_BINARY";

/// The agent, built from the current sources. `cargo test` builds no binaries of other packages, so this function
/// builds it, once per process, with the test's own profile. Under sudo a build would leave root's files, so the
/// existing binary is used.
///
/// # Panics
/// When it cannot be built or is missing: with instructions.
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
        // The same selection as `cargo xtask build`: another would change the packages' features and build them again.
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

//! `build`: the agent and the benches.

use std::process::ExitCode;

use anyhow::Result;

use crate::{process, setup};

/// Builds the agent, with the kernel program inside, and the benches.
///
/// The programs are in target/release: vpnhub and vpnhub-bench.
/// After `cargo xtask setup`, a plain `cargo build --release` does the same.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: &Args) -> Result<ExitCode> {
    setup::compiler()?;
    let status =
        process::status(process::cargo().args(["build", "--release", "--bin", "vpnhub", "--bin", "vpnhub-bench"]))?;
    Ok(process::exit_code(status))
}
